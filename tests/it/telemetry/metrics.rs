//! The exported metrics.

use std::net::TcpListener;

use toggled::api::pb::*;
use toggled::telemetry::metrics::ALL;
use tonic::Code;
use tonic::metadata::{Ascii, MetadataValue};

use super::{MonitoredServer, free_address, get};
use crate::support::events::{Events, assert_refused, bulk};
use crate::support::h2_client::H2Client;
use crate::support::http::Http;
use crate::support::methods::{call, channel};
use crate::support::postgres_proxy::{Link, PostgresProxy};
use crate::support::web::Web;
use crate::support::{Backend, Database, Issuer, Server, TOKEN, invoke, on_both_databases, with_timeout};

/// The value of a time series.
pub(super) fn value(metrics: &str, series: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

/// Waits until a time series has this value.
pub(super) async fn until(monitored: &MonitoredServer, series: &str, expected: f64) {
    let seen = async { while value(&monitored.metrics().await, series) != Some(expected) {} };
    with_timeout(&format!("{series} to be {expected}"), seen).await;
}

fn requests(method: &str, code: &str) -> String {
    format!(r#"toggled_requests_total{{method="{method}",code="{code}"}}"#)
}

on_both_databases! {
    async fn every_metric_is_exported_after_use(backend: Backend) {
        let database = Database::new(backend).await;
        let monitored = MonitoredServer::start(&database, &[]).await;
        let mut admin = monitored.server.admin().await;
        admin.create("a").await;
        admin.toggle.get_feature_flag(get("nowhere")).await.unwrap_err();
        admin.log().await;
        monitored.server.client(None).await.toggle.get_feature_flag(get("a")).await.unwrap_err();
        let metrics = monitored.metrics().await;
        for name in ALL {
            assert!(metrics.contains(&format!("# TYPE {name} ")), "{name} is not described in {metrics}");
            assert!(metrics.contains(&format!("# HELP {name} ")), "{name} is not described in {metrics}");
            let exported = metrics.lines().any(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "))
                || line.starts_with(&format!("{name}_bucket{{")));
            assert!(exported, "{name} is not exported in {metrics}");
        }
        let others = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE toggled_"));
        for other in others.map(|line| format!("toggled_{}", line.split(' ').next().unwrap())) {
            assert!(ALL.contains(&other.as_str()), "{other} is missing in ALL");
        }
        assert_eq!(value(&metrics, concat!(r#"toggled_build_info{version=""#, env!("CARGO_PKG_VERSION"), "\"}")), Some(1.0));
        for process_metric in ["process_resident_memory_bytes", "process_open_fds", "process_max_fds"] {
            assert!(value(&metrics, process_metric).is_some_and(|value| value > 0.0), "{process_metric}");
        }
        let connections = ["idle", "used"].map(|state| {
            value(&metrics, &format!(r#"toggled_database_connections{{state="{state}"}}"#)).unwrap()
        });
        assert!(connections[0] + connections[1] >= 1.0, "{connections:?}");
        assert!(!metrics.contains(TOKEN));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_counted_by_method_and_code() {
    let database = Database::new(Backend::Sqlite).await;
    let monitored = MonitoredServer::start(&database, &[]).await;
    let mut admin = monitored.server.admin().await;
    admin.create("a").await;
    for _ in 0..3 {
        admin.toggle.get_feature_flag(get("a")).await.unwrap();
    }
    for _ in 0..2 {
        admin.toggle.get_feature_flag(get("nowhere")).await.unwrap_err();
    }
    monitored.server.client(None).await.toggle.get_feature_flag(get("a")).await.unwrap_err();
    call(&channel(&monitored.server).await, "/a.B/C", None).await.unwrap_err();
    call(&channel(&monitored.server).await, "/grpc.health.v1.Health/Check", None).await.unwrap();
    let mut http = Http::connect(monitored.server.address).await;
    for (key, token) in [("a", TOKEN), ("nowhere", TOKEN), ("a", "a-token-that-is-none")] {
        let request = http::Request::post(format!("/ofrep/v1/evaluate/flags/{key}"));
        let request = request.header("content-type", "application/json");
        http.send(request.header("authorization", format!("Bearer {token}")).body("{}".to_owned()).unwrap()).await;
    }
    let reading = "toggled.v1.ToggleService/GetFeatureFlag";
    let metrics = monitored.metrics().await;
    for (series, expected) in [
        (requests(reading, "OK"), 3.0),
        (requests(reading, "NOT_FOUND"), 2.0),
        (requests(reading, "UNAUTHENTICATED"), 1.0),
        (format!(r#"toggled_request_duration_seconds_count{{method="{reading}",code="OK"}}"#), 3.0),
        (requests("toggled.v1.ToggleService/CreateFeatureFlag", "OK"), 1.0),
        (requests("OFREP/EvaluateFlag", "OK"), 1.0),
        (requests("OFREP/EvaluateFlag", "NOT_FOUND"), 1.0),
        (requests("OFREP/EvaluateFlag", "UNAUTHENTICATED"), 1.0),
        (requests("grpc.health.v1.Health/Check", "OK"), 1.0),
        (requests("unknown", "UNAUTHENTICATED"), 1.0),
        (r#"toggled_refusals_total{reason="FLAG_NOT_FOUND"}"#.to_owned(), 3.0),
        (r#"toggled_refusals_total{reason="UNAUTHENTICATED"}"#.to_owned(), 3.0),
    ] {
        assert_eq!(value(&metrics, &series), Some(expected), "{series} in {metrics}");
    }
    let counted = metrics.lines().filter(|line| line.starts_with("toggled_requests_total{")).count();
    assert_eq!(counted, 9, "other calls were counted: {metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_sent_events_are_counted_as_streams() {
    let database = Database::new(Backend::Sqlite).await;
    let monitored = MonitoredServer::start(&database, &[]).await;
    let mut admin = monitored.server.admin().await;
    let method = "OFREP/EventStream";
    let open = format!(r#"toggled_streams_open{{method="{method}"}}"#);
    for (number, web) in Web::both(monitored.server.address).into_iter().enumerate() {
        let ended = f64::from(u32::try_from(number).unwrap());
        let ann = admin.new_user(&format!("ann-{number}@example.com"), &["view_feature_flags"]).await;
        let uri = bulk(&web, &ann, "default", None, None).await.events();
        let (abandoned, ending) = (Events::open(&web, &uri, None).await, Events::open(&web, &uri, None).await);
        let metrics = monitored.metrics().await;
        assert_eq!(value(&metrics, &open), Some(2.0));
        drop(abandoned);
        until(&monitored, &open, 1.0).await;
        until(&monitored, &requests(method, "CANCELLED"), ended + 1.0).await;
        let id = monitored.server.client(Some(&ann)).await.access.who_am_i(WhoAmIRequest {}).await.unwrap();
        let id = id.into_inner().token_id;
        admin.access.revoke_token(RevokeTokenRequest { id, ..Default::default() }).await.unwrap();
        ending.rest().await;
        until(&monitored, &requests(method, "UNAUTHENTICATED"), 2.0 * ended + 1.0).await;
        // Its client gets 204.
        assert_refused(&web, &uri).await;
        until(&monitored, &requests(method, "UNAUTHENTICATED"), 2.0 * ended + 2.0).await;
        until(&monitored, &open, 0.0).await;
        assert_eq!(value(&monitored.metrics().await, &requests(method, "OK")), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_stream_is_counted_as_cancelled() {
    let database = Database::new(Backend::Sqlite).await;
    let monitored = MonitoredServer::start(&database, &[]).await;
    let mut admin = monitored.server.admin().await;
    let method = "toggled.v1.ToggleService/WatchFeatureFlags";
    let open = format!(r#"toggled_streams_open{{method="{method}"}}"#);
    assert_eq!(value(&monitored.metrics().await, &open), Some(0.0));
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream =
            admin.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await.unwrap().into_inner();
        stream.message().await.unwrap();
        streams.push(stream);
    }
    let metrics = monitored.metrics().await;
    assert_eq!(value(&metrics, &open), Some(2.0));
    assert_eq!(value(&metrics, &requests(method, "CANCELLED")), None, "an open stream was counted as ended");
    streams.pop();
    until(&monitored, &open, 1.0).await;
    until(&monitored, &requests(method, "CANCELLED"), 1.0).await;
    // A stream that ends by itself.
    admin.log().await;
    let log = "toggled.v1.AuditService/StreamAuditLogs";
    until(&monitored, &requests(log, "OK"), 1.0).await;
    let metrics = monitored.metrics().await;
    assert_eq!(value(&metrics, &format!(r#"toggled_streams_open{{method="{log}"}}"#)), Some(0.0));
    assert!(!metrics.contains(&format!(r#"toggled_request_duration_seconds_count{{method="{log}""#)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_counted_while_open() {
    let database = Database::new(Backend::Sqlite).await;
    let monitored = MonitoredServer::start(&database, &[]).await;
    assert_eq!(value(&monitored.metrics().await, "toggled_connections_open"), Some(0.0));
    let (one, other) = (monitored.server.admin().await, monitored.server.admin().await);
    until(&monitored, "toggled_connections_open", 2.0).await;
    drop(one);
    until(&monitored, "toggled_connections_open", 1.0).await;
    drop(other);
    until(&monitored, "toggled_connections_open", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committer_and_mirror_are_measured() {
    let database = Database::new(Backend::Postgres).await;
    // The server checks the log on notifications only.
    let monitored =
        MonitoredServer::start(&database, &[("TOGGLED_POLL_INTERVAL", "1h"), ("TOGGLED_MAX_STALENESS", "2h")]).await;
    let other = Server::start(&database).await;
    database.wait_for_listeners(2).await;
    let mut admin = monitored.server.admin().await;
    let appended = r#"toggled_commits_total{outcome="appended"}"#;
    let before = value(&monitored.metrics().await, appended).unwrap();
    for key in ["a", "b", "c"] {
        admin.create(key).await;
    }
    let metrics = monitored.metrics().await;
    assert_eq!(value(&metrics, appended), Some(before + 3.0));
    assert_eq!(value(&metrics, "toggled_commit_duration_seconds_count"), Some(before + 3.0));
    assert_eq!(value(&metrics, "toggled_committer_batch_size_sum"), Some(before + 3.0));
    assert_eq!(value(&metrics, "toggled_committer_queue_length"), Some(0.0));
    // An append by another server changes only the mirror's metrics.
    assert_eq!(value(&metrics, "toggled_mirror_lag_revisions"), Some(0.0));
    let mut other = other.admin().await;
    other.create("elsewhere").await;
    until(&monitored, "toggled_mirror_lag_revisions", 1.0).await;
    // Every scrape resets the lag.
    assert_eq!(value(&monitored.metrics().await, "toggled_mirror_lag_revisions"), Some(0.0));
    let metrics = monitored.metrics().await;
    assert_eq!(value(&metrics, appended), Some(before + 3.0));
    assert!(value(&metrics, "toggled_mirror_age_seconds").is_some_and(|age| (0.0..60.0).contains(&age)), "{metrics}");
    let revision = admin.get("elsewhere").await.revision as f64;
    assert_eq!(value(&metrics, "toggled_mirror_revision"), Some(revision));
    assert_eq!(value(&metrics, "toggled_mirror_max_age_seconds"), Some(7_200.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_and_failed_appends_are_counted() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    let monitored = MonitoredServer::start(&proxy.database, &[("TOGGLED_MAX_QUEUE", "9")]).await;
    let mut admin = monitored.server.admin().await;
    admin.create("a").await;
    assert_eq!(value(&monitored.metrics().await, "toggled_committer_queue_limit"), Some(9.0));
    let held = database.lock_head().await;
    let flip = || {
        let mut admin = admin.clone();
        tokio::spawn(async move { admin.flip("a").await })
    };
    let first = flip();
    held.wait_for_waiter().await;
    // One is being written, and these wait.
    let waiting = [flip(), flip(), flip()];
    until(&monitored, "toggled_committer_queue_length", 3.0).await;
    proxy.set(Link::Closed);
    for outcome in ["unknown", "failed"] {
        let series = format!("toggled_commits_total{{outcome=\"{outcome}\"}}");
        let counted = async { while value(&monitored.metrics().await, &series) < Some(1.0) {} };
        with_timeout(&series, counted).await;
    }
    drop(held);
    proxy.set(Link::Open);
    with_timeout("the first flip", first).await.unwrap();
    for flip in waiting {
        with_timeout("a flip that waited", flip).await.unwrap();
    }
    until(&monitored, "toggled_committer_queue_length", 0.0).await;
}

/// With several servers, each commits less often, so its batches are larger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overtaken_batch_takes_in_waiting_changes() {
    let database = Database::new(Backend::Postgres).await;
    let monitored = MonitoredServer::start(&database, &[]).await;
    let other = Server::start(&database).await;
    let (mut admin, mut overtaking) = (monitored.server.admin().await, other.admin().await);
    admin.create("a").await;
    overtaking.create("b").await;
    let [sum, count] = ["toggled_committer_batch_size_sum", "toggled_committer_batch_size_count"];
    let before = monitored.metrics().await;
    let held = database.lock_head().await;
    let overtaking = tokio::spawn(async move { overtaking.flip("b").await });
    held.wait_for_waiter().await;
    let flip = || {
        let mut admin = admin.clone();
        tokio::spawn(async move { admin.flip("a").await })
    };
    let first = flip();
    held.wait_for_waiters(2).await;
    let waiting = [flip(), flip(), flip()];
    until(&monitored, "toggled_committer_queue_length", 3.0).await;
    drop(held);
    with_timeout("the flip that overtakes", overtaking).await.unwrap();
    for flip in [first].into_iter().chain(waiting) {
        with_timeout("a flip that was overtaken", flip).await.unwrap();
    }
    let after = monitored.metrics().await;
    let more = |series| value(&after, series).unwrap() - value(&before, series).unwrap();
    assert_eq!((more(sum), more(count)), (4.0, 1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_authentication_is_counted_by_reason() {
    let database = Database::new(Backend::Sqlite).await;
    let address = free_address();
    let listen = address.to_string();
    let (mut server, log) = Server::launch_with_log(&database.url, &[("TOGGLED_METRICS_LISTEN", &listen)]).await;
    server.ready().await;
    let monitored = MonitoredServer { server, address };
    let channel = channel(&monitored.server).await;
    let guessed = "a-token-that-an-attacker-has-guessed-badly";
    let path = "/toggled.v1.ToggleService/ListFeatureFlags";
    for value in [Some(format!("Bearer {guessed}")), Some("Basic x".to_owned()), None] {
        for _ in 0..3 {
            let value: Option<MetadataValue<Ascii>> = value.as_ref().map(|text| text.parse().unwrap());
            call(&channel, path, value).await.unwrap_err();
        }
    }
    // A request that the port does not take is no failed authentication.
    let client = H2Client::connect(monitored.server.address).await;
    for (method, content_type) in
        [("POST", "text/plain"), ("GET", "application/grpc"), ("POST", "application/grpc+json")]
    {
        let request = http::Request::builder().method(method).uri(format!("http://localhost{path}"));
        client.call(request.header("content-type", content_type), Vec::new()).await;
    }
    let metrics = monitored.metrics().await;
    for reason in ["unknown", "malformed", "missing"] {
        let series = format!("toggled_authentication_failures_total{{reason=\"{reason}\"}}");
        assert_eq!(value(&metrics, &series), Some(3.0), "{series} in {metrics}");
    }
    assert!(monitored.server.terminate().await.success());
    let log = log.rest().await;
    let lines: Vec<_> = log.lines().filter(|line| line.contains("authentication failed")).collect();
    assert!((1..=3).contains(&lines.len()), "not a sample of the failures: {lines:?}");
    assert!(lines[0].contains("reason=\"unknown\"") && lines[0].contains("127.0.0.1:"), "{lines:?}");
    assert!(!log.contains(guessed) && !metrics.contains(guessed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ignored_permission_is_counted_and_logged() {
    let (issuer, database, address) = (Issuer::start().await, Database::new(Backend::Sqlite).await, free_address());
    let listen = address.to_string();
    let mut settings = issuer.settings();
    settings.push(("TOGGLED_METRICS_LISTEN", &listen));
    let (mut server, log) = Server::launch_with_log(&database.url, &settings).await;
    server.ready().await;
    let monitored = MonitoredServer { server, address };
    let held = ["view_feature_flags@nowhere", "toggle_feature_flags@nowhere", "view_audit_logs", "fly"];
    let token = issuer.token(&issuer.claims("sue@example.com", &held));
    let mut sue = monitored.server.client(Some(&token)).await;
    sue.wait_until_authenticated().await;
    let me = sue.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!(me.permissions, ["view_audit_logs"]);
    assert_eq!(sue.toggle.get_feature_flag(get("a")).await.unwrap_err().code(), Code::PermissionDenied);
    // Once for the token, which is verified once.
    assert_eq!(value(&monitored.metrics().await, "toggled_ignored_permissions_total"), Some(2.0));
    assert!(monitored.server.terminate().await.success());
    let log = log.rest().await;
    let lines: Vec<_> =
        log.lines().filter(|line| line.contains("permission in a single sign-on token ignored")).collect();
    assert!(lines.len() == 1 && lines[0].contains("permission=\"toggle_feature_flags@nowhere\""), "{log}");
}

#[tokio::test]
async fn metrics_address_in_use_prints_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let settings = [("TOGGLED_METRICS_LISTEN", address.as_str()), ("TOGGLED_LISTEN", "127.0.0.1:0")];
    let output = invoke(&["serve"], &settings).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.contains("metrics") && stderr.contains(&address), "{stderr}");
}

/// As after the clock was set back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_dated_ahead_of_the_clock_are_counted() {
    let database = Database::new(Backend::Sqlite).await;
    let monitored = MonitoredServer::start(&database, &[]).await;
    let mut admin = monitored.server.admin().await;
    admin.create("a").await;
    assert_eq!(value(&monitored.metrics().await, "toggled_entries_dated_ahead_total"), Some(0.0));
    let mut raw = crate::store::raw::Raw::connect(&database).await;
    raw.run("UPDATE log_head SET closed_at = (unixepoch() + 3600) * 1000000").await;
    for _ in 0..3 {
        admin.flip("a").await;
    }
    assert_eq!(value(&monitored.metrics().await, "toggled_entries_dated_ahead_total"), Some(3.0));
}
