//! OFREP: flags as JSON over plain HTTP.

mod connections;
mod events;
mod requests;

use http::{Request, Response};
use serde_json::{Value, json};
use toggled::api::pb::*;

use crate::support::http::{Http, header, json as body};
use crate::support::methods::{PERMISSIONS, channel};
use crate::support::{Backend, Client, Database, Server, TOKEN, on_both_databases};

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

/// The answer without flags.
fn empty() -> Value {
    json!({"flags": [], "metadata": {"flagSetId": "default", "version": "0"}})
}

/// An answer with all flags, without its streams of events.
fn all(answer: &Response<Vec<u8>>) -> Value {
    let mut body = body(answer);
    assert_eq!(body.as_object_mut().unwrap().remove("eventStreams").unwrap().as_array().unwrap().len(), 1);
    body
}

fn evaluated(key: &str, value: bool) -> Value {
    json!({"key": key, "value": value, "reason": "STATIC", "variant": if value { "on" } else { "off" }})
}

/// An archived flag.
fn disabled(key: &str) -> Value {
    json!({"key": key, "reason": "DISABLED"})
}

/// The answer about one flag, when this revision has last changed one.
fn alone(mut evaluated: Value, version: i64) -> Value {
    evaluated["metadata"] = json!({"flagSetId": "default", "version": version.to_string()});
    evaluated
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
        let mut version = admin.archive("old").await.revision;
        for mut http in connections(&server).await {
            let answer = http.send(single("checkout")).await;
            let expected = alone(evaluated("checkout", false), version);
            assert_eq!((answer.status().as_u16(), body(&answer)), (200, expected));
            let on = admin.flip("checkout").await.feature_flag.unwrap().revision;
            assert_eq!(body(&http.send(single("checkout")).await), alone(evaluated("checkout", true), on));
            version = admin.flip("checkout").await.feature_flag.unwrap().revision;
            // Percent-encoding and a query string do not matter.
            for same in ["%63heckout", "checkou%74", "%63%68%65%63%6B%6f%75%74", "checkout?flag=other"] {
                assert_eq!(body(&http.send(single(same)).await), alone(evaluated("checkout", false), version), "{same}");
            }
            let other = alone(evaluated("New.Key_2-b", false), version);
            assert_eq!(body(&http.send(single("New.Key_2-b")).await), other);
            let archived = http.send(single("old")).await;
            let expected = alone(disabled("old"), version);
            assert_eq!((archived.status().as_u16(), body(&archived)), (200, expected));
            let nothing = [
                ("nothing", "nothing"),
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
            let body = body(&answer);
            assert_eq!((answer.status().as_u16(), &body["flags"]), (200, &json!(expected)));
            assert_eq!(body["metadata"]["flagSetId"], "default");
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
        check(&[evaluated("a", false), disabled("b")]).await;

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
        assert_eq!((answer.status().as_u16(), all(&answer)), (200, empty()));
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
