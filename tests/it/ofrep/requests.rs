//! Invalid requests, unknown paths, and tokens of the single sign-on.

use std::net::TcpListener;

use serde_json::json;
use toggled::api::pb::*;

use crate::support::http::{Http, header, json as body};
use crate::support::{Backend, Database, Issuer, Server, TOKEN};

use super::{FLAGS, connections, request_with, single, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_body_is_rejected_with_its_error_code() {
    let (_database, server, _) = start().await;
    let large = |length: usize| format!(r#"{{"context":{{}},"x":"{}"}}"#, "x".repeat(length - 21));
    let cases = [
        (200, "", "{}"),
        (200, "", r#" {"context": {"targetingKey": "x", "list": [{}]}, "more": 1} "#),
        (200, "", &*large(1_048_576)),
        (413, "GENERAL", &large(1_048_577)),
        (200, "", ""),
        (400, "PARSE_ERROR", " "),
        (400, "PARSE_ERROR", "{"),
        (400, "PARSE_ERROR", "{} {}"),
        (400, "PARSE_ERROR", "[]"),
        (400, "PARSE_ERROR", "null"),
        (400, "PARSE_ERROR", "context={}"),
        (400, "PARSE_ERROR", &"[".repeat(100_000)),
        (400, "PARSE_ERROR", &format!(r#"{{"context":{}"#, "{\"a\":".repeat(100_000))),
        (400, "INVALID_CONTEXT", r#"{"context":null}"#),
        (400, "INVALID_CONTEXT", r#"{"context":[]}"#),
        (400, "INVALID_CONTEXT", r#"{"context":"targetingKey"}"#),
    ];
    for (status, code, text) in cases {
        for line in connections(&server).await.iter_mut() {
            for (path, key) in [(FLAGS.to_owned(), None), (format!("{FLAGS}/a"), Some("a"))] {
                let answer = line.send(request_with("POST", &path, Some(TOKEN), text)).await;
                let what = text.chars().take(40).collect::<String>();
                assert_eq!(answer.status().as_u16(), status, "{path} {what}");
                if status != 200 {
                    let error = body(&answer);
                    assert_eq!((error["errorCode"].as_str(), error["key"].as_str()), (Some(code), key), "{what}");
                    assert!(!error["errorDetails"].as_str().unwrap().is_empty(), "{what}");
                }
                if status == 413 {
                    // The server does not read the rest of such a body, so this connection is closed.
                    *line = Http::connect(server.address).await;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_declared_paths_are_served_and_only_by_post() {
    let (_database, server, _) = start().await;
    for mut http in connections(&server).await {
        for path in [FLAGS.to_owned(), format!("{FLAGS}/a"), format!("{FLAGS}/nothing")] {
            for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
                let answer = http.send(request_with(method, &path, Some(TOKEN), "{}")).await;
                assert_eq!(
                    (answer.status().as_u16(), header(&answer, "allow")),
                    (405, Some("POST")),
                    "{method} {path}"
                );
                assert_eq!(body(&answer)["errorCode"], "GENERAL");
            }
        }
        let nothing = ["/ofrep/v1/configuration", "/ofrep/v1/evaluate", "/ofrep/v2/evaluate/flags", "/ofrep/"];
        for path in nothing {
            let answer = http.send(request_with("POST", path, Some(TOKEN), "{}")).await;
            assert_eq!((answer.status().as_u16(), &body(&answer)["errorCode"]), (404, &json!("GENERAL")), "{path}");
            // Callers without a token do not learn which paths exist.
            assert_eq!(http.send(request_with("POST", path, None, "{}")).await.status(), 401, "{path}");
            assert_eq!(http.send(request_with("GET", path, None, "{}")).await.status(), 405, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_json_is_taken() {
    let (_database, server, _) = start().await;
    for mut http in connections(&server).await {
        for path in [FLAGS.to_owned(), format!("{FLAGS}/a")] {
            for (content_type, status) in [
                ("application/json", 200),
                ("Application/JSON; charset=utf-8", 200),
                ("text/plain", 415),
                ("application/x-www-form-urlencoded", 415),
                ("application/grpc", 415),
                ("", 415),
            ] {
                let mut request = request_with("POST", &path, Some(TOKEN), "{}");
                request.headers_mut().insert("content-type", content_type.parse().unwrap());
                let answer = http.send(request).await;
                assert_eq!(answer.status().as_u16(), status, "{path} {content_type}");
                if status == 415 {
                    assert_eq!(body(&answer)["errorDetails"], "the content type must be application/json");
                }
            }
            // Before authentication, and also where the header is absent.
            let mut request = request_with("POST", &path, None, "{}");
            request.headers_mut().remove("content-type");
            assert_eq!(http.send(request).await.status(), 415, "{path}");
            // An empty body has no type.
            let mut request = request_with("POST", &path, Some(TOKEN), "");
            request.headers_mut().remove("content-type");
            assert_eq!(http.send(request).await.status(), 200, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_over_http_1_1_is_rejected() {
    let (_database, server, mut admin) = start().await;
    let mut http = Http::connect(server.address).await;
    let flip = "/toggled.v1.ToggleService/ToggleFeatureFlag";
    for path in ["/", "/ofrep", "/grpc.health.v1.Health/Check", "/toggled.v1.ToggleService/ListFeatureFlags", flip] {
        for content_type in ["application/grpc", "application/grpc+proto", "application/grpc+json"] {
            let mut request = request_with("POST", path, Some(TOKEN), "");
            request.headers_mut().insert("content-type", content_type.parse().unwrap());
            let answer = http.send(request).await;
            let text = "gRPC needs HTTP/2; over HTTP/1.1 use Connect, with application/json or application/proto, or gRPC-Web\n";
            assert_eq!((answer.status().as_u16(), &**answer.body()), (505, text.as_bytes()), "{content_type} {path}");
            assert_eq!(header(&answer, "content-type"), Some("text/plain; charset=utf-8"));
        }
        assert_eq!(http.send(request_with("PUT", path, None, "")).await.status(), 405, "{path}");
    }
    // A complete call: a message of three bytes with the key `a`.
    let mut call = request_with("POST", flip, Some(TOKEN), "\0\0\0\0\u{3}\u{12}\u{1}a");
    call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    assert_eq!(http.send(call).await.status(), 505);
    assert_eq!(admin.get("a").await.status(), FeatureFlagStatus::Disabled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evaluation_is_unavailable_until_database_is_read() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server::launch(&format!("postgres://nobody:nothing@{closed}/nowhere"), &[]).await;
    for mut http in connections(&server).await {
        let answer = http.send(single("a")).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "retry-after")), (503, Some("1")));
        assert_eq!(body(&answer)["errorCode"], "GENERAL");
    }
}

/// Tokens of the single sign-on need verification, which takes another path through the middleware.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evaluation_accepts_single_sign_on_token() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let server = Server::start_with(&database, &issuer.settings()).await;
    let token = |permissions: &[&str]| issuer.token(&issuer.claims("sue@example.com", permissions));
    server.client(Some(&token(&[]))).await.wait_until_authenticated().await;
    let mut http = Http::connect(server.address).await;
    let (reader, other) = (token(&["view_feature_flags"]), token(&["view_audit_logs"]));
    for _ in 0..2 {
        assert_eq!(http.send(request_with("POST", FLAGS, Some(&reader), "{}")).await.status(), 200);
        let refused = http.send(request_with("POST", FLAGS, Some(&other), "{}")).await;
        assert_eq!((refused.status().as_u16(), &body(&refused)["errorCode"]), (403, &json!("GENERAL")));
        let forged = http.send(request_with("POST", FLAGS, Some(&reader[..reader.len() - 4]), "{}")).await;
        assert_eq!((forged.status().as_u16(), header(&forged, "www-authenticate")), (401, Some("Bearer")));
        body(&forged);
    }
}
