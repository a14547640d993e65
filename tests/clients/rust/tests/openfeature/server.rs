//! A server of the real program that serves everybody its flags, and its administrator.

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
use crate::soon;

const TOKEN: &str = "the-administrator-of-the-tests-says-so";

/// Any port that is free.
pub const ANYWHERE: &str = "127.0.0.1:0";

/// A running server; killed with this value.
pub struct Server {
    pub address: SocketAddr,
    pub admin: Admin,
    process: Child,
    _lines: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// A server on the database in this folder, when it serves.
    pub async fn start(folder: &Path, listen: &str) -> Self {
        // Cargo puts the programs of all packages in one place.
        let mut process = Command::new(Path::new(env!("CARGO_BIN_EXE_read_flag")).with_file_name("toggled"))
            .current_dir(folder)
            .env_clear()
            .env("TOGGLED_ANONYMOUS_FLAGD_READS", "true")
            .env("TOGGLED_BOOTSTRAP_TOKEN", TOKEN)
            .env("TOGGLED_LISTEN", listen)
            .env("TOGGLED_LOG", "warn")
            // How many changes a caller may make is not what is tested here.
            .env("TOGGLED_MAX_CHANGES_PER_SECOND", "1000000")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("toggled has been built");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = said(&mut lines, "toggled listens on ").await.parse().unwrap();
        said(&mut lines, "ready").await;
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let admin = Admin(ToggleServiceClient::with_interceptor(channel, with_token as Interceptor));
        Self { address, admin, process, _lines: lines }
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(mut self) {
        let pid = self.process.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
        soon("the server to stop", self.process.wait()).await.unwrap();
    }
}

/// Who changes flags.
#[derive(Clone)]
pub struct Admin(ToggleServiceClient<InterceptedService<Channel, Interceptor>>);

type Interceptor = fn(Request<()>) -> Result<Request<()>, Status>;

impl Admin {
    /// Creates a flag that is off.
    pub async fn create(&mut self, key: &str) {
        let request = CreateFeatureFlagRequest { key: key.into(), name: key.into(), ..Default::default() };
        self.0.create_feature_flag(request).await.unwrap();
    }

    /// Flips a flag.
    pub async fn flip(&mut self, key: &str) {
        let flag = Some(toggle_feature_flag_request::Flag::Key(key.into()));
        let request = ToggleFeatureFlagRequest { flag, ..Default::default() };
        self.0.toggle_feature_flag(request).await.unwrap();
    }

    /// Archives a flag.
    pub async fn archive(&mut self, key: &str) {
        let flag = Some(archive_feature_flag_request::Flag::Key(key.into()));
        let request = ArchiveFeatureFlagRequest { flag, ..Default::default() };
        self.0.archive_feature_flag(request).await.unwrap();
    }
}

/// What the next line says after these words.
async fn said(lines: &mut Lines<BufReader<ChildStdout>>, words: &str) -> String {
    let line = soon(words, lines.next_line()).await.unwrap().expect("it goes on");
    line.strip_prefix(words).unwrap_or_else(|| panic!("'{words}' is not in {line}")).to_owned()
}

fn with_token(mut request: Request<()>) -> Result<Request<()>, Status> {
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    Ok(request)
}
