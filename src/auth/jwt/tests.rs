use std::collections::HashSet;
use std::sync::OnceLock;

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::auth::hash;
use crate::auth::jwks::KeySource;
use crate::auth::signing::{Key, encoded, jwks, the_rsa_key};
use crate::domain::access::Permissions;

const ISSUER: &str = "https://id.example.com";

/// The present of these tests.
const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(0).plus_seconds(seconds)
}

fn rules() -> Rules {
    let (issuer, permissions_claim) = (ISSUER.into(), "permissions".to_owned());
    Rules { issuer, audience: "toggled".to_owned(), permissions_claim, groups: None }
}

/// A sign-on whose keys are in a file.
struct World {
    sign_on: SignOn,
    folder: TempDir,
}

impl World {
    async fn new(keys: &Value) -> Self {
        Self::with(keys, rules()).await
    }

    async fn with(keys: &Value, rules: Rules) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("keys.json");
        std::fs::write(&path, keys.to_string()).unwrap();
        let jwks = Jwks::open(KeySource::File(path)).await.unwrap();
        Self { sign_on: SignOn::new(rules, Arc::new(jwks)), folder }
    }

    fn publish(&self, keys: &Value) {
        std::fs::write(self.folder.path().join("keys.json"), keys.to_string()).unwrap();
    }

    async fn verify(&self, token: &str) -> Result<Arc<Identity>, Rejected> {
        self.verify_at(token, at(NOW)).await
    }

    async fn verify_at(&self, token: &str, now: Timestamp) -> Result<Arc<Identity>, Rejected> {
        self.sign_on.verify(token.as_bytes(), &hash(token.as_bytes()), now).await
    }

    fn cached(&self, token: &str, now: Timestamp) -> Option<Arc<Identity>> {
        self.sign_on.cached(&hash(token.as_bytes()), now)
    }
}

/// What a good token says.
fn good() -> Value {
    json!({
        "iss": ISSUER, "aud": "toggled", "sub": "ann", "exp": NOW + 300, "nbf": NOW, "iat": NOW,
        "email": "Ann@Example.com", "email_verified": true, "permissions": ["view_feature_flags"],
    })
}

