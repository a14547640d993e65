//! Shutdown: no acknowledged change is lost, no call hangs, and no client delays it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::join_all;
use toggled::api::pb::*;
use toggled::config::{FixedLimits, Limits, ShutdownOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::support::methods::{call_unfinished, channel, channel_to};
use crate::support::{
    Backend, Client, Database, EmbeddedServer, Server, TOKEN, defaults, on_both_databases, read_until_error, reason_of,
    toggle, with_timeout,
};

/// Flips until the server is gone. Returns the acknowledged revisions and the error of the last flip.
async fn flip_until_shutdown(mut client: Client, key: String) -> (Vec<i64>, Status) {
    let mut answered = Vec::new();
    loop {
        match with_timeout("an answer", client.toggle.toggle_feature_flag(toggle(&key))).await {
            Ok(answer) => answered.push(answer.into_inner().revision),
            Err(status) => return (answered, status),
        }
    }
}

on_both_databases! {
    async fn acknowledged_changes_survive_shutdown(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let mut callers = Vec::new();
        for number in 0..32 {
            let key = format!("flag-{number}");
            admin.create(&key).await;
            callers.push(tokio::spawn(flip_until_shutdown(server.admin().await, key)));
        }
        // Stop the server while flips are being made.
        let mut revisions = admin.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await.unwrap().into_inner();
        with_timeout("some flips", async { while revisions.message().await.unwrap().unwrap().revision < 500 {} }).await;

        assert_eq!(server.terminate().await.code(), Some(0));

        let ended: Vec<_> = join_all(callers).await.into_iter().map(Result::unwrap).collect();
        for (_, status) in &ended {
            // Otherwise it is the client's own error for a call that it had not sent, or that the server did not accept.
            let is_client_error = std::error::Error::source(status).is_some_and(|source| source.is::<tonic::transport::Error>());
            assert!(status.code() == Code::Unavailable || is_client_error, "{status:?}");
        }
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let log = admin.log().await;
        let revisions: Vec<_> = log.iter().map(|entry| entry.revision).collect();
        assert_eq!(revisions, (1..=log.len() as i64).collect::<Vec<_>>(), "the log has a gap");
        let flips = log.iter().filter(|entry| entry.action_type.starts_with("toggle_"));
        let flips: HashSet<_> = flips.map(|entry| entry.revision).collect();
        let answered: HashSet<_> = ended.iter().flat_map(|(revisions, _)| revisions.iter().copied()).collect();
        assert!(answered.len() > 300, "{} flips were answered", answered.len());
        assert_eq!(flips, answered, "logged flips differ from acknowledged flips");
        for number in 0..32 {
            let (key, status) = (format!("flag-{number}"), |on| if on { "enabled" } else { "disabled" });
            let last = log.iter().rfind(|entry| entry.entity_key == key && entry.action_type.starts_with("toggle_"));
            let on = admin.get(&key).await.status() == FeatureFlagStatus::Enabled;
            assert_eq!(status(on), last.map_or("disabled", |entry| entry.new_value()));
        }
    }

    async fn shutdown_ends_streams_and_exits_with_0(backend: Backend) {
        let database = Database::new(backend).await;
        let mut server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let follow = StreamAuditLogsRequest { follow: true, ..Default::default() };
        let mut stream = admin.audit.stream_audit_logs(follow).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        // The signal that Ctrl-C sends.
        server.send_signal("INT").await;
        assert!(server.wait_for_exit().await.success());
        let error = with_timeout("the stream to end", stream.message()).await.unwrap_err();
        assert_eq!((error.code(), reason_of(&error).as_str()), (Code::Unavailable, "DRAINING"));
    }
}

/// A copy of the file then has everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_server_leaves_sqlite_database_in_one_file() {
    for attempt in 0..10 {
        let database = Database::new(Backend::Sqlite).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let follow = StreamAuditLogsRequest { follow: true, ..Default::default() };
        let _stream = admin.audit.stream_audit_logs(follow).await.unwrap();
        let reads = (0..4).map(|_| {
            let mut client = admin.clone();
            async move { client.log().await }
        });
        join_all(reads).await;
        assert!(server.terminate().await.success());
        let file = PathBuf::from(database.url.strip_prefix("sqlite://").unwrap());
        for ending in ["-wal", "-shm"] {
            let companion = PathBuf::from(format!("{}{ending}", file.display()));
            assert!(!companion.exists(), "attempt {attempt}: {}", companion.display());
        }
    }
}

