//! PostgreSQL, 13 or newer.

mod append;
mod clock;
mod connect;
mod error;
mod follower;
mod notifications;
mod session;
mod statement;
mod url;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use async_trait::async_trait;
use futures::stream::BoxStream;
use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{AssertSqlSafe, Connection, Postgres, Row};
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
    StoredCheckpoint, Usability, Writer, audit, follow, migrate, query_throttle,
};
use crate::domain::Hash;
use crate::domain::Revision;
use crate::domain::advance::StoredRequest;
use crate::domain::audit::Entry;
use crate::domain::filter::{Filter, Range};
use crate::domain::history::NextChange;
use crate::domain::state::{Head, State};
use crate::domain::text::RequestId;
use crate::domain::time::{Clock, Timestamp};
use append::PostgresWriter;
use clock::DatabaseClock;
use connect::Connector;
use follower::Follower;
use session::Purpose;

pub(super) use error::classify;
pub(super) use follower::changed_since;

static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    migrate::migrator(
        include_str!("../../../migrations/postgres/0001_initial.up.sql"),
        include_str!("../../../migrations/postgres/0001_initial.down.sql"),
    )
});

/// In a file of its own, so that a test can ask for its plan.
const NEXT_CHANGES: &str = include_str!("next_changes.sql");

/// A PostgreSQL database.
pub struct PostgresStore {
    connector: Connector,
    /// For the short look-ups of callers, and for the server's own small writes.
    pool: PgPool,
    /// For queries of the log.
    log: PgPool,
    throttle: Arc<QueryThrottle>,
    /// For those of the server's own queries that must not wait for the queries of callers.
    internal: PgPool,
    follower: Follower,
    /// The clock of the database, corrected by each look at the log and each append.
    clock: Arc<DatabaseClock>,
    /// Marks the notifications of our own appends.
    instance: Uuid,
    usability: Usability,
}

impl PostgresStore {
    /// Opens a database by its URL. Connects at the first use.
    ///
    /// # Errors
    /// A line for the operator, if the URL is invalid.
    pub fn open(url: &str) -> Result<Self, String> {
        let connector = Connector::new(url)?;
        let clock = Arc::new(DatabaseClock::default());
        Ok(Self {
            pool: connector.pool(Purpose::Querying, 4),
            log: connector.pool(Purpose::Querying, query_throttle::TURNS),
            throttle: Arc::default(),
            internal: connector.pool(Purpose::Querying, 2),
            follower: Follower::new(connector.clone(), Arc::clone(&clock)),
            clock,
            instance: Uuid::now_v7(),
            usability: Usability::default(),
            connector,
        })
    }

    async fn log_query(&self) -> Result<LogQuery<'_, Postgres>, StoreError> {
        LogQuery::begin(&self.log, &self.throttle).await
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn describe(&self) -> String {
        self.connector.describe()
    }

    fn folder(&self) -> Option<PathBuf> {
        None
    }

    fn usability(&self) -> &Usability {
        &self.usability
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.follower.check_writable().await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        // Rows that need new space, which is given back.
        let sql = "INSERT INTO requests (user_id, request_id, digest, response, expires_at)
            SELECT gen_random_uuid(), 'probe', sha256(''), sha256(n::text::bytea), now() FROM generate_series(1, 500) AS n";
        // A new connection: one that is open may lead to a former primary.
        let mut connection = self.connector.connect(Purpose::Querying).await?;
        follower::check_writable(&mut connection).await?;
        let mut transaction = connection.begin().await.map_err(classify)?;
        sqlx::query(sql).execute(&mut *transaction).await.map_err(classify)?;
        transaction.rollback().await.map_err(classify)?;
        connection.close().await.map_err(classify)
    }

    async fn close(&self) {
        self.pool.close().await;
        self.log.close().await;
        self.internal.close().await;
        self.follower.close().await;
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as _
    }

    fn connections(&self) -> Connections {
        Connections::of([&self.pool, &self.log])
    }

    async fn migrate_up(&self) -> Result<(), StoreError> {
        // A failed migration keeps sqlx's lock until its connection is closed.
        let mut connection = self.connector.connect(Purpose::Migrating).await?;
        // Refuses a database of a development version, whose migrations sqlx would report as unknown.
        let schema = schema(&mut connection).await?;
        if schema.is_current {
            return Ok(());
        }
        MIGRATIONS.run_direct(None, &mut connection, false).await.map_err(|problem| migrate::error(problem, classify))
    }

