//! What a token that is signed must say.

use serde_json::json;

use super::*;
use crate::domain::access::Permissions;

#[tokio::test]
async fn what_a_token_says_is_held_to_the_rules() {
    let key = Key::p256("k");
    let world = World::new(&jwks([&key])).await;
    let long = "s".repeat(256);
    let cases = [
        ("iss", json!(null), Rejected::Issuer),
        ("iss", json!("https://id.example.com/"), Rejected::Issuer),
        ("iss", json!([ISSUER]), Rejected::Issuer),
        ("aud", json!(null), Rejected::Audience),
        ("aud", json!("toggle"), Rejected::Audience),
        ("aud", json!(["a", "b"]), Rejected::Audience),
        ("aud", json!([]), Rejected::Audience),
        ("aud", json!({"toggled": "toggled"}), Rejected::Audience),
        ("exp", json!(null), Rejected::NoExpiry),
        ("exp", json!("1900000000"), Rejected::Malformed),
        ("nbf", json!("soon"), Rejected::Malformed),
        ("iat", json!([]), Rejected::Malformed),
        ("sub", json!(null), Rejected::Subject),
        ("sub", json!(""), Rejected::Subject),
        ("sub", json!(7), Rejected::Subject),
        ("sub", json!("a\0b"), Rejected::Subject),
        ("sub", json!("a\nb"), Rejected::Subject),
        ("sub", json!(long), Rejected::Subject),
        ("email", json!(null), Rejected::Email),
        ("email", json!("ann"), Rejected::Email),
        ("email", json!("cli@host"), Rejected::Email),
        ("email", json!(["ann@example.com"]), Rejected::Email),
        ("email_verified", json!(false), Rejected::EmailUnverified),
        ("email_verified", json!("false"), Rejected::EmailUnverified),
        ("email_verified", json!(0), Rejected::EmailUnverified),
    ];
    for (name, value, why) in cases {
        assert_eq!(world.verify(&key.token(&but(name, value.clone()))).await, Err(why), "{name}: {value}");
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
        assert!(world.verify(&key.token(&but(name, value.clone()))).await.is_ok(), "{name}: {value}");
    }
    assert_eq!(world.verify(&key.token(&json!("no object"))).await, Err(Rejected::Malformed));
}

#[tokio::test]
async fn clocks_may_differ_by_30_seconds() {
    let key = Key::ed25519("k");
    let world = World::new(&jwks([&key])).await;
    let micro = Timestamp::from_micros(at(NOW + 330).micros() - 1);
    let token = key.token(&good());
    assert!(world.verify_at(&token, micro).await.is_ok());
    assert_eq!(world.verify_at(&token, at(NOW + 330)).await, Err(Rejected::Expired));
    assert!(world.cached(&token, micro).is_some());
    assert_eq!(world.cached(&token, at(NOW + 330)), None);
    for (name, why) in [("nbf", Rejected::NotYetValid), ("iat", Rejected::IssuedInFuture)] {
        // One that was good is not, once the clock has been set back.
        let token = key.token(&but(name, json!(NOW)));
        assert!(world.verify(&token).await.is_ok());
        assert!(world.cached(&token, at(NOW - 30)).is_some());
        assert_eq!(world.cached(&token, at(NOW - 31)), None, "{name}");
        assert!(world.verify(&key.token(&but(name, json!(NOW + 30)))).await.is_ok());
        assert_eq!(world.verify(&key.token(&but(name, json!(NOW + 31)))).await, Err(why));
        assert_eq!(world.verify(&key.token(&but(name, json!(NOW as f64 + 30.5)))).await, Err(why));
        assert_eq!(world.verify(&key.token(&but(name, json!(u64::MAX)))).await, Err(why));
        assert_eq!(world.verify(&key.token(&but(name, json!(1e300)))).await, Err(why));
        assert!(world.verify(&key.token(&but(name, json!(-1e300)))).await.is_ok());
    }
    for (end, expected) in [
        (json!(NOW as f64 + 0.25), Ok(at(NOW + 30).micros() + 250_000)),
        (json!(NOW - 29), Ok(at(NOW + 1).micros())),
        (json!(NOW - 30), Err(Rejected::Expired)),
        (json!(i64::MIN), Err(Rejected::Expired)),
        (json!(-1e300), Err(Rejected::Expired)),
        (json!(i64::MAX), Ok(Timestamp::MAX.micros())),
        (json!(u64::MAX), Ok(Timestamp::MAX.micros())),
        (json!(1e300), Ok(Timestamp::MAX.micros())),
    ] {
        let identity = world.verify(&key.token(&but("exp", end.clone()))).await;
        assert_eq!(identity.map(|identity| identity.expires_at.micros()), expected, "{end}");
    }
}

#[tokio::test]
async fn permissions_are_a_list_or_words_and_anything_else_is_none() {
    let key = Key::ed25519("k");
    let world = World::new(&jwks([&key])).await;
    for (claim, expected) in [
        (json!(["view_feature_flags", "fly", "manage_access"]), &["manage_access", "view_feature_flags"][..]),
        (json!("view_feature_flags  openid manage_access"), &["manage_access", "view_feature_flags"]),
        (json!(["view_feature_flags", 1]), &[]),
        (json!({"view_feature_flags": true}), &[]),
        (json!(true), &[]),
        (json!("*"), &[]),
        (json!(["VIEW_FEATURE_FLAGS"]), &[]),
    ] {
        let identity = world.verify(&key.token(&but("permissions", claim.clone()))).await.unwrap();
        assert_eq!(identity.permissions.names(), expected, "{claim}");
    }
}

#[tokio::test]
async fn with_groups_only_what_is_mapped_counts() {
    let key = Key::ed25519("k");
    let view: Permissions = Permissions::all().iter().filter(|p| p.as_str().starts_with("view")).collect();
    let toggle: Permissions = Permissions::all().iter().filter(|p| p.as_str().starts_with("toggle")).collect();
    let groups = Groups::from([
        ("cn=ops,ou=x".to_owned(), toggle),
        ("all".to_owned(), view),
        ("none".to_owned(), Permissions::default()),
    ]);
    let pointer = Rules { permissions_claim: "/realm_access/roles".to_owned(), ..rules() };
    let world = World::with(&jwks([&key]), Rules { groups: Some(groups), ..pointer.clone() }).await;
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
        let identity = world.verify(&key.token(&claims)).await.unwrap();
        assert_eq!(identity.permissions.names(), expected, "{roles}");
    }
    // Without the claim there are none, whatever stands in others.
    assert_eq!(world.verify(&key.token(&good())).await.unwrap().permissions.names(), [""; 0]);
    let named = World::with(&jwks([&key]), pointer).await;
    let mut claims = good();
    claims["realm_access"] = json!({"roles": ["manage_access"]});
    assert_eq!(named.verify(&key.token(&claims)).await.unwrap().permissions.names(), ["manage_access"]);
}
