//! Reading the state and following the log, for both databases. Each function runs in a transaction that shows one moment.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use super::StoreError;
use super::backend::Backend;
use super::rows::{EntryHash, Part, Table, Time, column_list, read, select};
use super::sql::Sql;
use crate::domain::flag::Flag;
use crate::domain::state::{Delta, Head, State};
use crate::domain::time::Timestamp;
use crate::domain::{self, Revision};

/// What one look at the log shows.
#[derive(Debug, Clone)]
pub struct Followed {
    /// What happened to the log.
    pub outcome: FollowOutcome,
    /// The closed time: no entry after the head that the look found is dated at or before it.
    pub closed_at: Timestamp,
}

/// What happened to the log since a known head.
#[derive(Debug, Clone)]
pub enum FollowOutcome {
    /// Nothing.
    Unchanged,
    /// The log has this head now, and these objects changed.
    Changed(Head, Delta),
    /// The log does not continue from the known head. Either a backup was restored, so that the log is shorter or has another entry
    /// there. Or the entry after the head was trimmed. Load the state again.
    Diverged,
}

/// The end of the log: its head, and the time that is closed there. Both are columns of one row, so they belong together.
pub(super) struct LogEnd {
    pub head: Head,
    pub closed_at: Timestamp,
}

impl LogEnd {
    /// The columns that [`LogEnd::decode`] expects first.
    pub fn columns() -> String {
        format!("{}, closed_at", column_list::<Head>(Part::All))
    }

    pub fn decode<B: Backend>(row: &B::Row) -> Result<Self, StoreError> {
        let Time(closed_at) = B::get(row, Head::COLUMNS.len()).map_err(B::classify)?;
        Ok(Self { head: read::<B, Head>(row)?, closed_at })
    }
}

/// How the log relates to a known head.
pub(super) enum Relation {
    /// The log ends there.
    Same,
    /// The log continues from there: the known head is right before the first entry that is kept.
    Continues,
    /// The log continues from there if the entry there has this hash.
    ContinuesIfHash(domain::Hash),
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
            Self::ContinuesIfHash(known.hash)
        }
    }
}

/// Reads the whole state.
pub(super) async fn load<B: Backend>(snapshot: &mut B::Connection) -> Result<State, StoreError> {
    let LogEnd { head, closed_at } = B::end(snapshot).await?;
    let delta = Delta {
        flags: all_flags::<B>(snapshot).await?,
        environments: all_rows::<B, _>(snapshot).await?,
        users: all_rows::<B, _>(snapshot).await?,
        tokens: all_rows::<B, _>(snapshot).await?,
    };
    let mut state = State::new(head);
    state.apply(head, &delta);
    state.close(closed_at);
    Ok(state)
}

/// Reads all flags. Those of one environment share its key, those that one user has changed share that user's name, and those that were
/// flipped for one reason share its text, since there may be a million of them.
async fn all_flags<B: Backend>(snapshot: &mut B::Connection) -> Result<Vec<Arc<Flag>>, StoreError> {
    let (mut environments, mut texts) = (HashSet::new(), HashSet::new());
    let query = Sql::<B>::new(select::<Flag>()).query()?;
    let flags = B::fetch(snapshot, query).map(|row| {
        let mut flag = read::<B, Flag>(&row.map_err(B::classify)?)?;
        share(&mut environments, &mut flag.environment);
        share(&mut texts, &mut flag.updated_by);
        if let Some(flip) = flag.last_flip.as_mut().and_then(Arc::get_mut) {
            share(&mut texts, &mut flip.by);
            flip.reason.iter_mut().for_each(|reason| share(&mut texts, reason));
        }
        Ok(Arc::new(flag))
    });
    flags.try_collect().await
}

/// Replaces a text by the same one that was read before.
fn share<T: Clone + Eq + Hash>(known: &mut HashSet<T>, text: &mut T) {
    match known.get(text) {
        Some(shared) => text.clone_from(shared),
        None => drop(known.insert(text.clone())),
    }
}

async fn all_rows<B: Backend, T: Table>(snapshot: &mut B::Connection) -> Result<Vec<Arc<T>>, StoreError> {
    Sql::<B>::new(select::<T>()).rows_on::<T, _>(snapshot).await
}

/// Reads what happened to the log since `known`.
pub(super) async fn follow<B: Backend>(snapshot: &mut B::Connection, known: &Head) -> Result<Followed, StoreError> {
    let LogEnd { head, closed_at } = B::end(snapshot).await?;
    let followed = |outcome| Ok(Followed { outcome, closed_at });
    let continues = match Relation::of(&head, known) {
        Relation::Same => return followed(FollowOutcome::Unchanged),
        Relation::Continues => true,
        Relation::ContinuesIfHash(hash) => {
            let entries = entry_hash_at::<B>(known.revision).rows_on::<EntryHash, EntryHash>(snapshot).await?;
            entries.first().is_some_and(|entry| entry.hash == hash)
        }
        Relation::Diverged => false,
    };
    if !continues {
        return followed(FollowOutcome::Diverged);
    }
    followed(FollowOutcome::Changed(head, B::changed_since(snapshot, known.revision).await?))
}

/// Selects the id and hash of the entry at a revision, unless it was trimmed.
pub(super) fn entry_hash_at<B: Backend>(revision: Revision) -> Sql<B> {
    let kept = "revision = $1 AND revision > (SELECT floor FROM log_head)";
    Sql::new(format!("{} WHERE {kept}", select::<EntryHash>())).bind(revision)
}