    async fn migrate_down(&self, drop_log: bool) -> Result<(), StoreError> {
        let mut connection = self.connector.connect(Purpose::Migrating).await?;
        let Some(target) = migrate::below_newest(&schema(&mut connection).await?.migrations) else { return Ok(()) };
        if target == 0 && !drop_log {
            let length = sqlx::query_scalar(migrate::LOG_LENGTH).fetch_one(&mut connection).await.map_err(classify)?;
            migrate::check_log_is_empty(length)?;
        }
        let pool = self.connector.pool(Purpose::Migrating, 1);
        MIGRATIONS.undo(&pool, target).await.map_err(|problem| migrate::error(problem, classify))
    }

    async fn migrations(&self) -> Result<Vec<Migration>, StoreError> {
        let mut connection = self.connector.connect(Purpose::Querying).await?;
        Ok(schema(&mut connection).await?.migrations)
    }

    async fn warnings(&self) -> Result<Vec<String>, StoreError> {
        let url_warning = self.connector.lossy_synchronous_commit().map(|value| {
            format!("the URL has synchronous_commit = {value}, which loses changes; toggled's sessions use on")
        });
        Ok(url_warning.into_iter().chain(warnings(&self.pool).await?).collect())
    }

    fn writer(&self) -> Box<dyn Writer> {
        let (clock, throttle) = (Arc::clone(&self.clock), Arc::clone(&self.throttle));
        Box::new(PostgresWriter::new(self.connector.clone(), self.instance, clock, throttle))
    }

    async fn load(&self) -> Result<State, StoreError> {
        self.follower.load().await
    }

