//! Requests that do not end and answers that nobody reads: how much of them is in memory.

use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use prost::bytes::Bytes;
use toggled::api::pb::*;
use toggled::config::FixedLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Code;

use super::{server_limited, server_with};
use crate::support::hostile::{EMPTY_MESSAGE, HostileCall, HostileConnection, gzip_message, unfinished_message};
use crate::support::http::Http;
use crate::support::http2_frames::{HEADERS, connect_http2, frame};
use crate::support::{Backend, Client, Database, Server, TOKEN, reason_of, with_timeout};

const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
const FETCH_ALL: &str = "/flagd.sync.v1.FlagSyncService/FetchAllFlags";
const RESOLVE_ALL: &str = "/flagd.evaluation.v1.Service/ResolveAll";
const RESOLVE_BOOLEAN: &str = "/flagd.evaluation.v1.Service/ResolveBoolean";
const UPDATE: &str = "/toggled.v1.ToggleService/UpdateFeatureFlag";
const BATCH: &str = "/toggled.v1.ToggleService/BatchSetFeatureFlags";
const LIST: &str = "/toggled.v1.ToggleService/ListFeatureFlags";

/// The window of a client that reads.
const WINDOW: u32 = 65_535;

pub async fn create_flags(admin: &mut Client, count: usize) {
    for number in 0..count {
        let request = CreateFeatureFlagRequest {
            key: format!("flag-{number:04}-{}", "k".repeat(100)),
            name: "n".into(),
            description: "d".repeat(2_000),
            ..Default::default()
        };
        admin.toggle.create_feature_flag(request).await.unwrap();
    }
}

/// Calls without credentials that are never finished, on one connection.
async fn unfinished_calls(server: &Server, path: &str, count: usize) -> (HostileConnection, Vec<HostileCall>) {
    let mut connection = HostileConnection::open(server.address, WINDOW).await;
    let mut calls = Vec::new();
    for _ in 0..count {
        let mut call = connection.call(path, None).await.unwrap();
        call.send(unfinished_message(), false).await;
        calls.push(call);
    }
    (connection, calls)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unauthenticated_requests_have_a_budget() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let before = server.resident_mib();
    let mut held = Vec::new();
    for path in [REFLECTION, HEALTH] {
        held.push(unfinished_calls(&server, path, 30).await);
    }
    admin.flip("a").await;
    let after = server.resident_mib();
    assert!(after < before + 32, "{before} MiB before, {after} MiB with {} connections", held.len());
}

/// Begins a request whose head is 30 KiB long and does not end.
async fn begin_head(server: &Server, is_http2: bool) -> TcpStream {
    let filler = vec![b'x'; 30 << 10];
    if !is_http2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = [b"POST /ofrep/v1/evaluate/flags HTTP/1.1\r\nx: ", &filler[..]].concat();
        stream.write_all(&head).await.unwrap();
        return stream;
    }
    let mut stream = connect_http2(server.address).await;
    // A literal header `x`, whose value of 1 MiB has only begun.
    let block = [HEADERS, b"\x00\x01x\x7f\x81\xff\x3f", &filler].concat();
    let (first, rest) = block.split_at(16_384);
    stream.write_all(&[frame(1, 0, 1, first), frame(9, 0, 1, rest)].concat()).await.unwrap();
    stream
}

