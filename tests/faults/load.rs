//! The load during a fault: clients that flip flags and retry, watchers, and readers of the audit log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use toggled::api::pb::*;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use uuid::Uuid;

use crate::comparison::{Comparison, Flip};
use crate::readers::{self, Reader};
use crate::support::{Client, TOKEN, reason_of, toggle};

/// How many clients flip flags.
pub const CLIENTS: usize = 8;

/// How many flags they flip. There are fewer flags than clients, so that clients compete.
const FLAGS: usize = 5;

/// Where the flags are. The same key stands for a flag in each.
const ENVIRONMENTS: [&str; 3] = ["default", "production", "staging"];

/// A client's pause between two flips. Several faults share the processors, and more load would not find more.
const FLIP_INTERVAL: Duration = Duration::from_millis(10);

/// The client's timeout for one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// The delay before the second attempt. It doubles with each attempt, up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(5);

const MAX_BACKOFF: Duration = Duration::from_millis(250);

/// How long the service may take to recover after a fault.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// What the clients have observed so far.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Acknowledged flips, per address.
    pub acknowledged: Vec<usize>,
    /// The newest acknowledged revision.
    pub newest: i64,
    /// Acknowledged flips that an earlier, unanswered attempt had made.
    pub replayed: usize,
    /// Answers that the database is unavailable and nothing was written.
    pub refused: usize,
}

impl Progress {
    /// All acknowledged flips.
    pub fn flips(&self) -> usize {
        self.acknowledged.iter().sum()
    }
}

/// The load on one or more servers that share a log.
pub struct Load {
    addresses: Vec<SocketAddr>,
    clients: JoinSet<Vec<Flip>>,
    readers: Vec<Reader>,
    progress: Arc<watch::Sender<Progress>>,
    stop: CancellationToken,
}

impl Load {
    /// Creates the flags, and starts clients and readers.
    pub async fn start(addresses: &[SocketAddr]) -> Self {
        Self::start_with(addresses, FLIP_INTERVAL).await
    }

    /// Like [`Load::start`], with a given pause between a client's flips.
    pub async fn start_with(addresses: &[SocketAddr], interval: Duration) -> Self {
        let mut admin = Client::connect(addresses[0], Some(TOKEN)).await;
        for key in &ENVIRONMENTS[1..] {
            admin.new_environment(key).await;
        }
        for flag in 0..FLAGS {
            let (environment, key) = name(flag);
            admin.create_in(environment, &key).await;
        }
        let progress = Progress { acknowledged: vec![0; addresses.len()], ..Progress::default() };
        let (stop, progress) = (CancellationToken::new(), Arc::new(watch::channel(progress).0));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let caller = RetryingClient::new(addresses, number % addresses.len());
            clients.spawn(flip(caller, number, interval, Arc::clone(&progress), stop.clone()));
        }
        let readers = readers::start(addresses);
        let load = Self { addresses: addresses.to_vec(), clients, readers, progress, stop };
        load.wait_for_flips(10).await;
        load
    }

    /// Waits until this many more flips are acknowledged.
    pub async fn wait_for_flips(&self, flips: usize) {
        let least = self.progress().flips() + flips;
        self.until(&format!("{flips} flips to be acknowledged"), |progress| progress.flips() >= least).await;
    }

    /// Waits for a random number of flips, so that faults hit at different moments.
    pub async fn wait_for_some_flips(&self) {
        self.wait_for_flips(usize::from(Uuid::now_v7().as_bytes()[15] % 64)).await;
    }

    /// Waits until so many committed flips were retried.
    pub async fn wait_for_replays(&self, least: usize) {
        self.until(&format!("{least} committed flips to be retried"), |progress| progress.replayed >= least).await;
    }

    /// Waits until a server has reported once more than in `before` that its database is unavailable.
    pub async fn wait_for_refusal(&self, before: &Progress) {
        self.until("a flip to be refused", |progress| progress.refused > before.refused).await;
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Progress) -> bool) {
        let mut progress = self.progress.subscribe();
        if timeout(TIMEOUT, progress.wait_for(is_so)).await.is_err() {
            panic!("timed out after {TIMEOUT:?} waiting for {what}");
        }
    }

    /// What the clients have observed so far.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Stops the load, and compares what clients and readers observed with the database.
    pub async fn finish(mut self, url: &str) -> Comparison {
        self.wait_for_flips(50).await;
        self.stop.cancel();
        let mut flips = Vec::new();
        while let Some(own) = timeout(TIMEOUT, self.clients.join_next()).await.expect("a client stops") {
            flips.extend(own.expect("no client panics"));
        }
        let mut admin = RetryingClient::new(&self.addresses, 0);
        let log = admin.log().await;
        let end = log.last().map_or(0, |entry| entry.revision);
        let flags = admin.flags(end).await;
        let seen = readers::finish(self.readers, end).await;
        Comparison::new(url, &flips, &log, &flags, &seen).await
    }
}

/// The key prefix of the flags that the load flips. Other flags have other prefixes.
pub const KEY_PREFIX: &str = "flag-";

