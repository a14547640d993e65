//! What runs beside the calls: what is forgotten and written down now and then, and what is told of the server.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::api;
use crate::auth::last_used::LastUsed;
use crate::committer::Proposals;
use crate::domain::time::Clock;
use crate::mirror::Mirror;
use crate::store::{Connections, Store};
use crate::telemetry::listener::Readiness;
use crate::telemetry::metrics::{DATABASE_CONNECTIONS, DATABASE_CONNECTIONS_MAX};

/// How often expired requests are forgotten.
const SWEEP: Duration = Duration::from_secs(600);

/// The least time between the removal of two portions of what was trimmed, ...
const BETWEEN_PORTIONS: Duration = Duration::from_millis(5);

/// ... and how long to wait after a failure.
const REMOVE_AGAIN: Duration = Duration::from_secs(5);

/// How often it is looked whether there is more of the log to count ahead. What is not is walked by who asks, which takes some
/// tenths of a second for a hundred thousand entries at the most.
const COUNT_AHEAD: Duration = Duration::from_secs(5);

/// How often it is written down when tokens were last used.
const WRITE_LAST_USED: Duration = Duration::from_secs(30);

/// Sets what is told of the parts, when somebody asks.
pub(super) fn measure(mirror: Arc<Mirror>, store: Arc<dyn Store>, proposals: Proposals) -> impl Fn() + Send + Sync {
    move || {
        mirror.measure();
        proposals.measure();
        let Connections { idle, used, max } = store.connections();
        for (state, connections) in [("idle", idle), ("used", used)] {
            metrics::gauge!(DATABASE_CONNECTIONS, "state" => state).set(f64::from(connections));
        }
        metrics::gauge!(DATABASE_CONNECTIONS_MAX).set(f64::from(max));
    }
}

/// Reports a server healthy only while it can show that it is up to date.
pub(super) async fn tell_health(mirror: Arc<Mirror>, health: api::Health) {
    loop {
        mirror.until_stale().await;
        tracing::warn!(age = ?mirror.age(), "the database does not answer: flags are read from memory, all else is refused");
        health.announce(Readiness::Stale).await;
        mirror.until_fresh().await;
        tracing::info!("up to date again");
        health.announce(Readiness::Serving).await;
    }
}

/// Forgets expired requests, now and then.
pub(super) async fn sweep(store: Arc<dyn Store>, clock: Arc<dyn Clock>) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        loop {
            match store.forget_requests(clock.now()).await {
                Ok(0) => break,
                Ok(forgotten) => tracing::debug!(forgotten, "forgot expired requests"),
                Err(error) => {
                    tracing::warn!(%error, "could not forget expired requests");
                    break;
                }
            }
        }
    }
}

/// Removes what was trimmed: whenever the log was, and at first, since a server may have stopped in the middle of it.
pub(super) async fn remove_trimmed(store: Arc<dyn Store>, mirror: Arc<Mirror>) {
    let mut revisions = mirror.revisions();
    loop {
        let floor = mirror.read(|state| state.head().floor);
        let (mut removed, mut through) = (0, 0);
        let problem = loop {
            let began = Instant::now();
            match store.remove_trimmed(through).await {
                Ok(portion) if portion.entries == 0 => break None,
                Ok(portion) => (removed, through) = (removed + portion.entries, portion.through),
                Err(error) => break Some(error),
            }
            // Whoever appends has the database to themselves for at least half of the time.
            sleep(began.elapsed().max(BETWEEN_PORTIONS)).await;
        };
        if removed > 0 {
            tracing::info!(removed, "removed trimmed entries of the log");
        }
        if let Some(error) = problem {
            tracing::warn!(%error, "could not remove trimmed entries of the log; trying on");
            sleep(REMOVE_AGAIN).await;
            continue;
        }
        // Now and then in any case: another server may have stopped in the middle of it.
        let moved =
            async { while revisions.changed().await.is_ok() && mirror.read(|state| state.head().floor) == floor {} };
        let _ = timeout(SWEEP, moved).await;
    }
}

/// Counts the log ahead as it grows; all of it, the first time.
pub(super) async fn count_ahead(store: Arc<dyn Store>) {
    let mut failing = false;
    loop {
        let began = Instant::now();
        let counted = store.count_ahead().await;
        if let (Err(error), false) = (&counted, failing) {
            tracing::warn!(%error, "could not count the log ahead; trying on");
        }
        failing = counted.is_err();
        let is_more = counted.unwrap_or_default();
        // Whoever appends has the database to themselves for at least half of the time.
        sleep(if is_more { began.elapsed().max(BETWEEN_PORTIONS) } else { COUNT_AHEAD }).await;
    }
}

/// Writes down when tokens were last used, now and then.
pub(super) async fn write_behind(store: Arc<dyn Store>, last_used: Arc<LastUsed>) {
    let mut ticks = tokio::time::interval(WRITE_LAST_USED);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        write_last_used(&*store, &last_used).await;
    }
}

pub(super) async fn write_last_used(store: &dyn Store, last_used: &LastUsed) {
    let uses = last_used.unwritten();
    if uses.is_empty() {
        return;
    }
    match store.write_last_used(&uses).await {
        Ok(()) => last_used.written(&uses),
        Err(error) => tracing::warn!(%error, "could not write down when tokens were last used; trying on"),
    }
}
