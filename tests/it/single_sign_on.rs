//! Single sign-on: authentication, users, settings, and outages of the issuer.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use toggled::api::pb::*;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::support::methods::{call, channel};
use crate::support::signing::{Key, base64url};
use crate::support::{
    Backend, Database, Issuer, Server, invoke, on_both_databases, read_until_error, reason_of, toggle, with_timeout,
};

/// Runs the program with these settings, which must fail. Returns the exit code and the one line on standard error.
async fn startup_error(settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = invoke(&[], settings).await;
    assert!(output.stdout.is_empty());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.lines().count() == 1 && !stderr.contains("panicked"), "{stderr}");
    (output.status.code(), stderr)
}

#[tokio::test]
async fn invalid_settings_print_one_line_and_exit_with_2() {
    let complete = [
        ("TOGGLED_OIDC_ISSUER", "https://id.example.com"),
        ("TOGGLED_OIDC_AUDIENCE", "toggled"),
        ("TOGGLED_OIDC_JWKS", "https://id.example.com/keys"),
    ];
    for (missing, _) in complete {
        let settings: Vec<_> = complete.into_iter().filter(|(name, _)| *name != missing).collect();
        let (code, stderr) = startup_error(&settings).await;
        assert!(code == Some(2) && stderr.contains(missing), "{stderr}");
    }
    for (name, bad) in [
        ("TOGGLED_OIDC_JWKS", "http://id.example.com/keys"),
        ("TOGGLED_OIDC_ISSUER", ""),
        ("TOGGLED_OIDC_GROUP", "ops=everything"),
        ("TOGGLED_OIDC_GROUP", "ops=*;developers"),
        ("TOGGLED_OIDC_PERMISSIONS_CLAIM", ""),
    ] {
        let mut settings = complete.to_vec();
        settings.push((name, bad));
        let (code, stderr) = startup_error(&settings).await;
        assert!(code == Some(2) && stderr.contains(name), "{stderr}");
    }
}