/// The environment and the key of a flag.
fn name(flag: usize) -> (&'static str, String) {
    (ENVIRONMENTS[flag % ENVIRONMENTS.len()], format!("{KEY_PREFIX}{}", flag / ENVIRONMENTS.len()))
}

/// `default`, for requests about other flags.
pub fn in_default() -> Option<String> {
    Some(ENVIRONMENTS[0].to_owned())
}

/// A client with several addresses. When a call fails, the next attempt uses the next address.
pub struct RetryingClient {
    clients: Vec<Client>,
    turn: usize,
}

impl RetryingClient {
    pub fn new(addresses: &[SocketAddr], turn: usize) -> Self {
        let clients = addresses.iter().map(|address| {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_timeout(ATTEMPT_TIMEOUT);
            Client::with_channel(endpoint.connect_lazy(), Some(TOKEN))
        });
        Self { clients: clients.collect(), turn }
    }

    /// The client for the current address.
    pub fn client(&self) -> Client {
        self.clients[self.turn % self.clients.len()].clone()
    }

    /// Moves on to the next address.
    pub fn next(&mut self) {
        self.turn += 1;
    }

    /// Retries a call until it succeeds, with a timeout for each attempt.
    pub async fn retry<T, F>(&mut self, what: &str, attempt: Duration, call: impl Fn(Client) -> F) -> T
    where
        F: Future<Output = Result<T, Status>>,
    {
        let (began, mut wait) = (Instant::now(), MIN_BACKOFF);
        loop {
            let late = Err(Status::deadline_exceeded("the client's own timeout"));
            let status = match timeout(attempt, call(self.client())).await.unwrap_or(late) {
                Ok(answer) => return answer,
                Err(status) => status,
            };
            assert!(is_retryable(&status), "{what}: {status:?}");
            assert!(began.elapsed() < TIMEOUT, "{what}: no success within {TIMEOUT:?}: {status:?}");
            self.next();
            sleep(wait).await;
            wait = (wait * 2).min(MAX_BACKOFF);
        }
    }

    async fn log(&mut self) -> Vec<AuditLog> {
        let read = async |mut client: Client| {
            let mut stream = client.audit.stream_audit_logs(StreamAuditLogsRequest::default()).await?.into_inner();
            let mut entries = Vec::new();
            while let Some(part) = stream.message().await? {
                entries.extend(part.items);
            }
            Ok(entries)
        };
        self.retry("the log", TIMEOUT, read).await
    }

    async fn flags(&mut self, end: i64) -> Vec<FeatureFlag> {
        let request = ListFeatureFlagsRequest {
            key_prefix: KEY_PREFIX.to_owned(),
            min_revision: Some(end),
            environment: Some("-".to_owned()),
            ..Default::default()
        };
        let list = |mut client: Client| {
            let request = request.clone();
            async move { client.toggle.list_feature_flags(request).await }
        };
        self.retry("the flags", TIMEOUT, list).await.into_inner().feature_flags
    }
}

/// Whether to retry: the status is retryable, or did not come from the server.
pub fn is_retryable(status: &Status) -> bool {
    let reason = reason_of(status);
    let retryable = [Code::Unavailable, Code::DeadlineExceeded, Code::ResourceExhausted, Code::Aborted];
    reason.is_empty() || retryable.contains(&status.code()) || reason == "COMMIT_OUTCOME_UNKNOWN"
}

/// Flips flags in turn until `stop` is cancelled. A flip in progress is finished first.
async fn flip(
    mut caller: RetryingClient,
    number: usize,
    interval: Duration,
    progress: Arc<watch::Sender<Progress>>,
    stop: CancellationToken,
) -> Vec<Flip> {
    let mut flips = Vec::new();
    while !stop.is_cancelled() {
        let request_id = Uuid::now_v7().to_string();
        let (began, (environment, key)) = (Instant::now(), name((number + flips.len()) % FLAGS));
        let request = ToggleFeatureFlagRequest {
            request_id: Some(request_id.clone()),
            environment: Some(environment.to_owned()),
            ..toggle(&key)
        };
        let attempt = |mut client: Client| {
            let (mut request, progress) = (Request::new(request.clone()), Arc::clone(&progress));
            request.set_timeout(ATTEMPT_TIMEOUT);
            async move {
                let answer = client.toggle.toggle_feature_flag(request).await;
                let without_database = ["DATABASE_UNAVAILABLE", "STALE"];
                if answer.as_ref().is_err_and(|status| without_database.contains(&reason_of(status).as_str())) {
                    progress.send_modify(|progress| progress.refused += 1);
                }
                answer
            }
        };
        let answer = caller.retry("a flip", ATTEMPT_TIMEOUT, attempt).await;
        let by = caller.turn % caller.clients.len();
        progress.send_modify(|progress| {
            progress.acknowledged[by] += 1;
            progress.newest = progress.newest.max(answer.get_ref().revision);
            progress.replayed += usize::from(answer.metadata().contains_key("x-request-replayed"));
        });
        flips.push(Flip { request_id, answer: answer.into_inner(), took: began.elapsed() });
        sleep(interval).await;
    }
    flips
}