/// The server does not wait for them, even with long timeouts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_idle_connections_do_not_delay_shutdown() {
    let database = Database::new(Backend::Sqlite).await;
    let hour = Duration::from_secs(3_600);
    let limits = Limits { fixed: FixedLimits { handshake_timeout: hour, ..Default::default() }, ..defaults() };
    let shutdown_settings = ShutdownOptions { shutdown_timeout: hour, ..defaults() };
    let server = EmbeddedServer::start_with(&database, limits, shutdown_settings, None).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut cut_preface = TcpStream::connect(server.address).await.unwrap();
    cut_preface.write_all(b"PRI * HTTP").await.unwrap();
    // One connection sends only the HTTP/2 preface, one an incomplete header, and one never reads its stream.
    let mut preface_only = TcpStream::connect(server.address).await.unwrap();
    preface_only.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut cut_header = TcpStream::connect(server.address).await.unwrap();
    cut_header.write_all(b"POST /ofrep/v1/evaluate/flags HTTP/1.1\r\nhost: localhost\r\nx-never").await.unwrap();
    let mut unread_client = server.admin().await.toggle;
    let _unread = unread_client.watch_feature_flags(WatchFeatureFlagsRequest::default()).await.unwrap();
    let mut watches = Vec::new();
    for _ in 0..5 {
        let mut client = server.admin().await;
        for _ in 0..100 {
            let watch = client.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await.unwrap();
            watches.push(watch.into_inner());
        }
    }
    let mut health = HealthClient::new(channel_to(server.address).await);
    let mut health = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

    server.request_stop();

    for mut watch in watches {
        let error = read_until_error(&mut watch).await;
        assert_eq!((error.code(), reason_of(&error).as_str()), (Code::Unavailable, "DRAINING"));
    }
    let error = read_until_error(&mut health).await;
    assert_eq!((error.code(), reason_of(&error).as_str()), (Code::Unavailable, "DRAINING"));
    server.wait_for_exit().await.unwrap();
    // Closed or reset. The other two end with the process, which here goes on.
    let mut rest = Vec::new();
    for connection in [&mut silent, &mut cut_preface] {
        let _ = with_timeout("the connection to end", connection.read_to_end(&mut rest)).await;
    }
    drop((preface_only, cut_header));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_signal_ends_draining_server_at_once() {
    let database = Database::new(Backend::Sqlite).await;
    for (again, status) in [("TERM", 128 + 15), ("INT", 128 + 2)] {
        let (mut server, mut health) = draining(&database, "1h").await;
        let status_message = with_timeout("the health status", health.message()).await.unwrap().unwrap();
        assert_eq!(status_message.status(), ServingStatus::NotServing);
        server.admin().await.flip("a").await;
        // One right after the first belongs to it.
        while server.is_running() {
            server.try_signal(again).await;
        }
        assert_eq!(server.wait_for_exit().await.code(), Some(status));
    }
}

/// `timeout` sends its signal to the process and to its group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_signals_at_once_stop_server_cleanly() {
    let database = Database::new(Backend::Sqlite).await;
    let mut server = Server::start(&database).await;
    let pid = server.id();
    let kill = std::process::Command::new("sh").args(["-c", &format!("kill -TERM {pid}; kill -INT {pid}")]).status();
    assert!(kill.unwrap().success());
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_exits_after_the_drain_delay() {
    let database = Database::new(Backend::Sqlite).await;
    let (mut server, mut health) = draining(&database, "1s").await;
    let status_message = with_timeout("the health status", health.message()).await.unwrap().unwrap();
    assert_eq!(status_message.status(), ServingStatus::NotServing);
    let error = read_until_error(&mut health).await;
    assert_eq!((error.code(), reason_of(&error).as_str()), (Code::Unavailable, "DRAINING"));
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
}

/// A server with the flag `a` that drains for this long, and its health stream.
async fn draining(database: &Database, delay: &str) -> (Server, Streaming<HealthCheckResponse>) {
    let server = Server::start_with(database, &[("TOGGLED_DRAIN_DELAY", delay)]).await;
    let request = CreateFeatureFlagRequest { key: "a".into(), name: "A".into(), ..Default::default() };
    // Fails the second time, when the flag exists.
    let _ = server.admin().await.toggle.create_feature_flag(request).await;
    let mut health = HealthClient::new(channel(&server).await);
    let mut health = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    server.request_stop().await;
    (server, health)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_call_is_cancelled_after_shutdown_timeout() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start_with(&database, &[("TOGGLED_SHUTDOWN_TIMEOUT", "100ms")]).await;
    let call = tokio::spawn(call_unfinished(channel(&server).await, "/toggled.v1.AccessService/WhoAmI", Some(TOKEN)));
    // A later call is answered, so the first one has arrived.
    server.admin().await.wait_until_authenticated().await;
    assert_eq!(server.terminate().await.code(), Some(0));
    with_timeout("the call to end", call).await.unwrap().unwrap_err();
}

/// A change that is being written during shutdown gets the answer that matches its outcome.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_in_progress_is_finished_and_answered() {
    let database = Database::new(Backend::Postgres).await;
    let mut server = Server::start(&database).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let mut watch = admin.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await.unwrap().into_inner();
    let held = database.lock_head().await;
    let mut flipping = admin.clone();
    let flip = tokio::spawn(async move { flipping.flip("a").await });
    held.wait_for_waiter().await;

    server.request_stop().await;

    read_until_error(&mut watch).await;
    drop(held);
    let flipped = with_timeout("the answer", flip).await.unwrap();
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
    let server = Server::start(&database).await;
    assert_eq!(server.admin().await.get("a").await.revision, flipped.revision);
}

/// Without connections all tasks end at once, and none of them may count as failed. Their order is random, so the test
/// repeats this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_without_connections_exits_with_0() {
    for attempt in 0..20 {
        let database = Database::new(Backend::Sqlite).await;
        let server = Server::start(&database).await;
        server.admin().await.create("a").await;
        let status = server.terminate().await;
        assert!(status.success(), "attempt {attempt}: {status}");
    }
}
