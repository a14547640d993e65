//! Which tokens are accepted, and for how long.

mod claims;
mod key_rotation;
mod properties;

use std::collections::HashSet;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::auth::hash_secret;
use crate::auth::jwks::KeySource;
use crate::auth::signing::{Key, base64url, jwks, rsa_key};

const ISSUER: &str = "https://id.example.com";

/// The current time in these tests, in seconds since 1970.
const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(0).plus_seconds(seconds)
}

fn rules() -> SignOnRules {
    let (issuer, permissions_claim) = (ISSUER.into(), "permissions".to_owned());
    SignOnRules { issuer, audience: "toggled".to_owned(), permissions_claim, groups: None, environment_claim: None }
}

/// A single sign-on whose keys are in a file.
struct TestSignOn {
    inner: SignOn,
    folder: TempDir,
}

impl TestSignOn {
    async fn new(keys: &Value) -> Self {
        Self::with(keys, rules()).await
    }

    async fn with(keys: &Value, rules: SignOnRules) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("keys.json");
        std::fs::write(&path, keys.to_string()).unwrap();
        let jwks = Jwks::open(KeySource::File(path)).await.unwrap();
        Self { inner: SignOn::new(rules, Arc::new(jwks)), folder }
    }

    fn publish(&self, keys: &Value) {
        std::fs::write(self.folder.path().join("keys.json"), keys.to_string()).unwrap();
    }

    async fn verify(&self, token: &str) -> Result<Arc<Identity>, JwtRejection> {
        self.verify_at(token, at(NOW)).await
    }

    async fn verify_at(&self, token: &str, now: Timestamp) -> Result<Arc<Identity>, JwtRejection> {
        self.inner.verify(token.as_bytes(), &hash_secret(token.as_bytes()), now).await
    }

    fn cached(&self, token: &str, now: Timestamp) -> Option<Arc<Identity>> {
        self.inner.cached(&hash_secret(token.as_bytes()), now)
    }
}

/// The claims of a valid token.
fn good() -> Value {
    json!({
        "iss": ISSUER, "aud": "toggled", "sub": "ann", "exp": NOW + 300, "nbf": NOW, "iat": NOW,
        "email": "Ann@Example.com", "email_verified": true, "permissions": ["view_feature_flags"],
    })
}

/// The claims of a valid token with one claim changed, or removed if the value is null.
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
async fn valid_token_of_each_algorithm_is_accepted() {
    let keys = [Key::rsa("r"), Key::p256("e"), Key::ed25519("d")];
    let sign_on = TestSignOn::new(&jwks(&keys)).await;
    for key in &keys {
        let identity = sign_on.verify(&key.token(&good())).await.unwrap();
        assert_eq!((&*identity.issuer, &*identity.subject), (ISSUER, "ann"));
        assert_eq!(identity.email.as_str(), "ann@example.com");
        assert_eq!(identity.permissions.names(), ["view_feature_flags"]);
        assert_eq!(identity.expires_at, at(NOW + 330));
        let without_key_id = key.token_with(&json!({"alg": key.algorithm()}), &good());
        assert_eq!(sign_on.verify(&without_key_id).await, Ok(identity), "the only key of its algorithm was not used");
    }
}

#[tokio::test]
async fn modulus_with_leading_zero_is_accepted() {
    let key = Key::rsa("r");
    let mut jwk = key.jwk();
    jwk["n"] = json!(base64url(&[&[0], &*key.public()].concat()));
    assert!(TestSignOn::new(&json!({"keys": [jwk]})).await.verify(&key.token(&good())).await.is_ok());
}

#[tokio::test]
async fn token_is_rejected_until_keys_are_read() {
    let unreachable = KeySource::parse("https://127.0.0.1:9/keys").unwrap();
    let sign_on = SignOn::new(rules(), Arc::new(Jwks::open(unreachable).await.unwrap()));
    let token = Key::p256("k").token(&good());
    let verified = sign_on.verify(token.as_bytes(), &hash_secret(token.as_bytes()), at(NOW)).await;
    assert_eq!(verified, Err(JwtRejection::KeysUnread));
}

