//! Reads for the flag and access services: the present from the mirror, not older than `min_revision`, and the past from the
//! log.

mod as_of;
mod closed;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tonic::Status;
use uuid::Uuid;

use crate::domain::audit::Entry;
use crate::domain::error::Error;
use crate::domain::state::State;
use crate::domain::time::Clock;
use crate::domain::{Hash, Revision};
use crate::mirror::{ClientConnection, FlagSelection, Mirror, Subscription};
use crate::store::Store;

pub(super) use as_of::AsOf;

/// The longest that a read waits for `min_revision`. At the deadline of its call, `middleware/admit` answers.
const MIN_REVISION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a watch waits for the hash at its cursor. Flags are read from memory, whether the database answers or not.
const HASH_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads the mirror, and the store for what the mirror does not hold: entries, and states of the past.
#[derive(Clone)]
pub struct StateReader {
    mirror: Arc<Mirror>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
}

impl StateReader {
    /// A reader of `mirror` and of the log in `store`; `clock` tells which times have passed.
    pub fn new(mirror: Arc<Mirror>, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { mirror, store, clock }
    }

    /// Reads the present state.
    pub(super) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Result<T, Error> {
        self.mirror.read(read).ok_or(Error::DatabaseUnavailable)
    }

    /// Waits until the mirror has reached `min_revision`.
    pub(super) async fn wait_for_revision(&self, min_revision: Option<Revision>) -> Result<(), Status> {
        let Some(wanted) = min_revision else { return Ok(()) };
        let mut revisions = self.mirror.revisions();
        if *revisions.borrow_and_update() >= wanted {
            return Ok(());
        }
        if !self.mirror.is_fresh() {
            return Err(Error::Stale.into());
        }
        let reached = timeout(MIN_REVISION_TIMEOUT, async {
            // The mirror may lag: only the database knows which revisions exist.
            let head = self.store.head().await?;
            if wanted > head.revision {
                return Err(Error::CursorInFuture { asked: wanted, head: head.revision }.into());
            }
            // Fails only when the mirror is dropped.
            let _ = revisions.wait_for(|revision| *revision >= wanted).await;
            Ok(())
        });
        reached.await.unwrap_or_else(|_| Err(Error::Stale.into()))
    }

    /// One entry of the log, from the database.
    pub(super) async fn entry(&self, id: Uuid) -> Result<Option<Entry>, Status> {
        Ok(self.store.entry(id).await?)
    }

    /// Subscribes to changes of flags, for a stream of this connection.
    pub(super) fn subscribe(&self, selection: FlagSelection, connection: ClientConnection) -> Subscription {
        self.mirror.subscribe(selection, connection)
    }

    /// The log's hash at a revision; `None` if the entry was trimmed or the database does not answer.
    pub(super) async fn hash_at(&self, revision: Revision) -> Option<Hash> {
        let head = self.mirror.read(|state| *state.head());
        match head.and_then(|head| head.hash_at(revision)) {
            Some(hash) => Some(hash),
            None if !self.mirror.is_fresh() => None,
            None => {
                let entry = timeout(HASH_TIMEOUT, self.store.entry_at(revision)).await;
                entry.ok()?.ok()?.map(|(_, hash)| hash)
            }
        }
    }
}
