//! SQLite, embedded: one file, one connection that appends, and pools for everything else.

mod append;
mod database;
mod error;
mod file;
mod follower;
mod overwrite;
mod wal_index;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{BoxStream, pending};
use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row, Sqlite};
use uuid::Uuid;

use super::backend::BlockWords;
use super::checkpoints::Checkpoints;
use super::counts::Counts;
use super::follow::LogEnd;
use super::log_query::LogQuery;
use super::migrate::Schema;
use super::pages::Pages;
use super::query_throttle::QueryThrottle;
use super::rows::{EntryHash, Part, Time, column_list, read_all};
use super::server_keys::ServerKeys;
use super::{
    Connections, EntryChunk, EntryQuery, Followed, Migration, RemovedEntries, ServerKey, Store, StoreError,
    StoredCheckpoint, Usability, Writer, audit, follow, migrate,
};
use crate::domain::Hash;
use crate::domain::Revision;
use crate::domain::advance::StoredRequest;
use crate::domain::audit::Entry;
use crate::domain::filter::{Filter, Range};
use crate::domain::history::NextChange;
use crate::domain::state::{Head, State};
use crate::domain::text::RequestId;
use crate::domain::time::{Clock, SystemClock, Timestamp};
use append::SqliteWriter;
use database::SqliteDatabase;

pub(super) use error::classify;
pub(super) use follower::changed_since;

static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    migrate::migrator(
        include_str!("../../../migrations/sqlite/0001_initial.up.sql"),
        include_str!("../../../migrations/sqlite/0001_initial.down.sql"),
    )
});

/// In a file of its own, so that a test can ask for its plan.
const NEXT_CHANGES: &str = include_str!("next_changes.sql");

/// A SQLite database in a file.
pub struct SqliteStore {
    database: Arc<SqliteDatabase>,
    throttle: Arc<QueryThrottle>,
    usability: Usability,
}

impl SqliteStore {
    /// Opens a database by its URL, `sqlite://path`. With `create`, a missing file is created at the first use.
    ///
    /// # Errors
    /// A line for the operator, if the URL is invalid.
    pub fn open(url: &str, create: bool) -> Result<Self, String> {
        if url.contains(":memory:") || url.contains("mode=memory") {
            return Err("must name a file: a database in memory would end with its first connection".to_owned());
        }
        let creates = check_parameters(url)?;
        let options = SqliteConnectOptions::from_str(url).map_err(|e| e.to_string())?;
        if options.get_filename().as_os_str().is_empty() {
            return Err("must name a file: sqlite://PATH".to_owned());
        }
        check_folder(options.get_filename())?;
        let database = Arc::new(SqliteDatabase::new(options, create && creates));
        Ok(Self { database, throttle: Arc::default(), usability: Usability::default() })
    }

    async fn log_query(&self) -> Result<LogQuery<'_, Sqlite>, StoreError> {
        LogQuery::begin(self.database.open().await?.log(), &self.throttle).await
    }

    /// The pool for the short look-ups of callers, and for small writes outside the log.
    async fn pool(&self) -> Result<&SqlitePool, StoreError> {
        Ok(self.database.open().await?.pool())
    }

    /// The pool for those of the server's own queries that must not wait for the queries of callers.
    async fn internal(&self) -> Result<&SqlitePool, StoreError> {
        Ok(self.database.open().await?.internal())
    }
}

/// Returns whether a missing file may be created. Other parameters would make the file unsafe to share (`vfs`, `immutable`)
/// or impossible to write.
fn check_parameters(url: &str) -> Result<bool, String> {
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
    let mut creates = true;
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter {
            "mode=rwc" => {}
            "mode=ro" | "mode=rw" => creates = false,
            other => {
                let name = other.split('=').next().unwrap_or_default();
                return Err(format!(
                    "has an unknown parameter or value, {name}; SQLite takes mode=ro, mode=rw and mode=rwc"
                ));
            }
        }
    }
    Ok(creates)
}

