//! Calls every method, unary and streaming, as every kind of caller, and checks the exact status.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;
use toggled::api::pb::*;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Status};

use crate::support::methods::{Method, PERMISSIONS, call, channel, methods};
use crate::support::web::{Dialect, Web, assert_same};
use crate::support::{Backend, Client, Database, Issuer, Server, TOKEN, checkpoint_key, on_both_databases, reason_of};

fn bearer(token: &str) -> MetadataValue<Ascii> {
    format!("Bearer {token}").parse().unwrap()
}

/// The status that an authorized caller gets for an empty request. Every new method must be added here.
pub fn authorized_code(path: &str) -> Code {
    match path.rsplit('/').next().unwrap() {
        "ListFeatureFlags" | "WatchFeatureFlags" | "ListAuditLogs" | "StreamAuditLogs" | "ListUsers" | "WhoAmI" => {
            Code::Ok
        }
        "ListEnvironments" => Code::Ok,
        "GetAuditCheckpoint" | "ListAuditCheckpoints" => Code::Ok,
        "ResolveAll" | "EventStream" | "SyncFlags" | "FetchAllFlags" | "GetMetadata" => Code::Ok,
        "ResolveBoolean" | "ResolveString" | "ResolveInt" | "ResolveFloat" | "ResolveObject" => Code::NotFound,
        "ToggleFeatureFlag"
        | "EnableFeatureFlag"
        | "DisableFeatureFlag"
        | "BatchSetFeatureFlags"
        | "BatchCreateFeatureFlags"
        | "CreateFeatureFlag"
        | "UpdateFeatureFlag"
        | "ArchiveFeatureFlag"
        | "UnarchiveFeatureFlag"
        | "RevertFeatureFlag"
        | "GetFeatureFlag"
        | "GetAuditLog"
        | "TrimAuditLogs"
        | "CreateEnvironment"
        | "UpdateEnvironment"
        | "ArchiveEnvironment"
        | "UnarchiveEnvironment"
        | "GetEnvironment"
        | "CreateUser"
        | "GetUser"
        | "UpdateUser"
        | "DeactivateUser"
        | "CreateToken"
        | "ListTokens"
        | "RevokeToken" => Code::InvalidArgument,
        _ => panic!("{path} is missing from the permission matrix"),
    }
}

/// A user with one valid token.
struct Account {
    user_id: String,
    token_id: String,
    secret: String,
}

async fn new_account(server: &Server, email: &str, permissions: &[&str]) -> Account {
    let secret = server.admin().await.new_user(email, permissions).await;
    let mut client = server.client(Some(&secret)).await;
    let me = client.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
    Account { user_id: me.user.unwrap().id, token_id: me.token_id, secret }
}

/// An expired token of a user with all permissions.
async fn expired_token(admin: &mut Client, server: &Server) -> String {
    let user_id = new_account(server, "late@example.com", &PERMISSIONS).await.user_id;
    let expires_at = Some((SystemTime::now() + Duration::from_secs(1)).into());
    let request = CreateTokenRequest { user_id, name: "expiring".into(), expires_at, ..Default::default() };
    let secret = admin.access.create_token(request).await.unwrap().into_inner().secret;
    server.client(Some(&secret)).await.wait_until_unauthenticated().await;
    secret
}

async fn revoked_token(admin: &mut Client, server: &Server) -> String {
    let Account { token_id: id, secret, .. } = new_account(server, "revoked@example.com", &PERMISSIONS).await;
    admin.access.revoke_token(RevokeTokenRequest { id, ..Default::default() }).await.unwrap();
    secret
}

async fn deactivated_users_token(admin: &mut Client, server: &Server) -> String {
    let Account { user_id: id, secret, .. } = new_account(server, "gone@example.com", &PERMISSIONS).await;
    admin.access.deactivate_user(DeactivateUserRequest { id, ..Default::default() }).await.unwrap();
    secret
}

