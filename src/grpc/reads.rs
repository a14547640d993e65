//! Reads of the state in memory, as fresh as the caller asks for.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::feed::Feed;
use super::status::{read_failed, status};
use crate::domain::error::Error;
use crate::domain::hash::GENESIS;
use crate::domain::state::State;
use crate::domain::text::FlagKey;
use crate::domain::{Hash, Revision};
use crate::mirror::Mirror;
use crate::store::Store;

/// How long a read waits for `min_revision` at the most.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the mirror.
#[derive(Clone)]
pub struct Reads {
    mirror: Arc<Mirror>,
    store: Arc<dyn Store>,
}

impl Reads {
    /// Reads of `mirror`; `store` is asked only whether a revision exists that the mirror has not seen.
    pub fn new(mirror: Arc<Mirror>, store: Arc<dyn Store>) -> Self {
        Self { mirror, store }
    }

    /// Waits until the mirror is at `min_revision`, if one is asked for, as long as the caller does.
    pub(super) async fn fresh(&self, min_revision: Option<Revision>, deadline: Option<Instant>) -> Result<(), Status> {
        let Some(wanted) = min_revision else { return Ok(()) };
        let mut revisions = self.mirror.revisions();
        if *revisions.borrow_and_update() >= wanted {
            return Ok(());
        }
        // The mirror may lag: only the database knows what does not exist yet.
        let head = self.store.head().await.map_err(read_failed)?;
        if wanted > head.revision {
            return Err(status(Error::CursorInFuture { asked: wanted, head: head.revision }));
        }
        let patience = Instant::now() + PATIENCE;
        let until = deadline.map_or(patience, |deadline| deadline.min(patience));
        let waited = tokio::time::timeout_at(until, revisions.wait_for(|r| *r >= wanted)).await;
        waited.map(drop).map_err(|_| status(Error::Stale))
    }

    /// Word of changes to these flags, or to all, for a stream that ends with `shutdown`.
    pub(super) fn feed(&self, keys: Option<Vec<FlagKey>>, pace: Duration, shutdown: &CancellationToken) -> Feed {
        Feed::new(&self.mirror, keys, pace, shutdown.clone())
    }

    /// The log's hash at a revision, from the database; `None` where no entry is kept.
    pub(super) async fn hash_at(&self, revision: Revision) -> Result<Option<Hash>, Status> {
        if revision == 0 {
            return Ok(Some(GENESIS));
        }
        let there = self.store.entry_at(revision).await.map_err(read_failed)?;
        Ok(there.map(|(_, hash)| hash))
    }

    /// Reads the state as it is.
    pub(super) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Result<T, Status> {
        self.mirror.read(read).ok_or_else(|| status(Error::DatabaseUnavailable))
    }
}