    async fn head(&self) -> Result<Head, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(classify)?;
        Ok(end(&mut connection).await?.head)
    }

    async fn follow(&self, known: &Head) -> Result<Followed, StoreError> {
        self.follower.follow(known).await
    }

    fn notifications(&self) -> BoxStream<'static, ()> {
        notifications::notifications(self.connector.clone(), self.instance)
    }

    async fn requests(&self, keys: &[(Uuid, RequestId)]) -> Result<Vec<StoredRequest>, StoreError> {
        let (users, ids): (Vec<Uuid>, Vec<&str>) = keys.iter().map(|(user, id)| (*user, id.as_str())).unzip();
        let sql = format!(
            "SELECT {} FROM requests JOIN unnest($1::uuid[], $2::text[]) AS wanted (user_id, request_id)
             USING (user_id, request_id)",
            column_list::<StoredRequest>(Part::All),
        );
        read_all::<Postgres, _, _>(sqlx::query(AssertSqlSafe(sql)).bind(users).bind(ids).fetch(&self.internal)).await
    }

    async fn delete_expired_requests(&self, now: Timestamp) -> Result<u64, StoreError> {
        let sql = "DELETE FROM requests WHERE (user_id, request_id) IN
            (SELECT user_id, request_id FROM requests WHERE expires_at < $1 LIMIT 1000)";
        let done = sqlx::query(sql).bind(Time(now)).execute(&self.pool).await;
        Ok(done.map_err(classify)?.rows_affected())
    }

    async fn delete_trimmed(&self, after: Revision) -> Result<RemovedEntries, StoreError> {
        // These rows are not read any more, and appends do not touch them. Servers that remove at the same time share the work. Index
        // entries of removed rows stay until a vacuum, so each call starts after the last removed revision.
        let sql = "DELETE FROM audit_logs WHERE revision IN (SELECT revision FROM audit_logs WHERE revision > $1
            AND revision <= (SELECT floor FROM log_head) ORDER BY revision LIMIT 2000 FOR UPDATE SKIP LOCKED)
            RETURNING revision";
        let removed = sqlx::query_scalar(sql).bind(after).fetch_all(&self.pool).await.map_err(classify)?;
        Counts::<Postgres>(&mut *self.pool.acquire().await.map_err(classify)?).forget_trimmed().await?;
        Ok(RemovedEntries::new(&removed, after))
    }

    async fn last_used(&self, user_id: Uuid) -> Result<Vec<(Uuid, Timestamp)>, StoreError> {
        let sql = "SELECT id, last_used_at FROM api_tokens WHERE user_id = $1 AND last_used_at IS NOT NULL";
        let rows: Vec<(Uuid, Time)> =
            sqlx::query_as(sql).bind(user_id).fetch_all(&self.pool).await.map_err(classify)?;
        Ok(rows.into_iter().map(|(id, time)| (id, time.0)).collect())
    }

    async fn write_last_used(&self, uses: &[(Uuid, Timestamp)]) -> Result<(), StoreError> {
        // Rows are locked in the order of their ids, so that two servers cannot deadlock.
        let (ids, times): (Vec<Uuid>, Vec<Time>) = uses.iter().map(|(id, time)| (*id, Time(*time))).unzip();
        sqlx::query(
            "WITH used AS (
                SELECT t.id, u.time FROM unnest($1::uuid[], $2::timestamptz[]) AS u (id, time) JOIN api_tokens t USING (id)
                WHERE t.last_used_at IS NULL OR t.last_used_at < u.time ORDER BY t.id FOR UPDATE OF t
            )
            UPDATE api_tokens AS t SET last_used_at = used.time FROM used WHERE t.id = used.id",
        )
        .bind(ids)
        .bind(times)
        .execute(&self.pool)
        .await
        .map_err(classify)?;
        Ok(())
    }

    async fn entry(&self, id: Uuid) -> Result<Option<Entry>, StoreError> {
        audit::entry(id).row(&self.pool).await
    }

    async fn entry_at(&self, revision: Revision) -> Result<Option<(Uuid, Hash)>, StoreError> {
        let entry = follow::entry_hash_at(revision).row::<EntryHash>(&self.pool).await?;
        Ok(entry.map(|entry| (entry.id, entry.hash)))
    }

    async fn confirm_durable(&self) -> Result<(), StoreError> {
        // Once this message is durable, so is everything before it in the write-ahead log. Nobody reads it.
        let sql = "SELECT pg_logical_emit_message(true, 'toggled', '')";
        sqlx::query(sql).execute(&self.internal).await.map_err(classify)?;
        Ok(())
    }

    async fn entries(&self, query: &EntryQuery) -> Result<Vec<Entry>, StoreError> {
        let mut log_query = self.log_query().await?;
        let entries = Pages::<Postgres>::new(log_query.connection()).entries(query).await;
        log_query.end();
        entries
    }

    async fn entry_chunk(&self, query: &EntryQuery, max_bytes: usize) -> Result<EntryChunk, StoreError> {
        let mut log_query = self.log_query().await?;
        let entries = Pages::<Postgres>::new(log_query.connection()).entry_chunk(query, max_bytes).await;
        log_query.end();
        entries
    }

    async fn count(&self, filter: &Filter, range: Range) -> Result<i64, StoreError> {
        let mut log_query = self.log_query().await?;
        let count = Counts::<Postgres>(log_query.connection()).count(filter, range).await;
        log_query.end();
        count
    }

    async fn count_ahead(&self) -> Result<bool, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(classify)?;
        let head = end(&mut connection).await?.head;
        Counts::<Postgres>(&mut connection).ahead(&head).await
    }

    async fn first_since(&self, time: Timestamp) -> Result<Option<Revision>, StoreError> {
        audit::first_since(time).first_value(&self.pool).await
    }

    async fn last_until(&self, time: Timestamp) -> Result<Option<Revision>, StoreError> {
        audit::last_until(time).first_value(&self.pool).await
    }

    async fn next_changes(&self, flags: &[Uuid], revision: Revision) -> Result<Vec<NextChange>, StoreError> {
        let mut log_query = self.log_query().await?;
        let query = sqlx::query(NEXT_CHANGES).bind(flags).bind(revision);
        let changes = read_all::<Postgres, _, _>(query.fetch(log_query.connection())).await;
        log_query.end();
        changes
    }

    async fn add_checkpoint(&self, revision: Revision, note: &str) -> Result<(), StoreError> {
        Checkpoints(&self.internal).add(revision, note).await
    }

    async fn checkpoints(&self, range: Range, limit: i64) -> Result<Vec<StoredCheckpoint>, StoreError> {
        Checkpoints(&self.pool).list(range, limit).await
    }

    async fn last_checkpoint(&self) -> Result<Option<StoredCheckpoint>, StoreError> {
        Checkpoints(&self.internal).last().await
    }

    async fn add_checkpoint_key(&self, key: &str, at: Timestamp) -> Result<(), StoreError> {
        Checkpoints(&self.internal).add_key(key, at).await
    }

    async fn checkpoint_keys(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        Checkpoints(&self.pool).keys().await
    }

    async fn server_key(&self, name: &str) -> Result<Option<ServerKey>, StoreError> {
        ServerKeys(&self.internal).get(name).await
    }

    async fn add_server_key(&self, name: &str, secret: ServerKey) -> Result<ServerKey, StoreError> {
        ServerKeys(&self.internal).add(name, secret).await
    }

    async fn explain(&self, query: &EntryQuery) -> Result<Vec<String>, StoreError> {
        let mut log_query = self.log_query().await?;
        let explain = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ";
        let plans = Pages::<Postgres>::new(log_query.connection()).explain(explain, query).await;
        log_query.end();
        plans
    }
}