/// A missing folder is a wrong path, not an outage.
fn check_folder(file: &Path) -> Result<(), String> {
    if file.is_dir() {
        return Err(format!("names {}, which is a folder; add the name of a file", file.display()));
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match folder.metadata() {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!("names a file in {}, which is not a folder", folder.display())),
        Err(problem) => Err(format!("names a file in {}: {problem}", folder.display())),
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn describe(&self) -> String {
        format!("sqlite://{}", self.database.options().get_filename().display())
    }

    fn folder(&self) -> Option<PathBuf> {
        self.database.options().get_filename().parent().map(PathBuf::from)
    }

    fn usability(&self) -> &Usability {
        &self.usability
    }

    async fn open_files(&self) -> Result<(), StoreError> {
        self.database.open().await.map(drop)
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.database.check().await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.database.probe().await
    }

    async fn close(&self) {
        self.database.close().await;
    }

    fn clock(&self) -> Arc<dyn Clock> {
        // All processes that have the file open run on this machine.
        Arc::new(SystemClock)
    }

    fn connections(&self) -> Connections {
        self.database.connections()
    }

    async fn migrate_up(&self) -> Result<(), StoreError> {
        // sqlx takes no migration lock on SQLite. This write transaction serves as one: a second migrator waits, then finds
        // the schema.
        let mut lock = self.pool().await?.begin_with("BEGIN IMMEDIATE").await.map_err(classify)?;
        schema(&mut lock).await?;
        MIGRATIONS.run_direct(None, &mut *lock, false).await.map_err(|problem| migrate::error(problem, classify))?;
        lock.commit().await.map_err(classify)?;
        self.database.warn_if_public();
        Ok(())
    }

    async fn migrate_down(&self, drop_log: bool) -> Result<(), StoreError> {
        let Some(target) = migrate::below_newest(&self.migrations().await?) else { return Ok(()) };
        if target == 0 && !drop_log {
            let length =
                sqlx::query_scalar(migrate::LOG_LENGTH).fetch_one(self.pool().await?).await.map_err(classify)?;
            migrate::check_log_is_empty(length)?;
        }
        MIGRATIONS.undo(self.pool().await?, target).await.map_err(|problem| migrate::error(problem, classify))
    }

    async fn migrations(&self) -> Result<Vec<Migration>, StoreError> {
        let mut connection = self.pool().await?.acquire().await.map_err(classify)?;
        Ok(schema(&mut connection).await?.migrations)
    }

    fn writer(&self) -> Box<dyn Writer> {
        Box::new(SqliteWriter::new(Arc::clone(&self.database), Arc::clone(&self.throttle)))
    }

    async fn load(&self) -> Result<State, StoreError> {
        follower::load(self.internal().await?).await
    }

    async fn head(&self) -> Result<Head, StoreError> {
        let mut connection = self.pool().await?.acquire().await.map_err(classify)?;
        Ok(end(&mut connection).await?.head)
    }

    async fn follow(&self, known: &Head) -> Result<Followed, StoreError> {
        follower::follow(self.internal().await?, known).await.map_err(|error| self.database.give_up_if_damaged(error))
    }

    fn notifications(&self) -> BoxStream<'static, ()> {
        pending().boxed()
    }

    async fn requests(&self, keys: &[(Uuid, RequestId)]) -> Result<Vec<StoredRequest>, StoreError> {
        let keys: Vec<_> = keys.iter().map(|(user, id)| (user.simple().to_string(), id.as_str())).collect();
        let sql = format!(
            "SELECT {} FROM (SELECT unhex(value ->> 0) AS user_id, value ->> 1 AS request_id FROM json_each(?))
             JOIN requests USING (user_id, request_id)",
            column_list::<StoredRequest>(Part::All),
        );
        read_all::<Sqlite, _, _>(
            sqlx::query(AssertSqlSafe(sql)).bind(append::json(&keys)).fetch(self.internal().await?),
        )
        .await
    }

    async fn delete_expired_requests(&self, now: Timestamp) -> Result<u64, StoreError> {
        let sql = "DELETE FROM requests WHERE rowid IN (SELECT rowid FROM requests WHERE expires_at < ? LIMIT 1000)";
        let done = sqlx::query(sql).bind(Time(now)).execute(self.database.open_to_write().await?.pool()).await;
        Ok(done.map_err(classify)?.rows_affected())
    }

    async fn delete_trimmed(&self, after: Revision) -> Result<RemovedEntries, StoreError> {
        // Writers wait for it to end, which takes a few milliseconds.
        let sql = "DELETE FROM audit_logs WHERE revision IN (SELECT revision FROM audit_logs WHERE revision > $1
            AND revision <= (SELECT floor FROM log_head) ORDER BY revision LIMIT 500) RETURNING revision";
        let removed = sqlx::query_scalar(sql)
            .bind(after)
            .fetch_all(self.database.open_to_write().await?.internal())
            .await
            .map_err(classify)?;
        let mut connection = self.internal().await?.acquire().await.map_err(classify)?;
        Counts::<Sqlite>(&mut connection).forget_trimmed().await?;
        Ok(RemovedEntries::new(&removed, after))
    }

    async fn last_used(&self, user_id: Uuid) -> Result<Vec<(Uuid, Timestamp)>, StoreError> {
        let sql = "SELECT id, last_used_at FROM api_tokens WHERE user_id = ? AND last_used_at IS NOT NULL";
        let rows: Vec<(Uuid, Time)> =
            sqlx::query_as(sql).bind(user_id).fetch_all(self.pool().await?).await.map_err(classify)?;
        Ok(rows.into_iter().map(|(id, time)| (id, time.0)).collect())
    }

    async fn write_last_used(&self, uses: &[(Uuid, Timestamp)]) -> Result<(), StoreError> {
        let uses: Vec<_> = uses.iter().map(|(id, time)| (id.simple().to_string(), time.micros())).collect();
        sqlx::query(
            "UPDATE api_tokens SET last_used_at = used.time
             FROM (SELECT unhex(value ->> 0) AS id, value ->> 1 AS time FROM json_each(?)) AS used
             WHERE api_tokens.id = used.id AND (last_used_at IS NULL OR last_used_at < used.time)",
        )
        .bind(append::json(&uses))
        .execute(self.database.open_to_write().await?.pool())
        .await
        .map_err(classify)?;
        Ok(())
    }

    async fn entry(&self, id: Uuid) -> Result<Option<Entry>, StoreError> {
        audit::entry(id).row(self.pool().await?).await
    }

    async fn entry_at(&self, revision: Revision) -> Result<Option<(Uuid, Hash)>, StoreError> {
        let entry = follow::entry_hash_at(revision).row::<EntryHash>(self.pool().await?).await?;
        Ok(entry.map(|entry| (entry.id, entry.hash)))
    }

    async fn confirm_durable(&self) -> Result<(), StoreError> {
        // What can be read is committed, and a commit is durable: there is no standby.
        Ok(())
    }

    async fn entries(&self, query: &EntryQuery) -> Result<Vec<Entry>, StoreError> {
        let mut log_query = self.log_query().await?;
        let entries = Pages::<Sqlite>::new(log_query.connection()).entries(query).await;
        log_query.end();
        entries
    }

    async fn entry_chunk(&self, query: &EntryQuery, max_bytes: usize) -> Result<EntryChunk, StoreError> {
        let mut log_query = self.log_query().await?;
        let entries = Pages::<Sqlite>::new(log_query.connection()).entry_chunk(query, max_bytes).await;
        log_query.end();
        entries
    }

    async fn count(&self, filter: &Filter, range: Range) -> Result<i64, StoreError> {
        let mut log_query = self.log_query().await?;
        let count = Counts::<Sqlite>(log_query.connection()).count(filter, range).await;
        log_query.end();
        count
    }

    async fn count_ahead(&self) -> Result<bool, StoreError> {
        let mut connection = self.internal().await?.acquire().await.map_err(classify)?;
        let head = end(&mut connection).await?.head;
        Counts::<Sqlite>(&mut connection).ahead(&head).await
    }

    async fn first_since(&self, time: Timestamp) -> Result<Option<Revision>, StoreError> {
        audit::first_since(time).first_value(self.pool().await?).await
    }

    async fn last_until(&self, time: Timestamp) -> Result<Option<Revision>, StoreError> {
        audit::last_until(time).first_value(self.pool().await?).await
    }

    async fn next_changes(&self, flags: &[Uuid], revision: Revision) -> Result<Vec<NextChange>, StoreError> {
        let ids: Vec<_> = flags.iter().map(|id| id.simple().to_string()).collect();
        let mut log_query = self.log_query().await?;
        let query = sqlx::query(NEXT_CHANGES).bind(append::json(&ids)).bind(revision);
        let changes = read_all::<Sqlite, _, _>(query.fetch(log_query.connection())).await;
        log_query.end();
        changes
    }

    async fn add_checkpoint(&self, revision: Revision, note: &str) -> Result<(), StoreError> {
        Checkpoints(self.database.open_to_write().await?.internal()).add(revision, note).await
    }

    async fn checkpoints(&self, range: Range, limit: i64) -> Result<Vec<StoredCheckpoint>, StoreError> {
        Checkpoints(self.pool().await?).list(range, limit).await
    }

    async fn last_checkpoint(&self) -> Result<Option<StoredCheckpoint>, StoreError> {
        Checkpoints(self.internal().await?).last().await
    }

    async fn add_checkpoint_key(&self, key: &str, at: Timestamp) -> Result<(), StoreError> {
        Checkpoints(self.database.open_to_write().await?.internal()).add_key(key, at).await
    }

    async fn checkpoint_keys(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        Checkpoints(self.pool().await?).keys().await
    }

    async fn server_key(&self, name: &str) -> Result<Option<ServerKey>, StoreError> {
        ServerKeys(self.internal().await?).get(name).await
    }

    async fn add_server_key(&self, name: &str, secret: ServerKey) -> Result<ServerKey, StoreError> {
        ServerKeys(self.database.open_to_write().await?.internal()).add(name, secret).await
    }

    async fn explain(&self, query: &EntryQuery) -> Result<Vec<String>, StoreError> {
        let mut log_query = self.log_query().await?;
        let plans = Pages::<Sqlite>::new(log_query.connection()).explain("EXPLAIN QUERY PLAN ", query).await;
        log_query.end();
        plans
    }
}

