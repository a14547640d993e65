//! Unfinished heads of requests, header blocks and frames: what the transport keeps before a call begins.
//!
//! They are charged as other bytes are, but are not refused: the connection that has waited longest is closed instead, as with
//! handshakes. An honest client finishes a head within a round trip, long before it is the oldest.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use tokio::time::Instant;

use super::{ByteBudget, Charge, ConnectionBytes, Direction};
use crate::api::errors::UNFINISHED_HEADS;
use crate::api::middleware::limits::owner::Owner;
use crate::telemetry::log_throttle::LogThrottle;
use crate::telemetry::metrics::count_refusal;

/// The least that a head is charged.
const LEAST: usize = 4 << 10;

/// The unfinished heads of authenticated callers' connections, or those of the others.
#[derive(Default)]
pub(super) struct UnfinishedHeads(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    bytes: usize,
    by_age: BTreeMap<u64, (usize, Arc<End>)>,
    next: u64,
    warnings: LogThrottle,
}

/// Tells a connection that it has to close.
#[derive(Default)]
pub(super) struct End {
    is_due: AtomicBool,
    waker: AtomicWaker,
}

impl End {
    pub fn set_due(&self) {
        self.is_due.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub fn is_due(&self) -> bool {
        self.is_due.load(Ordering::Acquire)
    }

    /// Ready when it is due.
    pub fn poll(&self, context: &Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.is_due() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// What a connection has sent of a head or frame, from the first wait for the rest on.
pub(in crate::api) struct UnfinishedHead {
    number: u64,
    charge: Charge,
    end: Arc<End>,
}

impl UnfinishedHeads {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Closes connections until `max` is kept.
    fn close_oldest(&mut self, max: usize) {
        while self.bytes > max
            && let Some((_, (bytes, end))) = self.by_age.pop_first()
        {
            self.bytes -= bytes;
            end.set_due();
            count_refusal("BUFFER_LIMIT");
            if self.warnings.admit(Instant::now()).is_some() {
                let limit = UNFINISHED_HEADS.with(max);
                tracing::warn!("too many unfinished heads of requests; closing the oldest one's connection ({limit})");
            }
        }
    }
}

impl ByteBudget {
    /// Charges a head of which a part is missing: to the last caller of the connection, if it had one.
    pub(in crate::api) fn hold_head(
        self: &Arc<Self>,
        connection: &ConnectionBytes,
        address: IpAddr,
        bytes: usize,
    ) -> UnfinishedHead {
        let last = connection.last().clone();
        let account = last.unwrap_or_else(|| self.account(connection, &Owner::unauthenticated(Some(address))));
        let end = Arc::<End>::default();
        let mut waiting = self.heads[usize::from(account.is_unauthenticated)].lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.by_age.insert(number, (0, Arc::clone(&end)));
        drop(waiting);
        let mut head = UnfinishedHead { number, charge: account.take(Direction::Request, 0), end };
        head.grow_to(bytes);
        head
    }
}

impl UnfinishedHead {
    fn heads(&self) -> &UnfinishedHeads {
        &self.charge.account.budget.heads[usize::from(self.charge.account.is_unauthenticated)]
    }

    /// More of it has arrived. It is kept in buffers that grow by doubling.
    pub fn grow_to(&mut self, bytes: usize) {
        let more = bytes.next_power_of_two().max(LEAST).saturating_sub(self.charge.bytes);
        if more == 0 {
            return;
        }
        self.charge.add(more);
        let mut waiting = self.heads().lock();
        if let Some((bytes, _)) = waiting.by_age.get_mut(&self.number) {
            *bytes += more;
            waiting.bytes += more;
            waiting.close_oldest(self.charge.account.budget.limit / 8);
        }
    }

    /// Ready when the connection has to close.
    pub fn poll_end(&self, context: &Context<'_>) -> Poll<()> {
        self.end.poll(context)
    }
}

impl Drop for UnfinishedHead {
    fn drop(&mut self) {
        let mut waiting = self.heads().lock();
        if let Some((bytes, _)) = waiting.by_age.remove(&self.number) {
            waiting.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker_ref;

    use super::*;

    fn is_ended(head: &UnfinishedHead) -> bool {
        head.poll_end(&Context::from_waker(noop_waker_ref())).is_ready()
    }

    #[test]
    fn oldest_head_ends_when_the_budget_is_exhausted() {
        let budget = ByteBudget::of(1 << 20);
        let hold = |bytes| budget.hold_head(&ConnectionBytes::default(), [10, 0, 0, 1].into(), bytes);
        let mut heads: Vec<_> = (0..4).map(|_| hold(30_000)).collect();
        assert_eq!(budget.used(), 128 << 10);
        assert!(!heads.iter().any(is_ended));
        let small = hold(1);
        assert_eq!(heads.iter().filter(|head| is_ended(head)).count(), 1);
        assert!(is_ended(&heads[0]) && !is_ended(&small));
        heads[3].grow_to(50_000);
        assert!(is_ended(&heads[1]) && !is_ended(&heads[2]));
        heads.truncate(1);
        assert!(!is_ended(&hold(30_000)) && !is_ended(&small));
        drop((heads, small));
        assert_eq!((budget.used(), budget.heads[1].lock().bytes), (0, 0));
    }
}
