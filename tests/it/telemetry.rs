//! What the people who run it are told: metrics and log lines.

use std::net::TcpListener;

use toggled::grpc::pb::WhoAmIRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::metadata::{Ascii, MetadataValue};

use crate::support::methods::{call, channel};
use crate::support::{Backend, Database, Issuer, Server, TOKEN, invoke, soon, traces};

/// What Prometheus would be told.
async fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon("the metrics", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_authentications_are_counted_by_reason_and_logged_without_the_token() {
    let database = Database::new(Backend::Sqlite).await;
    // All else that asks for a free port does so at another loopback address.
    let free = TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap().to_string();
    let (mut server, log) = Server::launch_logged(&database.url, &[("TOGGLED_METRICS_LISTEN", &free)]).await;
    server.ready().await;
    let channel = channel(&server).await;
    let guessed = "a-token-that-somebody-has-guessed-badly";
    let path = "/toggled.v1.ToggleService/ListFeatureFlags";
    for value in [Some(format!("Bearer {guessed}")), Some("Basic x".to_owned()), None] {
        for _ in 0..3 {
            let value: Option<MetadataValue<Ascii>> = value.as_ref().map(|text| text.parse().unwrap());
            call(&channel, path, value).await.unwrap_err();
        }
    }
    let metrics = scrape(&free).await;
    for reason in ["unknown", "malformed", "missing"] {
        let line = format!("toggled_authentication_failures_total{{reason=\"{reason}\"}} 3");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    assert!(server.terminate().await.success());
    let words = log.rest().await;
    let told: Vec<_> = words.lines().filter(|line| line.contains("a call was not authenticated")).collect();
    assert!((1..=3).contains(&told.len()), "now and then, not each: {told:?}");
    assert!(told[0].contains("reason=\"unknown\"") && told[0].contains("127.0.0.1:"), "{told:?}");
    assert!(!words.contains(guessed) && !metrics.contains(guessed));
}

#[tokio::test]
async fn metrics_that_cannot_be_served_are_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let settings = [("TOGGLED_METRICS_LISTEN", address.as_str()), ("TOGGLED_LISTEN", "127.0.0.1:0")];
    let output = invoke(&["serve"], &settings).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), told.lines().count()), (Some(1), 1), "{told}");
    assert!(told.contains("metrics") && told.contains(&address), "{told}");
}

/// Not even who logs everything there is to log finds a token in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_the_servers_log() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let mut settings = issuer.settings();
    settings.push(("TOGGLED_LOG", "trace"));
    let (mut server, log) = Server::launch_logged(&database.url, &settings).await;
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
    let words = soon("the log", reading).await.unwrap();
    assert!(words.contains("TRACE") && words.contains("DEBUG"), "it logs everything: {} bytes", words.len());
    for token in [TOKEN, &secret, &signed, guessed] {
        for trace in traces(token) {
            assert_eq!(words.lines().find(|line| line.contains(&trace)), None, "{token}");
        }
    }
}
