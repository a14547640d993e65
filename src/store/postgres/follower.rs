//! Reading the state and following the log, on a connection outside the pools, so that callers cannot keep it waiting.
//!
//! The caller may give up in the middle of a transaction. That connection is then closed. A pool would hand it out again,
//! perhaps with the old snapshot still open, which never shows anything new.

use std::sync::Arc;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Postgres};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::clock::DatabaseClock;
use super::connect::Connector;
use super::end_with_time;
use super::error::classify;
use super::session::Purpose;
use crate::domain::Revision;
use crate::domain::audit::EntityType;
use crate::domain::state::{Delta, Head, State};
use crate::store::follow::LogEnd;
use crate::store::rows::{Table, read_all, select};
use crate::store::{FollowOutcome, Followed, StoreError, follow};

/// Several reads at one moment.
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Whether the session is read-only, its role, which tables it does not find, and which rights that an append needs are missing on
/// the others.
const WRITABLE: &str =
    "SELECT current_setting('transaction_read_only') = 'on' OR pg_is_in_recovery(), current_user::text,
    string_agg(DISTINCT relation, ', ') FILTER (WHERE to_regclass(relation) IS NULL),
    string_agg(privilege || ' on ' || relation, ', ')
        FILTER (WHERE NOT has_table_privilege(to_regclass(relation), privilege))
    FROM unnest($1::text[], $2::text[]) AS needed (privilege, relation)";

/// The rights that an append needs.
const RIGHTS: [(&str, &str); 11] = [
    ("UPDATE", "log_head"),
    ("INSERT", "audit_logs"),
    ("INSERT", "feature_flags"),
    ("UPDATE", "feature_flags"),
    ("INSERT", "environments"),
    ("UPDATE", "environments"),
    ("INSERT", "users"),
    ("UPDATE", "users"),
    ("INSERT", "api_tokens"),
    ("UPDATE", "api_tokens"),
    ("INSERT", "requests"),
];

/// Reads the state, and follows its changes.
pub(super) struct Follower {
    connector: Connector,
    /// The connection while it is not in use. It is put back only if it is still usable.
    idle: Mutex<Option<PgConnection>>,
    /// Corrected by each look at the log.
    clock: Arc<DatabaseClock>,
}

impl Follower {
    pub fn new(connector: Connector, clock: Arc<DatabaseClock>) -> Self {
        Self { connector, idle: Mutex::new(None), clock }
    }

    pub async fn load(&self) -> Result<State, StoreError> {
        let mut idle = self.idle.lock().await;
        let mut connection = self.connector.connect(Purpose::Querying).await?;
        end_with_time(&mut connection, &self.clock).await?;
        let state = load(&mut connection).await?;
        *idle = Some(connection);
        Ok(state)
    }

    pub async fn follow(&self, known: &Head) -> Result<Followed, StoreError> {
        let mut idle = self.idle.lock().await;
        if let Some(mut connection) = idle.take()
            && let Ok(followed) = follow(&mut connection, known, &self.clock).await
        {
            *idle = Some(connection);
            return Ok(followed);
        }
        // The idle connection may have been lost.
        let mut connection = self.connector.connect(Purpose::Querying).await?;
        let followed = follow(&mut connection, known, &self.clock).await?;
        *idle = Some(connection);
        Ok(followed)
    }

    /// See [`check_writable`].
    pub async fn check_writable(&self) -> Result<(), StoreError> {
        let mut idle = self.idle.lock().await;
        let mut connection = match idle.take() {
            Some(connection) => connection,
            None => self.connector.connect(Purpose::Querying).await?,
        };
        // On an error the connection is closed: a later session may have other settings.
        check_writable(&mut connection).await?;
        *idle = Some(connection);
        Ok(())
    }

    pub async fn close(&self) {
        if let Some(connection) = self.idle.lock().await.take() {
            let _ = connection.close().await;
        }
    }
}

/// Checks without writing that this session could append.
///
/// # Errors
/// [`StoreError::Unusable`] when it is read-only, and [`StoreError::Inaccessible`] when its role lacks a right or does not find a table.
pub(super) async fn check_writable(connection: &mut PgConnection) -> Result<(), StoreError> {
    let (privileges, relations): (Vec<_>, Vec<_>) = RIGHTS.iter().copied().unzip();
    let query = sqlx::query_as::<_, (bool, String, Option<String>, Option<String>)>(WRITABLE);
    let query = query.bind(privileges).bind(relations);
    let (is_read_only, role, not_found, missing) = query.fetch_one(connection).await.map_err(classify)?;
    if is_read_only {
        return Err(StoreError::Unusable(
            "PostgreSQL is read-only: a standby, or a session with default_transaction_read_only = on".into(),
        ));
    }
    let problem = match (not_found, missing) {
        (None, None) => return Ok(()),
        // PostgreSQL does not tell whether they exist.
        (Some(tables), _) => format!("does not find {tables}: it lacks USAGE on their schema, or they are gone"),
        (None, Some(rights)) => format!("lacks {rights}"),
    };
    Err(StoreError::Inaccessible(format!("PostgreSQL: the role {role} {problem}").into()))
}

async fn load(connection: &mut PgConnection) -> Result<State, StoreError> {
    let mut snapshot = connection.begin_with(SNAPSHOT).await.map_err(classify)?;
    let state = follow::load::<Postgres>(&mut snapshot).await?;
    snapshot.commit().await.map_err(classify)?;
    Ok(state)
}

async fn follow(connection: &mut PgConnection, known: &Head, clock: &DatabaseClock) -> Result<Followed, StoreError> {
    // Usually nothing changed, which one small read shows.
    let LogEnd { head, closed_at } = end_with_time(connection, clock).await?;
    if head == *known {
        return Ok(Followed { outcome: FollowOutcome::Unchanged, closed_at });
    }
    let mut snapshot = connection.begin_with(SNAPSHOT).await.map_err(classify)?;
    let followed = follow::follow::<Postgres>(&mut snapshot, known).await?;
    snapshot.commit().await.map_err(classify)?;
    Ok(followed)
}

/// See [`Backend::changed_since`](crate::store::backend::Backend::changed_since).
pub(in crate::store) async fn changed_since(
    connection: &mut PgConnection,
    revision: Revision,
) -> Result<Delta, StoreError> {
    let changed: Vec<(String, Uuid)> = sqlx::query_as(
        "SELECT DISTINCT entity_type, entity_id FROM audit_logs WHERE revision > $1 AND entity_id IS NOT NULL",
    )
    .bind(revision)
    .fetch_all(&mut *connection)
    .await
    .map_err(classify)?;
    let ids = |kind: EntityType| -> Vec<Uuid> {
        changed.iter().filter(|(name, _)| name == kind.as_str()).map(|(_, id)| *id).collect()
    };
    Ok(Delta {
        flags: rows_by_id(connection, ids(EntityType::FeatureFlag)).await?,
        environments: rows_by_id(connection, ids(EntityType::Environment)).await?,
        users: rows_by_id(connection, ids(EntityType::User)).await?,
        tokens: rows_by_id(connection, ids(EntityType::ApiToken)).await?,
    })
}

async fn rows_by_id<T: Table>(connection: &mut PgConnection, ids: Vec<Uuid>) -> Result<Vec<Arc<T>>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!("{} WHERE id = ANY($1)", select::<T>());
    read_all::<Postgres, T, _>(sqlx::query(AssertSqlSafe(sql)).bind(ids).fetch(connection)).await
}
