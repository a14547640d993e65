//! OFREP: flags as JSON over plain HTTP.

use std::net::TcpListener;

use http::Request;
use serde_json::{Value, json};
use toggled::api::pb::*;
use tokio::net::TcpStream;

use crate::support::http::{Http, header, json as body};
use crate::support::methods::{PERMISSIONS, channel};
use crate::support::tls::{Ca, Files, connect_with_alpn};
use crate::support::{Backend, Client, Database, Issuer, Server, TOKEN, on_both_databases, with_timeout};

const FLAGS: &str = "/ofrep/v1/evaluate/flags";

/// A request with this token.
fn request_with(method: &str, path: &str, token: Option<&str>, body: &str) -> Request<String> {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(body.to_owned()).unwrap()
}

/// The administrator's request for all flags.
fn bulk() -> Request<String> {
    request_with("POST", FLAGS, Some(TOKEN), r#"{"context":{}}"#)
}

/// The administrator's request for all flags, unless they match one of these tags.
fn bulk_unless(tags: &[&str]) -> Request<String> {
    let mut request = bulk();
    for tag in tags {
        request.headers_mut().append("if-none-match", tag.parse().unwrap());
    }
    request
}

/// The administrator's request for one flag.
fn single(key: &str) -> Request<String> {
    request_with(
        "POST",
        &format!("{FLAGS}/{key}"),
        Some(TOKEN),
        r#"{"context":{"targetingKey":"user-1","plan":"free"}}"#,
    )
}

fn evaluated(key: &str, value: bool) -> Value {
    json!({"key": key, "value": value, "reason": "STATIC", "variant": if value { "on" } else { "off" }})
}

/// A connection for each version of HTTP.
async fn connections(server: &Server) -> [Http; 2] {
    [Http::connect(server.address).await, Http::Two(channel(server).await)]
}

on_both_databases! {
    async fn single_evaluation_returns_current_status(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        for key in ["checkout", "New.Key_2-b", "old"] {
            admin.create(key).await;
        }
        admin.archive("old").await;
        for mut http in connections(&server).await {
            let answer = http.send(single("checkout")).await;
            assert_eq!((answer.status().as_u16(), body(&answer)), (200, evaluated("checkout", false)));
            admin.flip("checkout").await;
            assert_eq!(body(&http.send(single("checkout")).await), evaluated("checkout", true));
            admin.flip("checkout").await;
            // Percent-encoding and a query string do not matter.
            for same in ["%63heckout", "checkou%74", "%63%68%65%63%6B%6f%75%74", "checkout?flag=other"] {
                assert_eq!(body(&http.send(single(same)).await), evaluated("checkout", false), "{same}");
            }
            assert_eq!(body(&http.send(single("New.Key_2-b")).await), evaluated("New.Key_2-b", false));
            let nothing = [
                ("nothing", "nothing"),
                ("old", "old"),
                ("Checkout", "Checkout"),
                ("checkout%2F", "checkout/"),
                ("checkout/on", "checkout/on"),
                ("%2E%2E", ".."),
                ("checkout%00", "checkout\0"),
                ("%2563heckout", "%63heckout"),
                ("%", "%"),
                ("%ff", "\u{fffd}"),
                ("", ""),
            ];
            for (path, key) in nothing {
                let answer = http.send(single(path)).await;
                let details = format!("feature flag not found: {key}");
                let expected = json!({"key": key, "errorCode": "FLAG_NOT_FOUND", "errorDetails": details});
                assert_eq!((answer.status().as_u16(), body(&answer)), (404, expected), "{path}");
            }
        }
    }

    async fn bulk_etag_changes_only_when_a_flag_changes(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let mut http = Http::connect(server.address).await;
        let mut tags = Vec::new();
        let mut check = async |expected: &[Value]| {
            let answer = http.send(bulk()).await;
            assert_eq!((answer.status().as_u16(), body(&answer)), (200, json!({"flags": expected})));
            let tag = header(&answer, "etag").unwrap().to_owned();
            assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
            assert!(!tags.contains(&tag), "{tag} was used for other flags");
            // The tag stays the same while no flag changes, on every server.
            let same = http.send(bulk_unless(&[&tag])).await;
            assert_eq!((same.status().as_u16(), &**same.body(), header(&same, "etag")), (304, &b""[..], Some(&*tag)));
            assert_eq!(http.send(bulk_unless(&tags.iter().map(String::as_str).collect::<Vec<_>>())).await.status(), 200);
            tags.push(tag);
        };
        check(&[]).await;
        admin.create("b").await;
        check(&[evaluated("b", false)]).await;
        admin.create("a").await;
        check(&[evaluated("a", false), evaluated("b", false)]).await;
        admin.flip("b").await;
        check(&[evaluated("a", false), evaluated("b", true)]).await;
        admin.flip("b").await;
        check(&[evaluated("a", false), evaluated("b", false)]).await;
        admin.archive("b").await;
        check(&[evaluated("a", false)]).await;

        let tag = tags.pop().unwrap();
        admin.new_user("ann@example.com", &["view_feature_flags"]).await;
        for mut http in connections(&server).await {
            let (weak, list) = (format!("W/{tag}"), format!("\"x,\", W/{tag}, \"y\""));
            for matching in [&[&*tag][..], &[&weak], &[&list], &["\"x\"", &tag], &["*"]] {
                assert_eq!(http.send(bulk_unless(matching)).await.status(), 304, "{matching:?}");
            }
            for other in [&["\"x\""][..], &["W/\"x\", \"y\""], &[tag.trim_matches('"')], &[""]] {
                assert_eq!(http.send(bulk_unless(other)).await.status(), 200, "{other:?}");
            }
        }
        // Another server on the same database, or the same one later, returns the same tag.
        assert!(server.terminate().await.success());
        let again = Server::start(&database).await;
        assert_eq!(Http::connect(again.address).await.send(bulk_unless(&[&tag])).await.status(), 304);
    }

    async fn evaluation_requires_permission_to_view_flags(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("secret-plan").await;
        let lacking: Vec<_> = PERMISSIONS.iter().copied().filter(|p| *p != "view_feature_flags").collect();
        let lacking = admin.new_user("ann@example.com", &lacking).await;
        let revoked = admin.new_user("bob@example.com", &["view_feature_flags"]).await;
        let mut bob = server.client(Some(&revoked)).await;
        let id = bob.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().token_id;
        admin.access.revoke_token(RevokeTokenRequest { id, ..Default::default() }).await.unwrap();
        let entries = admin.log().await.len();

        for mut http in connections(&server).await {
            for path in [FLAGS, &format!("{FLAGS}/secret-plan"), &format!("{FLAGS}/nothing")] {
                for token in [None, Some("nobody-has-this-token-here"), Some(&*revoked)] {
                    let answer = http.send(request_with("POST", path, token, "{}")).await;
                    assert_eq!((answer.status().as_u16(), header(&answer, "www-authenticate")), (401, Some("Bearer")));
                    let details = "a valid bearer token is required: authorization: Bearer TOKEN";
                    assert_eq!(body(&answer), json!({"errorCode": "GENERAL", "errorDetails": details}));
                }
                let answer = http.send(request_with("POST", path, Some(&lacking), "{}")).await;
                let details = "Insufficient permissions: view_feature_flags required";
                let expected = json!({"errorCode": "GENERAL", "errorDetails": details});
                assert_eq!((answer.status().as_u16(), body(&answer)), (403, expected));
            }
        }
        assert_eq!(admin.log().await.len(), entries);
    }

    async fn evaluation_records_last_use_of_token(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let secret = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
        let users = admin.access.list_users(ListUsersRequest::default()).await.unwrap().into_inner().users;
        let user_id = users.into_iter().find(|user| user.email == "ann@example.com").unwrap().id;
        let last_used = async |admin: &mut Client| {
            let request = ListTokensRequest { user_id: user_id.clone(), ..Default::default() };
            admin.access.list_tokens(request).await.unwrap().into_inner().tokens.remove(0).last_used_at
        };
        assert_eq!(last_used(&mut admin).await, None);
        let answer = Http::connect(server.address).await.send(request_with("POST", FLAGS, Some(&secret), "{}")).await;
        assert_eq!((answer.status().as_u16(), body(&answer)), (200, json!({"flags": []})));
        assert!(last_used(&mut admin).await.is_some());
    }
}

async fn start() -> (Database, Server, Client) {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    (database, server, admin)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_body_is_rejected_with_its_error_code() {
    let (_database, server, _) = start().await;
    let large = |length: usize| format!(r#"{{"context":{{}},"x":"{}"}}"#, "x".repeat(length - 21));
    let cases = [
        (200, "", "{}"),
        (200, "", r#" {"context": {"targetingKey": "x", "list": [{}]}, "more": 1} "#),
        (200, "", &*large(1_048_576)),
        (413, "GENERAL", &large(1_048_577)),
        (400, "PARSE_ERROR", ""),
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
            for method in ["GET", "POST"] {
                let answer = http.send(request_with(method, path, Some(TOKEN), "{}")).await;
                assert_eq!((answer.status().as_u16(), &body(&answer)["errorCode"]), (404, &json!("GENERAL")), "{path}");
                // Callers without a token do not learn which paths exist.
                assert_eq!(http.send(request_with(method, path, None, "{}")).await.status(), 401, "{path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_over_http_1_1_is_rejected() {
    let (_database, server, mut admin) = start().await;
    let mut http = Http::connect(server.address).await;
    let flip = "/toggled.v1.ToggleService/ToggleFeatureFlag";
    for path in ["/", "/ofrep", "/grpc.health.v1.Health/Check", "/toggled.v1.ToggleService/ListFeatureFlags", flip] {
        for (method, token) in [("GET", None), ("POST", Some(TOKEN))] {
            let answer = http.send(request_with(method, path, token, "")).await;
            let text = "gRPC needs HTTP/2; over HTTP/1.1 only /ofrep/ is served\n";
            assert_eq!((answer.status().as_u16(), &**answer.body()), (505, text.as_bytes()), "{method} {path}");
            assert_eq!(header(&answer, "content-type"), Some("text/plain; charset=utf-8"));
        }
    }
    // A complete call: a message of three bytes with the key `a`.
    let call = request_with("POST", flip, Some(TOKEN), "\0\0\0\0\u{3}\u{12}\u{1}a");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_client_chooses_http_version_and_http_2_wins() {
    let ca = Ca::new("ours");
    let files = Files::new(&ca.server(), None);
    let database = Database::new(Backend::Sqlite).await;
    let [certificate, key] = ["server.pem", "server.key"].map(|name| files.path(name));
    let settings = [("TOGGLED_TLS_CERTIFICATE", &*certificate), ("TOGGLED_TLS_KEY", &*key)];
    let server = Server::start_with(&database, &settings).await;
    for (spoken, chosen) in [(&["http/1.1", "h2"][..], "h2"), (&["h2"], "h2"), (&["http/1.1"], "http/1.1")] {
        let stream = connect_with_alpn(server.address, &ca, spoken).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(chosen.as_bytes()), "{spoken:?}");
    }
    connect_with_alpn(server.address, &ca, &["spdy/3"]).await.unwrap_err();
    // Without ALPN, the server recognizes the version by the first bytes.
    for spoken in [&["http/1.1"][..], &[]] {
        let mut http = Http::from_stream(connect_with_alpn(server.address, &ca, spoken).await.unwrap());
        let answer = http.send(bulk()).await;
        assert_eq!((answer.status().as_u16(), body(&answer)), (200, json!({"flags": []})), "{spoken:?}");
        assert_eq!(http.send(request_with("POST", FLAGS, None, "{}")).await.status(), 401);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_do_not_delay_shutdown() {
    let (_database, server, mut admin) = start().await;
    let reads = futures::future::join_all((0..32).map(|_| async {
        let mut http = Http::connect(server.address).await;
        for _ in 0..20 {
            let answer = http.send(single("a")).await;
            let flag = body(&answer);
            assert!(
                answer.status() == 200 && (flag == evaluated("a", true) || flag == evaluated("a", false)),
                "{answer:?}"
            );
            assert_eq!(http.send(bulk()).await.status(), 200);
        }
        http
    }));
    let flipped = async {
        for _ in 0..50 {
            admin.flip("a").await;
        }
    };
    let (mut kept, ()) = futures::future::join(reads, flipped).await;
    // Reads return the acknowledged status.
    let flag = admin.flip("a").await.feature_flag.unwrap();
    for http in &mut kept {
        assert_eq!(body(&http.send(single("a")).await), evaluated("a", flag.status() == FeatureFlagStatus::Enabled));
    }
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_silent_connections_do_no_harm() {
    let (_database, server, mut admin) = start().await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let long = [b"POST /ofrep/v1/evaluate/flags HTTP/1.1\r\nx: ", "x".repeat(600_000).as_bytes()].concat();
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(1_000));
    let garbage: [(&[u8], &str); 5] = [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "400"),
        (b"nonsense\r\n\r\n", "400"),
        (b"POST /ofrep/v1/evaluate/flags HTTP/1.1\r\ncontent-length: x\r\n\r\n", "400"),
        (many.as_bytes(), "431"),
        (&long, "431"),
    ];
    for (bytes, status) in garbage {
        let answer = Http::connect(server.address).await.send_raw(bytes).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:?}");
    }
    assert_eq!(Http::connect(server.address).await.send(single("a")).await.status(), 200);
    assert_eq!(admin.flip("a").await.revision, 4);
    let stopped = with_timeout("the server to stop", server.terminate()).await;
    assert!(stopped.success());
}
