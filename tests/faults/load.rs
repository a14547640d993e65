//! What goes on while things break: clients that flip and try again by their own logic, watchers, and a reader of the log.

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

use crate::readers::{self, Reader};
use crate::support::{Client, TOKEN, reason_of, toggle};
use crate::verdict::{Flip, Verdict};

/// Clients that flip.
pub const CLIENTS: usize = 8;

/// Flags that they flip. Fewer than clients: they meet.
const FLAGS: usize = 5;

/// How long a client rests between two flips: several faults share two processors, and more load would say no more.
const REST: Duration = Duration::from_millis(10);

/// How long a client gives one attempt.
const ATTEMPT: Duration = Duration::from_secs(3);

/// How long a client waits before the second attempt; then twice as long each time, ...
const FIRST_WAIT: Duration = Duration::from_millis(5);

/// ... and no longer than this.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// How long something may take to go on that was broken and is whole again.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What the clients have been told so far.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// How many flips were acknowledged by way of each address.
    pub acknowledged: Vec<usize>,
    /// The newest revision of those.
    pub newest: i64,
    /// How many of them had been made before, by an attempt that was not answered.
    pub replayed: usize,
    /// How often a server said that its database does not answer, and that nothing was written.
    pub refused: usize,
}

impl Told {
    /// How many flips were acknowledged in all.
    pub fn flips(&self) -> usize {
        self.acknowledged.iter().sum()
    }
}

/// The load on one or more servers of one log.
pub struct Load {
    addresses: Vec<SocketAddr>,
    clients: JoinSet<Vec<Flip>>,
    readers: Vec<Reader>,
    told: Arc<watch::Sender<Told>>,
    stop: CancellationToken,
}

impl Load {
    /// Begins, on servers that are there.
    pub async fn start(addresses: &[SocketAddr]) -> Self {
        Self::start_with(addresses, REST).await
    }

    /// The same, with clients that rest so long between two flips.
    pub async fn start_with(addresses: &[SocketAddr], rest: Duration) -> Self {
        let mut admin = Client::connect(addresses[0], Some(TOKEN)).await;
        for flag in 0..FLAGS {
            admin.create(&key(flag)).await;
        }
        let told = Told { acknowledged: vec![0; addresses.len()], ..Told::default() };
        let (stop, told) = (CancellationToken::new(), Arc::new(watch::channel(told).0));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let caller = Caller::new(addresses, number % addresses.len());
            clients.spawn(flip(caller, number, rest, Arc::clone(&told), stop.clone()));
        }
        let readers = readers::start(addresses);
        let load = Self { addresses: addresses.to_vec(), clients, readers, told, stop };
        load.some(10).await;
        load
    }

    /// Waits until so many more flips are acknowledged.
    pub async fn some(&self, flips: usize) {
        let least = self.told().flips() + flips;
        self.until(&format!("{flips} flips to be acknowledged"), |told| told.flips() >= least).await;
    }

    /// Waits until a few more are, and not the same number each time.
    pub async fn a_while(&self) {
        self.some(usize::from(Uuid::now_v7().as_bytes()[15] % 64)).await;
    }

    /// Waits until a server says once more than before that its database does not answer.
    pub async fn until_refused(&self, before: &Told) {
        self.until("a flip to be refused", |told| told.refused > before.refused).await;
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Told) -> bool) {
        let mut told = self.told.subscribe();
        if timeout(PATIENCE, told.wait_for(is_so)).await.is_err() {
            panic!("waited {PATIENCE:?} in vain for {what}");
        }
    }

    /// What the clients have been told so far.
    pub fn told(&self) -> Told {
        self.told.borrow().clone()
    }

    /// Ends, and compares what everybody was told with what is in the log of this database.
    pub async fn finish(mut self, url: &str) -> Verdict {
        self.some(50).await;
        self.stop.cancel();
        let mut flips = Vec::new();
        while let Some(own) = timeout(PATIENCE, self.clients.join_next()).await.expect("a client does not end") {
            flips.extend(own.expect("a client failed"));
        }
        let mut admin = Caller::new(&self.addresses, 0);
        let log = admin.log().await;
        let end = log.last().map_or(0, |entry| entry.revision);
        let flags = admin.flags(end).await;
        let seen = readers::finish(self.readers, end).await;
        Verdict::reach(url, &flips, &log, &flags, &seen).await
    }
}

