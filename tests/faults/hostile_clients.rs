//! Malicious and broken clients. The server stays up, other clients are served, and memory is released.

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

use crate::load::{Load, in_default};
use crate::support::http2_frames::{HEADERS, connect_http2, frame};
use crate::support::{Backend, Client, Database, Server, TOKEN, toggle, with_timeout};
use crate::{FaultReport, RunLength};

/// How much more memory than before a server may keep, in MiB. Allocators do not return all of it.
const RETAINED_MIB: u64 = 24;

/// The flow control window of a stream whose client reads nothing, in bytes.
const STREAM_WINDOW: u32 = 1_024;

/// How much memory the server may use for the unread data of one client, in MiB: a few pages of the log.
const UNREAD_MIB_PER_CLIENT: u64 = 2;

/// How often to poll the server's memory.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long to wait for an answer to invalid input. Usually there is none.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);

pub struct SqliteSetup {
    database: Database,
    pub server: Server,
    load: Load,
    pub resident: u64,
}

impl SqliteSetup {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    /// A server with these settings.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        let database = Database::new(Backend::Sqlite).await;
        let server = Server::start_with(&database, settings).await;
        let load = Load::start(&[server.address]).await;
        load.wait_for_flips(200).await;
        let resident = server.resident_mib();
        Self { database, server, load, resident }
    }

    /// A new client and the clients of the load are served.
    pub async fn assert_serves(&self) {
        self.server.admin().await.wait_until_authenticated().await;
        self.load.wait_for_flips(200).await;
    }

    pub async fn finish(self, rounds: usize) -> FaultReport {
        self.assert_serves().await;
        let most = self.resident + RETAINED_MIB;
        with_timeout("memory to be released", async {
            while self.server.resident_mib() > most {
                sleep(POLL_INTERVAL).await
            }
        })
        .await;
        let comparison = self.load.finish(&self.database.url).await;
        FaultReport::new(rounds, comparison)
    }
}

pub async fn idle(_: RunLength) -> FaultReport {
    let setup = SqliteSetup::new().await;
    let mut connections = Vec::new();
    for _ in 0..1_000 {
        connections.push(TcpStream::connect(setup.server.address).await.unwrap());
    }
    setup.assert_serves().await;
    drop(connections);
    setup.finish(1_000).await
}

/// Clients open streams of every kind and never read them.
pub async fn slow_readers(length: RunLength) -> FaultReport {
    let setup = SqliteSetup::new().await;
    let rounds = length.rounds(20, 100);
    let mut unread = Vec::new();
    for _ in 0..rounds {
        // With a small window, unread data stays in the server.
        let endpoint = Endpoint::from_shared(format!("http://{}", setup.server.address)).unwrap();
        let endpoint = endpoint.initial_stream_window_size(STREAM_WINDOW);
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
    for _ in 0..length.rounds(1, 10) {
        setup.load.wait_for_flips(500).await;
    }
    let most = setup.resident + RETAINED_MIB + u64::try_from(rounds).unwrap() * UNREAD_MIB_PER_CLIENT;
    let resident = setup.server.resident_mib();
    drop(unread);
    let mut report = setup.finish(rounds * 6).await;
    if resident > most {
        report.comparison.problems.push(format!("unread streams took the server to {resident} MiB"));
    }
    report
}

/// Clients cancel calls at once, and cancel changes at any point.
pub async fn cancellations(length: RunLength) -> FaultReport {
    let setup = SqliteSetup::new().await;
    let rounds = length.rounds(20, 200);
    let storm = (1..2_000).step_by(2);
    let storm: Vec<u8> =
        storm.flat_map(|id| [frame(1, 4, id, HEADERS), frame(3, 0, id, &8u32.to_be_bytes())].concat()).collect();
    for _ in 0..rounds {
        send(setup.server.address, &storm).await;
    }
    let mut client = Client::connect(setup.server.address, Some(TOKEN)).await;
    // The comparison ignores this flag.
    client.create_in("default", "cancelled").await;
    for round in 0..u64::try_from(rounds).unwrap() * 20 {
        let change = UpdateFeatureFlagRequest {
            flag: Some(update_feature_flag_request::Flag::Key("cancelled".into())),
            description: format!("as of round {round}"),
            update_mask: Some(FieldMask { paths: vec!["description".into()] }),
            environment: in_default(),
            ..Default::default()
        };
        // A change takes a few milliseconds, so this cancels it before, during and after the write.
        let _ = timeout(Duration::from_micros(round * 777 % 20_000), client.toggle.update_feature_flag(change)).await;
    }
    setup.finish(rounds).await
}

pub async fn garbage(length: RunLength) -> FaultReport {
    let setup = SqliteSetup::new().await;
    let rounds = length.rounds(3, 50);
    let address = setup.server.address;
    let noise =
        |seed: u8| (0..20_000u32).map(move |n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed).collect::<Vec<u8>>();
    for seed in 0..u8::try_from(rounds).unwrap() {
        // Not HTTP/2, and then noise after a valid preface.
        send(address, &noise(seed)).await;
        send(address, b"GET / HTTP/1.1\r\n").await;
        send_after_preface(address, &noise(seed)).await;
        // A truncated frame, an oversized frame, and a frame for an unknown stream.
        send_after_preface(address, &frame(1, 4, 1, HEADERS)[..7]).await;
        send_after_preface(address, &[&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..], &noise(seed)].concat()).await;
        send_after_preface(address, &frame(0, 1, 77, b"hello")).await;
        // Headers that never end.
        let endless: Vec<u8> = (0..200).flat_map(|_| frame(9, 0, 1, &[0; 4_096])).collect();
        send_after_preface(address, &[frame(1, 0, 1, HEADERS), endless].concat()).await;
        // A message with a declared length of 4 GiB, and a truncated one.
        for message in [&b"\0\xff\xff\xff\xff"[..], b"\0\0\0\0\x10abc"] {
            send_after_preface(address, &[frame(1, 4, 1, &flip_headers()), frame(0, 1, 1, message)].concat()).await;
        }
        // An oversized header.
        let mut client = Client::connect(address, Some(TOKEN)).await;
        let mut request = tonic::Request::new(toggle("flag-0"));
        request.metadata_mut().insert("x-filler", "x".repeat(100_000).parse().unwrap());
        assert!(client.toggle.toggle_feature_flag(request).await.is_err());
    }
    setup.finish(rounds * 10).await
}

/// The headers of an authenticated flip: method, scheme, path, content type and token, the last three as HPACK literals.
fn flip_headers() -> Vec<u8> {
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

async fn send(address: SocketAddr, bytes: &[u8]) {
    exchange(TcpStream::connect(address).await.unwrap(), bytes).await;
}

async fn send_after_preface(address: SocketAddr, bytes: &[u8]) {
    exchange(connect_http2(address).await, bytes).await;
}

/// Sends bytes and reads until [`ANSWER_TIMEOUT`]. The server may close the connection at any time.
async fn exchange(mut stream: TcpStream, bytes: &[u8]) {
    let _ = timeout(ANSWER_TIMEOUT, async {
        let _ = stream.write_all(bytes).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
}

pub async fn connections(length: RunLength) -> FaultReport {
    let setup = SqliteSetup::new().await;
    let (mut callers, each) = (JoinSet::new(), length.rounds(500, 2_500));
    for _ in 0..4 {
        let address = setup.server.address;
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
    setup.finish(4 * each).await
}