/// What a good token says but for one claim, which is not there where the value is null.
fn but(name: &str, value: Value) -> Value {
    let mut claims = good();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

fn header(algorithm: &str, id: &str) -> Value {
    json!({"typ": "JWT", "alg": algorithm, "kid": id})
}

#[tokio::test]
async fn a_good_token_of_each_algorithm_vouches_for_its_bearer() {
    let keys = [Key::rsa("r"), Key::p256("e"), Key::ed25519("d")];
    let world = World::new(&jwks(&keys)).await;
    for key in &keys {
        let identity = world.verify(&key.token(&good())).await.unwrap();
        assert_eq!((&*identity.issuer, &*identity.subject), (ISSUER, "ann"));
        assert_eq!(identity.email.as_str(), "ann@example.com");
        assert_eq!(identity.permissions.names(), ["view_feature_flags"]);
        assert_eq!(identity.expires_at, at(NOW + 330));
        let nameless = key.token_with(&json!({"alg": key.algorithm()}), &good());
        assert_eq!(world.verify(&nameless).await, Ok(identity), "the only key of its kind");
    }
}

#[tokio::test]
async fn what_is_not_signed_with_the_key_that_it_names_is_refused() {
    let [rsa, ec, ed] = [Key::rsa("r"), Key::p256("e"), Key::ed25519("d")];
    let world = World::new(&jwks([&rsa, &ec, &ed])).await;
    let stranger = Key::p256("e");
    let cases = [
        (stranger.token(&good()), Rejected::Signature),
        (ec.token_with(&header("ES256", "x"), &good()), Rejected::UnknownKey),
        (rsa.token_with(&header("RS256", "e"), &good()), Rejected::Algorithm),
        (ec.token_with(&header("ES256", "r"), &good()), Rejected::Algorithm),
        (ed.token_with(&header("ES256", "d"), &good()), Rejected::Algorithm),
        (rsa.token_with(&header("RS512", "r"), &good()), Rejected::Algorithm),
        (rsa.token_with(&header("PS256", "r"), &good()), Rejected::Algorithm),
        (ec.token_with(&json!({"kid": "e"}), &good()), Rejected::Algorithm),
        (ec.token_with(&json!({"alg": 1, "kid": "e"}), &good()), Rejected::Algorithm),
        (ec.token_with(&json!({"alg": "ES256", "kid": null}), &good()), Rejected::Malformed),
        (ec.token_with(&json!(["ES256"]), &good()), Rejected::Malformed),
        (ec.token_with(&json!({"alg": "ES256", "kid": "e", "crit": ["b64"]}), &good()), Rejected::Critical),
        (ec.token_with(&json!({"alg": "ES256", "kid": "e", "crit": null}), &good()), Rejected::Critical),
    ];
    for (token, why) in cases {
        assert_eq!(world.verify(&token).await, Err(why), "{token}");
        assert_eq!(world.cached(&token, at(NOW)), None);
    }
    let two = World::new(&jwks([&ec, &Key::p256("other")])).await;
    assert_eq!(two.verify(&ec.token_with(&json!({"alg": "ES256"}), &good())).await, Err(Rejected::AmbiguousKey));
    assert!(two.verify(&ec.token(&good())).await.is_ok());
}

#[tokio::test]
async fn a_token_without_signature_or_with_a_secret_for_one_is_refused() {
    let rsa = Key::rsa("r");
    let world = World::new(&jwks([&rsa])).await;
    let body = encoded(good().to_string().as_bytes());
    for name in ["none", "None", "NONE", "nOnE", ""] {
        let head = encoded(header(name, "r").to_string().as_bytes());
        assert_eq!(world.verify(&format!("{head}.{body}.")).await, Err(Rejected::Malformed));
        assert_eq!(world.verify(&format!("{head}.{body}.AA")).await, Err(Rejected::Algorithm));
    }
    // Everybody knows the public key; as the secret of an HMAC it must prove nothing.
    let jwk = rsa.jwk().to_string();
    let pair = rcgen::KeyPair::try_from(the_rsa_key()).unwrap();
    let secrets = [rsa.public(), jwk.into_bytes(), pair.public_key_pem().into_bytes(), pair.public_key_raw().to_vec()];
    for secret in secrets {
        for (name, algorithm) in [("HS256", ring::hmac::HMAC_SHA256), ("HS512", ring::hmac::HMAC_SHA512)] {
            for claimed in [name, "RS256"] {
                let message = format!("{}.{body}", encoded(header(claimed, "r").to_string().as_bytes()));
                let tag = ring::hmac::sign(&ring::hmac::Key::new(algorithm, &secret), message.as_bytes());
                let why = if claimed == name { Rejected::Algorithm } else { Rejected::Signature };
                assert_eq!(world.verify(&format!("{message}.{}", encoded(tag.as_ref()))).await, Err(why));
            }
        }
    }
}

#[tokio::test]
async fn a_token_that_was_changed_is_refused() {
    for key in [Key::rsa("k"), Key::p256("k"), Key::ed25519("k")] {
        let world = World::new(&jwks([&key])).await;
        let token = key.token(&good());
        let parts: Vec<&str> = token.split('.').collect();
        let more = encoded(but("permissions", json!("manage_access")).to_string().as_bytes());
        let other = encoded(json!({"alg": key.algorithm(), "kid": "k"}).to_string().as_bytes());
        for changed in [
            format!("{}.{more}.{}", parts[0], parts[2]),
            format!("{other}.{}.{}", parts[1], parts[2]),
            format!("{}.{}.{}", parts[0], parts[1], encoded(&[0; 64])),
            format!("{}.{}.{}", parts[0], parts[1], encoded(&[0; 256])),
            format!("{}.{}.{}", parts[0], parts[1], &parts[2][..parts[2].len() - 2]),
        ] {
            assert_eq!(world.verify(&changed).await, Err(Rejected::Signature), "{changed}");
        }
        for changed in [format!("{token}="), format!("{token}."), format!(" {token}"), token.replacen('.', "", 1)] {
            assert_eq!(world.verify(&changed).await, Err(Rejected::Malformed), "{changed}");
        }
    }
}

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

#[tokio::test(start_paused = true)]
async fn a_token_is_remembered_until_its_key_is_gone() {
    let [old, new, newest] = [Key::p256("old"), Key::p256("new"), Key::p256("newest")];
    let world = World::new(&jwks([&old])).await;
    let token = old.token(&good());
    assert_eq!(world.cached(&token, at(NOW)), None);
    let identity = world.verify(&token).await.unwrap();
    assert!(Arc::ptr_eq(&identity, &world.cached(&token, at(NOW)).unwrap()));

    // A token with an unknown key makes it look for new ones; the old key is still among them.
    world.publish(&jwks([&old, &new]));
    assert!(world.verify(&new.token(&good())).await.is_ok());
    assert!(world.verify(&token).await.is_ok());
    assert!(world.cached(&token, at(NOW)).is_some());

    // Withdrawn: what is remembered is worth nothing from the next reading on.
    world.publish(&jwks([&newest]));
    assert_eq!(world.verify(&newest.token(&good())).await, Err(Rejected::UnknownKey), "it has just looked");
    assert!(world.cached(&token, at(NOW)).is_some());
    tokio::time::advance(std::time::Duration::from_secs(5)).await;
    assert!(world.verify(&newest.token(&good())).await.is_ok());
    assert_eq!(world.cached(&token, at(NOW)), None);
    assert_eq!(world.verify(&token).await, Err(Rejected::UnknownKey));
}

#[test]
fn a_jwt_has_three_parts_in_base64url_and_16_kib_at_the_most() {
    for good in ["a.b.c", "eyJ-_.x.0"] {
        assert!(SignOn::looks_like_jwt(good.as_bytes()), "{good}");
    }
    for bad in ["", "..", "a.b", "a.b.", ".b.c", "a..c", "a.b.c.d", "a.b.c.", "a=.b.c", "a.b/.c", "a.b.c ", "a.ä.c"] {
        assert!(!SignOn::looks_like_jwt(bad.as_bytes()), "{bad}");
    }
    assert!(SignOn::looks_like_jwt(format!("a.b.{}", "c".repeat(LONGEST - 4)).as_bytes()));
    assert!(!SignOn::looks_like_jwt(format!("a.b.{}", "c".repeat(LONGEST - 3)).as_bytes()));
}

#[tokio::test]
async fn a_token_over_16_kib_is_refused_however_well_it_is_signed() {
    let key = Key::p256("k");
    let world = World::new(&jwks([&key])).await;
    assert!(world.verify(&key.token(&but("more", json!("x".repeat(8_000))))).await.is_ok());
    assert_eq!(world.verify(&key.token(&but("more", json!("x".repeat(16_000))))).await, Err(Rejected::Malformed));
}

#[test]
fn every_reason_has_a_label_of_its_own() {
    use Rejected::*;
    let all = [
        Malformed,
        Algorithm,
        Critical,
        UnknownKey,
        AmbiguousKey,
        Signature,
        Issuer,
        Audience,
        NoExpiry,
        Expired,
        NotYetValid,
        IssuedInFuture,
        Subject,
        Email,
        EmailUnverified,
    ];
    let labels: HashSet<_> = all.iter().map(Rejected::label).collect();
    assert_eq!(labels.len(), all.len());
}

/// A sign-on with a key, and what runs it, once for all cases of a property.
fn lasting() -> &'static (tokio::runtime::Runtime, World, Key) {
    static LASTING: OnceLock<(tokio::runtime::Runtime, World, Key)> = OnceLock::new();
    LASTING.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let key = Key::ed25519("k");
        let world = runtime.block_on(World::new(&jwks([&key, &Key::p256("e"), &Key::rsa("r")])));
        (runtime, world, key)
    })
}

