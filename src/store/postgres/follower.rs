//! Reading the state and following the log, on a connection of its own: callers cannot keep it waiting, and it is not one
//! of a pool. Whoever follows gives up after a while, perhaps in the middle of something. A connection that was given up is
//! closed; a pool would hand it out again, with the old snapshot perhaps still open in it, which never shows anything new.

use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Postgres};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::connect::connect;
use super::error::read;
use super::head;
use crate::domain::Revision;
use crate::domain::audit::EntityType;
use crate::domain::state::{Delta, Head, State};
use crate::store::rows::{Table, read_all, select};
use crate::store::{FollowOutcome, StoreError, follow};

/// One moment for several reads.
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Reads the state, and what has become of it since.
pub(super) struct Follower {
    options: PgConnectOptions,
    /// The connection, while nobody uses it. It is put back only by who finds it sound.
    idle: Mutex<Option<PgConnection>>,
}

impl Follower {
    pub fn new(options: PgConnectOptions) -> Self {
        Self { options, idle: Mutex::new(None) }
    }

    pub async fn load(&self) -> Result<State, StoreError> {
        let mut idle = self.idle.lock().await;
        let mut connection = connect(&self.options).await?;
        let state = load(&mut connection).await?;
        *idle = Some(connection);
        Ok(state)
    }

    pub async fn follow(&self, known: &Head) -> Result<FollowOutcome, StoreError> {
        let mut idle = self.idle.lock().await;
        if let Some(mut connection) = idle.take()
            && let Ok(followed) = follow(&mut connection, known).await
        {
            *idle = Some(connection);
            return Ok(followed);
        }
        // The one that was there may have ended while nobody used it.
        let mut connection = connect(&self.options).await?;
        let followed = follow(&mut connection, known).await?;
        *idle = Some(connection);
        Ok(followed)
    }
}

async fn load(connection: &mut PgConnection) -> Result<State, StoreError> {
    let mut snapshot = connection.begin_with(SNAPSHOT).await.map_err(read)?;
    let state = follow::load::<Postgres>(&mut snapshot).await?;
    snapshot.commit().await.map_err(read)?;
    Ok(state)
}

async fn follow(connection: &mut PgConnection, known: &Head) -> Result<FollowOutcome, StoreError> {
    // Usually nothing changed, which one small read shows.
    if head(connection).await? == *known {
        return Ok(FollowOutcome::Unchanged);
    }
    let mut snapshot = connection.begin_with(SNAPSHOT).await.map_err(read)?;
    let followed = follow::follow::<Postgres>(&mut snapshot, known).await?;
    snapshot.commit().await.map_err(read)?;
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
    .map_err(read)?;
    let ids = |kind: EntityType| -> Vec<Uuid> {
        changed.iter().filter(|(name, _)| name == kind.as_str()).map(|(_, id)| *id).collect()
    };
    Ok(Delta {
        flags: rows_by_id(connection, ids(EntityType::FeatureFlag)).await?,
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
