//! A server whose database cannot be used until an operator acts: not ready, no change acknowledged, and as before afterwards.

use std::path::{Path, PathBuf};

use futures::future::join_all;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use toggled::api::pb::*;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;

use super::health::{UNAVAILABLE, until_readiness};
use super::{MonitoredServer, free_address};
use crate::support::{Backend, Client, Database, Server, reason_of, toggle};

fn assert_unavailable(status: &Status) {
    assert_eq!((status.code(), reason_of(status).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"), "{status:?}");
}

/// Asserts that the log is not read, on many new connections at once, and that nothing is flipped.
async fn assert_unusable(server: &Server) {
    let list = async |server: &Server| {
        let mut client = server.admin().await;
        client.audit.list_audit_logs(ListAuditLogsRequest::default()).await.unwrap_err()
    };
    join_all((0..12).map(|_| list(server))).await.iter().for_each(assert_unavailable);
    let mut client = server.admin().await;
    let request = StreamAuditLogsRequest { follow: true, ..Default::default() };
    let stream = match client.audit.stream_audit_logs(request).await {
        Ok(stream) => stream.into_inner().message().await.map(drop),
        Err(status) => Err(status),
    };
    assert_unavailable(&stream.unwrap_err());
    for _ in 0..2 {
        assert_unavailable(&client.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err());
    }
}

fn aside(file: &Path) -> PathBuf {
    file.with_extension("aside")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_sqlite_file_loses_nothing() {
    let database = Database::new(Backend::Sqlite).await;
    let file = PathBuf::from(database.url.strip_prefix("sqlite://").unwrap());
    let address = free_address();
    let (mut server, mut log) =
        Server::launch_with_log(&database.url, &[("TOGGLED_METRICS_LISTEN", &address.to_string())]).await;
    server.ready().await;
    let mut admin = server.admin().await;
    for key in ["a", "b", "c"] {
        admin.create(key).await;
    }

    std::fs::rename(&file, aside(&file)).unwrap();

    // Without any call.
    log.wait_for_line("was moved or deleted").await;
    until_readiness(address, UNAVAILABLE, "unusable").await;
    assert_eq!(server.health().await, ServingStatus::NotServing);
    assert_unusable(&server).await;
    assert!(!file.exists());
    std::fs::rename(aside(&file), &file).unwrap();
    until_readiness(address, "200 OK", "serving").await;
    log.wait_for_line("database usable again").await;
    admin.flip("a").await;
    let entries = admin.log().await;
    assert!(server.terminate().await.success());
    let server = Server::start(&database).await;
    assert_eq!(server.admin().await.log().await, entries);
    assert_eq!(server.admin().await.get("a").await.status(), FeatureFlagStatus::Enabled);
}

/// A clean stop empties the write-ahead log, which belongs to the first file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaced_sqlite_file_is_used_after_restart() {
    let (database, other) = (Database::new(Backend::Sqlite).await, Database::new(Backend::Sqlite).await);
    let server = Server::start(&other).await;
    server.admin().await.create("a").await;
    let restored = server.admin().await.log().await;
    assert!(server.terminate().await.success());
    let monitored = MonitoredServer::start(&database, &[]).await;
    let mut admin = monitored.server.admin().await;
    for key in ["a", "b"] {
        admin.create(key).await;
    }
    let paths = [&other, &database].map(|database| PathBuf::from(database.url.strip_prefix("sqlite://").unwrap()));

    std::fs::rename(&paths[0], &paths[1]).unwrap();

    until_readiness(monitored.address, UNAVAILABLE, "unusable").await;
    assert_unusable(&monitored.server).await;
    assert!(monitored.server.terminate().await.success());
    let server = Server::start(&database).await;
    assert_eq!(server.admin().await.log().await, restored);
}

/// Without any call. A start shows it as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_server_on_read_only_postgres_is_not_ready() {
    let database = Database::new(Backend::Postgres).await;
    let name = database.url.rsplit_once('/').unwrap().1.to_owned();
    let mut operator = PgConnection::connect(&database.url).await.unwrap();
    let mut set = async |value: &str| {
        let sql = format!(
            "SET default_transaction_read_only = off; ALTER DATABASE {name} SET default_transaction_read_only = {value}"
        );
        operator.execute(AssertSqlSafe(sql)).await.map(drop).unwrap();
        database.end_connections().await;
    };
    let monitored = MonitoredServer::start(&database, &[]).await;
    monitored.server.admin().await.create("a").await;

    set("on").await;

    until_readiness(monitored.address, UNAVAILABLE, "unusable").await;
    assert_eq!(monitored.server.health().await, ServingStatus::NotServing);
    let address = free_address();
    let variables = [("TOGGLED_METRICS_LISTEN", &*address.to_string())];
    let (mut started, _log) = Server::launch_with_log(&database.url, &variables).await;
    started.ready().await;
    until_readiness(address, UNAVAILABLE, "unusable").await;
    set("off").await;
    for address in [address, monitored.address] {
        until_readiness(address, "200 OK", "serving").await;
    }
    monitored.server.admin().await.flip("a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_server_without_a_right_is_not_ready() {
    let database = Database::new(Backend::Postgres).await;
    let mut operator = PgConnection::connect(&database.url).await.unwrap();
    let role = format!("role_{}", uuid::Uuid::now_v7().simple());
    let first = Server::start(&database).await;
    first.admin().await.create("a").await;
    assert!(first.terminate().await.success());
    let mut run = async |sql: String| operator.execute(AssertSqlSafe(sql)).await.map(drop).unwrap();
    run(format!("CREATE ROLE {role} LOGIN")).await;
    run(format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")).await;
    let own = Database::from_url(&database.url.replace("postgres@", &format!("{role}@")), Backend::Postgres);
    let monitored = MonitoredServer::start(&own, &[]).await;

    run(format!("REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public FROM {role}")).await;

    until_readiness(monitored.address, UNAVAILABLE, "unusable").await;
    // What the probe itself writes is not enough.
    run(format!("GRANT INSERT ON requests TO {role}")).await;
    run(format!("GRANT INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}")).await;
    until_readiness(monitored.address, "200 OK", "serving").await;
    monitored.server.admin().await.flip("a").await;
}

/// PostgreSQL then finds no table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schema_without_usage_is_an_outage() {
    let database = Database::new(Backend::Postgres).await;
    let mut operator = PgConnection::connect(&database.url).await.unwrap();
    let role = format!("role_{}", uuid::Uuid::now_v7().simple());
    let mut run = async |sql: String| operator.execute(AssertSqlSafe(sql)).await.map(drop).unwrap();
    run(format!("CREATE ROLE {role} LOGIN; GRANT CREATE, USAGE ON SCHEMA public TO {role}")).await;
    let url = database.url.replace("postgres@", &format!("{role}@"));
    let address = free_address();
    let (mut server, mut log) =
        Server::launch_with_log(&url, &[("TOGGLED_METRICS_LISTEN", &address.to_string())]).await;
    server.ready().await;
    let mut admin = server.admin().await;
    admin.create("a").await;

    run(format!("REVOKE USAGE ON SCHEMA public FROM {role}, PUBLIC")).await;

    // Without any call.
    log.wait_for_line("lacks USAGE on their schema").await;
    until_readiness(address, UNAVAILABLE, "unusable").await;
    assert_unusable(&server).await;
    run(format!("GRANT USAGE ON SCHEMA public TO {role}")).await;
    until_readiness(address, "200 OK", "serving").await;
    admin.flip("a").await;
    admin.log().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_an_outage_are_logged_once() {
    let database = Database::new(Backend::Sqlite).await;
    let file = PathBuf::from(database.url.strip_prefix("sqlite://").unwrap());
    let address = free_address();
    let (mut server, log) =
        Server::launch_with_log(&database.url, &[("TOGGLED_METRICS_LISTEN", &address.to_string())]).await;
    server.ready().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    std::fs::rename(&file, aside(&file)).unwrap();
    until_readiness(address, UNAVAILABLE, "unusable").await;
    for _ in 0..5 {
        assert_unavailable(&admin.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err());
    }
    std::fs::rename(aside(&file), &file).unwrap();
    until_readiness(address, "200 OK", "serving").await;
    admin.flip("a").await;
    assert!(server.terminate().await.success());

    let log = log.rest().await;

    assert_eq!(log.matches("batch not written").count(), 1, "{log}");
    let end = log.lines().find(|line| line.contains("batch writes resumed")).unwrap();
    assert!(end.contains("not_written=5"), "{end}");
}

/// An operator takes the role's login away, as with a rotated password, and ends its sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_login_is_an_outage() {
    let database = Database::new(Backend::Postgres).await;
    let mut operator = PgConnection::connect(&database.url).await.unwrap();
    let role = format!("role_{}", uuid::Uuid::now_v7().simple());
    let mut run = async |sql: String| operator.execute(AssertSqlSafe(sql)).await.map(drop).unwrap();
    run(format!("CREATE ROLE {role} SUPERUSER LOGIN")).await;
    let own = Database::from_url(&database.url.replace("postgres@", &format!("{role}@")), Backend::Postgres);
    let monitored = MonitoredServer::start(&own, &[]).await;
    let mut admin = monitored.server.admin().await;
    admin.create("a").await;

    run(format!("ALTER ROLE {role} NOLOGIN")).await;
    database.end_connections().await;

    // Only shows that the committer's connection is lost. The outcome of a change would be unknown for a while.
    let dry_run = ToggleFeatureFlagRequest { validate_only: true, ..toggle("a") };
    assert_unavailable(&admin.toggle.toggle_feature_flag(dry_run).await.unwrap_err());
    assert_unusable(&monitored.server).await;
    until_readiness(monitored.address, UNAVAILABLE, "unusable").await;
    run(format!("ALTER ROLE {role} LOGIN")).await;
    until_readiness(monitored.address, "200 OK", "serving").await;
    admin.flip("a").await;
    let _: Vec<_> = Client::connect(monitored.server.address, Some(crate::support::TOKEN)).await.log().await;
}
