//! The frames that a stream has handed to the transport, and that the transport has not written.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::time::{Instant, sleep_until};

/// The slowest reading that is accepted: a client may take a second longer for each of so many bytes. The slowest links are faster.
const LEAST_BYTES_PER_SECOND: usize = 16 << 10;

/// The unsent frames of one stream. Its owners are parts of one task: only the last one that waits is woken.
#[derive(Clone, Default)]
pub(in crate::api) struct Unsent(Arc<Frames>);

#[derive(Default)]
struct Frames {
    /// How many there are.
    count: AtomicUsize,
    waker: AtomicWaker,
    /// By when the client has to read them; `None` if there are none.
    due: Mutex<Option<Due>>,
}

struct Due {
    /// When the client last read a frame, or got the first one.
    since: Instant,
    /// The bytes of all frames since none was unsent.
    bytes: usize,
}

/// A frame that is unsent until this is dropped.
pub(super) struct UnsentFrame(Arc<Frames>);

impl Unsent {
    pub(super) fn frame(&self, bytes: usize) -> UnsentFrame {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        let mut due = self.0.due();
        due.get_or_insert_with(|| Due { since: Instant::now(), bytes: 0 }).bytes += bytes;
        drop(due);
        UnsentFrame(Arc::clone(&self.0))
    }

    /// Waits until everything is sent. A stream of the current state waits for this before it makes its next message. While its client
    /// does not read, it keeps one message; then it sends the latest state.
    pub async fn all_sent(&self) {
        poll_fn(|context| self.poll_all_sent(context)).await;
    }

    pub(in crate::api) fn poll_all_sent(&self, context: &Context<'_>) -> Poll<()> {
        let is_sent = || self.0.count.load(Ordering::Acquire) == 0;
        if is_sent() {
            return Poll::Ready(());
        }
        self.0.waker.register(context.waker());
        if is_sent() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits until the client has read nothing for `limit`, and for as long as its bytes may take, although there is something to
    /// read.
    pub(in crate::api) async fn unread_for(&self, limit: Duration) {
        loop {
            let now = Instant::now();
            let end = self.0.due().as_ref().map(|due| {
                let seconds = u64::try_from(due.bytes / LEAST_BYTES_PER_SECOND).unwrap_or(u64::MAX);
                due.since + limit + Duration::from_secs(seconds)
            });
            if end.is_some_and(|end| now >= end) {
                return;
            }
            sleep_until(end.unwrap_or(now + limit)).await;
        }
    }
}

impl Frames {
    fn due(&self) -> MutexGuard<'_, Option<Due>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnsentFrame {
    fn drop(&mut self) {
        let mut due = self.0.due();
        // Frames are written in order, so the client has read something.
        let is_last = self.0.count.fetch_sub(1, Ordering::AcqRel) == 1;
        match &mut *due {
            Some(due) if !is_last => due.since = Instant::now(),
            due => *due = None,
        }
        drop(due);
        if is_last {
            self.0.waker.wake();
        }
    }
}