/// The answers to the same call in other ways than gRPC. The database makes no difference to them, so they are made on one.
async fn others(
    backend: Backend,
    web: &Web,
    method: &Method,
    authorization: &[MetadataValue<Ascii>],
) -> Vec<(Dialect, Result<(), Status>)> {
    let mut answers = Vec::new();
    let is_tried = |dialect: &Dialect| matches!(backend, Backend::Sqlite) && dialect.fits(method);
    for dialect in Dialect::ALL.into_iter().filter(is_tried) {
        answers.push((dialect, web.call(dialect, method, authorization.to_vec()).await));
    }
    answers
}

fn assert_unauthenticated(result: Result<(), Status>, what: &str) -> String {
    let status = result.map(|()| panic!("{what}: accepted")).unwrap_err();
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"), "{what}");
    status.message().to_owned()
}

on_both_databases! {
    async fn invalid_tokens_are_rejected_by_every_method(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let plain = |text: &str| vec![text.parse::<MetadataValue<Ascii>>().unwrap()];
        let callers = [
            ("no token", vec![]),
            ("an empty header", plain("")),
            ("only the scheme", plain("Bearer")),
            ("an empty token", plain("Bearer ")),
            ("another scheme", plain(&format!("Basic {TOKEN}"))),
            ("no scheme", plain(TOKEN)),
            ("a truncated token", vec![bearer(&TOKEN[1..])]),
            ("an unknown token", vec![bearer(&format!("toggled_{}", "x".repeat(49)))]),
            ("a long token", vec![bearer(&"x".repeat(4_000))]),
            ("two tokens", vec![bearer(TOKEN), bearer(TOKEN)]),
            ("invalid UTF-8", vec![MetadataValue::try_from(&b"Bearer \xff\xfe"[..]).unwrap()]),
            ("an expired token", vec![bearer(&expired_token(&mut admin, &server).await)]),
            ("a revoked token", vec![bearer(&revoked_token(&mut admin, &server).await)]),
            ("a deactivated user", vec![bearer(&deactivated_users_token(&mut admin, &server).await)]),
        ];
        let channel = channel(&server).await;
        let [_, web] = Web::both(server.address);
        let mut messages = HashSet::new();
        for method in methods() {
            for (who, authorization) in &callers {
                let what = format!("{} with {who}", method.path);
                let result = call(&channel, &method.path, authorization.clone()).await;
                for (dialect, other) in others(backend, &web, &method, authorization).await {
                    assert_same(&other, &result, &format!("{what} by {dialect:?}"));
                }
                messages.insert(assert_unauthenticated(result, &what));
            }
        }
        assert_eq!(messages.len(), 1, "all rejections have the same message");
    }

    async fn methods_accept_only_their_own_permission(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start_with(&database, &[checkpoint_key()]).await;
        let channel = channel(&server).await;
        let web = Web::both(server.address);
        for held in PERMISSIONS {
            let secret = new_account(&server, &format!("{held}@example.com"), &[held]).await.secret;
            for method in methods() {
                let result = call(&channel, &method.path, [bearer(&secret)]).await;
                for web in &web {
                    for (dialect, other) in others(backend, web, &method, &[bearer(&secret)]).await {
                        assert_same(&other, &result, &format!("{} with {held} by {dialect:?}", method.path));
                    }
                }
                let status = result.err().unwrap_or_else(|| Status::ok(""));
                let what = format!("{} with {held}: {status}", method.path);
                match method.permission.as_deref().filter(|required| *required != held) {
                    None => assert_eq!(status.code(), authorized_code(&method.path), "{what}"),
                    Some(missing) => {
                        assert_eq!(status.code(), Code::PermissionDenied, "{what}");
                        assert_eq!(reason_of(&status), "PERMISSION_DENIED", "{what}");
                        assert_eq!(status.message(), format!("Insufficient permissions: {missing} required"));
                    }
                }
            }
        }
    }
}

