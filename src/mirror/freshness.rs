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
        self.is_recent(*self.confirmed.borrow())
    }

    fn is_recent(&self, confirmed: Option<Instant>) -> bool {
        confirmed.is_some_and(|at| at.elapsed() <= self.max_staleness)
    }

    /// Waits until the mirror is fresh.
    pub async fn until_fresh(&self) {
        let mut confirmed = self.confirmed.subscribe();
        // Fails only when the sender is dropped, which the mirror owns.
        let _ = confirmed.wait_for(|at| self.is_recent(*at)).await;
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
