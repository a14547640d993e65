//! The claims that a signed token must have, and its permissions.

use serde_json::json;

use super::*;
use crate::domain::access::Permissions;

#[tokio::test]
async fn token_with_wrong_claim_is_rejected() {
    let key = Key::p256("k");
    let sign_on = TestSignOn::new(&jwks([&key])).await;
    let long = "s".repeat(256);
    let cases = [
        ("iss", json!(null), JwtRejection::Issuer),
        ("iss", json!("https://id.example.com/"), JwtRejection::Issuer),
        ("iss", json!([ISSUER]), JwtRejection::Issuer),
        ("aud", json!(null), JwtRejection::Audience),
        ("aud", json!("toggle"), JwtRejection::Audience),
        ("aud", json!(["a", "b"]), JwtRejection::Audience),
        ("aud", json!([]), JwtRejection::Audience),
        ("aud", json!({"toggled": "toggled"}), JwtRejection::Audience),
        ("exp", json!(null), JwtRejection::NoExpiry),
        ("exp", json!("1900000000"), JwtRejection::Malformed),
        ("nbf", json!("soon"), JwtRejection::Malformed),
        ("iat", json!([]), JwtRejection::Malformed),
        ("sub", json!(null), JwtRejection::Subject),
        ("sub", json!(""), JwtRejection::Subject),
        ("sub", json!(7), JwtRejection::Subject),
        ("sub", json!("a\0b"), JwtRejection::Subject),
        ("sub", json!("a\nb"), JwtRejection::Subject),
        ("sub", json!(long), JwtRejection::Subject),
        ("email", json!(null), JwtRejection::Email),
        ("email", json!("ann"), JwtRejection::EmailRefused),
        ("email", json!("cli@host"), JwtRejection::EmailRefused),
        ("email", json!("\u{212a}im@example.com"), JwtRejection::EmailRefused),
        ("email", json!("аdmin@localhost"), JwtRejection::EmailRefused),
        ("email", json!(["ann@example.com"]), JwtRejection::Email),
        ("email_verified", json!(false), JwtRejection::EmailUnverified),
        ("email_verified", json!("false"), JwtRejection::EmailUnverified),
        ("email_verified", json!(0), JwtRejection::EmailUnverified),
    ];
    for (name, value, rejection) in cases {
        assert_eq!(sign_on.verify(&key.token(&but(name, value.clone()))).await, Err(rejection), "{name}: {value}");
    }
    for (name, value) in [
        ("aud", json!(["other", "toggled"])),
        ("sub", json!("ä".repeat(255))),
        ("nbf", json!(null)),
        ("iat", json!(null)),
        ("email_verified", json!(null)),
        ("email_verified", json!("true")),
        ("permissions", json!(null)),
    ] {
        assert!(sign_on.verify(&key.token(&but(name, value.clone()))).await.is_ok(), "{name}: {value}");
    }
    assert_eq!(sign_on.verify(&key.token(&json!("no object"))).await, Err(JwtRejection::Malformed));
}

#[tokio::test]
async fn clock_difference_of_30_seconds_is_tolerated() {
    let key = Key::ed25519("k");
    let sign_on = TestSignOn::new(&jwks([&key])).await;
    let micro = Timestamp::from_micros(at(NOW + 330).micros() - 1);
    let token = key.token(&good());
    assert!(sign_on.verify_at(&token, micro).await.is_ok());
    assert_eq!(sign_on.verify_at(&token, at(NOW + 330)).await, Err(JwtRejection::Expired));
    assert!(sign_on.cached(&token, micro).is_some());
    assert_eq!(sign_on.cached(&token, at(NOW + 330)), None);
    for (name, rejection) in [("nbf", JwtRejection::NotYetValid), ("iat", JwtRejection::IssuedInFuture)] {
        // A token in the cache becomes invalid when the clock is set back.
        let token = key.token(&but(name, json!(NOW)));
        assert!(sign_on.verify(&token).await.is_ok());
        assert!(sign_on.cached(&token, at(NOW - 30)).is_some());
        assert_eq!(sign_on.cached(&token, at(NOW - 31)), None, "{name}");
        assert!(sign_on.verify(&key.token(&but(name, json!(NOW + 30)))).await.is_ok());
        assert_eq!(sign_on.verify(&key.token(&but(name, json!(NOW + 31)))).await, Err(rejection));
        assert_eq!(sign_on.verify(&key.token(&but(name, json!(NOW as f64 + 30.5)))).await, Err(rejection));
        assert_eq!(sign_on.verify(&key.token(&but(name, json!(u64::MAX)))).await, Err(rejection));
        assert_eq!(sign_on.verify(&key.token(&but(name, json!(1e300)))).await, Err(rejection));
        assert!(sign_on.verify(&key.token(&but(name, json!(-1e300)))).await.is_ok());
    }
    for (end, expected) in [
        (json!(NOW as f64 + 0.25), Ok(at(NOW + 30).micros() + 250_000)),
        (json!(NOW - 29), Ok(at(NOW + 1).micros())),
        (json!(NOW - 30), Err(JwtRejection::Expired)),
        (json!(i64::MIN), Err(JwtRejection::Expired)),
        (json!(-1e300), Err(JwtRejection::Expired)),
        (json!(i64::MAX), Ok(Timestamp::MAX.micros())),
        (json!(u64::MAX), Ok(Timestamp::MAX.micros())),
        (json!(1e300), Ok(Timestamp::MAX.micros())),
    ] {
        let identity = sign_on.verify(&key.token(&but("exp", end.clone()))).await;
        assert_eq!(identity.map(|identity| identity.expires_at.micros()), expected, "{end}");
    }
}

