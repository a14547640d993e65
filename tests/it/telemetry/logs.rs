//! Log lines.

use std::collections::BTreeSet;

use serde_json::Value;
use toggled::api::pb::WhoAmIRequest;
use tonic::Request;

use super::{because, get};
use crate::support::methods::{call, channel};
use crate::support::{Backend, Database, Issuer, Server, TOKEN, invoke, secret_forms, with_timeout};

/// The trace that a request says it belongs to.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A server that logs as it does where no person reads it.
async fn launch(database: &Database, filter: &str) -> (Server, tokio::task::JoinHandle<String>) {
    let settings = [("TOGGLED_LOG", filter), ("TOGGLED_LOG_FORMAT", "auto")];
    let (mut server, log) = Server::launch_with_log(&database.url, &settings).await;
    let reading = tokio::spawn(async move { log.rest().await });
    server.ready().await;
    (server, reading)
}

/// The lines of requests; each line of the log must be an object of JSON.
fn requests(log: &str) -> Vec<Value> {
    let parsed = log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")));
    let lines: Vec<Value> = parsed.collect();
    for line in &lines {
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].is_string(), "{field} in {line}");
        }
    }
    lines.into_iter().filter(|line| line["target"] == "toggled::request").collect()
}

/// The one line of a method.
fn of<'a>(lines: &'a [Value], method: &str) -> &'a Value {
    let found: Vec<_> = lines.iter().filter(|line| line["method"] == method).collect();
    assert_eq!(found.len(), 1, "{method} in {lines:?}");
    found[0]
}

