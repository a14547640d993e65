//! Telemetry for operators: log lines, metrics, health, traces and error reports.

mod broken_connections;
mod errors;
mod health;
mod logs;
mod metrics;
mod traces;
mod unusable;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use toggled::api::pb::{GetFeatureFlagRequest, toggle_feature_flag_request};
use toggled::api::pb::{ToggleFeatureFlagRequest, get_feature_flag_request};

use crate::support::Database;
use crate::support::Server;
use crate::support::http::Http;
use crate::support::with_timeout;

/// A server that serves metrics.
pub struct MonitoredServer {
    pub server: Server,
    address: SocketAddr,
}

impl MonitoredServer {
    /// Starts a server and waits until it is ready.
    pub async fn start(database: &Database, settings: &[(&str, &str)]) -> Self {
        let mut monitored = Self::launch(database, settings).await;
        monitored.server.ready().await;
        monitored
    }

    /// Starts a server and waits until it listens.
    async fn launch(database: &Database, settings: &[(&str, &str)]) -> Self {
        let address = free_address();
        let listen = address.to_string();
        let all = [&[("TOGGLED_METRICS_LISTEN", listen.as_str())], settings].concat();
        Self { server: Server::launch(&database.url, &all).await, address }
    }

    async fn metrics(&self) -> String {
        let (status, text) = http_get(self.address, "/metrics").await;
        assert_eq!(status, "200 OK", "{text}");
        text
    }
}

impl MonitoredServer {
    /// Waits until exactly this many changes are queued. The committer has others in hand.
    pub async fn until_queued(&self, changes: u32) {
        metrics::until(self, "toggled_committer_queue_length", f64::from(changes)).await;
    }

    /// Waits until a call was refused for this reason.
    pub async fn until_refused(&self, reason: &str) {
        let refused = format!("reason=\"{reason}\"");
        with_timeout("a refusal", async { while !self.metrics().await.contains(&refused) {} }).await;
    }
}

/// A free address. All other code that needs a free port uses another loopback address.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap()
}

/// The status and the body of the answer to a GET request.
async fn http_get(address: SocketAddr, path: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let answer = Http::connect(address).await.send_raw(request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.lines().next().unwrap().strip_prefix("HTTP/1.1 ").unwrap();
    (status.to_owned(), body.to_owned())
}

/// Asserts that a server stops in time although its collector does not answer.
async fn assert_stops_in_time(server: Server) {
    let began = Instant::now();
    assert!(server.terminate().await.success());
    // Less than the time limit of 10 seconds for a collector.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

/// A request to read a flag.
fn get(key: &str) -> GetFeatureFlagRequest {
    let flag = Some(get_feature_flag_request::Flag::Key(key.into()));
    GetFeatureFlagRequest { flag, ..Default::default() }
}

/// A request to flip a flag with this reason.
fn toggle_because(key: &str, reason: &str) -> ToggleFeatureFlagRequest {
    let flag = Some(toggle_feature_flag_request::Flag::Key(key.into()));
    ToggleFeatureFlagRequest { flag, reason: reason.into(), ..Default::default() }
}
