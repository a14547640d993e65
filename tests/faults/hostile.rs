//! Clients that mean no good, or know no better. The server stays up, honest clients go on, and memory comes back.

use std::net::SocketAddr;
use std::time::Duration;

use prost_types::FieldMask;
use toggled::api::pb::flagd::sync::v1::SyncFlagsRequest;
use toggled::api::pb::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::load::Load;
use crate::support::http2_frames::{HEADERS, connect_http2, frame};
use crate::support::{Backend, Client, Database, Server, TOKEN, toggle, with_timeout};
use crate::{Form, Outcome};

/// How much more memory a server may take afterwards, in MiB: what allocators keep.
const KEPT: u64 = 16;

/// What may be on its way to a client that reads nothing, in bytes a stream; and what may wait for it in memory, in MiB for all
/// its streams together: a few pages of the log.
const NARROW: u32 = 1_024;
const UNREAD: u64 = 2;

/// How often to look whether it has come back.
const LOOK: Duration = Duration::from_millis(20);

/// How long to wait for what a server says to nonsense; most often nothing.
const LISTEN: Duration = Duration::from_millis(200);

struct World {
    database: Database,
    server: Server,
    load: Load,
    resident: u64,
}

impl World {
    async fn new() -> Self {
        let database = Database::new(Backend::Sqlite).await;
        let server = Server::start(&database).await;
        let load = Load::start(&[server.address]).await;
        load.some(200).await;
        let resident = server.resident_mib();
        Self { database, server, load, resident }
    }

    /// Somebody who has just come is served, and so are all the others.
    async fn is_served(&self) {
        self.server.admin().await.wait_until_authenticated().await;
        self.load.some(200).await;
    }

    async fn outcome(self, times: usize) -> Outcome {
        self.is_served().await;
        let most = self.resident + KEPT;
        with_timeout("memory to come back", async {
            while self.server.resident_mib() > most {
                sleep(LOOK).await
            }
        })
        .await;
        let verdict = self.load.finish(&self.database.url).await;
        Outcome::of(times, verdict)
    }
}

pub async fn silent(_: Form) -> Outcome {
    let world = World::new().await;
    let mut connections = Vec::new();
    for _ in 0..1_000 {
        connections.push(TcpStream::connect(world.server.address).await.unwrap());
    }
    world.is_served().await;
    drop(connections);
    world.outcome(1_000).await
}

/// Streams of every kind that are opened and never read.
pub async fn slow_readers(form: Form) -> Outcome {
    let world = World::new().await;
    let times = form.times(20, 100);
    let mut unread = Vec::new();
    for _ in 0..times {
        // Little room on the way: what they do not read stays where it comes from.
        let endpoint = Endpoint::from_shared(format!("http://{}", world.server.address)).unwrap();
        let endpoint = endpoint.initial_stream_window_size(NARROW);
        let connection = with_timeout("a connection", endpoint.connect()).await.unwrap();
        let mut client = Client::with_channel(connection.clone(), Some(TOKEN));
        let follow = StreamAuditLogsRequest { follow: true, ..Default::default() };
        let audit = client.audit.stream_audit_logs(follow).await.unwrap();
        let watch = client.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await.unwrap();
        let sync = client.sync.sync_flags(SyncFlagsRequest::default()).await.unwrap();
        let first =
            client.evaluation_v1.event_stream(flagd::evaluation::v1::EventStreamRequest::default()).await.unwrap();
        let second =
            client.evaluation_v2.event_stream(flagd::evaluation::v2::EventStreamRequest::default()).await.unwrap();
        let mut health = HealthClient::new(connection);
        let health = health.watch(HealthCheckRequest::default()).await.unwrap();
        unread.push((audit, watch, sync, first, second, health));
    }
    for _ in 0..form.times(1, 10) {
        world.load.some(500).await;
    }
    let most = world.resident + KEPT + u64::try_from(times).unwrap() * UNREAD;
    let resident = world.server.resident_mib();
    drop(unread);
    let mut outcome = world.outcome(times * 6).await;
    if resident > most {
        outcome.verdict.problems.push(format!("{resident} MiB were taken for what nobody read"));
    }
    outcome
}

