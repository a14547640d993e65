//! What a connection keeps of calls that are over, and what calls are charged that have not ended.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tonic::Code;

use super::bytes::is_closed;
use super::server_with;
use crate::support::hostile::{EMPTY_MESSAGE, HostileConnection};
use crate::support::http2_frames::{HEADERS, connect_http2, frame};
use crate::support::{Backend, Client, Database, Server, TOKEN, with_timeout};

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const LIST: &str = "/toggled.v1.ToggleService/ListFeatureFlags";

/// The flags of a HEADERS frame: END_HEADERS, and that with END_STREAM.
const OPEN: u8 = 4;
const WHOLE: u8 = 5;

/// Fields as HPACK literals without indexing: a path, a content type, and a token.
fn headers(path: &str, token: Option<&str>) -> Vec<u8> {
    let mut headers = b"\x83\x86\x04".to_vec();
    let mut text = |text: &str| {
        headers.push(u8::try_from(text.len()).unwrap());
        headers.extend(text.bytes());
    };
    text(path);
    headers.extend(b"\x0f\x10\x10application/grpc");
    if let Some(token) = token {
        let value = format!("Bearer {token}");
        headers.extend(b"\x0f\x08");
        headers.push(u8::try_from(value.len()).unwrap());
        headers.extend(value.bytes());
    }
    headers
}

/// This many calls at once.
fn calls(count: u32, headers: &[u8]) -> Vec<u8> {
    (0..count).flat_map(|number| frame(1, WHOLE, 2 * number + 1, headers)).collect()
}

/// Sends bytes on a new connection, and reads until the server has answered a PING after them.
async fn send(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = connect_http2(server.address).await;
    // The server may close the connection at any time.
    let _ = stream.write_all(&[bytes, &frame(6, 0, 0, b"finished")].concat()).await;
    let mut read = Vec::new();
    with_timeout("an answer", async {
        while !read.windows(8).any(|bytes| bytes == b"finished")
            && stream.read_buf(&mut read).await.is_ok_and(|n| n > 0)
        {}
    })
    .await;
    stream
}

/// With a budget of 16 MiB, unauthenticated callers have 1,170 slots, and others as many and one for each of `--max-streams`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_connections_keep_of_ended_calls_has_a_budget() {
    let database = Database::new(Backend::Sqlite).await;
    let settings =
        [("TOGGLED_MAX_BUFFERED_MIB", "16"), ("TOGGLED_MAX_STREAMS", "16"), ("TOGGLED_MAX_STREAMS_PER_CALLER", "15")];
    let server = Server::start_with(&database, &settings).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let mut idle = HostileConnection::open(server.address, 65_535).await;
    check_health(&mut idle).await;
    let no_token = headers(LIST, None);
    let data = [frame(1, OPEN, 1, &headers(HEALTH, None)), frame(0, 0, 1, b"\0").repeat(500)].concat();
    let attacks = [
        ("not gRPC", calls(200, HEADERS)),
        ("no token", calls(200, &no_token)),
        ("refused by permission or budget", calls(200, &headers("/toggled.v1.AccessService/ListUsers", Some(TOKEN)))),
        ("data in small frames", data),
    ];
    for (attack, bytes) in attacks {
        let mut held = Vec::new();
        for _ in 0..20 {
            held.push(send(&server, &bytes).await);
        }
        let open = held.iter().filter(|stream| !is_closed(stream)).count();
        assert!((1..=8).contains(&open), "{attack}: {open} connections are open");
        assert!(!is_closed(held.last().unwrap()), "{attack}: the oldest are closed");
        admin.flip("a").await;
        check_health(&mut idle).await;
    }
}

async fn check_health(connection: &mut HostileConnection) {
    let mut call = connection.call(HEALTH, None).await.unwrap();
    call.send(EMPTY_MESSAGE, true).await;
    assert_eq!(call.status().await.0.code(), Code::Ok);
}

/// Watches alone close no connection, however many of them one has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_with_many_watches_stay_open() {
    let (server, _database) = server_with(("TOGGLED_MAX_BUFFERED_MIB", "16")).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(
            send(&server, &calls(1_000, &headers("/toggled.v1.ToggleService/WatchFeatureFlags", Some(TOKEN)))).await,
        );
    }
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..5 {
        let mut client = server.client(Some(TOKEN)).await;
        client.wait_until_authenticated().await;
        clients.push(client);
    }
    assert!(!held.iter().any(is_closed));
}

/// A call without its end takes 16 KiB, so as many are begun as the budget has room for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_calls_are_charged_what_they_take() {
    let database = Database::new(Backend::Sqlite).await;
    // No call ends at its deadline.
    let settings = [("TOGGLED_MAX_BUFFERED_MIB", "16"), ("TOGGLED_REQUEST_TIMEOUT", "1h")];
    let server = Server::start_with(&database, &settings).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let block = headers(HEALTH, None);
    let bytes: Vec<u8> = (0..100).flat_map(|number| frame(1, OPEN, 2 * number + 1, &block)).collect();
    let mut held = Vec::new();
    for _ in 0..6 {
        let mut stream = connect_http2(server.address).await;
        stream.write_all(&bytes).await.unwrap();
        held.push((stream, Vec::new()));
    }
    // Refused calls are answered at once, the others not at all.
    let mut refused = 0;
    with_timeout("the refusals", async {
        while refused < 300 {
            for (stream, read) in &mut held {
                let _ = stream.try_read_buf(read);
            }
            refused = held.iter().map(|(_, read)| count_headers(read)).sum();
            yield_now().await;
        }
    })
    .await;
    admin.flip("a").await;
    assert!(refused < 500, "{refused} of 600 calls were refused");
}

/// The number of HEADERS frames.
fn count_headers(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Some((header, rest)) = bytes.split_first_chunk::<9>() {
        let length = usize::from(header[1]) * 256 + usize::from(header[2]);
        count += usize::from(header[3] == 1);
        bytes = rest.get(length..).unwrap_or_default();
    }
    count
}
