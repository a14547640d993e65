//! PostgreSQL, 13 or newer.

mod append;
mod error;
mod follower;
mod notifications;
mod statement;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Postgres};
use uuid::Uuid;

use super::audit::Question;
use super::checkpoints::Checkpoints;
use super::counts::Counts;
use super::rows::{Part, Time, column_list, read_all, select};
use super::{
    Connections, EntryQuery, FollowOutcome, Migration, RemovedEntries, Store, StoreError, StoredCheckpoint, Writer,
    audit, migrate, snapshot,
};
use crate::domain::Hash;
use crate::domain::Revision;
use crate::domain::advance::StoredRequest;
use crate::domain::audit::Entry;
use crate::domain::filter::{Filter, Range};
use crate::domain::history::NextChange;
use crate::domain::state::{Head, State};
use crate::domain::text::RequestId;
use crate::domain::time::Timestamp;
use append::PostgresWriter;
pub(super) use error::read as read_error;
use error::read;
use follower::Follower;
pub(super) use follower::changed_since;

static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    migrate::migrator(
        include_str!("../../../migrations/postgres/0001_initial.up.sql"),
        include_str!("../../../migrations/postgres/0001_initial.down.sql"),
    )
});

/// The text stands alone, so that a test can ask for its plan.
const NEXT_CHANGES: &str = include_str!("next_changes.sql");

/// Which of several hosts is the primary is for whoever manages them to say: a server that picked one by itself could pick
/// one that has been voted out.
const ONE_HOST: &str = "names several hosts; name one address that leads to the primary, wherever it moves: a name, a \
                        virtual address, or a proxy";

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Plans are made for the values at hand. Reading here and there costs little more than reading in order where the log
/// lies in memory or on an SSD. By the default, made for turning disks, PostgreSQL would rather walk the log than use a
/// filter's index for a page of what is not rare, and if their user left long ago, walk through all of it.
const READING: [(&str, &str); 2] = [("plan_cache_mode", "force_custom_plan"), ("random_page_cost", "1.1")];

/// A PostgreSQL database.
pub struct PostgresStore {
    options: PgConnectOptions,
    /// For what callers ask of the log.
    pool: PgPool,
    /// For what the committer asks: it must not wait behind callers, however many they are.
    own: PgPool,
    follower: Follower,
    /// What hints of our own appends are known by.
    instance: Uuid,
}

impl PostgresStore {
    /// A database by its URL; connects at the first use.
    ///
    /// # Errors
    /// A line for a person, when the URL cannot be used.
    pub fn open(url: &str) -> Result<Self, String> {
        // Before it is parsed, which takes several ports for a wrong one.
        if authority(url).contains(',') {
            return Err(ONE_HOST.to_owned());
        }
        // Statements are not logged: a slow one would put its whole text in the log at every call.
        let options = PgConnectOptions::from_str(url)
            .map_err(|e| e.to_string())?
            .application_name("toggled")
            // Not a line at every start about a table that is there already.
            .options([("client_min_messages", "warning")])
            .disable_statement_logging();
        if options.get_host().contains(',') {
            return Err(ONE_HOST.to_owned());
        }
        let pool = |connections| {
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(CONNECT_TIMEOUT)
                .connect_lazy_with(options.clone().options(READING))
        };
        let follower = Follower::new(options.clone().options(READING));
        Ok(Self { pool: pool(8), own: pool(2), follower, instance: Uuid::now_v7(), options })
    }
}

/// The part of a URL that names hosts and ports.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    // A comma may stand in a password.
    authority.rsplit('@').next().unwrap_or_default()
}

#[async_trait]
impl Store for PostgresStore {
    fn describe(&self) -> String {
        let (host, port) = (self.options.get_host(), self.options.get_port());
        format!("postgres://{host}:{port}/{}", self.options.get_database().unwrap_or_default())
    }

    fn folder(&self) -> Option<PathBuf> {
        None
    }

    fn connections(&self) -> Connections {
        Connections::of(&self.pool)
    }

    async fn migrate_up(&self) -> Result<(), StoreError> {
        // A failed migration keeps sqlx's lock until its connection is closed.
        let mut connection = connect(&self.options).await?;
        match MIGRATIONS.run_direct(None, &mut connection, false).await {
            // sqlx looks for unknown migrations first, and development versions had four.
            Err(problem @ MigrateError::VersionMissing(_)) => {
                migrate::status(&MIGRATIONS, &mut connection, read).await?;
                Err(migrate::error(problem, read))
            }
            outcome => outcome.map_err(|problem| migrate::error(problem, read)),
        }
    }

