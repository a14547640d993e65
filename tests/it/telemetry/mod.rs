//! What the people who run it are told: log lines, metrics, health, traces and errors.

mod errors;
mod health;
mod logs;
mod metrics;
mod traces;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use toggled::api::pb::{GetFeatureFlagRequest, toggle_feature_flag_request};
use toggled::api::pb::{ToggleFeatureFlagRequest, get_feature_flag_request};

use crate::support::Database;
use crate::support::Server;
use crate::support::http::Http;

/// A server whose metrics are served.
struct Watched {
    server: Server,
    address: SocketAddr,
}

impl Watched {
    /// One that is ready.
    async fn start(database: &Database, settings: &[(&str, &str)]) -> Self {
        let mut watched = Self::launch(database, settings).await;
        watched.server.ready().await;
        watched
    }

    /// One that has begun to listen.
    async fn launch(database: &Database, settings: &[(&str, &str)]) -> Self {
        let address = free();
        let listen = address.to_string();
        let all = [&[("TOGGLED_METRICS_LISTEN", listen.as_str())], settings].concat();
        Self { server: Server::launch(&database.url, &all).await, address }
    }

    async fn metrics(&self) -> String {
        let (status, text) = ask(self.address, "/metrics").await;
        assert_eq!(status, "200 OK", "{text}");
        text
    }
}

/// An address that is free. All else that asks for a free port does so at another loopback address.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap()
}

/// What is answered over HTTP: the status and the body.
async fn ask(address: SocketAddr, path: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let answer = Http::connect(address).await.send_raw(request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.lines().next().unwrap().strip_prefix("HTTP/1.1 ").unwrap();
    (status.to_owned(), body.to_owned())
}

/// Asks a server to stop that tells a collector who says nothing.
async fn ends_soon(server: Server) {
    let began = Instant::now();
    assert!(server.terminate().await.success());
    // Otherwise it would be the 10 s that a collector is given.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

/// To read a flag.
fn get(key: &str) -> GetFeatureFlagRequest {
    let flag = Some(get_feature_flag_request::Flag::Key(key.into()));
    GetFeatureFlagRequest { flag, ..Default::default() }
}

/// To flip a flag for this reason.
fn because(key: &str, reason: &str) -> ToggleFeatureFlagRequest {
    let flag = Some(toggle_feature_flag_request::Flag::Key(key.into()));
    ToggleFeatureFlagRequest { flag, reason: reason.into(), ..Default::default() }
}