/// Any JSON, not too large, with names and texts that mean something more often than chance would have it.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((text(), inner), 0..8).prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

fn text() -> impl Strategy<Value = String> {
    let known = [
        "alg",
        "kid",
        "crit",
        "typ",
        "none",
        "HS256",
        "RS256",
        "ES256",
        "EdDSA",
        "k",
        "e",
        "r",
        "iss",
        "aud",
        "sub",
        "exp",
        "nbf",
        "iat",
        "email",
        "email_verified",
        "permissions",
        "toggled",
        ISSUER,
        "ann@example.com",
    ];
    prop_oneof![3 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_let_them_in(token in proptest::collection::vec(any::<u8>(), 0..512)) {
        let (runtime, world, _) = lasting();
        SignOn::looks_like_jwt(&token);
        prop_assert!(runtime.block_on(world.sign_on.verify(&token, &hash(&token), at(NOW))).is_err());
    }

    #[test]
    fn no_header_lets_in_what_is_not_signed(header in any_json(), claims in any_json(), end in any::<[u8; 64]>()) {
        let (runtime, world, key) = lasting();
        for (header, claims) in [(&header, &claims), (&header, &good()), (&super::tests::header(key.algorithm(), "k"), &claims)] {
            let parts = [header.to_string(), claims.to_string()].map(|part| encoded(part.as_bytes()));
            let token = format!("{}.{}.{}", parts[0], parts[1], encoded(&end));
            prop_assert!(runtime.block_on(world.verify(&token)).is_err());
        }
    }

    #[test]
    fn nothing_that_is_signed_makes_it_panic(header in any_json(), claims in any_json(), name in text(), value in any_json()) {
        let (runtime, world, key) = lasting();
        // A signature does not mend a header or claims that make no sense.
        prop_assert!(runtime.block_on(world.verify(&key.token_with(&header, &good()))).is_err());
        prop_assert!(runtime.block_on(world.verify(&key.token(&claims))).is_err());
        if let Ok(identity) = runtime.block_on(world.verify(&key.token(&but(&name, value)))) {
            prop_assert!(!identity.subject.is_empty() && identity.expires_at > at(NOW));
        }
    }
}
