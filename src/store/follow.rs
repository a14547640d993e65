//! Reading the state and following the log, for both databases. Each function runs in a transaction that shows one moment.

use std::sync::Arc;

use super::StoreError;
use super::backend::Backend;
use super::rows::{EntryHash, Table, select};
use super::sql::Sql;
use crate::domain::state::{Delta, Head, State};
use crate::domain::{Hash, Revision};

/// What happened to the log since a known head.
#[derive(Debug, Clone)]
pub enum FollowOutcome {
    /// Nothing.
    Unchanged,
    /// The log has this head now, and these objects changed.
    Changed(Head, Delta),
    /// The log does not continue from the known head: it is shorter, or has another entry there, as after a restored backup,
    /// or the entry after it was trimmed. Load the state again.
    Diverged,
}

/// How the log relates to a known head.
pub(super) enum Relation {
    /// The log ends there.
    Same,
    /// The log continues from there: the known head is right before the first entry that is kept.
    Continues,
    /// The log continues from there if the entry there has this hash.
    ContinuesFrom(Hash),
    /// Another log, an older state of this one, or one whose entry after the known head was trimmed.
    Diverged,
}

impl Relation {
    pub fn of(now: &Head, known: &Head) -> Self {
        if now == known {
            Self::Same
        } else if now.log_id != known.log_id || now.revision <= known.revision || known.revision < now.floor {
            Self::Diverged
        } else if known.revision == now.floor {
            if known.hash == now.floor_hash { Self::Continues } else { Self::Diverged }
        } else {
            Self::ContinuesFrom(known.hash)
        }
    }
}

/// Reads the whole state.
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
    Sql::<B>::new(select::<T>()).rows_on::<T, _>(snapshot).await
}

/// Reads what happened to the log since `known`.
pub(super) async fn follow<B: Backend>(
    snapshot: &mut B::Connection,
    known: &Head,
) -> Result<FollowOutcome, StoreError> {
    let head = B::head(snapshot).await?;
    let continues = match Relation::of(&head, known) {
        Relation::Same => return Ok(FollowOutcome::Unchanged),
        Relation::Continues => true,
        Relation::ContinuesFrom(hash) => {
            let entries = entry_hash_at::<B>(known.revision).rows_on::<EntryHash, EntryHash>(snapshot).await?;
            entries.first().is_some_and(|entry| entry.hash == hash)
        }
        Relation::Diverged => false,
    };
    if !continues {
        return Ok(FollowOutcome::Diverged);
    }
    Ok(FollowOutcome::Changed(head, B::changed_since(snapshot, known.revision).await?))
}

/// Selects the id and hash of the entry at a revision, unless it was trimmed.
pub(super) fn entry_hash_at<B: Backend>(revision: Revision) -> Sql<B> {
    let kept = "revision = $1 AND revision > (SELECT floor FROM log_head)";
    Sql::new(format!("{} WHERE {kept}", select::<EntryHash>())).bind(revision)
}
