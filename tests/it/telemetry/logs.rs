//! Log lines.

use std::collections::BTreeSet;

use serde_json::Value;
use toggled::api::pb::WhoAmIRequest;
use tonic::Request;

use super::{get, toggle_because};
use crate::support::methods::{call, channel};
use crate::support::{Backend, Database, Issuer, Server, TOKEN, invoke, secret_forms, with_timeout};

/// The trace that the requests name.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A server that logs in JSON, the default without a terminal.
async fn launch(database: &Database, filter: &str) -> (Server, tokio::task::JoinHandle<String>) {
    let settings = [("TOGGLED_LOG", filter), ("TOGGLED_LOG_FORMAT", "auto")];
    let (mut server, log) = Server::launch_with_log(&database.url, &settings).await;
    let reading = tokio::spawn(async move { log.rest().await });
    server.ready().await;
    (server, reading)
}

/// The log lines of requests. Every line of the log must be a JSON object.
fn requests(log: &str) -> Vec<Value> {
    let parsed = log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")));
    let lines: Vec<Value> = parsed.collect();
    for line in &lines {
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].is_string(), "{field} in {line}");
        }
    }
    lines.into_iter().filter(|line| line["target"] == "toggled::request").collect()
}

/// The only log line of a method.
fn line_of<'a>(lines: &'a [Value], method: &str) -> &'a Value {
    let found: Vec<_> = lines.iter().filter(|line| line["method"] == method).collect();
    assert_eq!(found.len(), 1, "{method} in {lines:?}");
    found[0]
}

