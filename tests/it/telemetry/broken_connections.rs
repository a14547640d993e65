//! Connections that break the protocol, or break off in the middle of a request: that makes no request invalid.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::MonitoredServer;
use crate::support::http::Http;
use crate::support::http2_frames::{PREFACE, frame};
use crate::support::tls::{self, Ca, Files};
use crate::support::{Backend, Database, TOKEN, with_timeout};

const FLIP: &str = "toggled.v1.ToggleService/ToggleFeatureFlag";
const HEALTH: &str = "grpc.health.v1.Health/Check";
const OFREP: &str = "OFREP/EvaluateFlags";

/// The beginning of a message of 16 bytes.
const MESSAGE_START: &[u8] = b"\0\0\0\0\x10ab";

/// What breaks HTTP/2 after a call has begun as stream 1.
fn breaks() -> Vec<Vec<u8>> {
    let reset = |reason: u32| frame(3, 0, 1, &reason.to_be_bytes());
    vec![
        // Errors of the connection: data of no stream, a frame with a wrong length, a window that is too large.
        frame(0, 0, 0, b"data"),
        frame(6, 0, 0, b"short"),
        frame(8, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
        // Errors of the stream: a window update of nothing, more data than `content-length: 99`, cancellations.
        frame(8, 0, 1, &[0; 4]),
        frame(0, 1, 1, &[0; 100]),
        reset(0),
        reset(1),
        reset(8),
        reset(11),
        // Nothing: the client closes the connection.
        Vec::new(),
    ]
}

/// The frames that open a call with a token and send a part of its message.
fn begun_call(method: &str) -> Vec<u8> {
    let literal = |name: &[u8], value: &str| [name, &[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat();
    // The names of headers are in HPACK's static table.
    let headers = [
        b"\x83\x86".to_vec(),
        literal(b"\x04", &format!("/{method}")),
        literal(b"\x0f\x0d", "99"),
        literal(b"\x0f\x10", "application/grpc"),
        literal(b"\x0f\x08", &format!("Bearer {TOKEN}")),
    ];
    [frame(1, 4, 1, &headers.concat()), frame(0, 0, 1, MESSAGE_START)].concat()
}

/// Sends bytes. The server may have closed the connection.
async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    let _ = stream.write_all(bytes).await;
}

/// Waits until the server closes the connection. Returns what it sent.
async fn until_closed(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut sent = Vec::new();
    let _ = with_timeout("the server to close", stream.read_to_end(&mut sent)).await;
    sent
}

/// Waits for the answer to a ping, before which the server has read everything.
async fn until_read(stream: &mut TcpStream) {
    send(stream, &frame(6, 0, 0, b"received")).await;
    let mut answer = Vec::new();
    while !answer.windows(8).any(|bytes| bytes == b"received") {
        assert!(with_timeout("an answer to a ping", stream.read_buf(&mut answer)).await.unwrap() > 0);
    }
}

/// How many calls of a method have ended, by code.
async fn ended(server: &MonitoredServer, method: &str) -> Vec<(String, f64)> {
    let metrics = server.metrics().await;
    let prefix = format!("toggled_requests_total{{method=\"{method}\",code=\"");
    let counts = metrics.lines().filter_map(|line| line.strip_prefix(&prefix)?.split_once("\"} "));
    counts.map(|(code, count)| (code.to_owned(), count.parse().unwrap())).collect()
}

/// Waits until this many calls of a method have ended, and asserts that all of them count as cancelled.
async fn assert_all_cancelled(server: &MonitoredServer, method: &str, calls: usize) {
    let total = |counts: &[(String, f64)]| counts.iter().map(|(_, count)| count).sum::<f64>();
    with_timeout("all calls to end", async { while total(&ended(server, method).await) < calls as f64 {} }).await;
    assert_eq!(ended(server, method).await, [("CANCELLED".to_owned(), calls as f64)], "{method}");
}

async fn send_raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    send(&mut stream, bytes).await;
    let _ = stream.shutdown().await;
    until_closed(stream).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connection_cancels_its_calls() {
    let server = MonitoredServer::start(&Database::new(Backend::Sqlite).await, &[]).await;
    let address = server.server.address;
    for method in [FLIP, HEALTH] {
        for (count, broken) in breaks().into_iter().enumerate() {
            let mut stream = TcpStream::connect(address).await.unwrap();
            send(&mut stream, &[PREFACE, &begun_call(method)].concat()).await;
            until_read(&mut stream).await;
            send(&mut stream, &broken).await;
            let open = (!broken.is_empty()).then_some(stream);
            assert_all_cancelled(&server, method, count + 1).await;
            drop(open);
        }
    }
    let begin = "POST /ofrep/v1/evaluate/flags HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let begin = format!("{begin}authorization: Bearer {TOKEN}\r\n");
    let cut_short = ["content-length: 9\r\n\r\n{", "transfer-encoding: chunked\r\n\r\n1\r\n{\r\nzz\r\n"];
    for (count, rest) in cut_short.into_iter().enumerate() {
        send_raw(address, format!("{begin}{rest}").as_bytes()).await;
        assert_all_cancelled(&server, OFREP, count + 1).await;
    }
    let metrics = server.metrics().await;
    assert!(!metrics.contains("INVALID_ARGUMENT") && !metrics.contains("MALFORMED"), "{metrics}");
}

/// Bytes that are no request are not counted as one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_request_are_not_counted() {
    let server = MonitoredServer::start(&Database::new(Backend::Sqlite).await, &[]).await;
    let before = ended(&server, "unknown").await;
    for garbage in [
        &b"nonsense\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        &[PREFACE, &frame(0, 0, 0, b"data")].concat(),
    ] {
        send_raw(server.server.address, garbage).await;
    }
    assert_eq!(ended(&server, "unknown").await, before);
    // HTTP/1.1 is no gRPC, whatever it asks for.
    let request = format!(
        "POST /{FLIP} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    let answer = Http::connect(server.server.address).await.send_raw(request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    assert_eq!(ended(&server, FLIP).await, [("UNIMPLEMENTED".to_owned(), 1.0)]);

    let (ca, database) = (Ca::new("ours"), Database::new(Backend::Sqlite).await);
    let files = Files::new(&ca.server(), None);
    let [certificate, key] = ["server.pem", "server.key"].map(|name| files.path(name));
    let settings = [("TOGGLED_TLS_CERTIFICATE", &*certificate), ("TOGGLED_TLS_KEY", &*key)];
    let server = MonitoredServer::start(&database, &settings).await;
    send_raw(server.server.address, b"GET / HTTP/1.1\r\n\r\n").await;
    let mut stream = tls::connect(server.server.address, &ca, None).await.unwrap();
    send(&mut stream, b"nonsense\r\n\r\n").await;
    until_closed(stream).await;
    let metrics = server.metrics().await;
    assert!(!metrics.contains("INVALID_ARGUMENT") && !metrics.contains("MALFORMED"), "{metrics}");
}