#[tokio::test]
async fn permissions_are_a_list_or_words() {
    let key = Key::ed25519("k");
    let sign_on = TestSignOn::new(&jwks([&key])).await;
    for (claim, expected) in [
        (json!(["view_feature_flags", "fly", "manage_access"]), &["manage_access", "view_feature_flags"][..]),
        (json!("view_feature_flags  openid manage_access"), &["manage_access", "view_feature_flags"]),
        (
            json!(["view_feature_flags@staging", "view_feature_flags@-", "manage_access@staging"]),
            &["view_feature_flags@staging"],
        ),
        (json!(["view_feature_flags", 1]), &[]),
        (json!({"view_feature_flags": true}), &[]),
        (json!(true), &[]),
        (json!("*"), &[]),
        (json!(["VIEW_FEATURE_FLAGS"]), &[]),
    ] {
        let identity = sign_on.verify(&key.token(&but("permissions", claim.clone()))).await.unwrap();
        assert_eq!(identity.permissions.names(), expected, "{claim}");
    }
}

#[tokio::test]
async fn with_groups_only_mapped_groups_grant_permissions() {
    let key = Key::ed25519("k");
    let view: Permissions = Permissions::all().iter().filter(|p| p.to_string().starts_with("view")).collect();
    let toggle: Permissions = Permissions::all().iter().filter(|p| p.to_string().starts_with("toggle")).collect();
    let groups = GroupPermissions::from([
        ("cn=ops,ou=x".to_owned(), toggle),
        ("all".to_owned(), view),
        ("none".to_owned(), Permissions::default()),
    ]);
    let pointer = SignOnRules { permissions_claim: "/realm_access/roles".to_owned(), ..rules() };
    let sign_on = TestSignOn::with(&jwks([&key]), SignOnRules { groups: Some(groups), ..pointer.clone() }).await;
    for (roles, expected) in [
        (
            json!(["all", "cn=ops,ou=x", "unknown"]),
            vec!["toggle_feature_flags", "view_audit_logs", "view_feature_flags"],
        ),
        (json!("none all"), vec!["view_audit_logs", "view_feature_flags"]),
        (json!(["manage_access", "ALL", "none"]), vec![]),
    ] {
        let mut claims = good();
        claims["realm_access"] = json!({"roles": roles});
        let identity = sign_on.verify(&key.token(&claims)).await.unwrap();
        assert_eq!(identity.permissions.names(), expected, "{roles}");
    }
    // Without the claim there are no permissions, whatever other claims contain.
    assert_eq!(sign_on.verify(&key.token(&good())).await.unwrap().permissions.names(), <[&str; 0]>::default());
    let without_groups = TestSignOn::with(&jwks([&key]), pointer).await;
    let mut claims = good();
    claims["realm_access"] = json!({"roles": ["manage_access"]});
    assert_eq!(without_groups.verify(&key.token(&claims)).await.unwrap().permissions.names(), ["manage_access"]);
}

#[tokio::test]
async fn environment_claim_names_the_callers_own() {
    let key = Key::ed25519("k");
    let named = SignOnRules { environment_claim: Some("environment".to_owned()), ..rules() };
    let sign_on = TestSignOn::with(&jwks([&key]), named).await;
    for (claim, expected) in [
        (json!("staging"), Ok(Some("staging"))),
        (json!(null), Ok(None)),
        (json!(""), Err(JwtRejection::Environment)),
        (json!("-"), Err(JwtRejection::Environment)),
        (json!("Staging"), Err(JwtRejection::Environment)),
        (json!("staging production"), Err(JwtRejection::Environment)),
        (json!("s".repeat(65)), Err(JwtRejection::Environment)),
        (json!(["staging"]), Err(JwtRejection::Environment)),
        (json!(1), Err(JwtRejection::Environment)),
        (json!({"key": "staging"}), Err(JwtRejection::Environment)),
    ] {
        let identity = sign_on.verify(&key.token(&but("environment", claim.clone()))).await;
        let environment = identity.as_ref().map(|identity| identity.environment.as_ref().map(|key| key.as_str()));
        assert_eq!(environment.map_err(|rejection| *rejection), expected, "{claim}");
    }
    let mut claims = good();
    claims["app"] = json!({"stage": "production"});
    let pointer = SignOnRules { environment_claim: Some("/app/stage".to_owned()), ..rules() };
    let identity = TestSignOn::with(&jwks([&key]), pointer).await.verify(&key.token(&claims)).await.unwrap();
    assert_eq!(identity.environment.as_ref().map(|key| key.as_str()), Some("production"));
    // Without the setting, a claim of this name means nothing.
    let unset = TestSignOn::new(&jwks([&key])).await;
    for claim in [json!("staging"), json!(1)] {
        let identity = unset.verify(&key.token(&but("environment", claim))).await.unwrap();
        assert_eq!(identity.environment, None);
    }
}
