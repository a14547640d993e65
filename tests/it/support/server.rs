//! The real program, as a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Client, Database, methods, soon};

/// The administrator's token wherever a test does not want a fresh one.
pub const TOKEN: &str = "the-administrator-of-the-tests-says-so";

/// A key to sign checkpoints with, that of the first test of RFC 8032, wherever a test does not want one of its own.
pub const CHECKPOINT_KEY: (&str, &str) = (
    "TOGGLED_CHECKPOINT_KEY",
    "-----BEGIN PRIVATE KEY-----\n\
     MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
     -----END PRIVATE KEY-----\n",
);

/// A running server; killed with this value.
pub struct Server {
    pub address: SocketAddr,
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    _folder: TempDir,
}

impl Server {
    /// A server on this database that is ready to serve.
    pub async fn start(database: &Database) -> Self {
        Self::start_with(database, &[]).await
    }

    /// The same, with settings of its own.
    pub async fn start_with(database: &Database, settings: &[(&str, &str)]) -> Self {
        let mut server = Self::launch(&database.url, settings).await;
        server.ready().await;
        server
    }

    /// A server that has begun to listen, with settings of its own.
    pub async fn launch(url: &str, settings: &[(&str, &str)]) -> Self {
        let mut all = vec![("TOGGLED_BOOTSTRAP_TOKEN", TOKEN)];
        all.extend(settings);
        Self::spawn(url, &all, Stdio::inherit()).await
    }

    /// The same, and what it logs.
    pub async fn launch_logged(url: &str, settings: &[(&str, &str)]) -> (Self, Log) {
        let mut all = vec![("TOGGLED_BOOTSTRAP_TOKEN", TOKEN), ("TOGGLED_LOG", "info")];
        all.extend(settings);
        let mut server = Self::spawn(url, &all, Stdio::piped()).await;
        let log = Log(BufReader::new(server.process.stderr.take().unwrap()).lines());
        (server, log)
    }

    /// A server that has begun to listen, and makes the administrator's token itself.
    pub async fn launch_fresh(url: &str) -> Self {
        Self::spawn(url, &[], Stdio::inherit()).await
    }

    async fn spawn(url: &str, settings: &[(&str, &str)], log: Stdio) -> Self {
        let folder = TempDir::new().unwrap();
        let mut process = program(folder.path())
            .env("TOGGLED_DATABASE_URL", url)
            .env("TOGGLED_LISTEN", "127.0.0.1:0")
            .env("TOGGLED_LOG", "warn")
            // Tests are in a hurry.
            .env("TOGGLED_MAX_CHANGES_PER_SECOND", "1000000")
            .env("TOGGLED_LOG_FORMAT", "human")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = soon("a line that says where it listens", lines.next_line()).await.unwrap().unwrap();
        let address = line.strip_prefix("toggled listens on ").unwrap().parse().unwrap();
        Self { address, process, lines, _folder: folder }
    }

    /// Waits until it serves.
    pub async fn ready(&mut self) {
        let line = soon("a line that says that it is ready", self.lines.next_line()).await.unwrap().unwrap();
        assert!(line.starts_with("ready"), "{line}");
    }

    /// A client with the administrator's token.
    pub async fn admin(&self) -> Client {
        self.client(Some(TOKEN)).await
    }

    /// A client with this token, or none.
    pub async fn client(&self, token: Option<&str>) -> Client {
        Client::connect(self.address, token).await
    }

    /// What it says of its health.
    pub async fn health(&self) -> ServingStatus {
        let mut health = HealthClient::new(methods::channel(self).await);
        soon("its health", health.check(HealthCheckRequest::default())).await.unwrap().into_inner().status()
    }

    /// Asks it to stop; everything that it has said since it was ready.
    pub async fn terminate_with_words(mut self) -> String {
        self.signal().await;
        let mut words = String::new();
        while let Some(line) = soon("the last of its words", self.lines.next_line()).await.unwrap() {
            words.push_str(&line);
            words.push('\n');
        }
        words
    }

    /// Asks it to stop, and waits for the exit status.
    pub async fn terminate(mut self) -> ExitStatus {
        self.signal().await;
        self.ended().await
    }

    /// Waits for the exit status.
    pub async fn ended(&mut self) -> ExitStatus {
        soon("the server to stop", self.process.wait()).await.unwrap()
    }

    /// How much memory it takes, in MiB.
    pub fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id().unwrap()
    }

    /// Asks it to stop, and does not wait.
    pub async fn signal(&self) {
        self.send("TERM").await;
    }

    /// Sends it a signal, by its name.
    pub async fn send(&self, signal: &str) {
        let pid = self.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().await.unwrap().success());
    }

    /// Kills it, and waits until it is gone.
    pub async fn kill(mut self) {
        self.process.start_kill().unwrap();
        self.ended().await;
    }
}

/// What a server logs.
pub struct Log(Lines<BufReader<ChildStderr>>);

impl Log {
    /// Waits for a line with these words in it, and takes it and all before it.
    pub async fn says(&mut self, words: &str) {
        let heard = async { while !self.0.next_line().await.unwrap().unwrap().contains(words) {} };
        soon(words, heard).await;
    }

    /// All that is left, once the server has stopped.
    pub async fn rest(mut self) -> String {
        let mut words = String::new();
        while let Some(line) = soon("the last of the log", self.0.next_line()).await.unwrap() {
            words += &format!("{line}\n");
        }
        words
    }
}

/// Runs the program to its end.
pub async fn invoke(arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let folder = TempDir::new().unwrap();
    let mut command = program(folder.path());
    soon("the program to end", command.args(arguments).envs(settings.iter().copied()).output()).await.unwrap()
}

/// Where a program that is built for `make coverage` writes what it went through.
const PROFILE: &str = "LLVM_PROFILE_FILE";

/// The program in a folder of its own, with nothing set.
pub fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_toggled"));
    command.current_dir(folder).env_clear().kill_on_drop(true);
    command.envs(std::env::var_os(PROFILE).map(|path| (PROFILE, path)));
    command
}
