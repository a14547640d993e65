//! CORS: calls from pages of other origins.

use http::Request;

use super::{LIST, start};
use crate::support::web::{Web, post};
use crate::support::{Backend, Database, Server, TOKEN, invoke};

const ORIGIN: &str = "https://flags.example.com";
const OFREP: &str = "/ofrep/v1/evaluate/flags";

fn preflight(path: &str, origin: &str) -> Request<Vec<u8>> {
    let request = Request::options(path)
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,connect-protocol-version,content-type");
    request.body(Vec::new()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_listed_origins_may_call() {
    let database = Database::new(Backend::Sqlite).await;
    let origins = format!("http://localhost:3000;{ORIGIN}");
    let server = Server::start_with(&database, &[("TOGGLED_CORS_ORIGIN", &origins)]).await;
    for web in Web::both(server.address) {
        for path in [LIST, OFREP] {
            let answer = web.send(preflight(path, ORIGIN)).await;
            assert!(answer.status().is_success());
            let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(header("access-control-allow-origin"), ORIGIN);
            assert_eq!(header("access-control-allow-methods"), "GET,POST");
            let allowed = header("access-control-allow-headers");
            for sent in [
                "authorization",
                "content-type",
                "connect-protocol-version",
                "traceparent",
                "flagd-selector",
                "x-grpc-web",
            ] {
                assert!(allowed.split(',').any(|name| name == sent), "{sent} in {allowed}");
            }
            // No cookies, and no client certificates.
            assert!(!answer.headers().contains_key("access-control-allow-credentials"));
            let other = web.send(preflight(path, "https://evil.example.com")).await;
            assert!(!other.headers().contains_key("access-control-allow-origin"));

            for token in [Some(TOKEN), None] {
                let mut request = post(path, "application/json", token, "{}");
                request.headers_mut().insert("origin", ORIGIN.parse().unwrap());
                let answer = web.send(request).await;
                assert_eq!(answer.status().as_u16(), if token.is_some() { 200 } else { 401 }, "{path}");
                assert_eq!(answer.headers()["access-control-allow-origin"], ORIGIN);
                let exposed = answer.headers()["access-control-expose-headers"].to_str().unwrap();
                assert!(
                    ["etag", "grpc-status"].iter().all(|name| exposed.split(',').any(|other| other == *name)),
                    "{exposed}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_origins_no_page_may_call() {
    let (_database, _server, _, web) = start().await;
    for web in web {
        let answer = web.send(preflight(LIST, ORIGIN)).await;
        assert_eq!(answer.status(), 405);
        let mut request = post(LIST, "application/json", Some(TOKEN), "{}");
        request.headers_mut().insert("origin", ORIGIN.parse().unwrap());
        let answer = web.send(request).await;
        assert!(!answer.headers().keys().any(|name| name.as_str().starts_with("access-control")));
    }
}

#[tokio::test]
async fn malformed_origin_prints_one_line_and_exits_with_2() {
    for bad in [
        "*",
        "flags.example.com",
        "https://flags.example.com/",
        "https://flags.example.com/a",
        "https://A.example.com",
        "null",
    ] {
        let output = invoke(&["serve", "--cors-origin", bad], &[]).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && stderr.contains("must be an origin"), "{bad}: {stderr}");
    }
}
