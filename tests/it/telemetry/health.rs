//! Health probes over HTTP.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::metrics::value;
use super::{MonitoredServer, http_get};
use crate::support::postgres_proxy::{Link, PostgresProxy};
use crate::support::{Backend, Database, TOKEN, with_timeout};

/// Detects a database outage within seconds, but not merely because the machine is busy.
const SHORT_STALENESS: [(&str, &str); 2] = [("TOGGLED_POLL_INTERVAL", "50ms"), ("TOGGLED_MAX_STALENESS", "5s")];

pub(super) async fn until_readiness(address: SocketAddr, status: &str, readiness: &str) {
    let reached = async {
        let expected = (status.to_owned(), format!("{readiness}\n"));
        while http_get(address, "/readyz").await != expected {}
    };
    with_timeout(readiness, reached).await;
}

async fn assert_alive(address: SocketAddr) {
    assert_eq!(http_get(address, "/livez").await.0, "200 OK");
}

pub(super) const UNAVAILABLE: &str = "503 Service Unavailable";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_follows_database_and_liveness_does_not() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    proxy.set(Link::Closed);
    let mut monitored = MonitoredServer::launch(&proxy.database, &SHORT_STALENESS).await;
    until_readiness(monitored.address, UNAVAILABLE, "starting").await;
    assert_alive(monitored.address).await;
    let age = || async { value(&monitored.metrics().await, "toggled_mirror_age_seconds").unwrap() };
    with_timeout("the mirror's age to grow", async { while age().await < 1.0 {} }).await;
    proxy.set(Link::Open);
    monitored.server.ready().await;
    until_readiness(monitored.address, "200 OK", "serving").await;
    proxy.set(Link::Closed);
    until_readiness(monitored.address, UNAVAILABLE, "stale").await;
    assert_alive(monitored.address).await;
    assert!(!monitored.metrics().await.is_empty());
    proxy.set(Link::Open);
    until_readiness(monitored.address, "200 OK", "serving").await;
    assert_eq!(http_get(monitored.address, "/elsewhere").await.0, "404 Not Found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_server_is_draining_until_last_call_ends() {
    let database = Database::new(Backend::Sqlite).await;
    let monitored = MonitoredServer::start(&database, &[]).await;
    let address = monitored.address;
    // A call whose body is incomplete.
    let mut call = TcpStream::connect(monitored.server.address).await.unwrap();
    let head = format!(
        "POST /ofrep/v1/evaluate/flags HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: 2\r\n\r\n{{"
    );
    call.write_all(head.as_bytes()).await.unwrap();
    until_connected(&monitored).await;
    let stopping = tokio::spawn(monitored.server.terminate());
    until_readiness(address, UNAVAILABLE, "draining").await;
    assert_alive(address).await;
    call.write_all(b"}").await.unwrap();
    assert!(with_timeout("the server to stop", stopping).await.unwrap().success());
}

/// Waits until the server has accepted the one connection.
async fn until_connected(monitored: &MonitoredServer) {
    with_timeout("the connection", async {
        while !monitored.metrics().await.contains("toggled_connections_open 1\n") {}
    })
    .await;
}

/// Clients that connect and send nothing, or only a part of a request, do not block probes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_clients_do_not_block_probes() {
    let database = Database::new(Backend::Sqlite).await;
    let monitored = MonitoredServer::start(&database, &[]).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(monitored.address).await.unwrap();
        stream.write_all(b"GET /met").await.unwrap();
        silent.push(stream);
    }
    assert_alive(monitored.address).await;
    until_readiness(monitored.address, "200 OK", "serving").await;
    assert!(monitored.server.terminate().await.success());
}
