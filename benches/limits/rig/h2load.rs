//! Reads, for both sides alike: h2load makes one call, again and again, with a token.

use std::io::Write;
use std::net::SocketAddr;

use prost::Message;
use tempfile::NamedTempFile;
use tokio::process::Command;

use super::process::output;
use super::requests::{GRPC_PREFIX, encode_grpc};
use super::server::TOKEN;
use crate::Result;

/// Connections, and requests under way on each: 64 in flight.
const CONNECTIONS: &str = "4";
const STREAMS: &str = "16";

/// Says what is missing before anything is measured.
pub async fn check() -> Result<()> {
    let mut command = Command::new("h2load");
    command.arg("--version");
    output(command).await.map(drop).map_err(|_| "h2load is missing (Debian: apt-get install nghttp2-client)".into())
}

/// A call, and what its answer must be like.
pub struct Calls {
    path: &'static str,
    body: NamedTempFile,
    answer_bytes: usize,
    /// Of a turn. A number, not a time, since only then the bytes of all answers can be told.
    requests: usize,
}

impl Calls {
    /// Calls of the method at `path` which are answered with that.
    pub fn new(path: &'static str, request: &impl Message, answer: &impl Message, requests: usize) -> Result<Self> {
        let mut body = NamedTempFile::new()?;
        body.write_all(&encode_grpc(request)?)?;
        Ok(Self { path, body, answer_bytes: GRPC_PREFIX + answer.encoded_len(), requests })
    }

    /// One turn; calls a second.
    pub async fn load(&self, address: SocketAddr) -> Result<f64> {
        let mut command = Command::new("h2load");
        command
            .args(["--clients", CONNECTIONS, "--max-concurrent-streams", STREAMS, "--threads", "1"])
            .args(["--requests", &self.requests.to_string()])
            .args(["--header", "content-type: application/grpc", "--header", "te: trailers"])
            .arg("--header")
            .arg(format!("authorization: Bearer {TOKEN}"))
            .arg("--data")
            .arg(self.body.path())
            .arg(format!("http://{address}{}", self.path));
        let said = output(command).await?;
        self.rate(&said).ok_or_else(|| format!("h2load did not get the answer every time: {said}").into())
    }

    /// Calls a second, if every one was answered with 2xx and a message as long as the right one. An error of gRPC is
    /// a 200 without a message.
    fn rate(&self, said: &str) -> Option<f64> {
        let requests = self.requests;
        let all_succeeded = said.contains(&format!(" {requests} succeeded, 0 failed, 0 errored, 0 timeout"))
            && said.contains(&format!("status codes: {requests} 2xx, "))
            && said.contains(&format!("({}) data", requests * self.answer_bytes));
        let rate = said.split_once(" req/s").and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok());
        rate.filter(|_| all_succeeded)
    }
}
