//! Reading the state and following the log.

use sqlx::sqlite::{SqliteConnection, SqlitePool};

use super::error::read;
use super::{entry_at, head};
use crate::domain::Revision;
use crate::domain::audit::EntityType;
use crate::domain::state::{Delta, Head, State};
use crate::store::rows::{self, FlagRow, TokenRow, UserRow, convert};
use crate::store::{Followed, Relation, StoreError};

/// Everything, at one revision.
pub(super) async fn load(pool: &SqlitePool) -> Result<State, StoreError> {
    let mut snapshot = pool.begin().await.map_err(read)?;
    let head = head(&mut snapshot).await?;
    let flags: Vec<FlagRow> = sqlx::query_as(concat!("SELECT ", rows::flag_columns!(), " FROM feature_flags"))
        .fetch_all(&mut *snapshot)
        .await
        .map_err(read)?;
    let users: Vec<UserRow> = sqlx::query_as(concat!("SELECT ", rows::user_columns!(), " FROM users"))
        .fetch_all(&mut *snapshot)
        .await
        .map_err(read)?;
    let tokens: Vec<TokenRow> = sqlx::query_as(concat!("SELECT ", rows::token_columns!(), " FROM api_tokens"))
        .fetch_all(&mut *snapshot)
        .await
        .map_err(read)?;
    snapshot.commit().await.map_err(read)?;
    let mut state = State::new(head);
    state.apply(head, &Delta { flags: convert(flags)?, users: convert(users)?, tokens: convert(tokens)? });
    Ok(state)
}

/// What has become of the log since `known`.
pub(super) async fn follow(pool: &SqlitePool, known: &Head) -> Result<Followed, StoreError> {
    // The usual answer, by one small read.
    let mut connection = pool.acquire().await.map_err(read)?;
    if head(&mut connection).await? == *known {
        return Ok(Followed::Current);
    }
    drop(connection);
    let mut snapshot = pool.begin().await.map_err(read)?;
    let head = head(&mut snapshot).await?;
    match Relation::of(&head, known) {
        Relation::Same => return Ok(Followed::Current),
        Relation::Foreign => return Ok(Followed::Diverged),
        Relation::Continues => {}
        Relation::ContinuesFrom(hash) => {
            let there = entry_at(&mut snapshot, known.revision).await?;
            if there.is_none_or(|(_, found)| found != hash) {
                return Ok(Followed::Diverged);
            }
        }
    }
    let delta = changed_since(&mut snapshot, known.revision).await?;
    snapshot.commit().await.map_err(read)?;
    Ok(Followed::Changed(head, delta))
}

/// The objects that entries after `revision` name, by their primary keys.
async fn changed_since(connection: &mut SqliteConnection, revision: Revision) -> Result<Delta, StoreError> {
    macro_rules! changed {
        ($columns:expr, $table:literal, $kind:expr, $row:ty) => {{
            let rows: Vec<$row> = sqlx::query_as(concat!(
                "SELECT ",
                $columns,
                " FROM ",
                $table,
                " WHERE id IN (SELECT entity_id FROM audit_logs WHERE revision > ? AND +entity_type = ?)"
            ))
            .bind(revision)
            .bind($kind.as_str())
            .fetch_all(&mut *connection)
            .await
            .map_err(read)?;
            convert(rows)?
        }};
    }
    Ok(Delta {
        flags: changed!(rows::flag_columns!(), "feature_flags", EntityType::FeatureFlag, FlagRow),
        users: changed!(rows::user_columns!(), "users", EntityType::User, UserRow),
        tokens: changed!(rows::token_columns!(), "api_tokens", EntityType::ApiToken, TokenRow),
    })
}
