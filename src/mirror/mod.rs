//! The mirror: all flags, environments, users and tokens in memory, at one revision.
//!
//! Changes are decided on it, and reads are answered from it. The committer moves it after each append, before the
//! caller is answered. The follower moves it when another replica has appended. If both see the same entries, the
//! second one finds the mirror moved already and leaves it.

mod closing;
mod fan_out;
mod follow;
mod freshness;
mod subscription;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::domain::Revision;
use crate::domain::state::{Delta, Head, State};
use crate::domain::text::{EnvironmentKey, FlagKey};
use fan_out::FanOut;

pub use closing::NotClosed;
#[cfg(test)]
pub use fan_out::MIN_INTERVAL;
pub use fan_out::{ClientConnection, WriteTime};
pub use follow::follow;
pub use subscription::{AccessChanges, FlagSelection, LogSubscription, Position, Subscription};

/// The assumed cost of waking one reader of the log, with the database's work for its queries, which this server cannot measure.
const LOG_READ_COST: Duration = Duration::from_micros(250);

/// The state in memory, shared by all tasks. Reads do not block each other.
pub struct Mirror {
    /// `None` until the database was read for the first time.
    state: RwLock<Option<State>>,
    /// One look at the log at a time, so that an older one never overwrites a newer one.
    following: Mutex<()>,
    /// The revision of `state`, for tasks that wait for one; -1 without a state.
    revision: watch::Sender<Revision>,
    /// Reads as of times that are not closed yet.
    closing: closing::Closing,
    /// Counts changes of environments, users and tokens. Open streams check their access after each. Flips, the most frequent
    /// changes, do not wake them.
    access_changes: AtomicU64,
    /// The subscribers to changes of flags.
    flags: Arc<FanOut>,
    /// The subscribers to entries of the log.
    log: Arc<FanOut>,
    /// The subscribers to changes of environments, users and tokens.
    access: Arc<FanOut>,
    write_time: WriteTime,
    /// The keys of all flags, with their environments, in logs that this mirror held before they were replaced, as by a restore.
    former_keys: std::sync::Mutex<BTreeSet<(EnvironmentKey, FlagKey)>>,
    /// The largest lag in revisions that was found since the metric was last read.
    lag: AtomicI64,
    /// When the mirror was created, for its age before the first confirmation.
    began: Instant,
    /// When the last successful look at the database began. Everything that was appended before is in the mirror.
    confirmed: watch::Sender<Option<Instant>>,
    /// How long after a confirmation the mirror counts as fresh.
    max_staleness: Duration,
}

impl Mirror {
    /// An empty mirror. It stops counting as fresh `max_staleness` after its last comparison with the database.
    pub fn new(max_staleness: Duration) -> Arc<Self> {
        let write_time = WriteTime::default();
        let fan_out = |cost_each| FanOut::new(cost_each, write_time.clone());
        Arc::new(Self {
            state: RwLock::new(None),
            following: Mutex::new(()),
            revision: watch::Sender::new(-1),
            closing: closing::Closing::default(),
            access_changes: AtomicU64::new(0),
            flags: fan_out(Duration::ZERO),
            log: fan_out(LOG_READ_COST),
            access: fan_out(Duration::ZERO),
            write_time,
            former_keys: std::sync::Mutex::default(),
            began: Instant::now(),
            confirmed: watch::Sender::new(None),
            lag: AtomicI64::new(0),
            max_staleness,
        })
    }

    /// Reads the state; `None` before the first load. `read` must be quick, since the mirror cannot move meanwhile.
    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Option<T> {
        // Only a panic while writing poisons the lock, and `State::apply` does not panic.
        self.state.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(read)
    }

    /// The mirror's revision as it moves; -1 before the first load. A receiver sees the latest one, and may skip others.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// The counter of time spent writing to connections with subscribers. The more it grows, the longer fan-out pauses before it wakes
    /// subscribers again.
    pub fn write_time(&self) -> WriteTime {
        self.write_time.clone()
    }

    /// Moves from `base` to `head`. Does nothing if the mirror is not at `base`: another task has moved it already.
    pub fn apply(&self, base: &Head, head: Head, delta: &Delta) {
        let mut held = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = held.as_mut().filter(|state| state.head() == base) else { return };
        state.apply(head, delta);
        let position = Position::of(state);
        self.revision.send_replace(head.revision);
        let Delta { environments, users, tokens, .. } = delta;
        // Permissions of a single sign-on may name an environment that did not exist before.
        let changes_access = !environments.is_empty() || !users.is_empty() || !tokens.is_empty();
        self.access_changes.fetch_add(changes_access.into(), Ordering::AcqRel);
        drop(held);
        if changes_access {
            self.access.notify_all(position);
        }
        self.flags.notify(position, &delta.flags);
        self.log.notify_all(position);
    }

    /// The keys of flags of an environment that disappeared because the log was replaced, as after a restore.
    pub fn removed_keys(&self, environment: &EnvironmentKey) -> Vec<FlagKey> {
        let former = self.former_keys.lock().unwrap_or_else(PoisonError::into_inner);
        let still_removed = |state: &State| {
            let former = former.iter().filter(|(of, key)| of == environment && state.flag_in(of, key).is_none());
            former.map(|(_, key)| key.clone()).collect()
        };
        self.read(still_removed).unwrap_or_default()
    }

    /// Replaces the state with one loaded from the database. Streams continue if it is the same log, and the mirror
    /// only missed entries that have been trimmed.
    pub fn replace(&self, new: State) {
        let mut held = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let new = match &*held {
            Some(old) => new.replacing(old),
            None => new,
        };
        let position = Position::of(&new);
        let old = held.replace(new).filter(|old| old.generation() != position.generation);
        self.revision.send_replace(position.revision);
        self.access_changes.fetch_add(1, Ordering::AcqRel);
        drop(held);
        // Outside the lock, since it walks over all flags.
        if let Some(old) = old {
            let mut former = self.former_keys.lock().unwrap_or_else(PoisonError::into_inner);
            former.extend(old.all_flags().map(|flag| (flag.environment.clone(), flag.key.clone())));
        }
        for subscribers in [&self.access, &self.flags, &self.log] {
            subscribers.notify_all(position);
        }
    }
}
