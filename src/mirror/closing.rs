//! Closed times: a read as of a time is answered once no entry can be dated at or before that time any more. Then the answer never
//! changes, on any replica.
//!
//! An entry is dated when it is decided, and can be read when it is committed. In between, an answer would miss it. Readers never
//! write. They request a time, and wait until the committer has closed it or has written an entry with a later date.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use super::Mirror;
use crate::domain::state::{Head, State};
use crate::domain::time::Timestamp;

/// The committer could not close the time: the database does not answer, or accepts no writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotClosed;

/// The requests of readers for a closed time, and the committer's outcomes.
pub(super) struct Closing {
    /// The latest requested time. One for all readers, so that many cost no more than one.
    requested: watch::Sender<Timestamp>,
    /// How many readers wait. Without any, the committer closes no time. Otherwise a request from before the clock was set back would
    /// keep it closing times until the clock has caught up.
    readers: AtomicUsize,
    /// Counts closed times and failures, to wake readers.
    outcomes: watch::Sender<Outcomes>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Outcomes {
    closed: u64,
    failed: u64,
}

impl Default for Closing {
    fn default() -> Self {
        let requested = watch::Sender::new(Timestamp::MIN);
        Self { requested, readers: AtomicUsize::new(0), outcomes: watch::Sender::default() }
    }
}

/// A reader that waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Mirror {
    /// Whether the mirror has all entries up to `time`, and no more can come.
    pub fn is_closed(&self, time: Timestamp) -> bool {
        self.read(|state| state.is_closed(time)).unwrap_or_default()
    }

    /// Waits until [`is_closed`](Self::is_closed). `now` is the present, and `time` must not lie after it. The caller limits the
    /// wait.
    ///
    /// # Errors
    /// When the committer has tried in vain to close a time since this call.
    pub async fn until_closed(&self, time: Timestamp, now: Timestamp) -> Result<(), NotClosed> {
        let (mut revisions, mut outcomes) = (self.revision.subscribe(), self.closing.outcomes.subscribe());
        let failed = outcomes.borrow_and_update().failed;
        // Counted before the committer is woken.
        let is_first = self.closing.readers.fetch_add(1, Ordering::Relaxed) == 0;
        let _waiting = Waiting(&self.closing.readers);
        self.closing.requested.send_if_modified(|requested| {
            // A time after the present was requested before the clock was set back; it must not keep others waiting.
            let latest = (*requested).min(now).max(time);
            std::mem::replace(requested, latest) != latest || is_first
        });
        while !self.is_closed(time) {
            if outcomes.borrow_and_update().failed != failed {
                return Err(NotClosed);
            }
            // Each of them fails only when the mirror is dropped.
            tokio::select! {
                _ = revisions.changed() => {}
                _ = outcomes.changed() => {}
            }
        }
        Ok(())
    }

    /// The latest time that a reader waits for, for the committer.
    pub fn requested_times(&self) -> watch::Receiver<Timestamp> {
        self.closing.requested.subscribe()
    }

    /// Whether any reader waits for a time to be closed.
    pub fn has_waiting_readers(&self) -> bool {
        self.closing.readers.load(Ordering::Relaxed) > 0
    }

    /// Applies a closed time from the database, if the mirror is at the head that the database had then. Returns whether it is.
    pub fn close(&self, head: &Head, through: Timestamp) -> bool {
        self.close_if(through, |state| state.head() == head)
    }

    /// Applies a closed time that was read together with a head. The mirror has reached that head, or is beyond it.
    pub(super) fn close_reached(&self, through: Timestamp) {
        self.close_if(through, |_| true);
    }

    fn close_if(&self, through: Timestamp, condition: impl FnOnce(&State) -> bool) -> bool {
        {
            let mut held = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let Some(state) = held.as_mut().filter(|state| condition(state)) else { return false };
            if state.closed_at() >= through {
                return true;
            }
            state.close(through);
        }
        self.closing.outcomes.send_modify(|outcomes| outcomes.closed += 1);
        true
    }

    /// Fails all readers that wait for a time to be closed.
    pub fn fail_closing(&self) {
        // In this order: a reader who registers in between is failed, but not forgotten.
        self.closing.requested.send_replace(Timestamp::MIN);
        self.closing.outcomes.send_modify(|outcomes| outcomes.failed += 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::state::Delta;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn mirror() -> Arc<Mirror> {
        let mirror = Mirror::new(Duration::from_secs(1));
        mirror.replace(State::empty(Uuid::nil()));
        mirror
    }

    fn head(mirror: &Mirror) -> Head {
        mirror.read(|state| *state.head()).unwrap()
    }

    async fn requested(mirror: &Mirror, time: Timestamp) {
        mirror.requested_times().wait_for(|requested| *requested == time).await.unwrap();
    }

    #[tokio::test]
    async fn readers_wait_for_one_closed_time() {
        let mirror = mirror();
        let readers = [5, 7, 6].map(|time| {
            let mirror = Arc::clone(&mirror);
            tokio::spawn(async move { mirror.until_closed(at(time), at(9)).await })
        });
        requested(&mirror, at(7)).await;
        let elsewhere = Head { revision: 1, ..head(&mirror) };
        assert!(!mirror.close(&elsewhere, at(7)), "the mirror lacks an entry");
        assert!(readers.iter().all(|reader| !reader.is_finished()));
        assert!(mirror.close(&head(&mirror), at(7)));
        for reader in readers {
            assert_eq!(reader.await.unwrap(), Ok(()));
        }
        assert_eq!((mirror.is_closed(at(7)), mirror.is_closed(at(8))), (true, false));
    }

    #[tokio::test]
    async fn later_entry_closes_a_time() {
        let mirror = mirror();
        let reader = {
            let mirror = Arc::clone(&mirror);
            tokio::spawn(async move { mirror.until_closed(at(5), at(5)).await })
        };
        requested(&mirror, at(5)).await;
        let base = head(&mirror);
        mirror.apply(&base, Head { revision: 1, timestamp: at(6), ..base }, &Delta::default());
        assert_eq!(reader.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn failure_reaches_only_readers_who_wait() {
        let mirror = mirror();
        let reader = {
            let mirror = Arc::clone(&mirror);
            tokio::spawn(async move { mirror.until_closed(at(5), at(5)).await })
        };
        requested(&mirror, at(5)).await;
        mirror.fail_closing();
        assert_eq!(reader.await.unwrap(), Err(NotClosed));
        requested(&mirror, Timestamp::MIN).await;
        let next = mirror.until_closed(at(4), at(5));
        tokio::select! {
            biased;
            closed = next => panic!("{closed:?}"),
            () = requested(&mirror, at(4)) => {}
        }
    }

    #[tokio::test]
    async fn time_from_before_the_clock_was_set_back_is_forgotten() {
        let mirror = mirror();
        for (time, now, expected) in [(900, 900, 900), (5, 6, 6), (7, 8, 7), (3, 9, 7)] {
            tokio::select! {
                biased;
                closed = mirror.until_closed(at(time), at(now)) => panic!("{closed:?}"),
                () = requested(&mirror, at(expected)) => {}
            }
        }
    }
}
