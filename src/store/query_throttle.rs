//! Throttles queries of the log while changes are made.
//!
//! A query of the log costs the database far more than a flip, and callers can send them without a pause. So they take turns, in the
//! order in which they came. After each query the next one rests for a multiple of the time in which changes were written meanwhile.
//! Without changes, there are no rests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

/// How many queries run at once. Each has a connection.
pub(super) const TURNS: u32 = 4;

/// A rest is this many times as long as changes were written during the query before. All queries together then get about a quarter of
/// one core while changes are written without a pause.
const REST_FACTOR: u32 = 3;

/// The longest rest after one query, so that a slow one does not stop the others for long.
const MAX_REST: Duration = Duration::from_secs(1);

/// The turns of the queries of one server's callers.
pub(super) struct QueryThrottle {
    turns: Semaphore,
    /// For how many microseconds changes were being written so far.
    writing: AtomicU64,
    /// Until when no query begins.
    rest_until: Mutex<Instant>,
}

impl Default for QueryThrottle {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(TURNS as usize),
            writing: AtomicU64::new(0),
            rest_until: Mutex::new(Instant::now()),
        }
    }
}

impl QueryThrottle {
    /// Waits for a turn. The caller gives up by dropping this, and keeps its place as long as it waits.
    pub async fn turn(&self) -> Turn<'_> {
        // Fails only for a closed semaphore, and this one is never closed.
        let permit = self.turns.acquire().await.ok();
        loop {
            let until = *self.rest_until.lock().unwrap_or_else(PoisonError::into_inner);
            if until <= Instant::now() {
                break;
            }
            sleep_until(until).await;
        }
        Turn { throttle: self, writing: self.writing.load(Ordering::Relaxed), _permit: permit }
    }

    /// Records how long it took to write a change.
    pub fn record_writing(&self, took: Duration) {
        self.writing.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn rest(&self, written: Duration) {
        let rest = (written * REST_FACTOR).min(MAX_REST);
        if !rest.is_zero() {
            let mut until = self.rest_until.lock().unwrap_or_else(PoisonError::into_inner);
            *until = (*until).max(Instant::now()) + rest;
        }
    }
}

/// One query's turn. It ends when this is dropped.
pub(super) struct Turn<'s> {
    throttle: &'s QueryThrottle,
    /// See [`QueryThrottle::writing`], at the beginning.
    writing: u64,
    _permit: Option<SemaphorePermit<'s>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let now = self.throttle.writing.load(Ordering::Relaxed);
        self.throttle.rest(Duration::from_micros(now.saturating_sub(self.writing)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// How long so many queries take that begin at once, with changes being written for `written` during each.
    async fn run(queries: u32, written: Duration) -> Duration {
        let (throttle, start) = (Arc::new(QueryThrottle::default()), Instant::now());
        let run = (0..queries).map(|_| {
            let throttle = Arc::clone(&throttle);
            async move {
                let _turn = throttle.turn().await;
                tokio::time::sleep(Duration::from_millis(10)).await;
                throttle.record_writing(written);
            }
        });
        futures::future::join_all(run).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn queries_rest_only_while_changes_are_made() {
        let idle = run(10 * TURNS, Duration::ZERO).await;
        assert!(idle <= Duration::from_millis(120), "{idle:?}");
        let busy = run(10 * TURNS, Duration::from_millis(10)).await;
        assert!(busy >= REST_FACTOR * Duration::from_millis(10) * 9 * TURNS, "{busy:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn rest_of_one_query_is_limited() {
        let throttle = QueryThrottle::default();
        let turn = throttle.turn().await;
        throttle.record_writing(Duration::from_secs(3_600));
        drop(turn);
        let start = Instant::now();
        drop(throttle.turn().await);
        assert!(start.elapsed() <= MAX_REST + Duration::from_millis(2), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn queries_run_in_order() {
        let throttle = Arc::new(QueryThrottle::default());
        let running = futures::future::join_all((0..TURNS).map(|_| throttle.turn())).await;
        let (order, mut seen) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..20 {
            let (throttle, order) = (Arc::clone(&throttle), order.clone());
            tokio::spawn(async move {
                let _turn = throttle.turn().await;
                order.send(number).unwrap();
            });
            // Lets it wait before the next one.
            tokio::task::yield_now().await;
        }
        drop((running, order));
        let mut found = Vec::new();
        while let Some(number) = seen.recv().await {
            found.push(number);
        }
        assert_eq!(found, (0..20).collect::<Vec<_>>());
    }
}
