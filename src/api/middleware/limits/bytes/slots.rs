//! The slots that `h2` makes for calls and their frames. It uses them again, but frees them only with their connection: one that had a
//! thousand calls in progress at once keeps a megabyte or more, also when it is idle.
//!
//! A connection has [`FREE_SLOTS`]. It gets more before the frames that need them are passed to `h2`, so no burst takes memory that it
//! did not get. When there are no more, the connections that have had theirs longest are closed, idle ones first, and this one waits
//! until they are. An honest client connects again for its next call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use super::unfinished::End;
use super::usage::ConnectionUse;
use super::{ByteBudget, ConnectionBytes};
use crate::api::errors::CALL_SLOTS;
use crate::config::Limits;
use crate::telemetry::log_throttle::LogThrottle;
use crate::telemetry::metrics::count_refusal;

/// The slots of every connection, part of what an idle one takes. `h2` makes no fewer.
pub(in crate::api) const FREE_SLOTS: usize = 4;

/// The memory of a slot, by the sizes of `h2`'s types: a stream (328 bytes and 32 in maps), two frames that arrived (248 each), and the
/// headers, data and trailers of an answer (312 each).
const SLOT_BYTES: usize = 1_792;

/// Frames that arrived, in one slot.
pub(in crate::api) const FRAMES_PER_SLOT: usize = 2;

/// The slots beyond [`FREE_SLOTS`] of authenticated callers' connections, or those of the others.
pub(super) struct SlotBudget {
    /// In slots.
    limit: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    slots: usize,
    /// Those of them whose connections are about to close.
    closing: usize,
    by_age: BTreeMap<u64, Place>,
    next: u64,
    waiting: BTreeMap<u64, Waker>,
    warnings: LogThrottle,
}

/// The slots of one connection.
struct Place {
    slots: usize,
    used: [Arc<ConnectionUse>; 2],
    is_closing: bool,
    end: Arc<End>,
}

/// The slots that a connection holds, until it ends.
pub(in crate::api) struct CallSlots {
    budget: Arc<ByteBudget>,
    is_unauthenticated: bool,
    number: u64,
    count: usize,
    end: Arc<End>,
}