/// Whether the server has closed a connection.
pub fn is_closed(stream: &TcpStream) -> bool {
    let mut bytes = [0; 4_096];
    loop {
        match stream.try_read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

/// The connection that waits longest is closed for the newest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_heads_have_a_budget() {
    let (server, _database) = server_with(("TOGGLED_MAX_BUFFERED_MIB", "16")).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    // An eighth of the budget holds 64 heads. `h2` decodes a header block as it arrives, so it counts for more.
    for (is_http2, most) in [(false, 64), (true, 8)] {
        let mut held = Vec::new();
        for _ in 0..150 {
            held.push(begin_head(&server, is_http2).await);
        }
        let until_open = async |count| {
            while held.iter().filter(|stream| !is_closed(stream)).count() > count {
                tokio::task::yield_now().await;
            }
        };
        with_timeout("the oldest to be closed", until_open(most)).await;
        let newest = begin_head(&server, is_http2).await;
        with_timeout("another to be closed", until_open(most - 1)).await;
        assert!(!is_closed(&newest), "HTTP/2: {is_http2}");
        admin.flip("a").await;
        let mut other = HostileConnection::open(server.address, WINDOW).await;
        let mut call = other.call(HEALTH, None).await.unwrap();
        call.send(EMPTY_MESSAGE, true).await;
        assert_eq!(call.status().await.0.code(), Code::Ok);
    }
}

/// One request after the other leaves nothing unfinished. After one whose end is not known, the connection is closed, with its answer.
#[tokio::test]
async fn http1_connection_ends_after_request_of_unknown_end() {
    let (server, _database) = server_with(("TOGGLED_MAX_BUFFERED_MIB", "16")).await;
    let request = "POST /ofrep/v1/evaluate/flags HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
    let (whole, chunked) = (
        format!("{request}content-length: 2\r\n\r\n{{}}"),
        format!("{request}transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"),
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..3 {
        stream.write_all(whole.as_bytes()).await.unwrap();
        let mut answer = [0; 4_096];
        let length = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 401 ") && !answer.contains("connection: close"), "{answer}");
    }
    for last in [chunked, whole.repeat(2)] {
        stream.write_all(last.as_bytes()).await.unwrap();
        let mut answer = String::new();
        with_timeout("the connection to be closed", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("connection: close"), "{answer}");
        stream = TcpStream::connect(server.address).await.unwrap();
    }
}

/// A stream without credentials is charged as long as it is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_without_credentials_have_a_budget() {
    let (server, _database) = server_with(("TOGGLED_MAX_BUFFERED_MIB", "16")).await;
    let mut connection = HostileConnection::open(server.address, WINDOW).await;
    let mut held = Vec::new();
    let refused = loop {
        let mut call = connection.call(HEALTH_WATCH, None).await.unwrap();
        call.send(EMPTY_MESSAGE, true).await;
        let (headers, body) = call.headers().await.unwrap();
        if let Some(status) = tonic::Status::from_header_map(&headers) {
            break status;
        }
        held.push(body);
        assert!(held.len() < 500, "no stream is refused");
    };
    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::ResourceExhausted, "BUFFER_LIMIT"), "{refused}");
    assert!((100..=200).contains(&held.len()), "{}", held.len());
    let mut call = connection.call(HEALTH, None).await.unwrap();
    call.send(EMPTY_MESSAGE, true).await;
    assert_eq!(call.status().await.0.code(), Code::Ok, "other calls have a part of their own");
    drop(held);
    let again = async {
        loop {
            let mut call = connection.call(HEALTH_WATCH, None).await.unwrap();
            call.send(EMPTY_MESSAGE, true).await;
            let (headers, _) = call.headers().await.unwrap();
            if tonic::Status::from_header_map(&headers).is_none() {
                return;
            }
        }
    };
    with_timeout("the budget to be free", again).await;
}

/// Nothing is reserved for bytes that a client only promises, nor is a message decoded before its request has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn declared_bytes_take_no_memory() {
    let (server, _database) = server_with(("TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS", "default")).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let begun = |length: u32| {
        let mut message = vec![0; 3_000];
        message[1..5].copy_from_slice(&length.to_be_bytes());
        Bytes::from(message)
    };
    // Compressed to a thousandth; decoded, each empty item of the batch takes more than a hundred bytes.
    let decoded = gzip_message(&b"\x0a\x00".repeat(2 << 20));
    let before = server.data_mib();
    let mut connection = HostileConnection::open(server.address, WINDOW).await;
    let mut held = Vec::new();
    for number in 0..300 {
        let (path, token, message, encoding) = match number % 3 {
            0 => (RESOLVE_ALL, None, begun(1 << 20), None),
            1 => (BATCH, Some(TOKEN), begun(4 << 20), None),
            _ => (BATCH, Some(TOKEN), decoded.clone(), Some("gzip")),
        };
        let mut call = connection.call_encoded(path, token, encoding).await.unwrap();
        call.send(message, false).await;
        held.push(call);
    }
    // By the time that it is answered, the others have been read.
    admin.flip("a").await;
    let after = server.data_mib();
    // Reserved: 500 MiB; decoded: gigabytes.
    assert!(after < before + 100, "{before} MiB before, {after} MiB with {} calls", held.len());
    admin.flip("a").await;
}

