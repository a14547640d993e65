//! Which keys of a document are used, and how they are kept up to date.

mod on_demand;
mod refresh;

use serde_json::{Value, json};

use super::*;
use crate::auth::signing::{Key, base64url, jwks};

use jsonwebtoken::Algorithm;

fn parsed(document: &Value) -> Result<KeySet, KeysError> {
    KeySet::parse(document.to_string().as_bytes())
}

fn usable(document: &Value) -> usize {
    parsed(document).unwrap().len()
}

/// A key with one field changed, or removed where the value is null.
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
fn keys_that_can_be_used_are_found_by_name_and_algorithm() {
    let [rsa, ec, ed] = [Key::rsa("r"), Key::p256("e"), Key::ed25519("d")];
    let keys = parsed(&jwks([&rsa, &ec, &ed])).unwrap();
    for (id, algorithm) in [("r", Algorithm::RS256), ("e", Algorithm::ES256), ("d", Algorithm::EdDSA)] {
        assert!(keys.find(Some(id), algorithm).is_ok());
        assert!(keys.find(None, algorithm).is_ok(), "the only one of its kind");
    }
    assert_eq!(keys.find(Some("r"), Algorithm::ES256), Err(NoKey::Algorithm));
    assert_eq!(keys.find(Some("x"), Algorithm::ES256), Err(NoKey::Unknown));
    for id in [None, Some("x")] {
        assert_eq!(KeySet::default().find(id, Algorithm::ES256), Err(NoKey::Unread));
        assert_eq!(parsed(&jwks([])).unwrap().find(id, Algorithm::ES256), Err(NoKey::Unknown), "read, and empty");
    }
    let keys = parsed(&jwks([&ec, &Key::p256("other")])).unwrap();
    assert_eq!(keys.find(None, Algorithm::ES256), Err(NoKey::Ambiguous));
    assert_eq!(keys.find(None, Algorithm::RS256), Err(NoKey::Unknown));
    let twice = parsed(&jwks([&ec, &Key::p256("e")])).unwrap();
    assert_eq!(twice.find(Some("e"), Algorithm::ES256), Err(NoKey::Ambiguous));
}

#[test]
fn a_key_is_the_same_by_name_and_public_key_alone() {
    let [one, other] = [Key::p256("one"), Key::p256("other")];
    let keys = parsed(&jwks([&one, &other])).unwrap();
    let found = keys.find(Some("one"), Algorithm::ES256).unwrap();
    let held = |document: &Value| parsed(document).unwrap().holds(found);
    assert!(held(&jwks([&Key::ed25519("one"), &one])));
    assert!(held(&changed(&one, "alg", Value::Null)), "another document of the same key");
    assert!(!held(&jwks([&other])) && !held(&jwks([])) && !KeySet::default().holds(found));
    assert!(!held(&changed(&one, "kid", json!("other"))) && !held(&changed(&other, "kid", json!("one"))));
}

#[test]
fn a_key_for_something_else_is_passed_over() {
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
            assert_eq!(usable(&changed(key, field, value.clone())), 0, "{field} {value}");
        }
        for (field, value) in
            [("use", Value::Null), ("alg", Value::Null), ("kid", Value::Null), ("key_ops", json!(["verify"]))]
        {
            assert_eq!(usable(&changed(key, field, value.clone())), 1, "{field} {value}");
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
        assert_eq!(usable(&bad), 0, "{bad}");
        let mut beside = bad;
        beside["keys"].as_array_mut().unwrap().push(ec.jwk());
        assert_eq!(usable(&beside), 1);
    }
    for bad in [json!({}), json!([]), json!({"keys": {}}), json!(null)] {
        assert!(matches!(parsed(&bad), Err(KeysError::Document(_))), "{bad}");
    }
    assert!(matches!(KeySet::parse(b"<html>"), Err(KeysError::Document(_))));
}

#[test]
fn an_rsa_key_has_2048_bits_or_more() {
    let rsa = Key::rsa("r");
    let n = rsa.public();
    let usable = |n: &[u8]| usable(&changed(&rsa, "n", json!(base64url(n))));
    assert_eq!(usable(&n), 1);
    assert_eq!(usable(&[&[0], &*n].concat()), 1, "a leading zero counts nothing");
    let mut shorter = n.clone();
    shorter[0] = 0x7f;
    assert_eq!(usable(&shorter), 0);
    shorter[0] = 0;
    assert_eq!(usable(&shorter), 0);
}