/// The same with single sign-on, where the token carries the permissions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_on_methods_accept_only_their_own_permission() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let server = Server::start_with(&database, &issuer.settings()).await;
    let channel = channel(&server).await;
    wait_for_keys(&server, &issuer).await;
    for held in PERMISSIONS {
        let token = issuer.token(&issuer.claims(&format!("{held}@example.com"), &[held]));
        for method in methods() {
            let result = call(&channel, &method.path, [bearer(&token)]).await;
            let code = result.err().map_or(Code::Ok, |status| status.code());
            let is_allowed = method.permission.as_deref().is_none_or(|required| required == held);
            assert_eq!(
                code,
                if is_allowed { authorized_code(&method.path) } else { Code::PermissionDenied },
                "{} with {held}",
                method.path
            );
        }
    }
    let mut claims = issuer.claims("late@example.com", &PERMISSIONS);
    claims["exp"] = json!(1_000_000_000);
    for method in methods() {
        let result = call(&channel, &method.path, [bearer(&issuer.token(&claims))]).await;
        assert_unauthenticated(result, &method.path);
    }
}

/// Waits until the server has the issuer's keys.
async fn wait_for_keys(server: &Server, issuer: &Issuer) {
    let token = issuer.token(&issuer.claims("nobody@example.com", &[]));
    server.client(Some(&token)).await.wait_until_authenticated().await;
}

/// Denied changes are logged, and methods with `validate_only` count as changes. Reads are recognized by their names.
#[test]
fn every_change_has_validate_only() {
    for method in methods() {
        let name = method.path.rsplit('/').next().unwrap();
        let reads =
            ["Get", "List", "Stream", "Watch", "WhoAmI", "Resolve", "EventStream", "SyncFlags", "FetchAllFlags"];
        let reads = reads.iter().any(|prefix| name.starts_with(prefix));
        assert_eq!(method.changes, !reads, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_authorization_is_unauthenticated() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let server = Server::start_with(&database, &issuer.settings()).await;
    wait_for_keys(&server, &issuer).await;
    let channel = channel(&server).await;
    // Any bytes that are valid in an HTTP/2 header.
    let byte = prop_oneof![4 => 0x20u8..0x7f, 1 => 0x80u8..=0xff, 1 => Just(b'\t'), 2 => Just(b'.'), 1 => Just(b'=')];
    let text = proptest::collection::vec(byte, 0..600);
    let scheme = prop_oneof![Just("Bearer "), Just("bearer"), Just("BEARER   "), Just("Basic "), Just("")];
    let jwt = "[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,200}\\.[A-Za-z0-9_-]{0,80}".prop_map(String::into_bytes);
    let value = (scheme, prop_oneof![text, jwt]).prop_map(|(scheme, rest)| [scheme.as_bytes(), &rest].concat());
    // A valid token with one byte changed.
    let good = issuer.token(&issuer.claims("sue@example.com", &PERMISSIONS));
    let almost = (0..good.len(), 0x21u8..0x7f).prop_map(move |(at, byte)| {
        let mut bytes = format!("Bearer {good}").into_bytes();
        // Some bits of the last character are ignored, so leave it unchanged.
        let at = (7 + at).min(bytes.len() - 2);
        bytes[at] = if bytes[at] == byte { b'!' } else { byte };
        bytes
    });
    let values = proptest::collection::vec(prop_oneof![value, almost], 1..3);
    let mut runner = TestRunner::deterministic();
    for case in 0..500 {
        let values = values.new_tree(&mut runner).unwrap().current();
        let metadata = values.iter().map(|bytes| MetadataValue::try_from(bytes.as_slice()).unwrap());
        let path = if case % 2 == 0 {
            "/toggled.v1.ToggleService/ListFeatureFlags"
        } else {
            "/toggled.v1.AuditService/StreamAuditLogs"
        };
        assert_unauthenticated(call(&channel, path, metadata).await, &format!("{values:?}"));
    }
    server.admin().await.create("a").await;
}