/// Each of these requests takes less than 4 MiB, and decoded without limits hundreds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decoded_requests_take_little_memory() {
    let (server, _database) = server_with(("TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS", "default")).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let update = [&b"\x0a\x01a\x2a\x80\x80\x80\x01"[..], &b"\x0a\x00".repeat(1 << 20)].concat();
    let cases = [
        (RESOLVE_BOOLEAN, None, nested_context(170_000), None),
        (BATCH, Some(TOKEN), b"\x0a\x00".repeat((2 << 20) - 1), Some("MESSAGE_TOO_LARGE")),
        (UPDATE, Some(TOKEN), update, Some("MESSAGE_TOO_LARGE")),
    ];
    let mut connection = HostileConnection::open(server.address, WINDOW).await;
    let before = server.peak_mib();
    for (path, token, message, expected) in cases {
        let mut call = connection.call_encoded(path, token, Some("gzip")).await.unwrap();
        call.send(gzip_message(&message), true).await;
        let (status, _) = call.status().await;
        assert_eq!((status.code() != Code::Ok).then(|| reason_of(&status)).as_deref(), expected, "{path}: {status}");
    }
    let mut http = Http::connect(server.address).await;
    let body = format!(r#"{{"context":{{"a":[0{}]}}}}"#, ",0".repeat(500_000));
    let request = http::Request::post("/ofrep/v1/evaluate/flags/a").header("content-type", "application/json");
    let request = request.header("authorization", format!("Bearer {TOKEN}"));
    assert_eq!(http.send(request.body(body).unwrap()).await.status(), 200);
    let after = server.peak_mib();
    assert!(after < before + 48, "{before} MiB before, {after} MiB after");
}

/// A request to resolve the flag `a`, with a context that holds a list of this many objects.
fn nested_context(objects: usize) -> Vec<u8> {
    let field = |tag: u8, bytes: &[u8]| {
        let mut field = vec![tag << 3 | 2];
        prost::encode_length_delimiter(bytes.len(), &mut field).unwrap();
        field.extend_from_slice(bytes);
        field
    };
    // An object with the field `` that is null.
    let object = field(5, &field(1, &[]));
    let list = field(6, &field(1, &object).repeat(objects));
    let context = field(1, &[field(1, b"k"), field(2, &list)].concat());
    [field(1, b"a"), field(2, &context)].concat()
}

