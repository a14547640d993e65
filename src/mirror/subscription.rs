//! Subscriptions: word of changes to flags.
//!
//! Nothing is queued for a subscriber. It is woken, and asks the state itself what has changed since the revision that
//! it has seen: one that is slow finds every flag once, as it is by then, and costs nobody anything meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Mirror;
use crate::domain::flag::Flag;
use crate::domain::state::State;
use crate::domain::text::FlagKey;

/// Word of changes to flags, for as long as this value lives.
pub struct Subscription {
    mirror: Arc<Mirror>,
    number: u64,
    /// `None` for all flags.
    keys: Option<Vec<FlagKey>>,
    wake: Arc<Notify>,
    /// Which log it began on, see [`State::log`].
    log: u64,
}

impl Mirror {
    /// Word of changes to the flags with these keys, whether they exist yet or not; to all flags without any. Subscribe
    /// first and read then: what changes in between is told.
    pub fn subscribe(self: &Arc<Self>, keys: Option<Vec<FlagKey>>) -> Subscription {
        let log = self.read(State::log).unwrap_or_default();
        let (number, wake) = self.subscribers.add(keys.as_deref());
        Subscription { mirror: Arc::clone(self), number, keys, wake, log }
    }

    /// How many places a subscription is noted in.
    #[cfg(test)]
    pub fn subscriptions(&self) -> usize {
        let registry = self.subscribers.lock();
        registry.to_all.len() + registry.by_key.len()
    }
}

impl Subscription {
    /// Waits until one of the flags may have changed since the last wait, or the log is another.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Reads the state; `None` once it is not that of the log that the subscription began on, as when a backup was
    /// restored: what was told of that one leads nowhere in the other.
    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Option<T> {
        self.mirror.read(|state| (state.log() == self.log).then(|| read(state))).flatten()
    }

    /// The keys that it is about; `None` for all flags.
    pub fn keys(&self) -> Option<&[FlagKey]> {
        self.keys.as_deref()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.mirror.subscribers.remove(self.number, self.keys.as_deref());
    }
}

/// Everybody who has subscribed.
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

    /// Wakes who has subscribed to one of these flags.
    pub fn tell(&self, flags: &[Arc<Flag>]) {
        if flags.is_empty() {
            return;
        }
        let registry = self.lock();
        let by_key = flags.iter().filter_map(|flag| registry.by_key.get(&flag.key)).flat_map(Wakes::values);
        // One that is not waiting right now finds the word when it next does.
        registry.to_all.values().chain(by_key).for_each(|wake| wake.notify_one());
    }

    /// Wakes everybody.
    pub fn tell_all(&self) {
        let registry = self.lock();
        let by_key = registry.by_key.values().flat_map(Wakes::values);
        registry.to_all.values().chain(by_key).for_each(|wake| wake.notify_one());
    }
}
