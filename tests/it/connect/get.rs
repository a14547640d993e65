//! Connect's GET requests.

use prost::Message;
use serde_json::Value;
use toggled::api::pb::*;
use tonic::Code;

use super::{GET, LIST, TOGGLE, WATCH, is_enabled, start};
use crate::support::methods::methods;
use crate::support::web::{Web, error_of, get};
use crate::support::{Backend, Database, Server, TOKEN, reason_of};

/// Exactly the methods of one answer that change nothing.
#[test]
fn every_read_has_no_side_effects() {
    for method in methods().into_iter().filter(|method| method.path.starts_with("/toggled.v1.")) {
        assert_eq!(method.has_no_side_effects, !method.changes && !method.is_streaming, "{}", method.path);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_by_get_is_answered_and_not_cached() {
    let (_database, _server, _, web) = start().await;
    for web in web {
        let answer = web.send(get(LIST, "json", TOKEN, b"{}")).await;
        assert_eq!(
            (answer.status(), answer.headers()["cache-control"].to_str().unwrap()),
            (http::StatusCode::OK, "no-store")
        );
        let flags: Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(flags["featureFlags"][0]["key"], "a");
        let flag = Some(get_feature_flag_request::Flag::Key("a".into()));
        let request = GetFeatureFlagRequest { flag, ..Default::default() }.encode_to_vec();
        let answer = web.send(get(GET, "proto", TOKEN, &request)).await;
        assert_eq!(GetFeatureFlagResponse::decode(&**answer.body()).unwrap().feature_flag.unwrap().key, "a");
        let answer = web.send(get(GET, "json", TOKEN, br#"{"key":"b"}"#)).await;
        let error = error_of(&answer);
        assert_eq!((error.code(), answer.headers()["cache-control"].to_str().unwrap()), (Code::NotFound, "no-store"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_query_is_refused() {
    let (_database, _server, _, web) = start().await;
    for web in web {
        for (query, problem) in [
            ("", "encoding"),
            ("?", "encoding"),
            ("?encoding=xml&message=a", "encoding"),
            ("?encoding=json", "message"),
            ("?connect=v2&encoding=json&message=%7B%7D", "version 1"),
            ("?encoding=json&base64=1&message=%7B%7D", "base64"),
            ("?encoding=json&message=%7B", "JSON"),
            ("?encoding=proto&base64=1&message=_w", "malformed"),
            ("?encoding=json&compression=gzip&message=%7B%7D", "gzip"),
        ] {
            let request =
                http::Request::get(format!("{LIST}{query}")).header("authorization", format!("Bearer {TOKEN}"));
            let answer = web.send(request.body(Vec::new()).unwrap()).await;
            assert_eq!(answer.headers()["cache-control"], "no-store");
            let error = error_of(&answer);
            assert_eq!((error.code(), &*reason_of(&error)), (Code::InvalidArgument, "MALFORMED"), "{query}");
            assert!(error.message().contains(problem), "{query}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_or_stream_by_get_is_refused() {
    let (_database, _server, mut admin, web) = start().await;
    for web in web {
        for path in [TOGGLE, WATCH, "/toggled.v1.ToggleService/Nothing", "/"] {
            let answer = web.send(get(path, "json", TOKEN, br#"{"key":"a"}"#)).await;
            assert_eq!(
                (answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap()),
                (405, "POST"),
                "{path}"
            );
        }
    }
    assert!(!is_enabled(&mut admin, "a").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_is_never_logged() {
    let database = Database::new(Backend::Sqlite).await;
    let (mut server, log) = Server::launch_with_log(&database.url, &[("TOGGLED_LOG", "debug")]).await;
    server.ready().await;
    for web in Web::both(server.address) {
        let known = web.send(get(GET, "json", TOKEN, br#"{"key":"a"}"#)).await;
        assert_eq!(known.status(), 404);
        for path in [LIST, TOGGLE, "/toggled.v1.ToggleService/Nothing"] {
            let request = http::Request::get(format!("{path}?encoding=json&message=hunter2")).body(Vec::new()).unwrap();
            assert!(web.send(request).await.status().is_client_error());
        }
    }
    assert!(server.terminate().await.success());
    let log = log.rest().await;
    assert!(log.contains("GetFeatureFlag") && !log.contains("message=") && !log.contains("hunter2"), "{log}");
}