/// Does nothing: PostgreSQL notices only a closed connection. See [`abandon`].
pub(super) async fn stop_when(_: &mut PgConnection, _: Arc<AtomicBool>) -> Result<(), sqlx::Error> {
    Ok(())
}

/// Closes the connection, which stops its statement ([`CLIENT_CHECK`](session::CLIENT_CHECK)).
pub(super) fn abandon(connection: &mut PoolConnection<Postgres>) {
    connection.close_on_drop();
}

/// The index begins with the object.
pub(super) const OBJECT_INDEX_BLOCK: Option<&str> = None;

pub(super) const ENCLOSES_PARTS: bool = true;

/// An array, which an index is searched for element by element.
pub(super) const BLOCK_WORDS: BlockWords =
    BlockWords { greatest: "greatest", least: "least", is_one_of: ("= ANY (ARRAY(", "))") };

/// PostgreSQL has statistics, and chooses the index itself.
pub(super) fn index_hint(_: Option<&str>) -> String {
    String::new()
}

pub(super) fn plan_line(row: &PgRow) -> Result<String, sqlx::Error> {
    row.try_get(0)
}

/// The applied migrations. Reads only.
async fn schema(connection: &mut PgConnection) -> Result<Schema, StoreError> {
    let exists = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL");
    let has_table = exists.fetch_one(&mut *connection).await.map_err(classify)?;
    migrate::schema(&MIGRATIONS, connection, has_table, classify).await
}

/// Settings of the server, the role or the database that endanger the log.
async fn warnings(pool: &PgPool) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT name, reset_val FROM pg_settings WHERE (name, reset_val) IN (('fsync', 'off'),
        ('full_page_writes', 'off'), ('zero_damaged_pages', 'on'), ('ignore_checksum_failure', 'on'),
        ('synchronous_commit', 'off'), ('synchronous_commit', 'local')) ORDER BY name";
    let found: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(pool).await.map_err(classify)?;
    let warning = |(name, value): (String, String)| match name.as_str() {
        "synchronous_commit" => {
            format!("PostgreSQL has {name} = {value}, which loses changes; toggled's sessions use on")
        }
        _ => format!("PostgreSQL has {name} = {value}: a crash of its machine or disk can lose acknowledged changes"),
    };
    Ok(found.into_iter().map(warning).collect())
}

/// The end of the log.
pub(super) async fn end(connection: &mut PgConnection) -> Result<LogEnd, StoreError> {
    LogEnd::decode::<Postgres>(&end_row(connection).await?)
}

/// The end of the log, and a reading of the database's clock.
async fn end_with_time(connection: &mut PgConnection, clock: &DatabaseClock) -> Result<LogEnd, StoreError> {
    let asked = Instant::now();
    let row = end_row(connection).await?;
    let Time(reading) = row.try_get("present").map_err(classify)?;
    clock.correct(reading, asked);
    LogEnd::decode::<Postgres>(&row)
}

async fn end_row(connection: &mut PgConnection) -> Result<PgRow, StoreError> {
    // A standby may be behind without any sign of it.
    let sql = format!(
        "SELECT {}, clock_timestamp() AS present FROM log_head WHERE NOT pg_is_in_recovery()",
        LogEnd::columns(),
    );
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_optional(connection).await.map_err(classify)?;
    row.ok_or_else(|| {
        StoreError::Unavailable("the server is a standby, which may be behind; connect to the primary".into())
    })
}
