//! Closes times for readers: see `mirror/closing.rs`.
//!
//! Closing belongs to the committer: between its own batches, it makes none of them invalid. For the batches of other replicas there is
//! a margin. A batch that takes longer than the margin is decided again.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::READ_TIMEOUT;
use crate::domain::state::Head;
use crate::domain::time::{Clock, Timestamp};
use crate::mirror::Mirror;
use crate::store::{Store, StoreError, Writer, with_timeout};

/// The minimum time between two attempts to close a time. One serves all readers who ask meanwhile.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// How long ago a time must be before it is closed, at the least. A batch that another replica has dated and is writing must not become
/// invalid, so this is longer than an append usually takes. A batch that takes longer is dated again, which costs its replica one lost
/// race.
const MIN_MARGIN: Duration = Duration::from_millis(20);

/// The margin on a slow line, at the most.
const MAX_MARGIN: Duration = Duration::from_millis(500);

/// Closes times for the readers that wait.
pub(super) struct TimeCloser {
    mirror: Arc<Mirror>,
    clock: Arc<dyn Clock>,
    requested: watch::Receiver<Timestamp>,
    /// Twice the duration of the last close, from [`MIN_MARGIN`] to [`MAX_MARGIN`]: on a slow line, appends take long as well.
    margin: Duration,
    /// When the last attempt to close a time ended.
    last_attempt: Option<Instant>,
    is_failing: bool,
}

impl TimeCloser {
    pub fn new(mirror: Arc<Mirror>, clock: Arc<dyn Clock>) -> Self {
        let requested = mirror.requested_times();
        Self { mirror, clock, requested, margin: MIN_MARGIN, last_attempt: None, is_failing: false }
    }

    /// Waits until a time may have to be closed. Once a reader waits, this takes no longer than the margin or the interval. If the
    /// clock is set back meanwhile, the next reader must not wait until it has caught up.
    pub async fn until_due(&mut self) {
        let mirror = &self.mirror;
        let Ok(requested) = self.requested.wait_for(|time| is_requested(mirror, *time)).await.map(|time| *time) else {
            // The mirror was dropped, so there are no readers.
            return pending().await;
        };
        let passed = requested.until(self.clock.now());
        sleep(self.margin.saturating_sub(passed).max(self.interval_left())).await;
    }

    /// Closes the latest time that a reader waits for, or the present less the margin if that is earlier. Does nothing if no reader
    /// waits, or if that time is closed already: the last entry may be dated after it. Readers learn of a failure at once.
    pub async fn close(&mut self, writer: &mut dyn Writer, store: &dyn Store) {
        let requested = *self.requested.borrow();
        if !is_requested(&self.mirror, requested) || !self.interval_left().is_zero() {
            return;
        }
        let through = requested.min(self.clock.now().minus(self.margin));
        let Some(head) = self.mirror.read(|state| (!state.is_closed(through)).then(|| *state.head())).flatten() else {
            return;
        };
        let began = Instant::now();
        let outcome = self.write(&head, through, writer, store).await;
        self.margin = (began.elapsed() * 2).clamp(MIN_MARGIN, MAX_MARGIN);
        self.last_attempt = Some(Instant::now());
        match outcome {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                store.usability().record_error(&error);
                // Logged once for each outage.
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(%error, "closed time not stored; reads as of the last seconds are refused");
                }
                self.mirror.fail_closing();
            }
        }
    }

    async fn write(
        &self,
        head: &Head,
        through: Timestamp,
        writer: &mut dyn Writer,
        store: &dyn Store,
    ) -> Result<(), StoreError> {
        let closed_at = writer.close_time(head.log_id, through).await?;
        if closed_at.is_some_and(|head| self.mirror.close(&head, through)) {
            return Ok(());
        }
        // Another replica has appended, or has closed a later time. The closed time is read together with the head.
        with_timeout(READ_TIMEOUT, self.mirror.follow(store)).await
    }

    fn interval_left(&self) -> Duration {
        self.last_attempt.map_or(Duration::ZERO, |at| MIN_INTERVAL.saturating_sub(at.elapsed()))
    }
}

/// Whether a reader waits, and entries may still be dated at or before this time. False before the first load, when nothing can be read.
fn is_requested(mirror: &Mirror, time: Timestamp) -> bool {
    mirror.has_waiting_readers() && mirror.read(|state| !state.is_closed(time)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use tokio::time::timeout;
    use uuid::Uuid;

    use super::*;
    use crate::domain::state::State;

    struct SetClock(AtomicI64);

    impl Clock for SetClock {
        fn now(&self) -> Timestamp {
            Timestamp::from_micros(self.0.load(Ordering::Relaxed))
        }
    }

    /// The clock is set back by an hour after a reader has asked about the present. Nothing is due once that reader has given up.
    #[tokio::test(start_paused = true)]
    async fn nothing_is_closed_for_readers_who_are_gone() {
        let mirror = Mirror::new(Duration::from_secs(1));
        mirror.replace(State::empty(Uuid::nil()));
        let clock = Arc::new(SetClock(AtomicI64::new(3_600_000_000)));
        let mut closer = TimeCloser::new(Arc::clone(&mirror), Arc::clone(&clock) as Arc<dyn Clock>);
        let question = mirror.until_closed(clock.now(), clock.now());
        assert!(timeout(Duration::from_millis(10), question).await.is_err());
        clock.0.store(1_000_000, Ordering::Relaxed);
        assert!(timeout(Duration::from_secs(3_600), closer.until_due()).await.is_err(), "due without a reader");

        // The next reader is served, even one that asks about an earlier time than the first did.
        let now = clock.now();
        let question = mirror.until_closed(now, now);
        tokio::pin!(question);
        tokio::select! {
            biased;
            closed = &mut question => panic!("{closed:?}"),
            () = closer.until_due() => {}
        }
        let head = mirror.read(|state| *state.head()).unwrap();
        assert!(mirror.close(&head, now));
        assert_eq!(question.await, Ok(()));
    }
}
