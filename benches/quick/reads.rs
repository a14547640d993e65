//! Reads, for both sides alike: h2load asks for one flag, again and again, with a token.

use std::io::Write;
use std::net::SocketAddr;

use prost::Message;
use tempfile::NamedTempFile;
use toggled::grpc::pb::GetFeatureFlagResponse;
use tokio::process::Command;

use crate::processes::TOKEN;
use crate::{Result, flips, output};

/// Connections, and requests under way on each: 64 in flight, as with flips.
const CONNECTIONS: &str = "4";
const STREAMS: &str = "16";

/// Requests of a round: a few seconds' worth. A number, not a time, since only then the bytes of all answers can be told.
const REQUESTS: usize = 100_000;

/// Bytes that gRPC puts before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Says what is missing before anything is measured.
pub async fn check_h2load() -> Result<()> {
    let mut command = Command::new("h2load");
    command.arg("--version");
    output(command).await.map(drop).map_err(|_| "h2load is missing (Debian: apt-get install nghttp2-client)".into())
}

/// The request, and what its answer must be like.
pub struct Reads {
    body: NamedTempFile,
    answer_bytes: usize,
}

impl Reads {
    /// Reads that this is the answer to.
    pub fn of(answer: &GetFeatureFlagResponse) -> Result<Self> {
        let request = flips::read_request().encode_to_vec();
        let mut body = NamedTempFile::new()?;
        body.write_all(&[0])?;
        body.write_all(&u32::try_from(request.len())?.to_be_bytes())?;
        body.write_all(&request)?;
        Ok(Self { body, answer_bytes: PREFIX + answer.encoded_len() })
    }

    /// One round; reads a second.
    pub async fn load(&self, address: SocketAddr) -> Result<f64> {
        let mut command = Command::new("h2load");
        command
            .args(["--clients", CONNECTIONS, "--max-concurrent-streams", STREAMS, "--threads", "1"])
            .args(["--requests", &REQUESTS.to_string()])
            .args(["--header", "content-type: application/grpc", "--header", "te: trailers"])
            .arg("--header")
            .arg(format!("authorization: Bearer {TOKEN}"))
            .arg("--data")
            .arg(self.body.path())
            .arg(format!("http://{address}/toggled.v1.ToggleService/GetFeatureFlag"));
        let said = output(command).await?;
        self.rate(&said).ok_or_else(|| format!("h2load did not get the answer every time: {said}").into())
    }

    /// Reads a second, if every request was answered with 2xx and a message as long as the right one. An error of gRPC is
    /// a 200 without a message.
    fn rate(&self, said: &str) -> Option<f64> {
        let all_succeeded = said.contains(&format!(" {REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout"))
            && said.contains(&format!("status codes: {REQUESTS} 2xx, "))
            && said.contains(&format!("({}) data", REQUESTS * self.answer_bytes));
        let rate = said.split_once(" req/s").and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok());
        rate.filter(|_| all_succeeded)
    }
}
