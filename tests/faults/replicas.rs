//! Two servers on one PostgreSQL, one of which is in trouble.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::load::Load;
use crate::support::tcp_proxy::{Route, TcpProxy};
use crate::support::{Backend, Database, Server};
use crate::{Form, Outcome};

/// How long one of them is stopped: twice as long as the other waits for it at the most, if it held the log.
const STOPPED: Duration = Duration::from_secs(10);

/// How long they contend in the long form.
const CONTENTION: Duration = Duration::from_secs(60);

/// Whoever waits so long for a flip while others flip has starved.
const STARVED: Duration = Duration::from_secs(10);

struct Two {
    database: Database,
    servers: [Server; 2],
}

impl Two {
    async fn new() -> Self {
        let database = Database::new(Backend::Postgres).await;
        let first = Server::start(&database).await;
        let servers = [first, Server::start(&database).await];
        Self { database, servers }
    }
}

pub async fn killed(form: Form) -> Outcome {
    let Two { database, servers: [first, second] } = Two::new().await;
    let proxy = TcpProxy::new(Route::Forward(second.address)).await;
    let load = Load::start(&[first.address, proxy.address]).await;
    let times = form.times(3, 30);
    let mut killed = second;
    for _ in 0..times {
        load.a_while().await;
        killed.kill().await;
        proxy.set(Route::Reject);
        // The other goes on meanwhile.
        load.some(100).await;
        killed = Server::start(&database).await;
        proxy.set(Route::Forward(killed.address));
    }
    Outcome::of(times, load.finish(&database.url).await)
}

/// The other does not wait for it, and what it was about to write when it was stopped fits the log no more.
pub async fn stopped(form: Form) -> Outcome {
    let Two { database, servers: [first, second] } = Two::new().await;
    let load = Load::start(&[first.address, second.address]).await;
    let times = form.times(1, 10);
    for _ in 0..times {
        load.a_while().await;
        // Both have an append under way when it is stopped.
        let held = database.lock_head().await;
        held.wait_for_waiters(2).await;
        let stopped = Instant::now();
        second.send_signal("STOP").await;
        drop(held);
        load.some(200).await;
        assert!(stopped.elapsed() < STOPPED, "the other went on only when this one was to be woken");
        // The fault itself is that this passes.
        sleep(STOPPED.saturating_sub(stopped.elapsed())).await;
        second.send_signal("CONT").await;
        load.some(200).await;
    }
    Outcome::of(times, load.finish(&database.url).await)
}

pub async fn contention(form: Form) -> Outcome {
    let Two { database, servers: [first, second] } = Two::new().await;
    let load = Load::start_with(&[first.address, second.address], Duration::ZERO).await;
    let began = Instant::now();
    let least = form.times(1_000, 10_000);
    while load.told().flips() < least || (form == Form::Long && began.elapsed() < CONTENTION) {
        load.some(500).await;
    }
    let acknowledged = load.told().acknowledged;
    let mut verdict = load.finish(&database.url).await;
    if verdict.outage > STARVED {
        verdict.problems.push("a client starved: see its outage".to_owned());
    }
    if acknowledged.iter().any(|own| own * 5 < acknowledged.iter().sum()) {
        verdict.problems.push(format!("one of them starved: {acknowledged:?} were acknowledged"));
    }
    Outcome::of(1, verdict)
}
