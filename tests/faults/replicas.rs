//! Two servers on one PostgreSQL, one of which fails.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::load::Load;
use crate::support::tcp_proxy::{Route, TcpProxy};
use crate::support::{Backend, Database, Server};
use crate::{FaultReport, RunLength};

/// How long one server is stopped: twice as long as the other waits for its lock on the head.
const STOP_DURATION: Duration = Duration::from_secs(10);

/// The least duration of the contention in the long form.
const CONTENTION_DURATION: Duration = Duration::from_secs(60);

/// A client that waits this long for a flip while others make progress counts as starved.
const STARVATION_LIMIT: Duration = Duration::from_secs(10);

struct TwoReplicas {
    database: Database,
    servers: [Server; 2],
}

impl TwoReplicas {
    async fn new() -> Self {
        let database = Database::new(Backend::Postgres).await;
        let first = Server::start(&database).await;
        let servers = [first, Server::start(&database).await];
        Self { database, servers }
    }
}

pub async fn killed(length: RunLength) -> FaultReport {
    let TwoReplicas { database, servers: [first, second] } = TwoReplicas::new().await;
    let proxy = TcpProxy::new(Route::Forward(second.address)).await;
    let load = Load::start(&[first.address, proxy.address]).await;
    let rounds = length.rounds(3, 30);
    let mut killed = second;
    for _ in 0..rounds {
        load.wait_for_some_flips().await;
        killed.kill().await;
        proxy.set(Route::Reject);
        // The other server continues meanwhile.
        load.wait_for_flips(100).await;
        killed = Server::start(&database).await;
        proxy.set(Route::Forward(killed.address));
    }
    FaultReport::new(rounds, load.finish(&database.url).await)
}

/// The other server does not wait for the stopped one, whose pending append then no longer matches the head.
pub async fn stopped(length: RunLength) -> FaultReport {
    let TwoReplicas { database, servers: [first, second] } = TwoReplicas::new().await;
    let load = Load::start(&[first.address, second.address]).await;
    let rounds = length.rounds(1, 10);
    for _ in 0..rounds {
        load.wait_for_some_flips().await;
        // Both servers have an append in progress when one is stopped.
        let held = database.lock_head().await;
        held.wait_for_waiters(2).await;
        let stopped = Instant::now();
        second.send_signal("STOP").await;
        drop(held);
        load.wait_for_flips(200).await;
        assert!(stopped.elapsed() < STOP_DURATION, "the other server waited for the stopped one");
        // The sleep is the fault.
        sleep(STOP_DURATION.saturating_sub(stopped.elapsed())).await;
        second.send_signal("CONT").await;
        load.wait_for_flips(200).await;
    }
    FaultReport::new(rounds, load.finish(&database.url).await)
}

pub async fn contention(length: RunLength) -> FaultReport {
    let TwoReplicas { database, servers: [first, second] } = TwoReplicas::new().await;
    let load = Load::start_with(&[first.address, second.address], Duration::ZERO).await;
    let began = Instant::now();
    let least = length.rounds(1_000, 10_000);
    while load.progress().flips() < least || (length == RunLength::Long && began.elapsed() < CONTENTION_DURATION) {
        load.wait_for_flips(500).await;
    }
    let acknowledged = load.progress().acknowledged;
    let mut comparison = load.finish(&database.url).await;
    if comparison.outage > STARVATION_LIMIT {
        comparison.problems.push("a client starved; see the outage".to_owned());
    }
    if acknowledged.iter().any(|own| own * 5 < acknowledged.iter().sum()) {
        comparison.problems.push(format!("one server starved; acknowledged flips per server: {acknowledged:?}"));
    }
    FaultReport::new(1, comparison)
}