/// How many steps of SQLite's virtual machine lie between two checks whether a query was abandoned: about a millisecond.
const STEPS_BETWEEN_LOOKS: i32 = 20_000;

pub(super) async fn stop_when(
    connection: &mut SqliteConnection,
    is_abandoned: Arc<AtomicBool>,
) -> Result<(), sqlx::Error> {
    let mut handle = connection.lock_handle().await?;
    handle.set_progress_handler(STEPS_BETWEEN_LOOKS, move || !is_abandoned.load(Ordering::Relaxed));
    Ok(())
}

/// The pool gets the connection back once the statement has stopped.
pub(super) fn abandon(_: &mut PoolConnection<Sqlite>) {}

/// As in the migration.
pub(super) const OBJECT_INDEX_BLOCK: Option<&str> = Some("(revision - 1) / 16384");

pub(super) const ENCLOSES_PARTS: bool = false;

pub(super) const BLOCK_WORDS: BlockWords = BlockWords { greatest: "max", least: "min", is_one_of: ("IN (", ")") };

/// SQLite has no statistics, so it would take any index.
pub(super) fn index_hint(index: Option<&str>) -> String {
    index.map_or_else(|| " NOT INDEXED".to_owned(), |index| format!(" INDEXED BY {index}"))
}

pub(super) fn plan_line(row: &SqliteRow) -> Result<String, sqlx::Error> {
    row.try_get(3)
}

/// The applied migrations. Reads only.
async fn schema(connection: &mut SqliteConnection) -> Result<Schema, StoreError> {
    let exists = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations')");
    let has_table = exists.fetch_one(&mut *connection).await.map_err(classify)?;
    migrate::schema(&MIGRATIONS, connection, has_table, classify).await
}

/// The end of the log.
pub(super) async fn end(connection: &mut SqliteConnection) -> Result<LogEnd, StoreError> {
    let sql = format!("SELECT {} FROM log_head", LogEnd::columns());
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(connection).await.map_err(classify)?;
    LogEnd::decode::<Sqlite>(&row)
}
