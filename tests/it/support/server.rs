//! The real program, run as a child process.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::LazyLock;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Client, Database, methods, with_timeout};

/// The number of entries that a first start writes: for the environment `default`, the administrator, and their token.
pub const BOOTSTRAP_ENTRIES: usize = 3;

/// The administrator's token, unless a test lets the server create one.
pub const TOKEN: &str = "the-administrator-of-the-tests-says-so";

/// The checkpoint key of the tests: the first test vector in RFC 8032.
pub const CHECKPOINT_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
    -----END PRIVATE KEY-----\n";

/// The setting with that key. The file is shared by all tests.
pub fn checkpoint_key() -> (&'static str, &'static str) {
    static FILE: LazyLock<String> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (file, own) = (folder.join("checkpoint.key"), folder.join(format!("checkpoint.{}", std::process::id())));
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&own).unwrap().write_all(CHECKPOINT_KEY.as_bytes()).unwrap();
        // Another test binary may write the same file.
        std::fs::rename(&own, &file).unwrap();
        file.to_str().unwrap().to_owned()
    });
    ("TOGGLED_CHECKPOINT_KEY_FILE", &FILE)
}

/// A running server, killed on drop.
pub struct Server {
    pub address: SocketAddr,
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    _folder: TempDir,
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub async fn start(database: &Database) -> Self {
        Self::start_with(database, &[]).await
    }

    /// Like [`Server::start`], with extra settings.
    pub async fn start_with(database: &Database, settings: &[(&str, &str)]) -> Self {
        let mut server = Self::launch(&database.url, settings).await;
        server.ready().await;
        server
    }

    /// Starts a server and waits until it listens. It may not be ready yet.
    pub async fn launch(url: &str, settings: &[(&str, &str)]) -> Self {
        let mut all = vec![("TOGGLED_BOOTSTRAP_TOKEN", TOKEN)];
        all.extend(settings);
        Self::spawn(url, &all, Stdio::inherit()).await
    }

    /// Like [`Server::launch`], and returns the server's log.
    pub async fn launch_with_log(url: &str, settings: &[(&str, &str)]) -> (Self, Log) {
        let mut all = vec![("TOGGLED_BOOTSTRAP_TOKEN", TOKEN), ("TOGGLED_LOG", "info")];
        all.extend(settings);
        let mut server = Self::spawn(url, &all, Stdio::piped()).await;
        let log = Log(BufReader::new(server.process.stderr.take().unwrap()).lines());
        (server, log)
    }

    /// Like [`Server::launch`], but the server creates the administrator's token itself.
    pub async fn launch_without_token(url: &str) -> Self {
        Self::spawn(url, &[], Stdio::inherit()).await
    }

    async fn spawn(url: &str, settings: &[(&str, &str)], log: Stdio) -> Self {
        let folder = TempDir::new().unwrap();
        let mut process = program(folder.path())
            .env("TOGGLED_DATABASE_URL", url)
            .env("TOGGLED_LISTEN", "127.0.0.1:0")
            .env("TOGGLED_LOG", "warn")
            // Tests may change flags as fast as they can.
            .env("TOGGLED_MAX_CHANGES_PER_SECOND", "1000000")
            .env("TOGGLED_LOG_FORMAT", "human")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = with_timeout("the listen address", lines.next_line()).await.unwrap().unwrap();
        let address = line.strip_prefix("toggled listens on ").unwrap().parse().unwrap();
        Self { address, process, lines, _folder: folder }
    }

    /// Waits until the server prints that it is ready.
    pub async fn ready(&mut self) {
        let line = with_timeout("the ready line", self.lines.next_line()).await.unwrap().unwrap();
        assert!(line.starts_with("ready"), "{line}");
    }

    /// A client with the administrator's token.
    pub async fn admin(&self) -> Client {
        self.client(Some(TOKEN)).await
    }

    /// A client with this token, or without one.
    pub async fn client(&self, token: Option<&str>) -> Client {
        Client::connect(self.address, token).await
    }

    /// The status reported by the health service.
    pub async fn health(&self) -> ServingStatus {
        let mut health = HealthClient::new(methods::channel(self).await);
        with_timeout("the health status", health.check(HealthCheckRequest::default()))
            .await
            .unwrap()
            .into_inner()
            .status()
    }

    /// Sends SIGTERM and returns all output since the server was ready.
    pub async fn terminate_with_output(mut self) -> String {
        self.request_stop().await;
        let mut output = String::new();
        while let Some(line) = with_timeout("the end of the output", self.lines.next_line()).await.unwrap() {
            output.push_str(&line);
            output.push('\n');
        }
        output
    }

    /// Sends SIGTERM and waits for the exit status.
    pub async fn terminate(mut self) -> ExitStatus {
        self.request_stop().await;
        self.wait_for_exit().await
    }

    pub async fn wait_for_exit(&mut self) -> ExitStatus {
        with_timeout("the server to stop", self.process.wait()).await.unwrap()
    }

    /// Resident memory, in MiB.
    pub fn resident_mib(&self) -> u64 {
        self.memory_mib("VmRSS:")
    }

    /// The most resident memory so far, in MiB.
    pub fn peak_mib(&self) -> u64 {
        self.memory_mib("VmHWM:")
    }

    /// The memory that is allocated for data, whether it is resident or not, in MiB.
    pub fn data_mib(&self) -> u64 {
        self.memory_mib("VmData:")
    }

    fn memory_mib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id().unwrap()
    }

    /// Sends SIGTERM and returns at once.
    pub async fn request_stop(&self) {
        self.send_signal("TERM").await;
    }

    /// Sends a signal by its name, such as `STOP`.
    pub async fn send_signal(&self, signal: &str) {
        let pid = self.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().await.unwrap().success());
    }

    /// Sends a signal to a server that may have ended.
    pub async fn try_signal(&self, signal: &str) {
        if let Some(pid) = self.process.id() {
            let _ = Command::new("kill").args(["-s", signal, &pid.to_string()]).stderr(Stdio::null()).status().await;
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Sends SIGKILL and waits for the exit.
    pub async fn kill(mut self) {
        self.process.start_kill().unwrap();
        self.wait_for_exit().await;
    }
}

/// The log that a server writes to standard error.
pub struct Log(Lines<BufReader<ChildStderr>>);

impl Log {
    /// Waits for a line that contains `text`, and consumes all lines up to it.
    pub async fn wait_for_line(&mut self, text: &str) {
        let found = async { while !self.0.next_line().await.unwrap().unwrap().contains(text) {} };
        with_timeout(text, found).await;
    }

    /// The remaining lines, up to the end of the process.
    pub async fn rest(mut self) -> String {
        let mut text = String::new();
        while let Some(line) = with_timeout("the end of the log", self.0.next_line()).await.unwrap() {
            text += &format!("{line}\n");
        }
        text
    }
}

/// Runs the program and waits until it exits.
pub async fn invoke(arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let folder = TempDir::new().unwrap();
    let mut command = program(folder.path());
    with_timeout("the program to end", command.args(arguments).envs(settings.iter().copied()).output()).await.unwrap()
}

/// The variable that says where an instrumented program writes its coverage data (`make coverage`).
const COVERAGE_FILE: &str = "LLVM_PROFILE_FILE";

/// A command for the program, in `folder` and with an empty environment.
pub fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_toggled"));
    command.current_dir(folder).env_clear().kill_on_drop(true);
    command.envs(std::env::var_os(COVERAGE_FILE).map(|path| (COVERAGE_FILE, path)));
    command
}