impl SlotBudget {
    /// The budgets by whether the last caller of the connection is unauthenticated. Every stream that authenticated callers may open has
    /// a slot, so that open streams alone close no connection.
    pub fn of(limit: usize, limits: &Limits) -> [Self; 2] {
        let shared = limit / 8 / SLOT_BYTES;
        [shared + limits.max_streams, shared].map(|limit| Self { limit, held: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Closes connections until `more` slots are going to be free, except `own`.
    fn close_oldest(&mut self, more: usize, limit: usize, own: u64) {
        while self.slots - self.closing + more > limit {
            let mut open = self.by_age.iter().filter(|(number, place)| **number != own && place.can_close());
            let oldest =
                open.clone().find(|(_, place)| place.is_idle()).or_else(|| open.next()).map(|(number, _)| *number);
            let Some(place) = oldest.and_then(|number| self.by_age.get_mut(&number)) else { return };
            place.is_closing = true;
            self.closing += place.slots;
            place.end.set_due();
            count_refusal("BUFFER_LIMIT");
            if self.warnings.admit(Instant::now()).is_some() {
                let limit = CALL_SLOTS.with(limit * SLOT_BYTES);
                tracing::warn!("too many calls at once on too many connections; closing the oldest of them ({limit})");
            }
        }
    }
}

impl Place {
    fn can_close(&self) -> bool {
        self.slots > 0 && !self.is_closing
    }

    fn is_idle(&self) -> bool {
        self.used.iter().all(|used| used.calls() == 0)
    }
}

impl ByteBudget {
    /// No slots yet, for a connection that needs more than [`FREE_SLOTS`].
    pub(in crate::api) fn call_slots(self: &Arc<Self>, connection: &ConnectionBytes) -> CallSlots {
        let (end, is_unauthenticated) = (Arc::<End>::default(), !connection.is_authenticated());
        let mut held = self.slots[usize::from(is_unauthenticated)].lock();
        let number = held.next;
        held.next += 1;
        let used = connection.used.clone();
        held.by_age.insert(number, Place { slots: 0, used, is_closing: false, end: Arc::clone(&end) });
        drop(held);
        CallSlots { budget: Arc::clone(self), is_unauthenticated, number, count: 0, end }
    }
}

impl CallSlots {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether they are in the budget of unauthenticated callers.
    pub fn is_unauthenticated(&self) -> bool {
        self.is_unauthenticated
    }

    /// Gets slots until there are `needed`: in powers of two, as `h2` makes them. Waits for connections that close.
    pub fn poll_grow(&mut self, needed: usize, context: &Context<'_>) -> Poll<()> {
        let more = needed.next_power_of_two().saturating_sub(self.count);
        if more == 0 {
            return Poll::Ready(());
        }
        let mut held = self.slots().lock();
        let is_free = held.slots + more <= self.slots().limit;
        // One connection alone is never too many.
        if !is_free && held.slots > self.count {
            held.close_oldest(more, self.slots().limit, self.number);
            held.waiting.insert(self.number, context.waker().clone());
            return Poll::Pending;
        }
        held.slots += more;
        let (closing, place) = (held.closing, held.by_age.get_mut(&self.number));
        held.closing = match place {
            Some(place) => {
                place.slots += more;
                if place.is_closing { closing + more } else { closing }
            }
            None => closing,
        };
        drop(held);
        self.count += more;
        Poll::Ready(())
    }

    /// Ready when the connection has to close.
    pub fn poll_end(&self, context: &Context<'_>) -> Poll<()> {
        self.end.poll(context)
    }

    /// Whether the connection has to close.
    pub fn is_ended(&self) -> bool {
        self.end.is_due()
    }

    fn slots(&self) -> &SlotBudget {
        &self.budget.slots[usize::from(self.is_unauthenticated)]
    }
}

impl Drop for CallSlots {
    fn drop(&mut self) {
        let mut held = self.slots().lock();
        if let Some(place) = held.by_age.remove(&self.number) {
            held.slots -= place.slots;
            held.closing -= if place.is_closing { place.slots } else { 0 };
        }
        held.waiting.remove(&self.number);
        let waiting = std::mem::take(&mut held.waiting);
        drop(held);
        waiting.into_values().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker_ref;

    use super::*;
    use crate::api::middleware::limits::Owner;

    fn grow(slots: &mut CallSlots, needed: usize) -> bool {
        slots.poll_grow(needed, &Context::from_waker(noop_waker_ref())).is_ready()
    }

    /// A budget with 585 slots for unauthenticated callers.
    fn budget() -> Arc<ByteBudget> {
        ByteBudget::of(8 << 20)
    }

    #[test]
    fn slots_are_waited_for_until_the_oldest_idle_connection_ends() {
        let (budget, connection) = (budget(), ConnectionBytes::default());
        let busy = budget.account(&connection, &Owner::Unauthenticated(None)).refuse_call();
        let mut held: Vec<_> = (0..2).map(|_| budget.call_slots(&ConnectionBytes::default())).collect();
        held.insert(0, budget.call_slots(&connection));
        assert!(held.iter_mut().all(|slots| grow(slots, 100)));
        let mut another = budget.call_slots(&ConnectionBytes::default());
        assert!(grow(&mut another, 128) && !grow(&mut another, 129), "four times 128, and 128 more");
        let ended = |held: &[CallSlots]| held.iter().map(CallSlots::is_ended).collect::<Vec<_>>();
        assert_eq!(ended(&held), [false, true, false], "the oldest has a call in progress");
        assert!(!grow(&mut another, 129), "no other is closed while that one is");
        assert_eq!(ended(&held), [false, true, false]);
        held.remove(1);
        assert!(grow(&mut another, 129) && another.count() == 256);
        assert!(!grow(&mut another, 500));
        assert_eq!(ended(&held), [true, true], "also the one in progress, since the idle one is too little");
        drop((busy, held));
        assert!(grow(&mut another, 1_024), "alone");
        drop(another);
        let held = budget.slots[1].lock();
        assert_eq!((held.slots, held.closing, held.by_age.len(), held.waiting.len()), (0, 0, 0, 0));
    }

    #[test]
    fn unauthenticated_callers_slots_leave_those_of_others() {
        let budget = budget();
        let mut strangers = budget.call_slots(&ConnectionBytes::default());
        assert!(grow(&mut strangers, 1_024));
        let connection = ConnectionBytes::default();
        let caller = Owner::Caller(crate::auth::CallerKey::User(uuid::Uuid::from_u128(1)));
        budget.account(&connection, &caller);
        let mut authenticated: Vec<_> = (0..10).map(|_| budget.call_slots(&connection)).collect();
        assert!(authenticated.iter_mut().all(|slots| grow(slots, 1_000)), "all streams have slots");
        assert!(!authenticated.iter().chain([&strangers]).any(CallSlots::is_ended));
    }
}
