//! Subscriptions: notifications of changes to flags.
//!
//! Nothing is queued for a subscriber. It is woken and reads from the state which flags have changed since the revision that it
//! has seen. A slow subscriber therefore finds each flag once, in its current form, and costs nothing meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::Mirror;
use crate::domain::flag::Flag;
use crate::domain::state::State;
use crate::domain::text::FlagKey;

/// Notifies its owner of changes to flags, until it is dropped.
pub struct Subscription {
    mirror: Arc<Mirror>,
    number: u64,
    /// `None` for all flags.
    keys: Option<Vec<FlagKey>>,
    wake: Arc<Notify>,
    /// The generation of the log that it began on, see [`State::generation`].
    generation: u64,
}

impl Mirror {
    /// Subscribes to the flags with these keys, whether they exist yet or not; without keys, to all flags. Subscribe
    /// before you read, so that no change in between is lost.
    pub fn subscribe(self: &Arc<Self>, keys: Option<Vec<FlagKey>>) -> Subscription {
        let generation = self.read(State::generation).unwrap_or_default();
        let (number, wake) = self.subscribers.add(keys.as_deref());
        Subscription { mirror: Arc::clone(self), number, keys, wake, generation }
    }

    /// The number of registrations: one for a subscription to all flags, else one for each key.
    #[cfg(test)]
    pub fn registrations(&self) -> usize {
        let registry = self.subscribers.lock();
        registry.to_all.len() + registry.by_key.values().map(Wakes::len).sum::<usize>()
    }
}

impl Subscription {
    /// Waits until one of the flags may have changed since the last wait, or the log was replaced.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Waits for a change, up to `max_wait`; `false` if none came. Returns no sooner than `min_interval` after the call, so that
    /// changes in quick succession are handled together. The interval runs from the call, so a change that comes after it is not
    /// delayed.
    pub async fn changed_within(&self, max_wait: Duration, min_interval: Duration) -> bool {
        let earliest = Instant::now() + min_interval;
        if timeout(max_wait, self.changed()).await.is_err() {
            return false;
        }
        sleep_until(earliest).await;
        true
    }

    /// Reads the state; `None` once the log was replaced, as after a restore: a cursor in the old log means nothing in the
    /// new one.
    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Option<T> {
        self.mirror.read(|state| (state.generation() == self.generation).then(|| read(state))).flatten()
    }

    /// The keys that it watches; `None` for all flags.
    pub fn keys(&self) -> Option<&[FlagKey]> {
        self.keys.as_deref()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.mirror.subscribers.remove(self.number, self.keys.as_deref());
    }
}

/// All subscriptions.
#[derive(Default)]
pub(super) struct Subscribers(Mutex<Registry>);

type Wakes = HashMap<u64, Arc<Notify>>;

#[derive(Default)]
struct Registry {
    last_number: u64,
    to_all: Wakes,
    by_key: HashMap<FlagKey, Wakes>,
}

impl Subscribers {
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, keys: Option<&[FlagKey]>) -> (u64, Arc<Notify>) {
        let wake = Arc::new(Notify::new());
        let mut registry = self.lock();
        registry.last_number += 1;
        let number = registry.last_number;
        match keys {
            None => drop(registry.to_all.insert(number, Arc::clone(&wake))),
            Some(keys) => {
                for key in keys {
                    registry.by_key.entry(key.clone()).or_default().insert(number, Arc::clone(&wake));
                }
            }
        }
        (number, wake)
    }

    fn remove(&self, number: u64, keys: Option<&[FlagKey]>) {
        let mut registry = self.lock();
        let Some(keys) = keys else {
            registry.to_all.remove(&number);
            return;
        };
        for key in keys {
            if let Some(wakes) = registry.by_key.get_mut(key) {
                wakes.remove(&number);
                if wakes.is_empty() {
                    registry.by_key.remove(key);
                }
            }
        }
    }

    /// Wakes the subscribers of these flags.
    pub fn notify(&self, flags: &[Arc<Flag>]) {
        if flags.is_empty() {
            return;
        }
        let registry = self.lock();
        let by_key = flags.iter().filter_map(|flag| registry.by_key.get(&flag.key)).flat_map(Wakes::values);
        // A subscriber that is not waiting is woken at its next wait.
        registry.to_all.values().chain(by_key).for_each(|wake| wake.notify_one());
    }

    /// Wakes all subscribers.
    pub fn notify_all(&self) {
        let registry = self.lock();
        let by_key = registry.by_key.values().flat_map(Wakes::values);
        registry.to_all.values().chain(by_key).for_each(|wake| wake.notify_one());
    }
}
