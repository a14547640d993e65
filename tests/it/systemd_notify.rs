//! Notifications to systemd (`Type=notify`), received on a datagram socket.

use std::io::ErrorKind;

use tempfile::TempDir;
use toggled::api::pb::GetFeatureFlagRequest;
use tokio::net::UnixDatagram;
use tonic::Code;

use crate::support::postgres_proxy::{Link, PostgresProxy};
use crate::support::{Backend, Database, Server, reason_of, with_timeout};

/// The socket on which systemd receives notifications.
struct NotifySocket {
    socket: UnixDatagram,
    path: String,
    _folder: TempDir,
}

impl NotifySocket {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("notify").to_str().unwrap().to_owned();
        Self { socket: UnixDatagram::bind(&path).unwrap(), path, _folder: folder }
    }

    async fn receive(&self) -> String {
        let mut bytes = [0; 256];
        let length = with_timeout("a notification", self.socket.recv(&mut bytes)).await.unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// No notification is waiting.
    fn assert_empty(&self) {
        let received = self.socket.try_recv(&mut [0; 256]).map_err(|error| error.kind());
        assert_eq!(received, Err(ErrorKind::WouldBlock));
    }
}

/// While the database is unavailable, the server answers calls but is not ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_and_stopping_are_notified() {
    let (database, systemd) = (Database::new(Backend::Postgres).await, NotifySocket::new());
    let proxy = PostgresProxy::new(&database).await;
    proxy.set(Link::Closed);
    let settings = [("NOTIFY_SOCKET", systemd.path.as_str())];
    let (mut server, mut log) = Server::launch_with_log(&proxy.database.url, &settings).await;
    log.wait_for_line("waiting for the database").await;
    let mut admin = server.admin().await;
    let early = admin.toggle.get_feature_flag(GetFeatureFlagRequest::default()).await.unwrap_err();
    assert_eq!(early.code(), Code::Unavailable, "{}", reason_of(&early));
    systemd.assert_empty();

    proxy.set(Link::Open);
    assert_eq!(systemd.receive().await, "READY=1\n");
    admin.create("a").await;
    server.ready().await;
    systemd.assert_empty();

    assert!(server.terminate().await.success());
    assert_eq!(systemd.receive().await, "STOPPING=1\n");
    systemd.assert_empty();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_notify_socket_does_not_stop_the_server() {
    let database = Database::new(Backend::Sqlite).await;
    let settings = [("NOTIFY_SOCKET", "/nowhere/at/all")];
    let (mut server, mut log) = Server::launch_with_log(&database.url, &settings).await;
    server.ready().await;
    log.wait_for_line("systemd not notified").await;
    server.admin().await.create("a").await;
    assert!(server.terminate().await.success());
}
