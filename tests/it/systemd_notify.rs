//! What systemd is told (`Type=notify`), by a datagram socket as its own.

use std::io::ErrorKind;

use tempfile::TempDir;
use toggled::api::pb::GetFeatureFlagRequest;
use tokio::net::UnixDatagram;
use tonic::Code;

use crate::support::postgres_proxy::{Link, PostgresProxy};
use crate::support::{Backend, Database, Server, reason_of, with_timeout};

/// Where the server tells how far it is.
struct Manager {
    socket: UnixDatagram,
    path: String,
    _folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("notify").to_str().unwrap().to_owned();
        Self { socket: UnixDatagram::bind(&path).unwrap(), path, _folder: folder }
    }

    async fn told(&self) -> String {
        let mut bytes = [0; 256];
        let length = with_timeout("word from the server", self.socket.recv(&mut bytes)).await.unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// Nothing has been told that was not heard yet.
    fn assert_silent(&self) {
        let heard = self.socket.try_recv(&mut [0; 256]).map_err(|error| error.kind());
        assert_eq!(heard, Err(ErrorKind::WouldBlock));
    }
}

/// While the database is away the server takes calls, but whoever waits for it goes on waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_is_said_when_it_serves_and_stopping_when_it_ends() {
    let (database, manager) = (Database::new(Backend::Postgres).await, Manager::new());
    let proxy = PostgresProxy::new(&database).await;
    proxy.set(Link::Closed);
    let settings = [("NOTIFY_SOCKET", manager.path.as_str())];
    let (mut server, mut log) = Server::launch_with_log(&proxy.database.url, &settings).await;
    log.wait_for_line("waiting for the database").await;
    let mut admin = server.admin().await;
    let early = admin.toggle.get_feature_flag(GetFeatureFlagRequest::default()).await.unwrap_err();
    assert_eq!(early.code(), Code::Unavailable, "{}", reason_of(&early));
    manager.assert_silent();

    proxy.set(Link::Open);
    assert_eq!(manager.told().await, "READY=1\n");
    admin.create("a").await;
    server.ready().await;
    manager.assert_silent();

    assert!(server.terminate().await.success());
    assert_eq!(manager.told().await, "STOPPING=1\n");
    manager.assert_silent();
}

/// A manager that hears nothing keeps nobody from serving.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_is_gone_is_no_reason_to_stop() {
    let database = Database::new(Backend::Sqlite).await;
    let settings = [("NOTIFY_SOCKET", "/nowhere/at/all")];
    let (mut server, mut log) = Server::launch_with_log(&database.url, &settings).await;
    server.ready().await;
    log.wait_for_line("systemd was not told").await;
    server.admin().await.create("a").await;
    assert!(server.terminate().await.success());
}
