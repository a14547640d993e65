//! Reading the state and following the log.

use std::sync::Arc;

use sqlx::AssertSqlSafe;
use sqlx::sqlite::{Sqlite, SqliteConnection, SqlitePool};

use super::end;
use super::error::classify;
use crate::domain::Revision;
use crate::domain::audit::EntityType;
use crate::domain::state::{Delta, Head, State};
use crate::store::follow::LogEnd;
use crate::store::rows::{Table, read_all, select};
use crate::store::{FollowOutcome, Followed, StoreError, follow};

/// The whole state, at one revision.
pub(super) async fn load(pool: &SqlitePool) -> Result<State, StoreError> {
    let mut snapshot = pool.begin().await.map_err(classify)?;
    let state = follow::load::<Sqlite>(&mut snapshot).await?;
    snapshot.commit().await.map_err(classify)?;
    Ok(state)
}

/// What happened to the log since `known`.
pub(super) async fn follow(pool: &SqlitePool, known: &Head) -> Result<Followed, StoreError> {
    // Usually nothing changed, which one small read shows.
    let mut connection = pool.acquire().await.map_err(classify)?;
    let LogEnd { head, closed_at } = end(&mut connection).await?;
    if head == *known {
        return Ok(Followed { outcome: FollowOutcome::Unchanged, closed_at });
    }
    drop(connection);
    let mut snapshot = pool.begin().await.map_err(classify)?;
    let followed = follow::follow::<Sqlite>(&mut snapshot, known).await?;
    snapshot.commit().await.map_err(classify)?;
    Ok(followed)
}

/// See [`Backend::changed_since`](crate::store::backend::Backend::changed_since).
pub(in crate::store) async fn changed_since(
    connection: &mut SqliteConnection,
    revision: Revision,
) -> Result<Delta, StoreError> {
    Ok(Delta {
        flags: changed_rows(connection, revision, EntityType::FeatureFlag).await?,
        environments: changed_rows(connection, revision, EntityType::Environment).await?,
        users: changed_rows(connection, revision, EntityType::User).await?,
        tokens: changed_rows(connection, revision, EntityType::ApiToken).await?,
    })
}

async fn changed_rows<T: Table>(
    connection: &mut SqliteConnection,
    revision: Revision,
    kind: EntityType,
) -> Result<Vec<Arc<T>>, StoreError> {
    // The unary plus keeps SQLite from using the index on entity_type.
    let sql = format!(
        "{} WHERE id IN (SELECT entity_id FROM audit_logs WHERE revision > ? AND +entity_type = ?)",
        select::<T>(),
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(revision).bind(kind.as_str());
    read_all::<Sqlite, T, _>(query.fetch(connection)).await
}
