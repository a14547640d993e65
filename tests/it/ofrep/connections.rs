//! Connections: TLS, many at a time, and malformed data.

use serde_json::Value;
use toggled::api::pb::*;
use tokio::net::TcpStream;

use crate::support::http::{Http, json as body};
use crate::support::tls::{Ca, Files, connect_with_alpn};
use crate::support::{Backend, Database, Server, with_timeout};

use super::{FLAGS, all, alone, bulk, empty, evaluated, request_with, single, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_client_chooses_http_version_and_http_2_wins() {
    let ca = Ca::new("ours");
    let files = Files::new(&ca.server(), None);
    let database = Database::new(Backend::Sqlite).await;
    let [certificate, key] = ["server.pem", "server.key"].map(|name| files.path(name));
    let settings = [("TOGGLED_TLS_CERTIFICATE", &*certificate), ("TOGGLED_TLS_KEY", &*key)];
    let server = Server::start_with(&database, &settings).await;
    for (spoken, chosen) in [(&["http/1.1", "h2"][..], "h2"), (&["h2"], "h2"), (&["http/1.1"], "http/1.1")] {
        let stream = connect_with_alpn(server.address, &ca, spoken).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(chosen.as_bytes()), "{spoken:?}");
    }
    connect_with_alpn(server.address, &ca, &["spdy/3"]).await.unwrap_err();
    // Without ALPN, the server recognizes the version by the first bytes.
    for spoken in [&["http/1.1"][..], &[]] {
        let mut http = Http::from_stream(connect_with_alpn(server.address, &ca, spoken).await.unwrap());
        let answer = http.send(bulk()).await;
        assert_eq!((answer.status().as_u16(), all(&answer)), (200, empty()), "{spoken:?}");
        assert_eq!(http.send(request_with("POST", FLAGS, None, "{}")).await.status(), 401);
    }
}

/// What an answer says of a flag alone.
fn without_metadata(mut answer: Value) -> Value {
    answer.as_object_mut().unwrap().remove("metadata");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_do_not_delay_shutdown() {
    let (_database, server, mut admin) = start().await;
    let reads = futures::future::join_all((0..32).map(|_| async {
        let mut http = Http::connect(server.address).await;
        for _ in 0..20 {
            let answer = http.send(single("a")).await;
            let flag = without_metadata(body(&answer));
            assert!(
                answer.status() == 200 && (flag == evaluated("a", true) || flag == evaluated("a", false)),
                "{answer:?}"
            );
            assert_eq!(http.send(bulk()).await.status(), 200);
        }
        http
    }));
    let flipped = async {
        for _ in 0..50 {
            admin.flip("a").await;
        }
    };
    let (mut kept, ()) = futures::future::join(reads, flipped).await;
    // Reads return the acknowledged status.
    let flag = admin.flip("a").await.feature_flag.unwrap();
    for http in &mut kept {
        let expected = evaluated("a", flag.status() == FeatureFlagStatus::Enabled);
        assert_eq!(body(&http.send(single("a")).await), alone(expected, flag.revision));
    }
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_silent_connections_do_no_harm() {
    let (_database, server, mut admin) = start().await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let long = [b"POST /ofrep/v1/evaluate/flags HTTP/1.1\r\nx: ", "x".repeat(600_000).as_bytes()].concat();
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(1_000));
    let garbage: [(&[u8], &str); 5] = [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "400"),
        (b"nonsense\r\n\r\n", "400"),
        (b"POST /ofrep/v1/evaluate/flags HTTP/1.1\r\ncontent-length: x\r\n\r\n", "400"),
        (many.as_bytes(), "431"),
        (&long, "431"),
    ];
    for (bytes, status) in garbage {
        let answer = Http::connect(server.address).await.send_raw(bytes).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:?}");
    }
    assert_eq!(Http::connect(server.address).await.send(single("a")).await.status(), 200);
    admin.flip("a").await;
    let stopped = with_timeout("the server to stop", server.terminate()).await;
    assert!(stopped.success());
}
