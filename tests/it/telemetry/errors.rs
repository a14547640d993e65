//! Internal errors and panics, as Sentry receives them.

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

use super::{assert_stops_in_time, get, toggle_because};
use crate::support::{Backend, Database, Server, TOKEN, with_timeout};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A stand-in for Sentry: returns its DSN, and the path and body of each request.
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

/// A database, and a function after which a flip of the flag `a` fails with an error that contains an email address.
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
async fn internal_error_is_sent_without_personal_data() {
    let (dsn, mut collected) = collector().await;
    let (database, sabotage) = sabotaged().await;
    let settings = [("SENTRY_DSN", dsn.as_str()), ("SENTRY_ENVIRONMENT", "stage")];
    let (mut server, log) = Server::launch_with_log(&database.url, &settings).await;
    server.ready().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    admin.toggle.get_feature_flag(get("nowhere")).await.unwrap_err();
    sabotage().await;
    let mut flip = Request::new(toggle_because("a", "the-plan-of-ann@example.com"));
    flip.metadata_mut().insert("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01").parse().unwrap());
    assert_eq!(admin.toggle.toggle_feature_flag(flip).await.unwrap_err().code(), Code::Internal);
    // The event is sent at once, not only at shutdown.
    let (path, envelope) = with_timeout("the event", collected.recv()).await.unwrap();
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
    for secret in
        ["ann@", "example.com", "admin@localhost", TOKEN, "the-plan", "127.0.0.1:", "breadcrumbs", "server_name"]
    {
        // The DSN is in the envelope's header, not in the event.
        let event = event.to_string();
        assert!(!event.contains(secret), "{secret} in {event}");
        assert!(host.as_ref().is_none_or(|host| !event.contains(host)), "{event}");
    }
    assert!(collected.try_recv().is_err(), "a NOT_FOUND error was sent");
    let log = log.rest().await;
    let line = log.lines().find(|line| line.contains("internal error")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains(TRACE), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_collector_does_not_delay_shutdown() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dsn = format!("http://key@{}/1", silent.local_addr().unwrap());
    let (database, sabotage) = sabotaged().await;
    let server = Server::start_with(&database, &[("SENTRY_DSN", &dsn)]).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    sabotage().await;
    admin.toggle.toggle_feature_flag(toggle_because("a", "")).await.unwrap_err();
    assert_stops_in_time(server).await;
}

/// The DSN for the second process of the same test.
const PANIC_DSN: &str = "TOGGLED_TESTS_PANIC_DSN";

/// Starts telemetry like `serve`. This needs a process of its own, since the panic hook and the Sentry client are global.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_is_sent_without_personal_data() {
    if let Ok(dsn) = std::env::var(PANIC_DSN) {
        let errors = Some(ErrorCollector::new(&dsn, None, None).unwrap());
        let telemetry =
            telemetry::start(TelemetrySettings { filter: "off".into(), format: LogFormat::Json, traces: None, errors });
        tokio::spawn(async { panic!("panicked over ann@example.com") }).await.unwrap_err();
        telemetry.unwrap().shutdown().await;
        return;
    }
    let (dsn, mut collected) = collector().await;
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "telemetry::errors::panic_is_sent_without_personal_data"]).env(PANIC_DSN, &dsn);
    let ended = with_timeout("the second process", again.kill_on_drop(true).output()).await.unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let (_, envelope) = with_timeout("the event", collected.recv()).await.unwrap();
    assert!(envelope.contains("panicked over") && envelope.contains("panic"), "{envelope}");
    let event = envelope.split_once('\n').unwrap().1;
    assert!(!event.contains("ann@"), "{envelope}");
}
