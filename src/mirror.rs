//! The state in memory: all flags, users and tokens at one revision.
//!
//! Everything is decided on it and every read of flags, users and tokens is answered from it. It moves when the
//! committer has appended, before the caller is told, and when the follower finds that another replica has. Both may
//! see the same entries first: whoever comes second finds the mirror moved on and leaves it.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use crate::domain::Revision;
use crate::domain::state::{Delta, Head, State};
use crate::store::{Followed, Store, StoreError};

/// The state in memory. Cheap to share; reads do not wait for each other.
pub struct Mirror {
    /// `None` until the database has been read for the first time.
    state: RwLock<Option<State>>,
    /// Held by whoever follows the log: one that began later never ends earlier, so nobody puts an older state in place
    /// of a newer one.
    following: Mutex<()>,
    /// The revision that `state` is at, for those who wait for one; -1 until there is a state.
    revision: watch::Sender<Revision>,
    /// Counts the changes to users and tokens, for open streams whose callers may have lost what let them in. Flips,
    /// which are most of what happens, do not wake those.
    access: watch::Sender<u64>,
}

impl Mirror {
    /// A mirror that has seen nothing yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: RwLock::new(None),
            following: Mutex::new(()),
            revision: watch::Sender::new(-1),
            access: watch::Sender::new(0),
        })
    }

    /// Reads the state, if there is one yet. `read` must be quick: while it runs, the mirror cannot move.
    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Option<T> {
        // A reader that panicked has changed nothing, and a writer replaces values whole.
        self.state.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(read)
    }

    /// The revision that the mirror is at, and word of each that it moves to; -1 before the first.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Word of each change to users or tokens.
    pub fn access_changes(&self) -> watch::Receiver<u64> {
        self.access.subscribe()
    }

    /// Moves from `base` to `head`. Does nothing if the mirror is elsewhere: then somebody has moved it already.
    pub fn apply(&self, base: &Head, head: Head, delta: &Delta) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = state.as_mut().filter(|state| state.head() == base) {
            state.apply(head, delta);
            self.revision.send_replace(head.revision);
            if !delta.users.is_empty() || !delta.tokens.is_empty() {
                self.access.send_modify(|changes| *changes += 1);
            }
        }
    }

    /// Takes a state that was read whole, whatever was there before.
    pub fn replace(&self, new: State) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let revision = new.head().revision;
        *state = Some(new);
        self.revision.send_replace(revision);
        self.access.send_modify(|changes| *changes += 1);
    }

    /// Catches up with the database; whether it had moved. A database that is not the one we knew is read anew.
    ///
    /// # Errors
    /// What the database said. The mirror is then as it was.
    pub async fn follow(&self, store: &dyn Store) -> Result<bool, StoreError> {
        let _turn = self.following.lock().await;
        let Some(known) = self.read(|state| *state.head()) else {
            self.replace(store.load().await?);
            return Ok(true);
        };
        match store.follow(&known).await? {
            Followed::Current => Ok(false),
            Followed::Changed(head, delta) => {
                self.apply(&known, head, &delta);
                Ok(true)
            }
            Followed::Diverged => {
                // A local append may have moved the mirror since `known` was read, and the database with it.
                if self.read(|state| *state.head()) == Some(known) {
                    tracing::warn!(revision = known.revision, "the log is not the one that was known: reading it anew");
                    self.replace(store.load().await?);
                }
                Ok(true)
            }
        }
    }
}

/// How long one look at the log may take; reading everything anew takes longest.
const PATIENCE: Duration = Duration::from_secs(30);

/// Follows the log of other replicas for as long as it is polled.
pub async fn follow(mirror: Arc<Mirror>, store: Arc<dyn Store>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        // A connection can be silent for ever; the next one may answer.
        let followed = tokio::time::timeout(PATIENCE, mirror.follow(&*store)).await;
        match followed.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".to_owned()))) {
            Ok(_) => failing = false,
            // Once an outage, not once a tick.
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "cannot follow the log; trying on");
            }
            Err(_) => {}
        }
    }
}