    async fn migrate_down(&self, drop_log: bool) -> Result<(), StoreError> {
        let Some(target) = migrate::below_newest(&self.migrations().await?) else { return Ok(()) };
        if target == 0 && !drop_log {
            let length = sqlx::query_scalar(migrate::LOG_LENGTH).fetch_one(&self.pool).await.map_err(read)?;
            migrate::check_log_is_empty(length)?;
        }
        MIGRATIONS.undo(&self.pool, target).await.map_err(|problem| migrate::error(problem, read))
    }

    async fn migrations(&self) -> Result<Vec<Migration>, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(read)?;
        migrate::status(&MIGRATIONS, &mut *connection, read).await
    }

    fn writer(&self) -> Box<dyn Writer> {
        Box::new(PostgresWriter::new(self.options.clone(), self.instance))
    }

    async fn load(&self) -> Result<State, StoreError> {
        self.follower.load().await
    }

    async fn head(&self) -> Result<Head, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(read)?;
        head(&mut connection).await
    }

    async fn follow(&self, known: &Head) -> Result<FollowOutcome, StoreError> {
        self.follower.follow(known).await
    }

    fn notifications(&self) -> BoxStream<'static, ()> {
        notifications::notifications(self.options.clone(), self.instance)
    }

    async fn requests(&self, keys: &[(Uuid, RequestId)]) -> Result<Vec<StoredRequest>, StoreError> {
        let (users, ids): (Vec<Uuid>, Vec<&str>) = keys.iter().map(|(user, id)| (*user, id.as_str())).unzip();
        let sql = format!(
            "SELECT {} FROM requests JOIN unnest($1::uuid[], $2::text[]) AS wanted (user_id, request_id)
             USING (user_id, request_id)",
            column_list::<StoredRequest>(Part::All),
        );
        read_all::<Postgres, _, _>(sqlx::query(AssertSqlSafe(sql)).bind(users).bind(ids).fetch(&self.own)).await
    }

    async fn forget_requests(&self, now: Timestamp) -> Result<u64, StoreError> {
        let sql = "DELETE FROM requests WHERE (user_id, request_id) IN
            (SELECT user_id, request_id FROM requests WHERE expires_at < $1 LIMIT 1000)";
        let done = sqlx::query(sql).bind(Time(now)).execute(&self.pool).await;
        Ok(done.map_err(read)?.rows_affected())
    }

    async fn remove_trimmed(&self, after: Revision) -> Result<RemovedEntries, StoreError> {
        // Nobody reads these rows any more, and appends touch none of them. Several who remove share the work. While some
        // snapshot is as old, their index entries stay: from the beginning, each portion would walk all of them.
        let sql = "DELETE FROM audit_logs WHERE revision IN (SELECT revision FROM audit_logs WHERE revision > $1
            AND revision <= (SELECT floor FROM log_head) ORDER BY revision LIMIT 2000 FOR UPDATE SKIP LOCKED)
            RETURNING revision";
        let removed = sqlx::query_scalar(sql).bind(after).fetch_all(&self.pool).await.map_err(read)?;
        Counts { pool: &self.pool, read }.forget_trimmed().await?;
        Ok(RemovedEntries::of(&removed, after))
    }

    async fn last_used(&self, user_id: Uuid) -> Result<Vec<(Uuid, Timestamp)>, StoreError> {
        let sql = "SELECT id, last_used_at FROM api_tokens WHERE user_id = $1 AND last_used_at IS NOT NULL";
        let rows: Vec<(Uuid, Time)> = sqlx::query_as(sql).bind(user_id).fetch_all(&self.pool).await.map_err(read)?;
        Ok(rows.into_iter().map(|(id, time)| (id, time.0)).collect())
    }

    async fn write_last_used(&self, uses: &[(Uuid, Timestamp)]) -> Result<(), StoreError> {
        // Locked in the order of their ids: two who write the same tokens do not wait for each other in a circle.
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
        .map_err(read)?;
        Ok(())
    }

    async fn entry(&self, id: Uuid) -> Result<Option<Entry>, StoreError> {
        let sql = format!("{} WHERE id = $1 AND revision > (SELECT floor FROM log_head)", select::<Entry>());
        let entry = read_all::<Postgres, _, _>(sqlx::query(AssertSqlSafe(sql)).bind(id).fetch(&self.pool));
        Ok(entry.await?.pop())
    }

    async fn entry_at(&self, revision: Revision) -> Result<Option<(Uuid, Hash)>, StoreError> {
        let mut connection = self.pool.acquire().await.map_err(read)?;
        let entry = snapshot::entry_hash::<Postgres>(&mut connection, revision).await?;
        Ok(entry.map(|entry| (entry.id, entry.hash)))
    }

    async fn confirm_durable(&self) -> Result<(), StoreError> {
        // What is in the write-ahead log behind it is safe once this is. Nobody reads it.
        let sql = "SELECT pg_logical_emit_message(true, 'toggled', '')";
        sqlx::query(sql).execute(&self.own).await.map_err(read)?;
        Ok(())
    }

    async fn entries(&self, query: &EntryQuery) -> Result<Vec<Entry>, StoreError> {
        let mut sql = audit::sql(&Question::Entries(query));
        read_all::<Postgres, _, _>(sql.build().fetch(&self.pool)).await
    }

    async fn count(&self, filter: &Filter, range: Range) -> Result<i64, StoreError> {
        Counts { pool: &self.pool, read }.count(filter, range).await
    }

    async fn count_ahead(&self) -> Result<bool, StoreError> {
        let head = self.head().await?;
        Counts { pool: &self.pool, read }.ahead(&head).await
    }

    async fn first_since(&self, time: Timestamp) -> Result<Option<Revision>, StoreError> {
        let sql = "SELECT revision FROM audit_logs WHERE timestamp >= $1 AND revision > (SELECT floor FROM log_head)
            ORDER BY timestamp, revision LIMIT 1";
        sqlx::query_scalar(sql).bind(Time(time)).fetch_optional(&self.pool).await.map_err(read)
    }

    async fn last_until(&self, time: Timestamp) -> Result<Option<Revision>, StoreError> {
        let sql = "SELECT revision FROM audit_logs WHERE timestamp <= $1 AND revision > (SELECT floor FROM log_head)
            ORDER BY timestamp DESC, revision DESC LIMIT 1";
        sqlx::query_scalar(sql).bind(Time(time)).fetch_optional(&self.pool).await.map_err(read)
    }

    async fn next_changes(&self, flags: &[Uuid], revision: Revision) -> Result<Vec<NextChange>, StoreError> {
        let query = sqlx::query(NEXT_CHANGES).bind(flags).bind(revision);
        read_all::<Postgres, _, _>(query.fetch(&self.pool)).await
    }

    async fn add_checkpoint(&self, revision: Revision, note: &str) -> Result<(), StoreError> {
        Checkpoints { pool: &self.own, read }.add(revision, note).await
    }

    async fn checkpoints(&self, range: Range, limit: i64) -> Result<Vec<StoredCheckpoint>, StoreError> {
        Checkpoints { pool: &self.pool, read }.list(range, limit).await
    }

    async fn last_checkpoint(&self) -> Result<Option<StoredCheckpoint>, StoreError> {
        Checkpoints { pool: &self.own, read }.last().await
    }

    async fn add_checkpoint_key(&self, key: &str, at: Timestamp) -> Result<(), StoreError> {
        Checkpoints { pool: &self.own, read }.add_key(key, at).await
    }

    async fn checkpoint_keys(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        Checkpoints { pool: &self.pool, read }.keys().await
    }

    async fn explain(&self, query: &EntryQuery) -> Result<String, StoreError> {
        let lines: Vec<String> = audit::sql(&Question::Plan("EXPLAIN ", query))
            .build_query_scalar()
            .fetch_all(&self.pool)
            .await
            .map_err(read)?;
        Ok(lines.join("\n"))
    }
}

/// A connection that is nobody else's.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options)).await {
        Ok(connected) => connected.map_err(read),
        Err(_) => Err(StoreError::Unavailable("no connection in time".to_owned())),
    }
}

pub(super) async fn head(connection: &mut PgConnection) -> Result<Head, StoreError> {
    // A standby may be behind without any sign of it.
    let sql = format!("{} WHERE NOT pg_is_in_recovery()", select::<Head>());
    let head = read_all::<Postgres, _, _>(sqlx::query(AssertSqlSafe(sql)).fetch(connection)).await?.pop();
    head.ok_or_else(|| StoreError::Unavailable("a standby answers: its log may be behind".to_owned()))
}
