//! What probes ask over HTTP.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::metrics::value;
use super::{Watched, ask};
use crate::support::postgres_proxy::{Link, PostgresProxy};
use crate::support::{Backend, Database, TOKEN, with_timeout};

/// A server that soon knows that its database is gone, and does not believe it because the machine is busy.
const IMPATIENT: [(&str, &str); 2] = [("TOGGLED_POLL_INTERVAL", "50ms"), ("TOGGLED_MAX_STALENESS", "5s")];

async fn until_ready(address: SocketAddr, status: &str, word: &str) {
    let told = async {
        let expected = (status.to_owned(), format!("{word}\n"));
        while ask(address, "/readyz").await != expected {}
    };
    with_timeout(word, told).await;
}

async fn lives(address: SocketAddr) {
    assert_eq!(ask(address, "/livez").await.0, "200 OK");
}

const UNAVAILABLE: &str = "503 Service Unavailable";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_ready_while_its_database_answers_and_lives_all_the_time() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    proxy.set(Link::Closed);
    let mut watched = Watched::launch(&proxy.database, &IMPATIENT).await;
    until_ready(watched.address, UNAVAILABLE, "starting").await;
    lives(watched.address).await;
    let age = || async { value(&watched.metrics().await, "toggled_mirror_age_seconds").unwrap() };
    with_timeout("its age to be that of a server that waits", async { while age().await < 1.0 {} }).await;
    proxy.set(Link::Open);
    watched.server.ready().await;
    until_ready(watched.address, "200 OK", "serving").await;
    proxy.set(Link::Closed);
    until_ready(watched.address, UNAVAILABLE, "stale").await;
    lives(watched.address).await;
    assert!(!watched.metrics().await.is_empty());
    proxy.set(Link::Open);
    until_ready(watched.address, "200 OK", "serving").await;
    assert_eq!(ask(watched.address, "/elsewhere").await.0, "404 Not Found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_says_so_until_its_last_call_has_ended() {
    let database = Database::new(Backend::Sqlite).await;
    let watched = Watched::start(&database, &[]).await;
    let address = watched.address;
    // A call whose body does not come to its end yet.
    let mut call = TcpStream::connect(watched.server.address).await.unwrap();
    let head = format!(
        "POST /ofrep/v1/evaluate/flags HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 2\r\n\r\n{{"
    );
    call.write_all(head.as_bytes()).await.unwrap();
    until_taken(&watched).await;
    let stopping = tokio::spawn(watched.server.terminate());
    until_ready(address, UNAVAILABLE, "draining").await;
    lives(address).await;
    call.write_all(b"}").await.unwrap();
    assert!(with_timeout("the server to stop", stopping).await.unwrap().success());
}

/// Waits until the server has taken the one connection.
async fn until_taken(watched: &Watched) {
    with_timeout("the connection", async {
        while !watched.metrics().await.contains("toggled_connections_open 1\n") {}
    })
    .await;
}

/// Who connects and says nothing, or stops in the middle of a word, keeps nobody out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_clients_keep_no_probe_out() {
    let database = Database::new(Backend::Sqlite).await;
    let watched = Watched::start(&database, &[]).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(watched.address).await.unwrap();
        stream.write_all(b"GET /met").await.unwrap();
        silent.push(stream);
    }
    lives(watched.address).await;
    until_ready(watched.address, "200 OK", "serving").await;
    assert!(watched.server.terminate().await.success());
}
