//! Background tasks: cleaning up, counting ahead, writing last uses, reporting health.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::api;
use crate::auth::last_used::LastUsed;
use crate::committer::Proposals;
use crate::domain::time::Clock;
use crate::mirror::Mirror;
use crate::store::{Connections, Store, with_timeout};
use crate::telemetry::listener::Readiness;
use crate::telemetry::metrics::{DATABASE_CONNECTIONS, DATABASE_CONNECTIONS_MAX};

/// The interval of deleting expired stored requests, and of looking for trimmed entries.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(600);

/// The minimum pause between two deletions of trimmed entries, or between two counts of a block.
const MIN_PAUSE: Duration = Duration::from_millis(5);

/// The pause after a failed deletion.
const DELETION_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The interval of counting the log's entries ahead, for the totals of lists (see `store/counts.rs`). Queries walk the entries that are not
/// counted yet, and there may be ten thousand new ones a second.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// The interval of writing the last uses of tokens.
const LAST_USED_INTERVAL: Duration = Duration::from_secs(30);

/// The interval of checking whether the database can be used.
const USABILITY_INTERVAL: Duration = Duration::from_secs(1);

/// How long one check of the database may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Updates all gauges when the metrics are read.
pub(super) fn measure(
    mirror: Arc<Mirror>,
    store: Arc<dyn Store>,
    proposals: Proposals,
    bytes: Arc<api::ByteBudget>,
) -> impl Fn() + Send + Sync {
    move || {
        mirror.update_gauges();
        proposals.update_gauges();
        bytes.update_gauges();
        let Connections { idle, used, max } = store.connections();
        for (state, connections) in [("idle", idle), ("used", used)] {
            metrics::gauge!(DATABASE_CONNECTIONS, "state" => state).set(f64::from(connections));
        }
        metrics::gauge!(DATABASE_CONNECTIONS_MAX).set(f64::from(max));
    }
}

/// Reports the server healthy only while its mirror is fresh and its database can be written. After the mirror was stale, it must have
/// recovered: load balancers must not send callers to a server that is stale again a moment later.
pub(super) async fn report_health(mirror: Arc<Mirror>, store: Arc<dyn Store>, health: api::Health) {
    let mut problems = store.usability().subscribe();
    let mut reported = Readiness::Serving;
    let mut is_fresh = true;
    loop {
        let problem = problems.borrow_and_update().clone();
        is_fresh = if is_fresh { mirror.is_fresh() } else { mirror.has_recovered() };
        let readiness = match &problem {
            Some(_) => Readiness::Unusable,
            None if !is_fresh => Readiness::Stale,
            None => Readiness::Serving,
        };
        if readiness != reported {
            match &problem {
                Some(problem) => {
                    tracing::error!(problem, database = store.describe(), "database not usable: making no changes");
                }
                None if !is_fresh => tracing::warn!(
                    age = ?mirror.age(),
                    "database not reachable: serving flags from memory, refusing everything else"
                ),
                None if reported == Readiness::Unusable => tracing::info!("database usable again"),
                None => tracing::info!("database reachable again"),
            }
            health.announce(readiness);
            reported = readiness;
        }
        let aged = async { if is_fresh { mirror.until_stale().await } else { mirror.until_recovered().await } };
        tokio::select! {
            // Fails only when the sender is dropped, which the store owns.
            _ = problems.changed() => {}
            () = aged => {}
        }
    }
}

/// Probes the database before a server reports that it is ready. An outage is not recorded: the mirror's age shows it.
pub(super) async fn probe(store: &dyn Store) {
    store.usability().record_probe(&with_timeout(PROBE_TIMEOUT, store.probe()).await);
}

/// Checks at an interval whether the database can be used, also while nobody changes anything. While it cannot be written, only
/// a probe shows when it can be again: load balancers send no changes to a server that is not ready.
pub(super) async fn watch_usability(store: Arc<dyn Store>) {
    let usability = store.usability();
    let mut ticks = tokio::time::interval(USABILITY_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if usability.is_usable() {
            if let Err(error) = with_timeout(PROBE_TIMEOUT, store.check()).await {
                usability.record_error(&error);
            }
        } else {
            probe(&*store).await;
        }
    }
}

/// Deletes expired requests at an interval.
pub(super) async fn delete_expired_requests(store: Arc<dyn Store>, clock: Arc<dyn Clock>) {
    let mut ticks = tokio::time::interval(CLEANUP_INTERVAL);
    loop {
        ticks.tick().await;
        loop {
            match store.delete_expired_requests(clock.now()).await {
                Ok(0) => break,
                Ok(deleted) => tracing::debug!(deleted, "expired requests deleted"),
                Err(error) => {
                    tracing::warn!(%error, "expired requests not deleted");
                    break;
                }
            }
        }
    }
}

/// Deletes trimmed entries: after each trim, and at the start, since a server may have stopped half-way.
pub(super) async fn delete_trimmed(store: Arc<dyn Store>, mirror: Arc<Mirror>) {
    let mut revisions = mirror.revisions();
    loop {
        let floor = mirror.read(|state| state.head().floor);
        let (mut deleted, mut through) = (0, 0);
        let problem = loop {
            let began = Instant::now();
            match store.delete_trimmed(through).await {
                Ok(portion) if portion.entries == 0 => break None,
                Ok(portion) => (deleted, through) = (deleted + portion.entries, portion.through),
                Err(error) => break Some(error),
            }
            // Leaves the database to the committer for at least half of the time.
            sleep(began.elapsed().max(MIN_PAUSE)).await;
        };
        if deleted > 0 {
            tracing::info!(deleted, "trimmed entries deleted");
        }
        if let Some(error) = problem {
            tracing::warn!(%error, "trimmed entries not deleted; retrying");
            sleep(DELETION_RETRY_INTERVAL).await;
            continue;
        }
        // Checked at an interval as well: another server may have stopped half-way.
        let moved =
            async { while revisions.changed().await.is_ok() && mirror.read(|state| state.head().floor) == floor {} };
        let _ = timeout(CLEANUP_INTERVAL, moved).await;
    }
}

/// Counts full blocks of the log ahead; at the first start, all of them.
pub(super) async fn keep_counting_ahead(store: Arc<dyn Store>) {
    let mut failing = false;
    loop {
        let began = Instant::now();
        let counted = store.count_ahead().await;
        if let (Err(error), false) = (&counted, failing) {
            tracing::warn!(%error, "counts for filtered lists not updated; retrying");
        }
        failing = counted.is_err();
        let has_more = counted.unwrap_or_default();
        // Leaves the database to the committer for at least half of the time.
        sleep(if has_more { began.elapsed().max(MIN_PAUSE) } else { COUNT_INTERVAL }).await;
    }
}

/// Writes the last uses of tokens at an interval.
pub(super) async fn keep_writing_last_used(store: Arc<dyn Store>, last_used: Arc<LastUsed>) {
    let mut ticks = tokio::time::interval(LAST_USED_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        write_last_used(&*store, &last_used).await;
    }
}

pub(super) async fn write_last_used(store: &dyn Store, last_used: &LastUsed) {
    let uses = last_used.unsaved();
    if uses.is_empty() {
        return;
    }
    match store.write_last_used(&uses).await {
        Ok(()) => last_used.mark_saved(&uses),
        Err(error) => tracing::warn!(%error, "last uses of tokens not written; retrying"),
    }
}
