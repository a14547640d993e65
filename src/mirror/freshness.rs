//! How old the mirror may be: it is shown to be current only by comparing it with the database, again and again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Mirror;
use crate::telemetry::metrics::{MIRROR_AGE, MIRROR_LAG, MIRROR_MAX_AGE, MIRROR_REVISION};

impl Mirror {
    /// How long ago it was last known to hold all that the database did; `None` before the first time.
    pub fn age(&self) -> Option<Duration> {
        self.confirmed.borrow().map(|at| at.elapsed())
    }

    /// Whether it can be shown to be at most as old as it may be.
    pub fn is_fresh(&self) -> bool {
        self.relies_on(*self.confirmed.borrow())
    }

    fn relies_on(&self, confirmed: Option<Instant>) -> bool {
        confirmed.is_some_and(|at| at.elapsed() <= self.max_staleness)
    }

    /// Waits until it is fresh.
    pub async fn until_fresh(&self) {
        let mut confirmed = self.confirmed.subscribe();
        // It ends when the sender does, which is part of the mirror.
        let _ = confirmed.wait_for(|at| self.relies_on(*at)).await;
    }

    /// Waits until it is no longer fresh.
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

    /// Sets what is told of it to those who watch over it.
    pub fn measure(&self) {
        metrics::gauge!(MIRROR_MAX_AGE).set(self.max_staleness);
        // A server that has waited since its start is no better off than one that has lost its database since.
        metrics::gauge!(MIRROR_AGE).set(self.age().unwrap_or_else(|| self.began.elapsed()));
        metrics::gauge!(MIRROR_LAG).set(self.lag.swap(0, Ordering::Relaxed) as f64);
        if let Some(revision) = self.read(|state| state.head().revision) {
            metrics::gauge!(MIRROR_REVISION).set(revision as f64);
        }
    }

    /// Notes that the database, asked at `asked`, held nothing that is not here.
    pub(super) fn confirm(&self, asked: Instant) {
        self.confirmed.send_replace(Some(asked));
    }
}
