//! Reads of the state in memory, as fresh as the caller asks for.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;
use uuid::Uuid;

use super::errors::{read_failed, status};
use super::feed::Feed;
use crate::domain::audit::Entry;
use crate::domain::error::Error;
use crate::domain::state::State;
use crate::domain::text::FlagKey;
use crate::domain::{Hash, Revision};
use crate::mirror::Mirror;
use crate::store::Store;

/// How long a read waits for `min_revision` at the most.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the database may take to tell a hash. Flags are read from memory, whether it answers or not.
const HASH_PATIENCE: Duration = Duration::from_secs(1);

/// Reads the mirror.
#[derive(Clone)]
pub struct Reads {
    mirror: Arc<Mirror>,
    store: Arc<dyn Store>,
}

impl Reads {
    /// Reads of `mirror`; `store` is asked what the mirror cannot know: entries, and revisions that it has not seen.
    pub fn new(mirror: Arc<Mirror>, store: Arc<dyn Store>) -> Self {
        Self { mirror, store }
    }

    /// Waits until the mirror is at `min_revision`, if one is asked for, as long as the caller does.
    pub(super) async fn fresh(&self, min_revision: Option<Revision>, deadline: Instant) -> Result<(), Status> {
        let Some(wanted) = min_revision else { return Ok(()) };
        let mut revisions = self.mirror.revisions();
        if *revisions.borrow_and_update() >= wanted {
            return Ok(());
        }
        if !self.mirror.is_fresh() {
            return Err(status(Error::Stale));
        }
        let waited = timeout_at(deadline.min(Instant::now() + PATIENCE), async {
            // The mirror may lag: only the database knows what does not exist yet.
            let head = self.store.head().await.map_err(read_failed)?;
            if wanted > head.revision {
                return Err(status(Error::CursorInFuture { asked: wanted, head: head.revision }));
            }
            // It ends with the mirror alone.
            let _ = revisions.wait_for(|revision| *revision >= wanted).await;
            Ok(())
        });
        waited.await.unwrap_or_else(|_| Err(status(Error::Stale)))
    }

    /// One entry of the log, from the database.
    pub(super) async fn entry(&self, id: Uuid) -> Result<Option<Entry>, Status> {
        self.store.entry(id).await.map_err(read_failed)
    }

    /// Word of changes to these flags, or to all.
    pub(super) fn feed(&self, keys: Option<Vec<FlagKey>>, pace: Duration) -> Feed {
        Feed::new(&self.mirror, keys, pace)
    }

    /// The log's hash at a revision; `None` where nobody can tell: no entry is kept, or the database does not answer.
    pub(super) async fn hash_at(&self, revision: Revision) -> Option<Hash> {
        let head = self.mirror.read(|state| *state.head());
        match head.and_then(|head| head.hash_at(revision)) {
            Some(hash) => Some(hash),
            None if !self.mirror.is_fresh() => None,
            None => {
                let there = timeout(HASH_PATIENCE, self.store.entry_at(revision)).await;
                there.ok()?.ok()?.map(|(_, hash)| hash)
            }
        }
    }

    /// Reads the state as it is.
    pub(super) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Result<T, Status> {
        self.mirror.read(read).ok_or_else(|| status(Error::DatabaseUnavailable))
    }
}