/// The keys of a watch are kept as long as it is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_watches_have_a_budget() {
    let (server, _database) = server_with(("TOGGLED_MAX_BUFFERED_MIB", "16")).await;
    let mut admin = server.admin().await;
    let token = admin.new_user("other@example.com", &["view_feature_flags"]).await;
    let mut other = server.client(Some(&token)).await;
    let keys: Vec<_> = (0..1_000).map(|number| format!("{number:0100}")).collect();
    let mut watch = async |keys: &[String]| {
        let request = WatchFeatureFlagsRequest { keys: keys.to_vec(), ..Default::default() };
        let mut stream = admin.toggle.watch_feature_flags(request).await?.into_inner();
        stream.message().await.map(|_| stream)
    };
    let mut held = Vec::new();
    let refused = loop {
        match watch(&keys).await {
            Ok(stream) => held.push(stream),
            Err(refused) => break refused,
        }
        assert!(held.len() < 100, "no watch is refused");
    };
    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::ResourceExhausted, "BUFFER_LIMIT"), "{refused}");
    assert!(held.len() > 20, "{}", held.len());
    other.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await.unwrap();
    held.clear();
    with_timeout("the budget to be free", async { while watch(&keys).await.is_err() {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn begun_message_of_a_stream_has_a_deadline() {
    let (server, _database) = server_with(("TOGGLED_REQUEST_TIMEOUT", "1s")).await;
    let mut connection = HostileConnection::open(server.address, WINDOW).await;
    let mut idle = connection.call(REFLECTION, None).await.unwrap();
    let mut begun = connection.call(REFLECTION, None).await.unwrap();
    begun.send(b"\0\0\0\0\x08\x3a"[..].into(), false).await;
    // The stream ends. Reflection does not report why.
    begun.status().await;
    // `list_services: ""`, a second later.
    assert!(idle.send(b"\0\0\0\0\x02\x3a\0"[..].into(), true).await);
    let (status, length) = idle.status().await;
    assert_eq!(status.code(), Code::Ok, "{status}");
    assert!(length > 100, "{length}");
}

/// Also behind a proxy, where authenticated and other callers use one connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unauthenticated_idle_streams_leave_room_to_callers() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut connection = HostileConnection::open(server.address, WINDOW).await;
    let mut held = Vec::new();
    for _ in 0..250 {
        held.push(connection.call(REFLECTION, None).await.unwrap());
    }
    let mut other = HostileConnection::open(server.address, WINDOW).await;
    for (path, token) in [(LIST, Some(TOKEN)), (HEALTH, None), (REFLECTION, None)] {
        for connection in [&mut connection, &mut other] {
            let mut call = connection.call(path, token).await.unwrap();
            call.send(EMPTY_MESSAGE, true).await;
            let (status, _) = call.status().await;
            assert_ne!(status.code(), Code::ResourceExhausted, "{path}: {status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_reads_may_ask_for_much_at_once() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let admin = server.admin().await;
    join_all((0..1_000).map(|number| {
        let mut client = admin.clone();
        async move { client.create(&format!("flag-{number:04}-{}", "k".repeat(100))).await }
    }))
    .await;
    let mut lists = JoinSet::new();
    // Together less than half of the budget, at which memory is scarce: the client may be too busy to read any of them.
    for _ in 0..80 {
        let mut client = admin.toggle.clone();
        let request = ListFeatureFlagsRequest { page_size: 1_000, ..Default::default() };
        lists.spawn(async move { client.list_feature_flags(request).await });
    }
    while let Some(list) = lists.join_next().await {
        list.unwrap().unwrap();
    }
    let mut watches = JoinSet::new();
    for _ in 0..500 {
        let mut client = admin.toggle.clone();
        watches.spawn(async move {
            let mut stream = client.watch_feature_flags(WatchFeatureFlagsRequest::default()).await?.into_inner();
            stream.message().await.map(|_| stream)
        });
    }
    let mut open = Vec::new();
    while let Some(watch) = watches.join_next().await {
        open.push(watch.unwrap().unwrap());
    }
    assert_eq!(open.len(), 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_requests_of_a_caller_have_a_budget() {
    let (server, _database) = server_with(("TOGGLED_MAX_BUFFERED_MIB", "16")).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let token = admin.new_user("other@example.com", &["toggle_feature_flags"]).await;
    let mut other = server.client(Some(&token)).await;
    let mut connection = HostileConnection::open(server.address, WINDOW).await;
    let mut calls = FuturesUnordered::new();
    for _ in 0..4 {
        let mut call = connection.call(BATCH, Some(TOKEN)).await.unwrap();
        call.send(unfinished_message(), false).await;
        calls.push(call.status());
    }
    // The messages lack their ends, so the only answer is a refusal.
    let (status, _) = calls.next().await.unwrap();
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::ResourceExhausted, "BUFFER_LIMIT"), "{status}");
    assert!(status.message().contains("this connection"), "{status}");
    // Other callers are served, and this one after its calls have ended.
    other.flip("a").await;
    drop(calls);
    with_timeout("the budget to be free", async {
        loop {
            let mut call = connection.call(LIST, Some(TOKEN)).await.unwrap();
            call.send(EMPTY_MESSAGE, true).await;
            if call.status().await.0.code() == Code::Ok {
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unauthenticated_unread_answers_have_a_budget() {
    let database = Database::new(Backend::Sqlite).await;
    let settings = [("TOGGLED_MAX_BUFFERED_MIB", "16"), ("TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS", "default")];
    let server = Server::start_with(&database, &settings).await;
    let mut admin = server.admin().await;
    create_flags(&mut admin, 200).await;
    // 4 MiB are for unauthenticated callers, and a connection has five.
    let mut connection = HostileConnection::open(server.address, 0).await;
    let mut held = Vec::new();
    let refused = with_timeout("a refusal", async {
        loop {
            let mut call = connection.call(RESOLVE_ALL, None).await.unwrap();
            call.send(EMPTY_MESSAGE, true).await;
            let (headers, body) = call.headers().await.unwrap();
            if let Some(status) = tonic::Status::from_header_map(&headers) {
                return status;
            }
            held.push(body);
        }
    })
    .await;
    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::ResourceExhausted, "BUFFER_LIMIT"), "{refused}");
    assert!((20..200).contains(&held.len()), "{} answers of 34 KB were held", held.len());
    // Authenticated callers are served, and the others once the answers are dropped.
    admin.flip(&format!("flag-0000-{}", "k".repeat(100))).await;
    drop((held, connection));
    let mut connection = HostileConnection::open(server.address, WINDOW).await;
    with_timeout("the budget to be free", async {
        loop {
            let mut call = connection.call(RESOLVE_ALL, None).await.unwrap();
            call.send(EMPTY_MESSAGE, true).await;
            if call.status().await.0.code() == Code::Ok {
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_with_all_flags_share_their_bytes() {
    let (server, _database) = server_with(("TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS", "default")).await;
    let mut admin = server.admin().await;
    create_flags(&mut admin, 500).await;
    let before = server.resident_mib();
    let mut connection = HostileConnection::open(server.address, 0).await;
    let mut held = Vec::new();
    for _ in 0..400 {
        let mut call = connection.call(FETCH_ALL, None).await.unwrap();
        call.send(EMPTY_MESSAGE, true).await;
        let (headers, body) = call.headers().await.unwrap();
        assert!(tonic::Status::from_header_map(&headers).is_none(), "{headers:?}");
        held.push(body);
    }
    let after = server.resident_mib();
    // One answer is about 93 KB, 400 are 36 MiB.
    assert!(after < before + 24, "{before} MiB before, {after} MiB with {} unread answers", held.len());
    let all = server.client(None).await.sync.fetch_all_flags(flagd::sync::v1::FetchAllFlagsRequest::default()).await;
    assert_eq!(all.unwrap().into_inner().flag_configuration.matches("defaultVariant").count(), 500);
}

/// A client with a large window asks for much, does not read from the connection, and goes on to send calls, so that the connection
/// looks alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_never_reads_is_disconnected() {
    let (keepalive_interval, keepalive_timeout) = (Duration::from_secs(1), Duration::from_secs(2));
    let fixed = FixedLimits { keepalive_interval, keepalive_timeout, ..Default::default() };
    let (server, _database) = server_limited(fixed).await;
    let mut admin = server.admin().await;
    create_flags(&mut admin, 100).await;
    let mut stream = connect_http2(server.address).await;
    let window = (i32::MAX as u32 - 65_535).to_be_bytes();
    let settings = [&4u16.to_be_bytes()[..], &i32::MAX.to_be_bytes()].concat();
    stream.write_all(&[frame(4, 0, 0, &settings), frame(8, 0, 0, &window)].concat()).await.unwrap();
    let list = |id| [frame(1, 4, id, &list_headers()), frame(0, 1, id, &EMPTY_MESSAGE)].concat();
    stream.write_all(&(0..100).flat_map(|n| list(2 * n + 1)).collect::<Vec<_>>()).await.unwrap();
    with_timeout("the server to close", async {
        for id in (201..).step_by(2) {
            let refused = frame(1, 5, id, HEADERS);
            let closed = timeout(Duration::from_millis(100), stream.ready(Interest::ERROR)).await;
            if closed.is_ok() || stream.write_all(&refused).await.is_err() {
                return;
            }
        }
    })
    .await;
    admin.create("a").await;
}

/// The headers of an authenticated `ListFeatureFlags`, as HPACK literals.
fn list_headers() -> Vec<u8> {
    let mut headers = b"\x83\x86\x04".to_vec();
    headers.push(u8::try_from(LIST.len()).unwrap());
    headers.extend(LIST.bytes());
    headers.extend(b"\x0f\x10\x10application/grpc\x0f\x08");
    headers.push(u8::try_from("Bearer ".len() + TOKEN.len()).unwrap());
    headers.extend(format!("Bearer {TOKEN}").bytes());
    headers
}
