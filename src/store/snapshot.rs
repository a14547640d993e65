//! Reading the state and following the log, for both databases. Each function runs in a transaction that shows one moment.

use std::sync::Arc;

use sqlx::AssertSqlSafe;

use super::backend::Backend;
use super::followed::Relation;
use super::rows::{EntryHash, Table, read_all, select};
use super::{FollowOutcome, StoreError};
use crate::domain::Revision;
use crate::domain::state::{Delta, Head, State};

/// The whole state.
pub(super) async fn load<B: Backend>(snapshot: &mut B::Connection) -> Result<State, StoreError> {
    let head = B::head(snapshot).await?;
    let delta = Delta {
        flags: all_rows::<B, _>(snapshot).await?,
        users: all_rows::<B, _>(snapshot).await?,
        tokens: all_rows::<B, _>(snapshot).await?,
    };
    let mut state = State::new(head);
    state.apply(head, &delta);
    Ok(state)
}

async fn all_rows<B: Backend, T: Table>(snapshot: &mut B::Connection) -> Result<Vec<Arc<T>>, StoreError> {
    let query = sqlx::query(AssertSqlSafe(select::<T>()));
    read_all::<B, T, _>(B::fetch(snapshot, query)).await
}

/// What happened to the log since `known`.
pub(super) async fn follow<B: Backend>(
    snapshot: &mut B::Connection,
    known: &Head,
) -> Result<FollowOutcome, StoreError> {
    let head = B::head(snapshot).await?;
    let continues = match Relation::of(&head, known) {
        Relation::Same => return Ok(FollowOutcome::Unchanged),
        Relation::Diverged => false,
        Relation::Continues => true,
        Relation::ContinuesFrom(hash) => {
            entry_hash::<B>(snapshot, known.revision).await?.is_some_and(|entry| entry.hash == hash)
        }
    };
    if !continues {
        return Ok(FollowOutcome::Diverged);
    }
    Ok(FollowOutcome::Changed(head, B::changed_since(snapshot, known.revision).await?))
}

/// The id and hash of the entry at a revision, unless it was trimmed.
pub(super) async fn entry_hash<B: Backend>(
    connection: &mut B::Connection,
    revision: Revision,
) -> Result<Option<EntryHash>, StoreError> {
    let sql = format!("{} WHERE revision = $1 AND revision > (SELECT floor FROM log_head)", select::<EntryHash>());
    let mut arguments = B::Arguments::default();
    B::add(&mut arguments, revision).map_err(|error| B::read_error(sqlx::Error::Encode(error)))?;
    let query = sqlx::query_with(AssertSqlSafe(sql), arguments);
    Ok(read_all::<B, EntryHash, EntryHash>(B::fetch(connection, query)).await?.pop())
}
