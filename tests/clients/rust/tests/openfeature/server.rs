//! Runs the real server with anonymous flagd reads, with a client for its administrator.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::pb::toggle_service_client::ToggleServiceClient;
use crate::pb::*;
use crate::with_timeout;

const TOKEN: &str = "the-administrator-of-the-tests-says-so";

/// Any free port.
pub const ANY_PORT: &str = "127.0.0.1:0";

/// A running server, killed on drop.
pub struct Server {
    pub address: SocketAddr,
    pub admin: Admin,
    process: Child,
    _lines: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// Starts a server on the database in this folder, and waits until it is ready.
    pub async fn start(folder: &Path, listen: &str) -> Self {
        // Cargo puts the programs of all packages into the same folder.
        let mut process = Command::new(Path::new(env!("CARGO_BIN_EXE_read_flag")).with_file_name("toggled"))
            .current_dir(folder)
            .env_clear()
            .env("TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS", "default")
            .env("TOGGLED_BOOTSTRAP_TOKEN", TOKEN)
            .env("TOGGLED_LISTEN", listen)
            .env("TOGGLED_LOG", "warn")
            // These tests do not test the rate limit of changes.
            .env("TOGGLED_MAX_CHANGES_PER_SECOND", "1000000")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("toggled has been built");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = read_line(&mut lines, "toggled listens on ").await.parse().unwrap();
        read_line(&mut lines, "ready").await;
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let admin = Admin(ToggleServiceClient::with_interceptor(channel, with_token as Interceptor));
        Self { address, admin, process, _lines: lines }
    }

    /// Sends SIGTERM and waits for the exit.
    pub async fn stop(mut self) {
        let pid = self.process.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
        with_timeout("the server to stop", self.process.wait()).await.unwrap();
    }
}

/// A client that changes flags.
#[derive(Clone)]
pub struct Admin(ToggleServiceClient<InterceptedService<Channel, Interceptor>>);

type Interceptor = fn(Request<()>) -> Result<Request<()>, Status>;

impl Admin {
    /// Creates a disabled flag.
    pub async fn create(&mut self, key: &str) {
        let request = CreateFeatureFlagRequest { key: key.into(), name: key.into(), ..Default::default() };
        self.0.create_feature_flag(request).await.unwrap();
    }

    pub async fn flip(&mut self, key: &str) {
        let flag = Some(toggle_feature_flag_request::Flag::Key(key.into()));
        let request = ToggleFeatureFlagRequest { flag, ..Default::default() };
        self.0.toggle_feature_flag(request).await.unwrap();
    }

    pub async fn archive(&mut self, key: &str) {
        let flag = Some(archive_feature_flag_request::Flag::Key(key.into()));
        let request = ArchiveFeatureFlagRequest { flag, ..Default::default() };
        self.0.archive_feature_flag(request).await.unwrap();
    }
}

/// Reads the next line, which must have this prefix, and returns the rest of it.
async fn read_line(lines: &mut Lines<BufReader<ChildStdout>>, prefix: &str) -> String {
    let line = with_timeout(prefix, lines.next_line()).await.unwrap().expect("the server is running");
    line.strip_prefix(prefix).unwrap_or_else(|| panic!("expected '{prefix}', got {line}")).to_owned()
}

fn with_token(mut request: Request<()>) -> Result<Request<()>, Status> {
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    Ok(request)
}
