//! The servers under load. Each is a process of its own, separate from the clients.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};

use super::bare::{self, Answers};
use super::process::resident_mib;
use super::program::Program;
use crate::Result;

/// The administrator's token.
pub const TOKEN: &str = "bootstrap-token-of-the-benchmark-server";

/// A running server. Dropping it kills the process.
pub struct Server {
    pub address: SocketAddr,
    /// Time from the start of the process until it printed that it is ready.
    pub started_in: Duration,
    /// Address of its metrics, if it exposes them.
    metrics: Option<SocketAddr>,
    process: Child,
    _output: Lines<BufReader<ChildStdout>>,
    _folder: TempDir,
}

impl Server {
    /// A server on this database.
    pub async fn start(program: &Program, url: &str) -> Result<Self> {
        Self::start_with(program, url, &[]).await
    }

    /// A server on this database that exposes its metrics.
    pub async fn start_with_metrics(program: &Program, url: &str) -> Result<Self> {
        let metrics = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let server = Self::start_with(program, url, &[("TOGGLED_METRICS_LISTEN", &metrics.to_string())]).await?;
        Ok(Self { metrics: Some(metrics), ..server })
    }

    /// A server on this database whose committer queues at most `max_queue` changes.
    pub async fn start_with_max_queue(program: &Program, url: &str, max_queue: usize) -> Result<Self> {
        Self::start_with(program, url, &[("TOGGLED_MAX_QUEUE", &max_queue.to_string())]).await
    }

    async fn start_with(program: &Program, url: &str, more: &[(&str, &str)]) -> Result<Self> {
        let settings = [
            ("TOGGLED_DATABASE_URL", url),
            ("TOGGLED_LISTEN", "127.0.0.1:0"),
            ("TOGGLED_BOOTSTRAP_TOKEN", TOKEN),
            // Hides the warning that the server has no checkpoint key.
            ("TOGGLED_LOG", "warn,toggled::server::checkpoints=error"),
            // One user stands for many.
            ("TOGGLED_MAX_CHANGES_PER_SECOND", "1000000"),
            ("TOGGLED_MAX_STREAMS", "20000"),
            ("TOGGLED_MAX_STREAMS_PER_CALLER", "20000"),
        ];
        Self::spawn(program.serve(&[&settings, more].concat()), &[]).await
    }

    /// The bare tonic server, with these answers.
    pub async fn bare(answers: &Answers) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(bare::COMMAND);
        Self::spawn(command, &answers.encode()).await
    }

    /// Waits for the address in the first line of output and `ready` in the second. Both kinds of servers use one worker
    /// thread per core.
    async fn spawn(mut command: Command, input: &[u8]) -> Result<Self> {
        let folder = TempDir::new()?;
        let began = Instant::now();
        let mut process = command
            .current_dir(folder.path())
            .env("TOKIO_WORKER_THREADS", std::thread::available_parallelism()?.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        process.stdin.take().ok_or("a server's standard input is not available")?.write_all(input).await?;
        let mut output =
            BufReader::new(process.stdout.take().ok_or("a server's standard output is not available")?).lines();
        let line = output.next_line().await?.ok_or("a server does not start; its errors are above")?;
        let address = line.rsplit(' ').next().unwrap_or_default().parse()?;
        let line = output.next_line().await?.ok_or("a server does not become ready; its errors are above")?;
        if !line.starts_with("ready") {
            return Err(format!("a server printed {line:?} instead of ready").into());
        }
        Ok(Self { address, started_in: began.elapsed(), metrics: None, process, _output: output, _folder: folder })
    }

    /// Resident memory in MiB.
    pub fn resident_mib(&self) -> Result<f64> {
        self.memory("VmRSS:")
    }

    /// The most resident memory so far, in MiB.
    pub fn peak_mib(&self) -> Result<f64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> Result<f64> {
        resident_mib(self.process.id().ok_or("the server has stopped")?, field)
    }

    /// Value of a metric, whose name includes its labels. A counter that does not exist yet is 0.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let address = self.metrics.ok_or("this server exposes no metrics")?;
        let mut connection = TcpStream::connect(address).await?;
        connection.write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").await?;
        let mut page = String::new();
        connection.read_to_string(&mut page).await?;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.map_or(Ok(0.0), |value| value.trim().parse())?)
    }

    /// Kills the process and waits for its end.
    pub async fn stop(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }
}
