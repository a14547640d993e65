//! Tokens of the single sign-on: validity, key rotation, and permissions.

use serde_json::{Value, json};
use toggled::api::pb::*;
use tonic::Code;
use tonic::metadata::MetadataValue;

use crate::support::methods::{call, channel};
use crate::support::signing::{Key, base64url};
use crate::support::{Backend, Database, Issuer, Server, read_until_error, reason_of};

use super::{now, start, who_am_i};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_token_is_rejected() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let (key, rsa) = (Key::p256("first"), Key::rsa("rsa"));
    issuer.rotate(vec![key.clone(), rsa.clone(), Key::ed25519("ed")]);
    let server = start(&issuer, &database, &[]).await;
    let claims = issuer.claims("sue@example.com", &["view_feature_flags", "view_audit_logs"]);
    let with_claim = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        key.token(&claims)
    };
    let header = |algorithm: &str, id: &str| json!({"typ": "JWT", "alg": algorithm, "kid": id});
    let unsigned = |algorithm: &str, id: &str| {
        let parts = [header(algorithm, id), claims.clone()].map(|part| base64url(part.to_string().as_bytes()));
        parts.join(".")
    };
    // HMAC with the public RSA key as its secret.
    let confused = {
        let message = unsigned("HS256", "rsa");
        let hmac = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &rsa.public()), message.as_bytes());
        format!("{message}.{}", base64url(hmac.as_ref()))
    };
    let good = key.token(&claims);
    let tampered = {
        let mut other = claims.clone();
        other["sub"] = json!("another subject");
        let parts: Vec<_> = good.split('.').collect();
        format!("{}.{}.{}", parts[0], base64url(other.to_string().as_bytes()), parts[2])
    };
    let bad = [
        ("another audience", with_claim("aud", json!("others"))),
        ("another issuer", with_claim("iss", json!("https://id.example.com"))),
        ("expired", with_claim("exp", json!(now() - 60))),
        ("not valid yet", with_claim("nbf", json!(now() + 600))),
        ("issued in the future", with_claim("iat", json!(now() + 600))),
        ("no expiry", with_claim("exp", json!(null))),
        ("no subject", with_claim("sub", json!(""))),
        ("no address", with_claim("email", json!("nobody"))),
        ("the Kelvin sign", with_claim("email", json!("\u{212a}im@example.com"))),
        ("a twin of the administrator", with_claim("email", json!("\u{430}dmin@localhost"))),
        ("a zero-width twin", with_claim("email", json!("admin\u{200b}@localhost"))),
        ("the service's own name", with_claim("email", json!("cli@host"))),
        ("unverified address", with_claim("email_verified", json!(false))),
        ("an unknown key", Key::p256("unknown").token(&claims)),
        ("another key with the same id", Key::p256("first").token(&claims)),
        ("no signature", format!("{}.", unsigned("none", "first"))),
        ("none, and something signed", key.token_with(&header("none", "first"), &claims)),
        ("HMAC with the public key", confused),
        ("the algorithm of another key", key.token_with(&header("RS256", "first"), &claims)),
        ("the id of another key", key.token_with(&header("ES256", "rsa"), &claims)),
        (
            "critical extension",
            key.token_with(&json!({"alg": "ES256", "kid": "first", "crit": ["x"], "x": 1}), &claims),
        ),
        ("altered", tampered),
        ("cut short", good[..good.len() - 4].to_owned()),
    ];
    let channel = channel(&server).await;
    for path in ["/toggled.v1.ToggleService/ListFeatureFlags", "/toggled.v1.AuditService/StreamAuditLogs"] {
        for (what, token) in &bad {
            let authorization: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
            let status = call(&channel, path, [authorization]).await.unwrap_err();
            assert_eq!(
                (status.code(), reason_of(&status).as_str()),
                (Code::Unauthenticated, "UNAUTHENTICATED"),
                "{what}"
            );
            assert!(status.message().starts_with("a valid bearer token is required"), "{what}: {status}");
        }
        for key in [&key, &rsa] {
            let authorization: MetadataValue<_> = format!("Bearer {}", key.token(&claims)).parse().unwrap();
            call(&channel, path, [authorization]).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_over_16_kib_is_rejected() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let server = start(&issuer, &database, &[]).await;
    let channel = channel(&server).await;
    let claims = issuer.claims("sue@example.com", &[]);
    // A token may have 16 KiB. Longer ones are rejected unread. A header beyond the limit breaks the connection, and later
    // calls are served.
    let padded = |bytes: usize| {
        let mut claims = claims.clone();
        claims["x"] = json!("x".repeat(bytes));
        let authorization: MetadataValue<_> = format!("Bearer {}", issuer.token(&claims)).parse().unwrap();
        [authorization]
    };
    let path = "/toggled.v1.AccessService/WhoAmI";
    call(&channel, path, padded(11_000)).await.unwrap();
    assert_eq!(call(&channel, path, padded(15_000)).await.unwrap_err().code(), Code::Unauthenticated);
    // The client may or may not get the answer before the connection breaks.
    let status = call(&channel, path, padded(1_000_000)).await.unwrap_err();
    assert!([Code::ResourceExhausted, Code::Unknown, Code::Unavailable].contains(&status.code()), "{status}");
    who_am_i(&server, &issuer.token(&claims)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_key_is_fetched_on_demand_and_old_key_expires() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let server = start(&issuer, &database, &[]).await;
    let claims = issuer.claims("sue@example.com", &[]);
    let old = issuer.token(&claims);
    who_am_i(&server, &old).await.unwrap();

    issuer.rotate(vec![Key::ed25519("second")]);
    let new = issuer.token(&claims);
    // The first call succeeds, unless the keys were fetched within the last seconds.
    server.client(Some(&new)).await.wait_until_authenticated().await;
    assert_eq!(who_am_i(&server, &old).await.unwrap_err().code(), Code::Unauthenticated);

    // A stream continues while its key is valid, and ends when the key is withdrawn.
    let viewer = issuer.claims("joe@example.com", &["view_audit_logs"]);
    let follow = StreamAuditLogsRequest { follow: true, ..Default::default() };
    let mut viewing = server.client(Some(&issuer.token(&viewer))).await;
    let mut stream = viewing.audit.stream_audit_logs(follow).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    let (second, third) = (Key::p256("of its own"), Key::ed25519("third"));
    issuer.rotate(vec![third.clone(), second]);
    server.client(Some(&third.token(&claims))).await.wait_until_authenticated().await;
    let status = read_until_error(&mut stream).await;
    assert_eq!(status.code(), Code::Unauthenticated);
    let new = third.token(&claims);

    // While the issuer is down, known keys stay valid and unknown keys are rejected.
    issuer.stop().await;
    who_am_i(&server, &new).await.unwrap();
    who_am_i(&server, &issuer.token(&issuer.claims("joe@example.com", &[]))).await.unwrap();
    let unknown = Key::p256("third").token(&claims);
    assert_eq!(who_am_i(&server, &unknown).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_unavailable_until_issuer_has_answered() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    issuer.stop().await;
    let mut server = Server::launch(&database.url, &issuer.settings()).await;
    server.ready().await;
    let token = issuer.token(&issuer.claims("sue@example.com", &[]));
    let status = who_am_i(&server, &token).await.unwrap_err();
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::Unavailable, "ISSUER_UNAVAILABLE"));
    issuer.restart().await;
    server.client(Some(&token)).await.wait_until_authenticated().await;
}

/// The server tolerates a clock difference of 30 seconds, so a token is valid for that long after its `exp`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_ends_when_its_token_expires() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let server = start(&issuer, &database, &[]).await;
    let mut claims = issuer.claims("sue@example.com", &["view_audit_logs"]);
    claims["exp"] = json!(now() - 22);
    let mut sue = server.client(Some(&issuer.token(&claims))).await;
    let follow = StreamAuditLogsRequest { follow: true, ..Default::default() };
    let mut stream = sue.audit.stream_audit_logs(follow).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    let ended = read_until_error(&mut stream).await;
    assert_eq!(ended.code(), Code::Unauthenticated);
    assert_eq!(sue.access.who_am_i(WhoAmIRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_grant_only_configured_permissions() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let groups = "cn=ops,ou=x=toggle_feature_flags+view_feature_flags; auditors=view_audit_logs";
    let more = [("TOGGLED_OIDC_PERMISSIONS_CLAIM", "/realm_access/roles"), ("TOGGLED_OIDC_GROUP", groups)];
    let server = start(&issuer, &database, &more).await;
    let mut claims = issuer.claims("sue@example.com", &["manage_access"]);
    for (roles, expected) in [
        (json!(["cn=ops,ou=x"]), &["toggle_feature_flags", "view_feature_flags"][..]),
        (
            json!(["auditors", "cn=ops,ou=x", "others"]),
            &["toggle_feature_flags", "view_audit_logs", "view_feature_flags"],
        ),
        (json!(["manage_access"]), &[]),
        (json!("auditors others"), &["view_audit_logs"]),
    ] {
        claims["realm_access"] = json!({ "roles": roles });
        assert_eq!(who_am_i(&server, &issuer.token(&claims)).await.unwrap().permissions, expected, "{roles}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claim_names_callers_own_environment() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let mut settings = issuer.settings();
    settings.push(("TOGGLED_OIDC_ENVIRONMENT_CLAIM", "/app/stage"));
    let (mut server, mut log) = Server::launch_with_log(&database.url, &settings).await;
    server.ready().await;
    let mut admin = server.admin().await;
    admin.new_environment("staging").await;
    admin.create_in("default", "a").await;
    let flag = admin.create_in("staging", "a").await;
    let held = ["view_feature_flags", "toggle_feature_flags"];
    let token = |stage: Value| {
        let mut claims = issuer.claims("sue@example.com", &held);
        claims["app"] = json!({ "stage": stage });
        issuer.token(&claims)
    };
    let mut sue = server.client(Some(&token(json!("staging")))).await;
    assert_eq!(sue.wait_until_authenticated().await.environment(), "staging");
    assert_eq!(sue.get("a").await, flag);
    assert_eq!(sue.flip("a").await.feature_flag.unwrap().environment, "staging");
    // It counts as named, so that one that does not exist is not replaced by another.
    let unknown = token(json!("nowhere"));
    assert_eq!(who_am_i(&server, &unknown).await.unwrap().environment(), "nowhere");
    let list = ListFeatureFlagsRequest::default();
    let refused = server.client(Some(&unknown)).await.toggle.list_feature_flags(list).await.unwrap_err();
    assert_eq!(reason_of(&refused), "ENVIRONMENT_NOT_FOUND");
    // Callers without the claim have none.
    assert_eq!(who_am_i(&server, &token(Value::Null)).await.unwrap().environment, None);
    let refused = who_am_i(&server, &token(json!(["staging"]))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    log.wait_for_line("reason=\"environment\"").await;
}
