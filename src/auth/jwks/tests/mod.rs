//! Parsing, look-up and refresh of the issuer's keys.

mod on_demand;
mod refresh;

use serde_json::{Value, json};

use super::*;
use crate::auth::signing::{Key, base64url, jwks};

use jsonwebtoken::Algorithm;

fn parsed(document: &Value) -> Result<KeySet, JwksError> {
    KeySet::parse(document.to_string().as_bytes())
}

fn usable_keys(document: &Value) -> usize {
    parsed(document).unwrap().len()
}

/// A document with this key, with one field changed, or removed if the value is null.
fn changed(key: &Key, field: &str, value: Value) -> Value {
    let mut jwk = key.jwk();
    if value.is_null() {
        jwk.as_object_mut().unwrap().remove(field);
    } else {
        jwk[field] = value;
    }
    json!({"keys": [jwk]})
}

#[test]
fn key_is_found_by_id_and_algorithm() {
    let [rsa, ec, ed] = [Key::rsa("r"), Key::p256("e"), Key::ed25519("d")];
    let keys = parsed(&jwks([&rsa, &ec, &ed])).unwrap();
    for (id, algorithm) in [("r", Algorithm::RS256), ("e", Algorithm::ES256), ("d", Algorithm::EdDSA)] {
        assert!(keys.find(Some(id), algorithm).is_ok());
        assert!(keys.find(None, algorithm).is_ok(), "the only key of its algorithm was not found");
    }
    assert_eq!(keys.find(Some("r"), Algorithm::ES256), Err(KeyLookupError::Algorithm));
    assert_eq!(keys.find(Some("x"), Algorithm::ES256), Err(KeyLookupError::Unknown));
    for id in [None, Some("x")] {
        assert_eq!(KeySet::default().find(id, Algorithm::ES256), Err(KeyLookupError::Unread));
        assert_eq!(
            parsed(&jwks([])).unwrap().find(id, Algorithm::ES256),
            Err(KeyLookupError::Unknown),
            "read and empty"
        );
    }
    let keys = parsed(&jwks([&ec, &Key::p256("other")])).unwrap();
    assert_eq!(keys.find(None, Algorithm::ES256), Err(KeyLookupError::Ambiguous));
    assert_eq!(keys.find(None, Algorithm::RS256), Err(KeyLookupError::Unknown));
    let duplicates = parsed(&jwks([&ec, &Key::p256("e")])).unwrap();
    assert_eq!(duplicates.find(Some("e"), Algorithm::ES256), Err(KeyLookupError::Ambiguous));
}

#[test]
fn key_identity_is_id_and_public_key() {
    let [one, other] = [Key::p256("one"), Key::p256("other")];
    let keys = parsed(&jwks([&one, &other])).unwrap();
    let found = keys.find(Some("one"), Algorithm::ES256).unwrap();
    let contains = |document: &Value| parsed(document).unwrap().contains(found);
    assert!(contains(&jwks([&Key::ed25519("one"), &one])));
    assert!(contains(&changed(&one, "alg", Value::Null)), "the same key in another document");
    assert!(!contains(&jwks([&other])) && !contains(&jwks([])) && !KeySet::default().contains(found));
    assert!(!contains(&changed(&one, "kid", json!("other"))) && !contains(&changed(&other, "kid", json!("one"))));
}

#[test]
fn key_for_other_use_is_skipped() {
    let [rsa, ec, ed] = [Key::rsa("r"), Key::p256("e"), Key::ed25519("d")];
    for key in [&rsa, &ec, &ed] {
        for (field, value) in [
            ("use", json!("enc")),
            ("alg", json!("HS256")),
            ("alg", json!("RS512")),
            ("alg", json!("none")),
            ("alg", json!(7)),
            ("kty", json!("oct")),
            ("kty", json!("new")),
            ("kty", Value::Null),
            ("key_ops", json!(["encrypt"])),
            ("kid", json!(1)),
        ] {
            assert_eq!(usable_keys(&changed(key, field, value.clone())), 0, "{field} {value}");
        }
        for (field, value) in
            [("use", Value::Null), ("alg", Value::Null), ("kid", Value::Null), ("key_ops", json!(["verify"]))]
        {
            assert_eq!(usable_keys(&changed(key, field, value.clone())), 1, "{field} {value}");
        }
    }
    let bad = [
        changed(&ec, "crv", json!("P-384")),
        changed(&ec, "x", json!(base64url(&[1; 31]))),
        changed(&ec, "y", json!("no base64!")),
        changed(&ec, "y", Value::Null),
        changed(&ed, "crv", json!("X25519")),
        changed(&ed, "x", json!(base64url(&[1; 33]))),
        changed(&rsa, "n", json!("")),
        changed(&rsa, "e", json!("AA")),
        changed(&rsa, "e", Value::Null),
        json!({"keys": [{"kty": "oct", "k": base64url(&[7; 32]), "alg": "HS256"}]}),
        json!({"keys": []}),
        json!({"keys": ["x", 1, null, {}]}),
    ];
    for bad in bad {
        assert_eq!(usable_keys(&bad), 0, "{bad}");
        let mut beside = bad;
        beside["keys"].as_array_mut().unwrap().push(ec.jwk());
        assert_eq!(usable_keys(&beside), 1);
    }
    for bad in [json!({}), json!([]), json!({"keys": {}}), json!(null)] {
        assert!(matches!(parsed(&bad), Err(JwksError::Document(_))), "{bad}");
    }
    assert!(matches!(KeySet::parse(b"<html>"), Err(JwksError::Document(_))));
}

#[test]
fn rsa_key_requires_2048_bits() {
    let rsa = Key::rsa("r");
    let n = rsa.public();
    let usable = |n: &[u8]| usable_keys(&changed(&rsa, "n", json!(base64url(n))));
    assert_eq!(usable(&n), 1);
    assert_eq!(usable(&[&[0], &*n].concat()), 1, "a leading zero was counted");
    let mut shorter = n.clone();
    shorter[0] = 0x7f;
    assert_eq!(usable(&shorter), 0);
    shorter[0] = 0;
    assert_eq!(usable(&shorter), 0);
}
