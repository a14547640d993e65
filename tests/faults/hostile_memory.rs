//! Clients that try to fill the server's memory: with requests that they do not finish, and answers that they do not read.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::hostile_clients::SqliteSetup;
use crate::support::MemoryLimit;
use crate::support::hostile::{EMPTY_MESSAGE, HostileCall, HostileConnection, unfinished_message};
use crate::{FaultReport, RunLength};

/// The memory that the server gets, and the most that it may use at any time, in MiB.
const MEMORY_MIB: u64 = 256;

/// The flags that an answer with all flags holds.
const FLAGS: usize = 500;

/// How many connections each client keeps open. Then it closes the oldest.
const CONNECTIONS: usize = 20;

/// The pause before the next connection: memory is attacked, not the processors.
const PAUSE: Duration = Duration::from_secs(1);

/// What a client does on one connection, again and again.
#[derive(Clone, Copy)]
struct Attack {
    path: &'static str,
    /// Whether they have a token. All have the same.
    has_token: bool,
    /// Whether the requests are complete, and their answers are not read.
    is_finished: bool,
    calls: usize,
}

const fn unfinished(path: &'static str, has_token: bool) -> Attack {
    Attack { path, has_token, is_finished: false, calls: 20 }
}

const fn unread(path: &'static str, has_token: bool) -> Attack {
    Attack { path, has_token, is_finished: true, calls: 100 }
}

const ATTACKS: [Attack; 8] = [
    unfinished("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", false),
    unfinished("/grpc.health.v1.Health/Check", false),
    unfinished("/toggled.v1.ToggleService/BatchSetFeatureFlags", true),
    unread("/flagd.sync.v1.FlagSyncService/FetchAllFlags", false),
    unread("/flagd.sync.v1.FlagSyncService/SyncFlags", false),
    unread("/flagd.evaluation.v1.Service/ResolveAll", false),
    unread("/toggled.v1.ToggleService/ListFeatureFlags", true),
    unread("/toggled.v1.ToggleService/WatchFeatureFlags", true),
];

/// For a minute in the long form, clients do all of this at once.
pub async fn exhaustion(length: RunLength) -> FaultReport {
    let mut setup = SqliteSetup::with(&[("TOGGLED_ANONYMOUS_FLAGD_READS", "true")]).await;
    let mut admin = setup.server.admin().await;
    for number in 0..FLAGS {
        admin.create(&format!("other-{number:04}-{}", "k".repeat(100))).await;
    }
    let token = admin.new_user("hostile@example.com", &["view_feature_flags", "toggle_feature_flags"]).await;
    setup.resident = setup.server.resident_mib();
    let limit = MemoryLimit::new(setup.server.id(), MEMORY_MIB);
    let duration = Duration::from_secs(length.rounds(2, 60).try_into().unwrap());
    let (mut clients, address) = (JoinSet::new(), setup.server.address);
    for attack in ATTACKS {
        clients.spawn(attack.run(address, token.clone(), Instant::now() + duration));
    }
    let mut calls = 0;
    while !clients.is_empty() {
        setup.assert_serves().await;
        while let Some(ended) = clients.try_join_next() {
            calls += ended.unwrap();
        }
    }
    let peak = setup.server.peak_mib();
    let mut report = setup.finish(calls).await;
    if let Some(limit) = limit {
        limit.remove().await;
    }
    if peak > MEMORY_MIB {
        report.comparison.problems.push(format!("the server took {peak} MiB"));
    }
    report
}

impl Attack {
    /// Attacks until a time. Returns the number of calls.
    async fn run(self, address: SocketAddr, token: String, until: Instant) -> usize {
        let (mut held, mut calls) = (VecDeque::new(), 0);
        while Instant::now() < until {
            // With a window of 0, the server can send no data.
            let mut connection = HostileConnection::open(address, 0).await;
            let mut own = Vec::new();
            while own.len() < self.calls
                && Instant::now() < until
                && let Some(call) = self.call(&mut connection, &token).await
            {
                own.push(call);
            }
            calls += own.len();
            held.push_back((connection, own));
            if held.len() > CONNECTIONS {
                held.pop_front();
            }
            sleep(PAUSE).await;
        }
        calls
    }

    async fn call(&self, connection: &mut HostileConnection, token: &str) -> Option<HostileCall> {
        let mut call = connection.call(self.path, self.has_token.then_some(token)).await?;
        let message = if self.is_finished { EMPTY_MESSAGE } else { unfinished_message() };
        // The server may end the call early.
        call.send(message, self.is_finished).await;
        Some(call)
    }
}
