//! The load of reads: h2load repeats one call with a token, on both sides alike.

use std::io::Write;
use std::net::SocketAddr;

use prost::Message;
use tempfile::NamedTempFile;
use tokio::process::Command;

use super::process::output;
use super::requests::{GRPC_PREFIX, encode_grpc};
use super::server::TOKEN;
use crate::Result;

/// Connections, and calls in flight on each of them: 64 calls in all.
const CONNECTIONS: &str = "4";
const STREAMS: &str = "16";

/// Fails if h2load is not installed.
pub async fn check() -> Result<()> {
    let mut command = Command::new("h2load");
    command.arg("--version");
    output(command).await.map(drop).map_err(|_| "h2load is missing (Debian: apt-get install nghttp2-client)".into())
}

/// A call to repeat, and the length of its answer.
pub struct Calls {
    path: &'static str,
    content_type: &'static str,
    body: NamedTempFile,
    answer_bytes: usize,
    /// Calls of one turn. A count rather than a time, so that the total length of the answers is known in advance.
    requests: usize,
}

impl Calls {
    /// Calls the method at `path` and expects answers of the same length as `answer`.
    pub fn new(path: &'static str, request: &impl Message, answer: &impl Message, requests: usize) -> Result<Self> {
        let answer_bytes = GRPC_PREFIX + answer.encoded_len();
        Self::of(path, "application/grpc", &encode_grpc(request)?, answer_bytes, requests)
    }

    /// The same by Connect, in JSON. The answer has this length.
    pub fn json(path: &'static str, request: &str, answer_bytes: usize, requests: usize) -> Result<Self> {
        Self::of(path, "application/json", request.as_bytes(), answer_bytes, requests)
    }

    fn of(
        path: &'static str,
        content_type: &'static str,
        request: &[u8],
        answer_bytes: usize,
        requests: usize,
    ) -> Result<Self> {
        let mut body = NamedTempFile::new()?;
        body.write_all(request)?;
        Ok(Self { path, content_type, body, answer_bytes, requests })
    }

    /// Runs one turn. Returns calls per second.
    pub async fn load(&self, address: SocketAddr) -> Result<f64> {
        let mut command = Command::new("h2load");
        command
            .args(["--clients", CONNECTIONS, "--max-concurrent-streams", STREAMS, "--threads", "1"])
            .args(["--requests", &self.requests.to_string()])
            .args(["--header", "te: trailers", "--header"])
            .arg(format!("content-type: {}", self.content_type))
            .arg("--header")
            .arg(format!("authorization: Bearer {TOKEN}"))
            .arg("--data")
            .arg(self.body.path())
            .arg(format!("http://{address}{}", self.path));
        let printed = output(command).await?;
        self.rate(&printed)
            .ok_or_else(|| format!("h2load did not get the expected answer to every call: {printed}").into())
    }

    /// Calls per second, or `None` unless every answer has a 2xx status and a message of the expected length. gRPC errors
    /// have status 200 but no message.
    fn rate(&self, printed: &str) -> Option<f64> {
        let requests = self.requests;
        let all_succeeded = printed.contains(&format!(" {requests} succeeded, 0 failed, 0 errored, 0 timeout"))
            && printed.contains(&format!("status codes: {requests} 2xx, "))
            && printed.contains(&format!("({}) data", requests * self.answer_bytes));
        let rate = printed.split_once(" req/s").and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok());
        rate.filter(|_| all_succeeded)
    }
}