/// Calls that are opened and cancelled at once, and changes that are given up at any moment.
pub async fn cancel_storms(form: Form) -> Outcome {
    let world = World::new().await;
    let times = form.times(20, 200);
    let storm = (1..2_000).step_by(2);
    let storm: Vec<u8> =
        storm.flat_map(|id| [frame(1, 4, id, HEADERS), frame(3, 0, id, &8u32.to_be_bytes())].concat()).collect();
    for _ in 0..times {
        say(world.server.address, &storm).await;
    }
    let mut client = Client::connect(world.server.address, Some(TOKEN)).await;
    // Another flag than those whose every flip is accounted for.
    client.create("given-up").await;
    for round in 0..u64::try_from(times).unwrap() * 20 {
        let change = UpdateFeatureFlagRequest {
            flag: Some(update_feature_flag_request::Flag::Key("given-up".into())),
            description: format!("as of round {round}"),
            update_mask: Some(FieldMask { paths: vec!["description".into()] }),
            ..Default::default()
        };
        // Before it is sent, while it is written, after it is: a flip takes some milliseconds.
        let _ = timeout(Duration::from_micros(round * 777 % 20_000), client.toggle.update_feature_flag(change)).await;
    }
    world.outcome(times).await
}

pub async fn garbage(form: Form) -> Outcome {
    let world = World::new().await;
    let times = form.times(3, 50);
    let address = world.server.address;
    let words =
        |seed: u8| (0..20_000u32).map(move |n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed).collect::<Vec<u8>>();
    for seed in 0..u8::try_from(times).unwrap() {
        // Nothing of HTTP/2, and then something like it.
        say(address, &words(seed)).await;
        say(address, b"GET / HTTP/1.1\r\n").await;
        say_in_http2(address, &words(seed)).await;
        // A frame that is cut off, one that is larger than any may be, and one for a stream that is not there.
        say_in_http2(address, &frame(1, 4, 1, HEADERS)[..7]).await;
        say_in_http2(address, &[&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..], &words(seed)].concat()).await;
        say_in_http2(address, &frame(0, 1, 77, b"hello")).await;
        // Headers without an end.
        let endless: Vec<u8> = (0..200).flat_map(|_| frame(9, 0, 1, &[0; 4_096])).collect();
        say_in_http2(address, &[frame(1, 0, 1, HEADERS), endless].concat()).await;
        // A message that is said to be 4 GiB long, and one that ends in the middle.
        for message in [&b"\0\xff\xff\xff\xff"[..], b"\0\0\0\0\x10abc"] {
            say_in_http2(address, &[frame(1, 4, 1, &call()), frame(0, 1, 1, message)].concat()).await;
        }
        // A header that is larger than any may be.
        let mut client = Client::connect(address, Some(TOKEN)).await;
        let mut request = tonic::Request::new(toggle("flag-0"));
        request.metadata_mut().insert("x-filler", "x".repeat(100_000).parse().unwrap());
        assert!(client.toggle.toggle_feature_flag(request).await.is_err());
    }
    world.outcome(times * 10).await
}

/// The headers of a flip that is let in: a method, a scheme, a path, a content type and a token that HPACK does not know.
fn call() -> Vec<u8> {
    let mut headers = b"\x83\x86\x04".to_vec();
    let mut text = |text: &str| {
        headers.push(u8::try_from(text.len()).unwrap());
        headers.extend(text.bytes());
    };
    text("/toggled.v1.ToggleService/ToggleFeatureFlag");
    headers.extend(b"\x0f\x10\x10application/grpc\x0f\x08");
    headers.push(u8::try_from("Bearer ".len() + TOKEN.len()).unwrap());
    headers.extend(format!("Bearer {TOKEN}").bytes());
    headers
}

async fn say(address: SocketAddr, words: &[u8]) {
    listen(TcpStream::connect(address).await.unwrap(), words).await;
}

async fn say_in_http2(address: SocketAddr, words: &[u8]) {
    listen(connect_http2(address).await, words).await;
}

/// Says it, and listens for a moment; the server may hang up whenever it likes.
async fn listen(mut stream: TcpStream, words: &[u8]) {
    let _ = timeout(LISTEN, async {
        let _ = stream.write_all(words).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
}

pub async fn connections(form: Form) -> Outcome {
    let world = World::new().await;
    let (mut callers, each) = (JoinSet::new(), form.times(500, 2_500));
    for _ in 0..4 {
        let address = world.server.address;
        callers.spawn(async move {
            for number in 0..each {
                let stream = if number % 2 == 0 {
                    TcpStream::connect(address).await.unwrap()
                } else {
                    connect_http2(address).await
                };
                drop(stream);
            }
        });
    }
    with_timeout("the connections", callers.join_all()).await;
    world.outcome(4 * each).await
}