fn fields(line: &Value) -> BTreeSet<&str> {
    line.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The same calls, at whatever is logged; who makes them, and at which revision the flag is flipped.
async fn calls(server: &Server) -> (String, i64) {
    let mut admin = server.admin().await;
    let id = admin.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().user.unwrap().id;
    admin.create("a").await;
    let mut flip = Request::new(because("a", "the-plan-of-ann@example.com"));
    flip.metadata_mut().insert("traceparent", format!("00-{TRACE}-b7ad6b7169203331-00").parse().unwrap());
    let revision = admin.toggle.toggle_feature_flag(flip).await.unwrap().into_inner().revision;
    admin.toggle.get_feature_flag(get("a")).await.unwrap();
    admin.toggle.archive_feature_flag(crate::support::archive("nowhere")).await.unwrap_err();
    admin.new_user("ann@example.com", &[]).await;
    call(&channel(server).await, "/toggled.v1.AuditService/ListAuditLogs", None).await.unwrap_err();
    (id, revision)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_one_line_that_names_nobody_and_a_read_that_went_well_is_none() {
    let database = Database::new(Backend::Sqlite).await;
    let (server, log) = launch(&database, "info").await;
    let (id, revision) = calls(&server).await;
    assert!(server.terminate().await.success());
    let log = with_timeout("the log", log).await.unwrap();
    let lines = requests(&log);
    let methods: Vec<_> =
        lines.iter().map(|line| line["method"].as_str().unwrap().rsplit('/').next().unwrap()).collect();
    let expected =
        ["CreateFeatureFlag", "ToggleFeatureFlag", "ArchiveFeatureFlag", "CreateUser", "CreateToken", "ListAuditLogs"];
    assert_eq!(methods, expected);

    let flip = of(&lines, "toggled.v1.ToggleService/ToggleFeatureFlag");
    let of_all = ["timestamp", "level", "target", "message", "method", "code", "duration_ms", "trace_id"];
    assert_eq!(fields(flip), of_all.into_iter().chain(["caller", "revision"]).collect(), "{flip}");
    assert_eq!((&flip["level"], &flip["code"]), (&"INFO".into(), &"OK".into()));
    assert_eq!((&flip["caller"], &flip["revision"]), (&id.into(), &revision.into()));
    assert_eq!(flip["trace_id"], TRACE);
    assert!(flip["duration_ms"].as_f64().is_some_and(|took| took > 0.0), "{flip}");

    let lost = of(&lines, "toggled.v1.ToggleService/ArchiveFeatureFlag");
    assert_eq!(fields(lost), of_all.into_iter().chain(["caller", "reason"]).collect(), "{lost}");
    assert_eq!((&lost["code"], &lost["reason"]), (&"NOT_FOUND".into(), &"FLAG_NOT_FOUND".into()));
    let trace = lost["trace_id"].as_str().unwrap();
    assert!(trace.len() == 32 && trace != TRACE, "{lost}");

    let stranger = of(&lines, "toggled.v1.AuditService/ListAuditLogs");
    assert_eq!(fields(stranger), of_all.into_iter().chain(["reason"]).collect(), "{stranger}");
    assert_eq!((&stranger["code"], &stranger["reason"]), (&"UNAUTHENTICATED".into(), &"UNAUTHENTICATED".into()));

    for told in [TOKEN, "the-plan", "ann@", "@example.com", "admin@localhost"] {
        assert_eq!(log.lines().find(|line| line.contains(told)), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_debug_reads_are_told_as_well_and_where_they_come_from() {
    let database = Database::new(Backend::Sqlite).await;
    let (server, log) = launch(&database, "info,toggled::request=debug").await;
    let (id, _) = calls(&server).await;
    call(&channel(&server).await, "/grpc.health.v1.Health/Check", None).await.unwrap();
    assert!(server.terminate().await.success());
    let lines = requests(&with_timeout("the log", log).await.unwrap());
    let read = of(&lines, "toggled.v1.ToggleService/GetFeatureFlag");
    assert_eq!((&read["level"], &read["code"], &read["caller"]), (&"DEBUG".into(), &"OK".into(), &id.into()));
    let health = of(&lines, "grpc.health.v1.Health/Check");
    assert_eq!((&health["level"], &health["code"], &health["caller"]), (&"DEBUG".into(), &"OK".into(), &Value::Null));
    for line in &lines {
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_user_yet_is_told_from_others_and_not_named() {
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
async fn a_wrong_collector_is_one_clear_line() {
    let wrong = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "OTEL_TRACES_SAMPLER"),
        ("SENTRY_DSN", "https://the-key@nowhere", "SENTRY_DSN"),
        ("TOGGLED_LOG_FORMAT", "xml", "--log-format"),
    ];
    for (name, value, setting) in wrong {
        let collector = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        let output = invoke(&["serve"], &[collector, (name, value), ("TOGGLED_LISTEN", "127.0.0.1:0")]).await;
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), told.lines().count()), (Some(2), 1), "{told}");
        assert!(told.contains(setting) && !told.contains("the-key"), "{told}");
    }
}

/// Not even who logs everything there is to log finds a token in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_the_servers_log() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let mut settings = issuer.settings();
    settings.push(("TOGGLED_LOG", "trace"));
    let (mut server, log) = Server::launch_with_log(&database.url, &settings).await;
    let reading = tokio::spawn(async move { log.rest().await });
    server.ready().await;
    let mut admin = server.admin().await;
    let secret = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
    let signed = issuer.token(&issuer.claims("sue@example.com", &[]));
    let guessed = "a-token-that-somebody-has-guessed-badly";
    for token in [&secret, &signed, guessed] {
        // Whether it is let in does not matter here.
        let _ = server.client(Some(token)).await.access.who_am_i(WhoAmIRequest {}).await;
    }
    admin.create("a").await;
    assert!(server.terminate().await.success());
    let words = with_timeout("the log", reading).await.unwrap();
    assert!(words.contains("TRACE") && words.contains("DEBUG"), "it logs everything: {} bytes", words.len());
    for token in [TOKEN, &secret, &signed, guessed] {
        for trace in secret_forms(token) {
            assert_eq!(words.lines().find(|line| line.contains(&trace)), None, "{token}");
        }
    }
}
