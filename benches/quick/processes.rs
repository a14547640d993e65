//! The servers under load, as processes of their own, so that what they cost is not mixed with what asking costs.

use std::net::SocketAddr;
use std::process::Stdio;

use prost::Message;
use tempfile::TempDir;
use toggled::grpc::pb::GetFeatureFlagResponse;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::{Result, bare};

/// The administrator's token.
pub const TOKEN: &str = "the-administrator-of-the-benchmark-says-so";

/// A server that serves; killed with this value.
pub struct Server {
    pub address: SocketAddr,
    process: Child,
    _output: Lines<BufReader<ChildStdout>>,
    _folder: TempDir,
}

impl Server {
    /// `toggled` on this database.
    pub async fn toggled(url: &str) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toggled"));
        command
            .env("TOGGLED_DATABASE_URL", url)
            .env("TOGGLED_LISTEN", "127.0.0.1:0")
            .env("TOGGLED_BOOTSTRAP_TOKEN", TOKEN)
            .env("TOGGLED_LOG", "warn")
            // One caller stands for many.
            .env("TOGGLED_MAX_CHANGES_PER_SECOND", "1000000");
        Self::start(command, &[]).await
    }

    /// The least that a server on tonic can do: give this answer to everyone.
    pub async fn bare(answer: &GetFeatureFlagResponse) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(bare::COMMAND);
        Self::start(command, &answer.encode_to_vec()).await
    }

    /// Both say where they listen in their first line and that they are ready in the second, and both have a worker
    /// thread a core.
    async fn start(mut command: Command, input: &[u8]) -> Result<Self> {
        let folder = TempDir::new()?;
        let mut process = command
            .current_dir(folder.path())
            .env("TOKIO_WORKER_THREADS", std::thread::available_parallelism()?.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        process.stdin.take().ok_or("a server has no input")?.write_all(input).await?;
        let mut output = BufReader::new(process.stdout.take().ok_or("a server has no output")?).lines();
        let line = output.next_line().await?.ok_or("a server does not start; what it says is above")?;
        let address = line.rsplit(' ').next().unwrap_or_default().parse()?;
        let line = output.next_line().await?.ok_or("a server is never ready; what it says is above")?;
        if !line.starts_with("ready") {
            return Err(format!("a server says: {line}").into());
        }
        Ok(Self { address, process, _output: output, _folder: folder })
    }

    /// The memory that it takes now, in MiB, as the kernel counts it.
    pub fn resident_mib(&self) -> Result<f64> {
        let id = self.process.id().ok_or("the server is gone")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1_024.0)
    }

    /// Stops it, and waits until it is gone.
    pub async fn stop(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }
}
