//! The mirror's age: how long ago it was last compared with the database.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Mirror;
use crate::telemetry::metrics::{MIRROR_AGE, MIRROR_LAG, MIRROR_MAX_AGE, MIRROR_REVISION};

impl Mirror {
    /// How long ago the mirror was confirmed to be current; `None` before the first time.
    pub fn age(&self) -> Option<Duration> {
        self.confirmed.borrow().map(|at| at.elapsed())
    }

    /// Whether the mirror was confirmed within `max_staleness`.
    pub fn is_fresh(&self) -> bool {
        was_within(self.max_staleness, *self.confirmed.borrow())
    }

    /// Whether the mirror, after it was stale, will also stay fresh: it was confirmed within half of `max_staleness`. Polls are at most
    /// that far apart. A look at the database that began before an outage is older, however late its answer arrives.
    pub fn has_recovered(&self) -> bool {
        was_within(self.max_staleness / 2, *self.confirmed.borrow())
    }

    /// Waits until the mirror has recovered.
    pub async fn until_recovered(&self) {
        let mut confirmed = self.confirmed.subscribe();
        // Fails only when the sender is dropped, which the mirror owns.
        let _ = confirmed.wait_for(|at| was_within(self.max_staleness / 2, *at)).await;
    }

    /// Waits until the mirror is no longer fresh.
    pub async fn until_stale(&self) {
        loop {
            let Some(at) = *self.confirmed.borrow() else { return };
            let until = at + self.max_staleness;
            if Instant::now() > until {
                return;
            }
            sleep_until(until + Duration::from_millis(1)).await;
        }
    }

    /// Updates the mirror's gauges.
    pub fn update_gauges(&self) {
        metrics::gauge!(MIRROR_MAX_AGE).set(self.max_staleness);
        // Before the first confirmation, the time since the start counts as age.
        metrics::gauge!(MIRROR_AGE).set(self.age().unwrap_or_else(|| self.began.elapsed()));
        metrics::gauge!(MIRROR_LAG).set(self.lag.swap(0, Ordering::Relaxed) as f64);
        if let Some(revision) = self.read(|state| state.head().revision) {
            metrics::gauge!(MIRROR_REVISION).set(revision as f64);
        }
    }

    /// Records that the mirror has everything that the database held at `started_at`.
    pub(super) fn confirm(&self, started_at: Instant) {
        self.confirmed.send_replace(Some(started_at));
    }
}

fn was_within(limit: Duration, confirmed: Option<Instant>) -> bool {
    confirmed.is_some_and(|at| at.elapsed() <= limit)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::time::{advance, sleep};

    use super::*;

    const MAX_STALENESS: Duration = Duration::from_secs(10);

    /// The database stalls just after a look at it began, at the longest poll interval. Its answer arrives before that look is
    /// older than `max_staleness`.
    #[tokio::test(start_paused = true)]
    async fn look_before_outage_does_not_end_staleness() {
        let mirror = Mirror::new(MAX_STALENESS);
        mirror.confirm(Instant::now());
        sleep(MAX_STALENESS / 2).await;
        let before_outage = Instant::now();
        mirror.until_stale().await;
        assert!(!mirror.is_fresh() && !mirror.has_recovered());

        let mut recovered = Box::pin(mirror.until_recovered());
        mirror.confirm(before_outage);
        assert!(mirror.is_fresh(), "what was read is still recent");
        assert_eq!((mirror.has_recovered(), recovered.as_mut().now_or_never()), (false, None));
        let after_outage = Instant::now();
        advance(MAX_STALENESS / 2).await;
        mirror.confirm(after_outage);
        assert_eq!((mirror.has_recovered(), recovered.now_or_never()), (true, Some(())));
    }

    /// Each look at the database takes as long as the poll interval may be.
    #[tokio::test(start_paused = true)]
    async fn recovered_mirror_stays_fresh_at_same_pace() {
        let mirror = Mirror::new(MAX_STALENESS);
        mirror.confirm(Instant::now());
        for _ in 0..10 {
            let asked = Instant::now();
            advance(MAX_STALENESS / 2).await;
            assert!(mirror.is_fresh());
            mirror.confirm(asked);
            assert!(mirror.has_recovered());
        }
    }
}