#[tokio::test]
async fn key_file_without_keys_prints_one_line() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("keys.json");
    let settings = [
        ("TOGGLED_OIDC_ISSUER", "https://id.example.com"),
        ("TOGGLED_OIDC_AUDIENCE", "toggled"),
        ("TOGGLED_OIDC_JWKS", path.to_str().unwrap()),
    ];
    for document in [None, Some("{}"), Some(r#"{"keys":[]}"#)] {
        if let Some(document) = document {
            std::fs::write(&path, document).unwrap();
        }
        let (code, stderr) = startup_error(&settings).await;
        assert!(code == Some(2) && stderr.contains("TOGGLED_OIDC_JWKS") && stderr.contains("keys.json"), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_can_be_read_from_a_file() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, issuer.keys().to_string()).unwrap();
    let mut settings = issuer.settings();
    settings.push(("TOGGLED_OIDC_JWKS", path.to_str().unwrap()));
    let server = Server::start_with(&database, &settings).await;
    let token = issuer.token(&issuer.claims("sue@example.com", &["view_audit_logs"]));
    assert_eq!(who_am_i(&server, &token).await.unwrap().permissions, ["view_audit_logs"]);
    assert_eq!(issuer.key_requests(), 0);
}

/// The server trusts the issuer's certificate by `SSL_CERT_FILE`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_fetched_at_startup() {
    let issuer = Issuer::start().await;
    let database = Database::new(Backend::Sqlite).await;
    let mut server = Server::launch(&database.url, &issuer.settings()).await;
    server.ready().await;
    with_timeout("the keys to be fetched", issuer.wait_for_key_requests(1)).await;
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_starts_while_issuer_is_down() {
    let issuer = Issuer::start().await;
    issuer.stop().await;
    let database = Database::new(Backend::Sqlite).await;
    let mut server = Server::launch(&database.url, &issuer.settings()).await;
    server.ready().await;
    server.admin().await.create("a").await;
    assert!(server.terminate().await.success());
}

/// A server that accepts tokens of this issuer.
async fn start(issuer: &Issuer, database: &Database, more: &[(&str, &str)]) -> Server {
    let settings: Vec<_> = issuer.settings().into_iter().chain(more.iter().copied()).collect();
    let mut server = Server::launch(&database.url, &settings).await;
    server.ready().await;
    with_timeout("the keys to be fetched", issuer.wait_for_key_requests(1)).await;
    // The keys are used only some time after they were fetched.
    let token = issuer.token(&issuer.claims("nobody@example.com", &[]));
    server.client(Some(&token)).await.wait_until_authenticated().await;
    server
}

async fn who_am_i(server: &Server, token: &str) -> Result<WhoAmIResponse, Status> {
    server.client(Some(token)).await.access.who_am_i(WhoAmIRequest {}).await.map(tonic::Response::into_inner)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

on_both_databases! {
    async fn first_change_creates_the_user(backend: Backend) {
        let (issuer, database) = (Issuer::start().await, Database::new(backend).await);
        let server = start(&issuer, &database, &[]).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let claims = issuer.claims("Sue@Example.com", &["toggle_feature_flags", "view_feature_flags", "fly"]);
        let token = issuer.token(&claims);

        let me = who_am_i(&server, &token).await.unwrap();
        let user = me.user.unwrap();
        assert_eq!((user.id.as_str(), user.email.as_str(), me.token_id.as_str()), ("", "sue@example.com", ""));
        assert_eq!((user.issuer(), user.subject()), (issuer.name(), "subject of Sue@Example.com"));
        assert_eq!(me.permissions, ["toggle_feature_flags", "view_feature_flags"]);
        let mut sue = server.client(Some(&token)).await;
        sue.get("a").await;
        let head = admin.log().await.len() as i64;

        let flipped = sue.flip("a").await;

        let log = admin.log().await;
        let [created, flip] = &log[head as usize..] else { panic!("not two new entries: {log:?}") };
        assert_eq!((created.action_type.as_str(), flip.action_type.as_str()), ("user_created", "toggle_enabled"));
        assert_eq!((created.revision, flip.revision, flipped.revision), (head + 1, head + 2, head + 2));
        for entry in [created, flip] {
            assert_eq!((entry.user_email.as_str(), entry.user_id.as_ref()), ("sue@example.com", created.entity_id.as_ref()));
            assert_eq!(entry.token_id, None);
        }
        assert!(created.new_value().contains(issuer.name()));
        // The user is created once: the next change adds one entry, and another token belongs to the same user.
        let mut again = server.client(Some(&issuer.token(&claims))).await;
        assert_eq!(again.flip("a").await.audit_log.unwrap().user_id, created.entity_id);
        assert_eq!(admin.log().await.len() as i64, head + 3);
        // Without the permission in the token, a change is denied and recorded for the user.
        let new = CreateFeatureFlagRequest { key: "b".into(), name: "B".into(), ..Default::default() };
        let refused = sue.toggle.create_feature_flag(new).await.unwrap_err();
        assert_eq!(refused.message(), "Insufficient permissions: manage_feature_flags required");
        let last = admin.log().await.pop().unwrap();
        assert_eq!((last.action_type.as_str(), last.user_id), ("access_denied", created.entity_id.clone()));

        // Deactivating the user rejects all tokens of the subject and ends its streams.
        let viewer = issuer.token(&issuer.claims("Sue@Example.com", &["view_audit_logs"]));
        let follow = StreamAuditLogsRequest { follow: true, ..Default::default() };
        let mut stream = server.client(Some(&viewer)).await.audit.stream_audit_logs(follow).await.unwrap().into_inner();
        let id = created.entity_id().to_owned();
        admin.access.deactivate_user(DeactivateUserRequest { id, ..Default::default() }).await.unwrap();
        for token in [&token, &viewer, &issuer.token(&claims)] {
            assert_eq!(who_am_i(&server, token).await.unwrap_err().code(), Code::Unauthenticated);
        }
        let ended = read_until_error(&mut stream).await;
        assert_eq!(ended.code(), Code::Unauthenticated);
    }

    async fn email_address_does_not_identify_the_user(backend: Backend) {
        let (issuer, database) = (Issuer::start().await, Database::new(backend).await);
        let server = start(&issuer, &database, &[]).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let head = admin.log().await.len();
        let mut claims = issuer.claims("admin@localhost", &["toggle_feature_flags"]);
        let error = server.client(Some(&issuer.token(&claims))).await.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err();
        assert_eq!((error.code(), reason_of(&error).as_str()), (Code::FailedPrecondition, "EMAIL_TAKEN"));
        assert_eq!(admin.log().await.len(), head);
        // The subject identifies the user: a new email address at the issuer creates no new user.
        claims["email"] = json!("sue@example.com");
        let first = server.client(Some(&issuer.token(&claims))).await.flip("a").await.audit_log.unwrap();
        claims["email"] = json!("susan@example.com");
        let second = server.client(Some(&issuer.token(&claims))).await.flip("a").await.audit_log.unwrap();
        assert_eq!((first.user_id, &*second.user_email), (second.user_id, "sue@example.com"));
    }

    async fn account_can_be_assigned_to_a_user(backend: Backend) {
        let (issuer, database) = (Issuer::start().await, Database::new(backend).await);
        let server = start(&issuer, &database, &[]).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        admin.new_user("sue@example.com", &["view_feature_flags"]).await;
        let users = admin.access.list_users(ListUsersRequest::default()).await.unwrap().into_inner().users;
        let sue = users.into_iter().find(|user| user.email == "sue@example.com").unwrap();
        let token = issuer.token(&issuer.claims("sue@example.com", &["toggle_feature_flags"]));
        let mut request = UpdateUserRequest {
            id: sue.id.clone(),
            permissions: sue.permissions.clone(),
            issuer: Some(issuer.name().to_owned()),
            ..Default::default()
        };
        let half = admin.access.update_user(request.clone()).await.unwrap_err();
        assert!(half.message().contains("subject"), "{half}");
        request.subject = Some("subject of sue@example.com".to_owned());
        let assigned = admin.access.update_user(request.clone()).await.unwrap().into_inner();
        assert_eq!(assigned.user.unwrap().subject(), "subject of sue@example.com");

        let flip = server.client(Some(&token)).await.flip("a").await.audit_log.unwrap();
        assert_eq!(flip.user_id(), sue.id);
        assert_eq!(who_am_i(&server, &token).await.unwrap().permissions, ["toggle_feature_flags"]);
        // An account without a user can be deactivated too: create a user for it first.
        let new = CreateUserRequest {
            email: "reader@example.com".into(),
            issuer: Some(issuer.name().to_owned()),
            subject: Some("subject of joe@example.com".to_owned()),
            ..Default::default()
        };
        let joe = issuer.token(&issuer.claims("joe@example.com", &["view_audit_logs"]));
        who_am_i(&server, &joe).await.unwrap();
        let id = admin.access.create_user(new.clone()).await.unwrap().into_inner().user.unwrap().id;
        let taken = CreateUserRequest { email: "other@example.com".into(), ..new };
        assert_eq!(reason_of(&admin.access.create_user(taken).await.unwrap_err()), "ACCOUNT_TAKEN");
        admin.access.deactivate_user(DeactivateUserRequest { id, ..Default::default() }).await.unwrap();
        assert_eq!(who_am_i(&server, &joe).await.unwrap_err().code(), Code::Unauthenticated);
        // Both survive a restart.
        assert!(server.terminate().await.success());
        let server = start(&issuer, &database, &[]).await;
        assert_eq!(who_am_i(&server, &token).await.unwrap().user.unwrap().id, sue.id);
        assert_eq!(who_am_i(&server, &joe).await.unwrap_err().code(), Code::Unauthenticated);
    }

    async fn concurrent_first_changes_create_one_user(backend: Backend) {
        let (issuer, database) = (Issuer::start().await, Database::new(backend).await);
        let servers = [start(&issuer, &database, &[]).await, start(&issuer, &database, &[]).await];
        let mut admin = servers[0].admin().await;
        let flag = admin.create("a").await;
        let token = issuer.token(&issuer.claims("sue@example.com", &["toggle_feature_flags"]));
        let mut flips = tokio::task::JoinSet::new();
        for round in 0..16 {
            let mut client = servers[round % 2].client(Some(&token)).await;
            let request = ToggleFeatureFlagRequest { flag: Some(toggle_feature_flag_request::Flag::Id(flag.id.clone())), ..Default::default() };
            flips.spawn(async move { client.toggle.toggle_feature_flag(request).await.map(drop) });
        }
        let mut made = 0;
        while let Some(flip) = with_timeout("a flip", flips.join_next()).await {
            match flip.unwrap() {
                Ok(()) => made += 1,
                // The second server may not know the flag yet.
                Err(status) => assert_eq!(status.code(), Code::NotFound, "{status}"),
            }
        }
        let log = admin.log().await;
        let of_sue = |action: &str| log.iter().filter(|e| e.user_email == "sue@example.com" && e.action_type.starts_with(action)).count();
        assert!(made >= 8, "{made}");
        assert_eq!((of_sue("user_created"), of_sue("toggle_")), (1, made));
    }
}

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
        other["sub"] = json!("somebody else");
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
