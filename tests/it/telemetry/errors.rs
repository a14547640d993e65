//! Defects, as Sentry gets them.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Uri};
use serde_json::Value;
use sqlx::{Connection, SqliteConnection};
use toggled::telemetry::errors::ErrorCollector;
use toggled::telemetry::logs::LogFormat;
use toggled::telemetry::{self, TelemetrySettings};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::mpsc;
use tonic::{Code, Request};

use super::{because, ends_soon, get};
use crate::support::{Backend, Database, Server, TOKEN, with_timeout};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Something that takes what is for Sentry, and passes it on: where it was sent, and what.
async fn collector() -> (String, mpsc::UnboundedReceiver<(String, String)>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let take = move |uri: Uri, headers: HeaderMap, body: Bytes| {
        let sender = sender.clone();
        async move {
            assert!(!headers.contains_key("content-encoding"), "{headers:?}");
            let _ = sender.send((uri.path().to_owned(), String::from_utf8(body.to_vec()).unwrap()));
            "{}"
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dsn = format!("http://the-key@{}/7", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(take)).await });
    (dsn, receiver)
}

/// A database in which a flip of the flag `a` fails, and says whom it was to be told to.
async fn sabotaged() -> (Database, impl AsyncFn()) {
    let database = Database::new(Backend::Sqlite).await;
    let url = database.url.clone();
    let sabotage = async move || {
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        let trigger = "CREATE TRIGGER sabotage BEFORE UPDATE ON feature_flags WHEN new.key = 'a'
            BEGIN SELECT RAISE(ABORT, 'sabotage (of ann@example.com)'); END";
        sqlx::raw_sql(trigger).execute(&mut connection).await.unwrap();
    };
    (database, sabotage)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_internal_error_is_sent_with_its_trace_and_with_nobodys_name() {
    let (dsn, mut collected) = collector().await;
    let (database, sabotage) = sabotaged().await;
    let settings = [("SENTRY_DSN", dsn.as_str()), ("SENTRY_ENVIRONMENT", "stage")];
    let (mut server, log) = Server::launch_with_log(&database.url, &settings).await;
    server.ready().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    admin.toggle.get_feature_flag(get("nowhere")).await.unwrap_err();
    sabotage().await;
    let mut flip = Request::new(because("a", "the-plan-of-ann@example.com"));
    flip.metadata_mut().insert("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01").parse().unwrap());
    assert_eq!(admin.toggle.toggle_feature_flag(flip).await.unwrap_err().code(), Code::Internal);
    // Sent when it happens, and not only at the end.
    let (path, envelope) = with_timeout("what is sent", collected.recv()).await.unwrap();
    assert!(server.terminate().await.success());

    assert_eq!(path, "/api/7/envelope/");
    let lines: Vec<Value> = envelope.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let event = lines.iter().find(|line| line["tags"].is_object()).unwrap_or_else(|| panic!("{envelope}"));
    assert_eq!((&event["tags"]["trace_id"], &event["contexts"]["trace"]["trace_id"]), (&TRACE.into(), &TRACE.into()));
    assert_eq!(event["tags"]["method"], "toggled.v1.ToggleService/ToggleFeatureFlag");
    assert_eq!(event["release"], concat!("toggled@", env!("CARGO_PKG_VERSION")));
    assert_eq!(event["environment"], "stage");
    assert!(event["message"].as_str().unwrap().contains("sabotage"), "{event}");
    let host = std::env::var("HOSTNAME").ok().filter(|host| host.len() > 3);
    for told in
        ["ann@", "example.com", "admin@localhost", TOKEN, "the-plan", "127.0.0.1:", "breadcrumbs", "server_name"]
    {
        // The DSN stands in the envelope's head.
        let event = event.to_string();
        assert!(!event.contains(told), "{told} in {event}");
        assert!(host.as_ref().is_none_or(|host| !event.contains(host)), "{event}");
    }
    assert!(collected.try_recv().is_err(), "what is no defect is not sent");
    let words = log.rest().await;
    let told = words.lines().find(|line| line.contains("internal error")).unwrap_or_else(|| panic!("{words}"));
    assert!(told.contains(TRACE), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_collector_does_not_keep_a_server_from_ending() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dsn = format!("http://key@{}/1", silent.local_addr().unwrap());
    let (database, sabotage) = sabotaged().await;
    let server = Server::start_with(&database, &[("SENTRY_DSN", &dsn)]).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    sabotage().await;
    admin.toggle.toggle_feature_flag(because("a", "")).await.unwrap_err();
    ends_soon(server).await;
}

/// Says to a second process of the same test where to send a panic.
const PANIC_TO: &str = "TOGGLED_TESTS_PANIC_TO";

/// As `serve` starts to tell of them. It takes a process of its own: panics are one process's, and so is who is told of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_sent_with_nobodys_name() {
    if let Ok(dsn) = std::env::var(PANIC_TO) {
        let errors = Some(ErrorCollector::new(&dsn, None, None).unwrap());
        let telemetry =
            telemetry::start(TelemetrySettings { filter: "off".into(), format: LogFormat::Json, traces: None, errors });
        tokio::spawn(async { panic!("panicked over ann@example.com") }).await.unwrap_err();
        telemetry.unwrap().shutdown().await;
        return;
    }
    let (dsn, mut collected) = collector().await;
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "telemetry::errors::a_panic_is_sent_with_nobodys_name"]).env(PANIC_TO, &dsn);
    let ended = with_timeout("the second process", again.kill_on_drop(true).output()).await.unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let (_, envelope) = with_timeout("what is sent", collected.recv()).await.unwrap();
    assert!(envelope.contains("panicked over") && envelope.contains("panic"), "{envelope}");
    let event = envelope.split_once('\n').unwrap().1;
    assert!(!event.contains("ann@"), "{envelope}");
}