fn fields(line: &Value) -> BTreeSet<&str> {
    line.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Makes calls. Returns the id of the caller and the revision of the flip.
async fn make_calls(server: &Server) -> (String, i64) {
    let mut admin = server.admin().await;
    let id = admin.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().user.unwrap().id;
    admin.create("a").await;
    let mut flip = Request::new(toggle_because("a", "the-plan-of-ann@example.com"));
    flip.metadata_mut().insert("traceparent", format!("00-{TRACE}-b7ad6b7169203331-00").parse().unwrap());
    let revision = admin.toggle.toggle_feature_flag(flip).await.unwrap().into_inner().revision;
    admin.toggle.get_feature_flag(get("a")).await.unwrap();
    admin.toggle.archive_feature_flag(crate::support::archive("nowhere")).await.unwrap_err();
    admin.new_user("ann@example.com", &[]).await;
    call(&channel(server).await, "/toggled.v1.AuditService/ListAuditLogs", None).await.unwrap_err();
    (id, revision)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_is_logged_in_one_line_without_names() {
    let database = Database::new(Backend::Sqlite).await;
    let (server, log) = launch(&database, "info").await;
    let (id, revision) = make_calls(&server).await;
    assert!(server.terminate().await.success());
    let log = with_timeout("the log", log).await.unwrap();
    let lines = requests(&log);
    let methods: Vec<_> =
        lines.iter().map(|line| line["method"].as_str().unwrap().rsplit('/').next().unwrap()).collect();
    let expected =
        ["CreateFeatureFlag", "ToggleFeatureFlag", "ArchiveFeatureFlag", "CreateUser", "CreateToken", "ListAuditLogs"];
    assert_eq!(methods, expected);

    let flip = line_of(&lines, "toggled.v1.ToggleService/ToggleFeatureFlag");
    let common = ["timestamp", "level", "target", "message", "method", "code", "duration_ms", "trace_id"];
    assert_eq!(fields(flip), common.into_iter().chain(["caller", "revision"]).collect(), "{flip}");
    assert_eq!((&flip["level"], &flip["code"]), (&"INFO".into(), &"OK".into()));
    assert_eq!((&flip["caller"], &flip["revision"]), (&id.into(), &revision.into()));
    assert_eq!(flip["trace_id"], TRACE);
    assert!(flip["duration_ms"].as_f64().is_some_and(|took| took > 0.0), "{flip}");

    let lost = line_of(&lines, "toggled.v1.ToggleService/ArchiveFeatureFlag");
    assert_eq!(fields(lost), common.into_iter().chain(["caller", "reason"]).collect(), "{lost}");
    assert_eq!((&lost["code"], &lost["reason"]), (&"NOT_FOUND".into(), &"FLAG_NOT_FOUND".into()));
    let trace = lost["trace_id"].as_str().unwrap();
    assert!(trace.len() == 32 && trace != TRACE, "{lost}");

    let unauthenticated = line_of(&lines, "toggled.v1.AuditService/ListAuditLogs");
    assert_eq!(fields(unauthenticated), common.into_iter().chain(["reason"]).collect(), "{unauthenticated}");
    assert_eq!(
        (&unauthenticated["code"], &unauthenticated["reason"]),
        (&"UNAUTHENTICATED".into(), &"UNAUTHENTICATED".into())
    );

    for secret in [TOKEN, "the-plan", "ann@", "@example.com", "admin@localhost"] {
        assert_eq!(log.lines().find(|line| line.contains(secret)), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debug_level_logs_reads_and_peers() {
    let database = Database::new(Backend::Sqlite).await;
    let (server, log) = launch(&database, "info,toggled::request=debug").await;
    let (id, _) = make_calls(&server).await;
    call(&channel(&server).await, "/grpc.health.v1.Health/Check", None).await.unwrap();
    assert!(server.terminate().await.success());
    let lines = requests(&with_timeout("the log", log).await.unwrap());
    let read = line_of(&lines, "toggled.v1.ToggleService/GetFeatureFlag");
    assert_eq!((&read["level"], &read["code"], &read["caller"]), (&"DEBUG".into(), &"OK".into(), &id.into()));
    let health = line_of(&lines, "grpc.health.v1.Health/Check");
    assert_eq!((&health["level"], &health["code"], &health["caller"]), (&"DEBUG".into(), &"OK".into(), &Value::Null));
    for line in &lines {
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn account_without_user_is_logged_as_a_pseudonym() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let settings = [issuer.settings(), vec![("TOGGLED_LOG", "debug"), ("TOGGLED_LOG_FORMAT", "json")]].concat();
    let (mut server, log) = Server::launch_with_log(&database.url, &settings).await;
    let log = tokio::spawn(async move { log.rest().await });
    server.ready().await;
    let sue = issuer.token(&issuer.claims("sue@example.com", &["view_feature_flags"]));
    let mut sue = server.client(Some(&sue)).await;
    sue.toggle.get_feature_flag(get("a")).await.unwrap_err();
    sue.toggle.get_feature_flag(get("a")).await.unwrap_err();
    assert!(server.terminate().await.success());
    let lines = requests(&with_timeout("the log", log).await.unwrap());
    let callers: Vec<_> = lines.iter().map(|line| line["caller"].as_str().unwrap()).collect();
    assert!(callers.len() == 2 && callers[0] == callers[1] && callers[0].starts_with("account-"), "{callers:?}");
    assert!(!format!("{lines:?}").contains("sue"), "{lines:?}");
}

#[tokio::test]
async fn invalid_collector_prints_one_line() {
    let wrong = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "OTEL_TRACES_SAMPLER"),
        ("SENTRY_DSN", "https://the-key@nowhere", "SENTRY_DSN"),
        ("TOGGLED_LOG_FORMAT", "xml", "--log-format"),
    ];
    for (name, value, setting) in wrong {
        let collector = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        let output = invoke(&["serve"], &[collector, (name, value), ("TOGGLED_LISTEN", "127.0.0.1:0")]).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
        assert!(stderr.contains(setting) && !stderr.contains("the-key"), "{stderr}");
    }
}

/// Not even the log at level `trace` contains a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_contains_no_secrets() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let mut settings = issuer.settings();
    settings.push(("TOGGLED_LOG", "trace"));
    let (mut server, log) = Server::launch_with_log(&database.url, &settings).await;
    let reading = tokio::spawn(async move { log.rest().await });
    server.ready().await;
    let mut admin = server.admin().await;
    let secret = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
    let signed = issuer.token(&issuer.claims("sue@example.com", &[]));
    let guessed = "a-token-that-an-attacker-has-guessed-badly";
    for token in [&secret, &signed, guessed] {
        // The outcome of the call does not matter.
        let _ = server.client(Some(token)).await.access.who_am_i(WhoAmIRequest {}).await;
    }
    admin.create("a").await;
    assert!(server.terminate().await.success());
    let text = with_timeout("the log", reading).await.unwrap();
    assert!(text.contains("TRACE") && text.contains("DEBUG"), "the log lacks a level: {} bytes", text.len());
    for token in [TOKEN, &secret, &signed, guessed] {
        for trace in secret_forms(token) {
            assert_eq!(text.lines().find(|line| line.contains(&trace)), None, "{token}");
        }
    }
}
