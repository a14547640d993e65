//! The state in memory: all flags, users and tokens at one revision.
//!
//! Everything is decided on it and every read of flags, users and tokens is answered from it. It moves when the
//! committer has appended, before the caller is told, and when the follower finds that another replica has. Both may
//! see the same entries first: whoever comes second finds the mirror moved on and leaves it.

mod follow;
mod freshness;
mod subscription;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::domain::Revision;
use crate::domain::state::{Delta, FlagRef, Head, State};
use crate::domain::text::FlagKey;

pub use follow::follow;
pub use subscription::Subscription;

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
    /// Who is to be told of changes to flags.
    subscribers: subscription::Subscribers,
    /// Keys that a former log had and its replacement has not.
    removed_keys: std::sync::Mutex<BTreeSet<FlagKey>>,
    /// The most revisions that a look at the log found that were not here, since that was last asked for.
    lag: AtomicI64,
    /// Since when it waits for the database to be read for the first time.
    began: Instant,
    /// When the database was last asked and held nothing that was not here.
    confirmed: watch::Sender<Option<Instant>>,
    /// How long after that it is still relied on.
    max_staleness: Duration,
}

impl Mirror {
    /// A mirror that has seen nothing yet. `max_staleness` after it was last compared with the database, it no longer
    /// counts as fresh.
    pub fn new(max_staleness: Duration) -> Arc<Self> {
        Arc::new(Self {
            state: RwLock::new(None),
            following: Mutex::new(()),
            revision: watch::Sender::new(-1),
            access: watch::Sender::new(0),
            subscribers: subscription::Subscribers::default(),
            removed_keys: std::sync::Mutex::default(),
            began: Instant::now(),
            confirmed: watch::Sender::new(None),
            lag: AtomicI64::new(0),
            max_staleness,
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
        let mut held = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = held.as_mut().filter(|state| state.head() == base) else { return };
        state.apply(head, delta);
        self.revision.send_replace(head.revision);
        drop(held);
        if !delta.users.is_empty() || !delta.tokens.is_empty() {
            self.access.send_modify(|changes| *changes += 1);
        }
        self.subscribers.notify(&delta.flags);
    }

    /// The keys of flags that disappeared because the log was replaced, as after a restore.
    pub fn removed_keys(&self) -> Vec<FlagKey> {
        let removed = self.removed_keys.lock().unwrap_or_else(PoisonError::into_inner);
        let still_removed = |state: &State| {
            removed.iter().filter(|key| state.flag(&FlagRef::Key((*key).clone())).is_none()).cloned().collect()
        };
        self.read(still_removed).unwrap_or_default()
    }

    /// Takes a state that was read whole, whatever was there before. Who has read that reads on, if the log is the same and
    /// was merely trimmed beyond where we stood.
    pub fn replace(&self, new: State) {
        let mut held = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let revision = new.head().revision;
        let new = match &*held {
            Some(old) => new.replacing(old),
            None => new,
        };
        let generation = new.generation();
        let old = held.replace(new).filter(|old| old.generation() != generation);
        self.revision.send_replace(revision);
        drop(held);
        // Not under the lock: nobody is to wait for a walk over everything.
        if let Some(old) = old {
            let mut removed = self.removed_keys.lock().unwrap_or_else(PoisonError::into_inner);
            removed.extend(old.flags("", None).map(|flag| flag.key.clone()));
        }
        self.access.send_modify(|changes| *changes += 1);
        self.subscribers.notify_all();
    }
}
