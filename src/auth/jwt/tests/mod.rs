//! Whose tokens are believed, and for how long.

mod claims;
mod key_rotation;
mod properties;

use std::collections::HashSet;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::auth::hash;
use crate::auth::jwks::KeySource;
use crate::auth::signing::{Key, base64url, jwks, rsa_key};

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
async fn a_modulus_may_be_written_with_a_leading_zero() {
    let key = Key::rsa("r");
    let mut jwk = key.jwk();
    jwk["n"] = json!(base64url(&[&[0], &*key.public()].concat()));
    assert!(World::new(&json!({"keys": [jwk]})).await.verify(&key.token(&good())).await.is_ok());
}

#[tokio::test]
async fn while_the_issuer_has_never_answered_nobody_can_tell() {
    let nobody = KeySource::parse("https://127.0.0.1:9/keys").unwrap();
    let sign_on = SignOn::new(rules(), Arc::new(Jwks::open(nobody).await.unwrap()));
    let token = Key::p256("k").token(&good());
    let decision = sign_on.verify(token.as_bytes(), &hash(token.as_bytes()), at(NOW)).await;
    assert_eq!(decision, Err(Rejected::KeysUnread));
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
    let body = base64url(good().to_string().as_bytes());
    for name in ["none", "None", "NONE", "nOnE", ""] {
        let head = base64url(header(name, "r").to_string().as_bytes());
        assert_eq!(world.verify(&format!("{head}.{body}.")).await, Err(Rejected::Malformed));
        assert_eq!(world.verify(&format!("{head}.{body}.AA")).await, Err(Rejected::Algorithm));
    }
    // Everybody knows the public key; as the secret of an HMAC it must prove nothing.
    let jwk = rsa.jwk().to_string();
    let pair = rcgen::KeyPair::try_from(rsa_key()).unwrap();
    let secrets = [rsa.public(), jwk.into_bytes(), pair.public_key_pem().into_bytes(), pair.public_key_raw().to_vec()];
    for secret in secrets {
        for (name, algorithm) in [("HS256", ring::hmac::HMAC_SHA256), ("HS512", ring::hmac::HMAC_SHA512)] {
            for claimed in [name, "RS256"] {
                let message = format!("{}.{body}", base64url(header(claimed, "r").to_string().as_bytes()));
                let tag = ring::hmac::sign(&ring::hmac::Key::new(algorithm, &secret), message.as_bytes());
                let why = if claimed == name { Rejected::Algorithm } else { Rejected::Signature };
                assert_eq!(world.verify(&format!("{message}.{}", base64url(tag.as_ref()))).await, Err(why));
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
        let more = base64url(but("permissions", json!("manage_access")).to_string().as_bytes());
        let other = base64url(json!({"alg": key.algorithm(), "kid": "k"}).to_string().as_bytes());
        for changed in [
            format!("{}.{more}.{}", parts[0], parts[2]),
            format!("{other}.{}.{}", parts[1], parts[2]),
            format!("{}.{}.{}", parts[0], parts[1], base64url(&[0; 64])),
            format!("{}.{}.{}", parts[0], parts[1], base64url(&[0; 256])),
            format!("{}.{}.{}", parts[0], parts[1], &parts[2][..parts[2].len() - 2]),
        ] {
            assert_eq!(world.verify(&changed).await, Err(Rejected::Signature), "{changed}");
        }
        for changed in [format!("{token}="), format!("{token}."), format!(" {token}"), token.replacen('.', "", 1)] {
            assert_eq!(world.verify(&changed).await, Err(Rejected::Malformed), "{changed}");
        }
    }
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
        KeysUnread,
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
