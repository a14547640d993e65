//! Clients that try to fill the server's memory: with requests and heads that they do not finish, answers that they do not read, and
//! streams that they leave open; and with requests that take much memory once they are decoded.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use prost::bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::hostile_clients::SqliteSetup;
use crate::support::MemoryLimit;
use crate::support::events::bulk;
use crate::support::hostile::{EMPTY_MESSAGE, HostileCall, HostileConnection, gzip_message, unfinished_message};
use crate::support::http2_frames::{HEADERS, connect_http2, frame};
use crate::support::web::Web;
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
    request: AttackRequest,
    calls: usize,
}

/// What a call sends.
#[derive(Clone, Copy)]
enum AttackRequest {
    /// A message that lacks its last byte.
    Unfinished,
    /// A whole request, whose answer is not read.
    Whole,
    /// A whole request of a few kilobytes: compressed, with as many empty fields as fit.
    ManyFields,
}

const fn unfinished(path: &'static str, has_token: bool) -> Attack {
    Attack { path, has_token, request: AttackRequest::Unfinished, calls: 20 }
}

const fn unread(path: &'static str, has_token: bool) -> Attack {
    Attack { path, has_token, request: AttackRequest::Whole, calls: 100 }
}

const fn many_fields(path: &'static str, has_token: bool) -> Attack {
    Attack { path, has_token, request: AttackRequest::ManyFields, calls: 5 }
}

/// How many heads a client begins at once, and how much of each it sends: less than any limit of a head.
const HEADS: usize = 250;
const HEAD_BYTES: usize = 30 << 10;

/// How many streams of server-sent events a client opens on one connection.
const EVENT_STREAMS: usize = 100;

const ATTACKS: [Attack; 13] = [
    Attack { calls: 250, ..unread("/grpc.health.v1.Health/Watch", false) },
    unfinished("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", false),
    unfinished("/grpc.health.v1.Health/Check", false),
    unfinished("/toggled.v1.ToggleService/BatchSetFeatureFlags", true),
    unread("/flagd.sync.v1.FlagSyncService/FetchAllFlags", false),
    unread("/flagd.sync.v1.FlagSyncService/SyncFlags", false),
    unread("/flagd.evaluation.v1.Service/ResolveAll", false),
    unread("/toggled.v1.ToggleService/ListFeatureFlags", true),
    unread("/toggled.v1.ToggleService/WatchFeatureFlags", true),
    // Refused, and so over at once.
    Attack { calls: 1_000, ..unread("/toggled.v1.ToggleService/ListFeatureFlags", false) },
    Attack { calls: 1_000, ..unread("/toggled.v1.AccessService/ListUsers", true) },
    many_fields("/flagd.evaluation.v1.Service/ResolveBoolean", false),
    many_fields("/toggled.v1.ToggleService/BatchSetFeatureFlags", true),
];

/// Field 1 or 2 is a repeated message, or a message with repeated fields, of every request that these go to.
static MANY_FIELDS: LazyLock<Bytes> = LazyLock::new(|| gzip_message(&b"\x0a\x00\x12\x00".repeat((1 << 18) - 1)));

/// For a minute in the long form, clients do all of this at once.
pub async fn exhaustion(length: RunLength) -> FaultReport {
    let mut setup = SqliteSetup::with(&[("TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS", "default")]).await;
    let mut admin = setup.server.admin().await;
    for number in 0..FLAGS {
        admin.create_in("default", &format!("other-{number:04}-{}", "k".repeat(100))).await;
    }
    let token = admin.new_user("hostile@example.com", &["view_feature_flags", "toggle_feature_flags"]).await;
    setup.resident = setup.server.resident_mib();
    let limit = MemoryLimit::new(setup.server.id(), MEMORY_MIB);
    let duration = Duration::from_secs(length.rounds(2, 60).try_into().unwrap());
    let (mut clients, address) = (JoinSet::new(), setup.server.address);
    for attack in ATTACKS {
        clients.spawn(attack.run(address, token.clone(), Instant::now() + duration));
    }
    let uri = bulk(&Web::both(address)[1], &token, "default", None, None).await.events();
    for uri in [format!("{uri}{}", "x".repeat(2_000)), uri] {
        clients.spawn(open_events(address, uri, Instant::now() + duration));
    }
    for is_http2 in [false, true] {
        clients.spawn(begin_heads(address, is_http2, Instant::now() + duration));
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

/// Begins heads of requests, again and again, and ends none. Returns their number.
async fn begin_heads(address: SocketAddr, is_http2: bool, until: Instant) -> usize {
    let filler = vec![b'x'; HEAD_BYTES];
    let mut begun = 0;
    while Instant::now() < until {
        let mut held = Vec::new();
        for _ in 0..HEADS {
            let (mut stream, head) = if is_http2 {
                // A literal header `x`, whose value of 1 MiB has only begun.
                let block = [HEADERS, b"\x00\x01x\x7f\x81\xff\x3f", &filler].concat();
                let (first, rest) = block.split_at(16_384);
                (connect_http2(address).await, [frame(1, 0, 1, first), frame(9, 0, 1, rest)].concat())
            } else {
                let head = [b"POST /ofrep/v1/evaluate/flags HTTP/1.1\r\nx: ", &filler[..]].concat();
                (TcpStream::connect(address).await.unwrap(), head)
            };
            // The server may have closed it.
            let _ = stream.write_all(&head).await;
            held.push(stream);
        }
        begun += held.len();
        sleep(PAUSE).await;
    }
    begun
}

/// Asks for server-sent events over both versions of HTTP, again and again, and reads none. Returns the number of requests.
async fn open_events(address: SocketAddr, uri: String, until: Instant) -> usize {
    let head = format!("GET {uri} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let (mut held, mut asked) = (VecDeque::new(), 0);
    while Instant::now() < until {
        let mut connection = HostileConnection::open(address, 0).await;
        let mut calls = Vec::new();
        while calls.len() < EVENT_STREAMS
            && Instant::now() < until
            && let Some(call) = connection.get(&uri).await
        {
            calls.push(call);
        }
        let mut lines = Vec::new();
        for _ in 0..EVENT_STREAMS / 10 {
            let mut line = TcpStream::connect(address).await.unwrap();
            // The server may have closed it.
            let _ = line.write_all(head.as_bytes()).await;
            lines.push(line);
        }
        asked += calls.len() + lines.len();
        held.push_back((connection, calls, lines));
        if held.len() > CONNECTIONS {
            held.pop_front();
        }
        sleep(PAUSE).await;
    }
    asked
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
        use AttackRequest::{ManyFields, Unfinished, Whole};
        let encoding = matches!(self.request, ManyFields).then_some("gzip");
        let mut call = connection.call_encoded(self.path, self.has_token.then_some(token), encoding).await?;
        let message = match self.request {
            Unfinished => unfinished_message(),
            Whole => EMPTY_MESSAGE,
            ManyFields => MANY_FIELDS.clone(),
        };
        // The server may end the call early.
        call.send(message, !matches!(self.request, Unfinished)).await;
        Some(call)
    }
}
