//! Subscriptions: notifications of changes to flags, to the log, and to environments, users and tokens.
//!
//! Nothing is queued for a subscriber. It is woken and reads from the state which flags have changed since the revision that it
//! has seen. A slow subscriber therefore finds each flag once, in its current form, and costs nothing meanwhile.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::Mirror;
use super::fan_out::{ClientConnection, FanOut, SubscriberId};
use crate::domain::Revision;
use crate::domain::state::{EnvironmentScope, State};
use crate::domain::text::FlagKey;

/// Notifies its owner of changes to flags, until it is dropped.
pub struct Subscription {
    mirror: Arc<Mirror>,
    registration: Registration,
    /// The generation of the log that it began on, see [`State::generation`].
    generation: u64,
    /// What the next read must include, besides what the latest wave announced.
    needed: Position,
}

/// Notifies its owner of entries of the log, until it is dropped.
pub struct LogSubscription(Registration);

/// Notifies its owner of changes of users or tokens, until it is dropped.
pub struct AccessChanges {
    mirror: Arc<Mirror>,
    registration: Registration,
    /// The number of changes that its owner knows.
    seen: u64,
}

/// A subscriber's registration with a fan-out, until it is dropped.
struct Registration {
    fan_out: Arc<FanOut>,
    connection: ClientConnection,
    id: SubscriberId,
    selection: FlagSelection,
    wake: Arc<Notify>,
}

/// What a key takes besides its text: its place in the list, the counters before the text, and its allocation.
const KEY_BYTES: usize = 48;

/// The flags that a subscription is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FlagSelection {
    /// In these environments.
    pub scope: EnvironmentScope,
    /// With these keys, whether they exist yet or not. `None` for all flags.
    pub keys: Option<Arc<[FlagKey]>>,
}

impl FlagSelection {
    /// All flags of these environments.
    pub fn all_in(scope: EnvironmentScope) -> Self {
        Self { scope, keys: None }
    }

    /// What the keys take in memory, in bytes.
    pub fn size(&self) -> usize {
        self.keys.iter().flat_map(|keys| keys.iter()).map(|key| key.as_str().len() + KEY_BYTES).sum()
    }

    /// Everything. Subscriptions that are not about flags have it.
    const EVERYTHING: Self = Self { scope: EnvironmentScope::All, keys: None };
}

/// A state of the flags. A later one is greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// See [`State::generation`].
    pub generation: u64,
    /// The revision of the state.
    pub revision: Revision,
}

impl Position {
    /// The position of a state.
    pub fn of(state: &State) -> Self {
        Self { generation: state.generation(), revision: state.head().revision }
    }

    /// Whether a state here includes all changes up to `needed`.
    pub fn includes(self, needed: Self) -> bool {
        self.generation == needed.generation && self.revision >= needed.revision
    }
}

impl Mirror {
    /// Subscribes to flags. Subscribe before you read, so that no change in between is lost. Subscribers with the same `connection` are
    /// woken together.
    pub fn subscribe(self: &Arc<Self>, selection: FlagSelection, connection: ClientConnection) -> Subscription {
        let registration = Registration::new(&self.flags, selection, connection);
        let needed = self.position();
        Subscription { mirror: Arc::clone(self), registration, generation: needed.generation, needed }
    }

    /// Subscribes to the entries of the log.
    pub fn subscribe_to_log(&self, connection: ClientConnection) -> LogSubscription {
        LogSubscription(Registration::new(&self.log, FlagSelection::EVERYTHING, connection))
    }

    /// Subscribes to changes of environments, users and tokens.
    pub fn subscribe_to_access(self: &Arc<Self>, connection: ClientConnection) -> AccessChanges {
        let registration = Registration::new(&self.access, FlagSelection::EVERYTHING, connection);
        AccessChanges { mirror: Arc::clone(self), registration, seen: self.access_changes.load(Ordering::Acquire) }
    }

    fn position(&self) -> Position {
        self.read(Position::of).unwrap_or_default()
    }

    /// The number of registrations for flags: one for a subscription to all flags, else one for each key.
    #[cfg(test)]
    pub fn registrations(&self) -> usize {
        self.flags.registrations()
    }
}

impl Registration {
    fn new(fan_out: &Arc<FanOut>, selection: FlagSelection, connection: ClientConnection) -> Self {
        let (id, wake) = fan_out.add(&selection, &connection);
        Self { fan_out: Arc::clone(fan_out), connection, id, selection, wake }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.fan_out.remove(self.id, &self.selection, &self.connection);
    }
}

impl Subscription {
    /// Waits for a change of one of the flags, or until the log was replaced, up to `max_wait`; `false` if none came.
    pub async fn changed_within(&mut self, max_wait: Duration) -> bool {
        let has_changed = timeout(max_wait, self.registration.wake.notified()).await.is_ok();
        if !has_changed {
            self.needed = self.mirror.position();
        }
        has_changed
    }

    /// The position that the next read must have reached. A state that was read for another subscriber will do if it includes this
    /// position, since later changes notify this subscription again.
    pub fn needed_position(&self) -> Position {
        self.needed.max(self.registration.fan_out.announced())
    }

    /// Reads the state; `None` once the log was replaced, as after a restore: a cursor in the old log means nothing in the
    /// new one.
    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Option<T> {
        self.mirror.read(|state| (state.generation() == self.generation).then(|| read(state))).flatten()
    }

    /// The flags that it is about.
    pub fn selection(&self) -> &FlagSelection {
        &self.registration.selection
    }
}

impl LogSubscription {
    /// Waits for an entry that was appended since the last wait, up to `max_wait`.
    pub async fn changed_within(&self, max_wait: Duration) {
        // An entry that never comes is no failure.
        let _ = timeout(max_wait, self.0.wake.notified()).await;
    }
}

impl AccessChanges {
    /// Waits for a change that its owner does not know. Its owner may be polled before its turn to be woken comes, and then learns
    /// of a change at once.
    pub async fn changed(&mut self) {
        let mut woken = pin!(self.registration.wake.notified());
        let (mirror, seen) = (&self.mirror, &mut self.seen);
        poll_fn(|context| {
            let changes = mirror.access_changes.load(Ordering::Acquire);
            if std::mem::replace(seen, changes) != changes {
                return Poll::Ready(());
            }
            woken.as_mut().poll(context)
        })
        .await;
    }
}
