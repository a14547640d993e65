//! Debian's PgBouncer, with its default settings, in front of a test's database.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::{Backend, Database, free_port, with_timeout};

/// A running pooler, stopped on drop.
pub struct PgBouncer {
    /// The database behind it.
    pub database: Database,
    _process: Child,
    _folder: TempDir,
}

impl PgBouncer {
    /// A pooler before this database, with further lines of its settings.
    pub async fn with_settings(behind: &Database, settings: &str) -> Self {
        let (server, name) = behind.url.rsplit_once('/').unwrap();
        let (host, port) = server.rsplit_once('@').unwrap().1.split_once(':').unwrap();
        let folder = TempDir::new().unwrap();
        // Another process may take the port before PgBouncer binds it, so try several.
        for _ in 0..5 {
            let own = free_port();
            let mut process = start(&folder, &(configuration(&folder, host, port, own) + settings));
            if is_listening(&mut process, own).await {
                let url = format!("postgres://postgres@127.0.0.1:{own}/{name}");
                let database = Database::from_url(&url, Backend::Postgres);
                return Self { database, _process: process, _folder: folder };
            }
        }
        panic!("PgBouncer does not start (Debian: apt-get install pgbouncer)");
    }
}

/// Only what it does not start or authenticate without.
fn configuration(folder: &TempDir, host: &str, port: &str, own: u16) -> String {
    let users = folder.path().join("users.txt");
    std::fs::write(&users, "\"postgres\" \"\"\n").unwrap();
    format!(
        "[databases]\n* = host={host} port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {own}\n\
         unix_socket_dir =\nauth_type = trust\nauth_file = {}\n",
        users.display()
    )
}

fn start(folder: &TempDir, configuration: &str) -> Child {
    let file = folder.path().join("pgbouncer.ini");
    std::fs::write(&file, configuration).unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // Debian keeps it off the PATH of others than root.
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("/usr/bin/env");
    command.arg("pgbouncer").env("PATH", path).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    // PgBouncer refuses to run as root.
    if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
        command.args(["-u", "postgres"]);
    }
    command.arg(&file).spawn().unwrap()
}

async fn is_listening(process: &mut Child, port: u16) -> bool {
    with_timeout("PgBouncer to listen", async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if process.try_wait().unwrap().is_some() {
                return false;
            }
            tokio::task::yield_now().await;
        }
        true
    })
    .await
}