#[tokio::test]
async fn token_not_signed_with_its_named_key_is_rejected() {
    let [rsa, ec, ed] = [Key::rsa("r"), Key::p256("e"), Key::ed25519("d")];
    let sign_on = TestSignOn::new(&jwks([&rsa, &ec, &ed])).await;
    let foreign_key = Key::p256("e");
    let cases = [
        (foreign_key.token(&good()), JwtRejection::Signature),
        (ec.token_with(&header("ES256", "x"), &good()), JwtRejection::UnknownKey),
        (rsa.token_with(&header("RS256", "e"), &good()), JwtRejection::Algorithm),
        (ec.token_with(&header("ES256", "r"), &good()), JwtRejection::Algorithm),
        (ed.token_with(&header("ES256", "d"), &good()), JwtRejection::Algorithm),
        (rsa.token_with(&header("RS512", "r"), &good()), JwtRejection::Algorithm),
        (rsa.token_with(&header("PS256", "r"), &good()), JwtRejection::Algorithm),
        (ec.token_with(&json!({"kid": "e"}), &good()), JwtRejection::Algorithm),
        (ec.token_with(&json!({"alg": 1, "kid": "e"}), &good()), JwtRejection::Algorithm),
        (ec.token_with(&json!({"alg": "ES256", "kid": null}), &good()), JwtRejection::Malformed),
        (ec.token_with(&json!(["ES256"]), &good()), JwtRejection::Malformed),
        (ec.token_with(&json!({"alg": "ES256", "kid": "e", "crit": ["b64"]}), &good()), JwtRejection::Critical),
        (ec.token_with(&json!({"alg": "ES256", "kid": "e", "crit": null}), &good()), JwtRejection::Critical),
    ];
    for (token, rejection) in cases {
        assert_eq!(sign_on.verify(&token).await, Err(rejection), "{token}");
        assert_eq!(sign_on.cached(&token, at(NOW)), None);
    }
    let two = TestSignOn::new(&jwks([&ec, &Key::p256("other")])).await;
    assert_eq!(two.verify(&ec.token_with(&json!({"alg": "ES256"}), &good())).await, Err(JwtRejection::AmbiguousKey));
    assert!(two.verify(&ec.token(&good())).await.is_ok());
}

#[tokio::test]
async fn unsigned_or_hmac_token_is_rejected() {
    let rsa = Key::rsa("r");
    let sign_on = TestSignOn::new(&jwks([&rsa])).await;
    let body = base64url(good().to_string().as_bytes());
    for name in ["none", "None", "NONE", "nOnE", ""] {
        let head = base64url(header(name, "r").to_string().as_bytes());
        assert_eq!(sign_on.verify(&format!("{head}.{body}.")).await, Err(JwtRejection::Malformed));
        assert_eq!(sign_on.verify(&format!("{head}.{body}.AA")).await, Err(JwtRejection::Algorithm));
    }
    // The public key is no secret, so an HMAC with it must not be accepted.
    let jwk = rsa.jwk().to_string();
    let pair = rcgen::KeyPair::try_from(rsa_key()).unwrap();
    let secrets = [rsa.public(), jwk.into_bytes(), pair.public_key_pem().into_bytes(), pair.public_key_raw().to_vec()];
    for secret in secrets {
        for (name, algorithm) in [("HS256", ring::hmac::HMAC_SHA256), ("HS512", ring::hmac::HMAC_SHA512)] {
            for claimed in [name, "RS256"] {
                let message = format!("{}.{body}", base64url(header(claimed, "r").to_string().as_bytes()));
                let tag = ring::hmac::sign(&ring::hmac::Key::new(algorithm, &secret), message.as_bytes());
                let rejection = if claimed == name { JwtRejection::Algorithm } else { JwtRejection::Signature };
                assert_eq!(sign_on.verify(&format!("{message}.{}", base64url(tag.as_ref()))).await, Err(rejection));
            }
        }
    }
}

#[tokio::test]
async fn altered_token_is_rejected() {
    for key in [Key::rsa("k"), Key::p256("k"), Key::ed25519("k")] {
        let sign_on = TestSignOn::new(&jwks([&key])).await;
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
            assert_eq!(sign_on.verify(&changed).await, Err(JwtRejection::Signature), "{changed}");
        }
        for changed in [format!("{token}="), format!("{token}."), format!(" {token}"), token.replacen('.', "", 1)] {
            assert_eq!(sign_on.verify(&changed).await, Err(JwtRejection::Malformed), "{changed}");
        }
    }
}

#[test]
fn jwt_has_three_base64url_parts_and_16_kib_at_most() {
    for good in ["a.b.c", "eyJ-_.x.0"] {
        assert!(SignOn::looks_like_jwt(good.as_bytes()), "{good}");
    }
    for bad in ["", "..", "a.b", "a.b.", ".b.c", "a..c", "a.b.c.d", "a.b.c.", "a=.b.c", "a.b/.c", "a.b.c ", "a.ä.c"] {
        assert!(!SignOn::looks_like_jwt(bad.as_bytes()), "{bad}");
    }
    assert!(SignOn::looks_like_jwt(format!("a.b.{}", "c".repeat(MAX_TOKEN_BYTES - 4)).as_bytes()));
    assert!(!SignOn::looks_like_jwt(format!("a.b.{}", "c".repeat(MAX_TOKEN_BYTES - 3)).as_bytes()));
}

#[tokio::test]
async fn validly_signed_token_over_16_kib_is_rejected() {
    let key = Key::p256("k");
    let sign_on = TestSignOn::new(&jwks([&key])).await;
    assert!(sign_on.verify(&key.token(&but("more", json!("x".repeat(8_000))))).await.is_ok());
    assert_eq!(sign_on.verify(&key.token(&but("more", json!("x".repeat(16_000))))).await, Err(JwtRejection::Malformed));
}

#[test]
fn rejection_labels_are_unique() {
    use JwtRejection::*;
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
        EmailRefused,
        EmailUnverified,
    ];
    let labels: HashSet<_> = all.iter().map(JwtRejection::label).collect();
    assert_eq!(labels.len(), all.len());
}