/// What the keys of the flags that are flipped begin with; those of others do not.
pub const PREFIX: &str = "flag-";

fn key(flag: usize) -> String {
    format!("{PREFIX}{flag}")
}

/// One who calls, by way of several addresses: where one does not answer, the next is asked.
pub struct Caller {
    clients: Vec<Client>,
    turn: usize,
}

impl Caller {
    pub fn new(addresses: &[SocketAddr], turn: usize) -> Self {
        let clients = addresses.iter().map(|address| {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_timeout(ATTEMPT);
            Client::with_channel(endpoint.connect_lazy(), Some(TOKEN))
        });
        Self { clients: clients.collect(), turn }
    }

    /// The client whose turn it is.
    pub fn client(&self) -> Client {
        self.clients[self.turn % self.clients.len()].clone()
    }

    /// Leaves the next call to the next address.
    pub fn next(&mut self) {
        self.turn += 1;
    }

    /// Calls until it is answered, giving each attempt so long.
    pub async fn insist<T, F>(&mut self, what: &str, attempt: Duration, call: impl Fn(Client) -> F) -> T
    where
        F: Future<Output = Result<T, Status>>,
    {
        let (began, mut wait) = (Instant::now(), FIRST_WAIT);
        loop {
            let late = Err(Status::deadline_exceeded("the client's own"));
            let status = match timeout(attempt, call(self.client())).await.unwrap_or(late) {
                Ok(answer) => return answer,
                Err(status) => status,
            };
            assert!(may_pass(&status), "{what}: {status:?}");
            assert!(began.elapsed() < PATIENCE, "{what}: in vain for {PATIENCE:?}: {status:?}");
            self.next();
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
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
        self.insist("the log", PATIENCE, read).await
    }

    async fn flags(&mut self, end: i64) -> Vec<FeatureFlag> {
        let request =
            ListFeatureFlagsRequest { key_prefix: PREFIX.to_owned(), min_revision: Some(end), ..Default::default() };
        let list = |mut client: Client| {
            let request = request.clone();
            async move { client.toggle.list_feature_flags(request).await }
        };
        self.insist("the flags", PATIENCE, list).await.into_inner().feature_flags
    }
}

/// Whether to try again: the server says so, or it was not the server who spoke.
pub fn may_pass(status: &Status) -> bool {
    let reason = reason_of(status);
    let passing = [Code::Unavailable, Code::DeadlineExceeded, Code::ResourceExhausted, Code::Aborted];
    reason.is_empty() || passing.contains(&status.code()) || reason == "COMMIT_OUTCOME_UNKNOWN"
}

/// Flips one flag after the other until it is told to stop; never with a flip that was begun and not answered.
async fn flip(
    mut caller: Caller,
    number: usize,
    rest: Duration,
    told: Arc<watch::Sender<Told>>,
    stop: CancellationToken,
) -> Vec<Flip> {
    let mut flips = Vec::new();
    while !stop.is_cancelled() {
        let request_id = Uuid::now_v7().to_string();
        let (began, key) = (Instant::now(), key((number + flips.len()) % FLAGS));
        let request = ToggleFeatureFlagRequest { request_id: Some(request_id.clone()), ..toggle(&key) };
        let attempt = |mut client: Client| {
            let (mut request, told) = (Request::new(request.clone()), Arc::clone(&told));
            request.set_timeout(ATTEMPT);
            async move {
                let answer = client.toggle.toggle_feature_flag(request).await;
                let without_database = ["DATABASE_UNAVAILABLE", "STALE"];
                if answer.as_ref().is_err_and(|status| without_database.contains(&reason_of(status).as_str())) {
                    told.send_modify(|told| told.refused += 1);
                }
                answer
            }
        };
        let answer = caller.insist("a flip", ATTEMPT, attempt).await;
        let by = caller.turn % caller.clients.len();
        told.send_modify(|told| {
            told.acknowledged[by] += 1;
            told.newest = told.newest.max(answer.get_ref().revision);
            told.replayed += usize::from(answer.metadata().contains_key("x-request-replayed"));
        });
        flips.push(Flip { request_id, answer: answer.into_inner(), took: began.elapsed() });
        sleep(rest).await;
    }
    flips
}
