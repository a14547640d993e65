//! Properties for arbitrary tokens: verification never panics and accepts no unsigned token.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;

/// A single sign-on with a key and its runtime, shared by all cases.
fn shared() -> &'static (tokio::runtime::Runtime, TestSignOn, Key) {
    static SHARED: OnceLock<(tokio::runtime::Runtime, TestSignOn, Key)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let key = Key::ed25519("k");
        let sign_on = runtime.block_on(TestSignOn::new(&jwks([&key, &Key::p256("e"), &Key::rsa("r")])));
        (runtime, sign_on, key)
    })
}

/// Small JSON values. Texts are often names that tokens use.
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
    fn arbitrary_bytes_are_rejected(token in proptest::collection::vec(any::<u8>(), 0..512)) {
        let (runtime, sign_on, _) = shared();
        SignOn::looks_like_jwt(&token);
        prop_assert!(runtime.block_on(sign_on.inner.verify(&token, &hash_secret(&token), at(NOW))).is_err());
    }

    #[test]
    fn unsigned_token_is_rejected_for_any_header(header in any_json(), claims in any_json(), end in any::<[u8; 64]>()) {
        let (runtime, sign_on, key) = shared();
        for (header, claims) in [(&header, &claims), (&header, &good()), (&super::header(key.algorithm(), "k"), &claims)] {
            let parts = [header.to_string(), claims.to_string()].map(|part| base64url(part.as_bytes()));
            let token = format!("{}.{}.{}", parts[0], parts[1], base64url(&end));
            prop_assert!(runtime.block_on(sign_on.verify(&token)).is_err());
        }
    }

    #[test]
    fn signed_token_never_panics(header in any_json(), claims in any_json(), name in text(), value in any_json()) {
        let (runtime, sign_on, key) = shared();
        // A signature does not make an invalid header or invalid claims acceptable. The random header may be valid.
        let header_may_be_valid = header.get("alg") == Some(&key.algorithm().into());
        prop_assert!(header_may_be_valid || runtime.block_on(sign_on.verify(&key.token_with(&header, &good()))).is_err());
        prop_assert!(runtime.block_on(sign_on.verify(&key.token(&claims))).is_err());
        if let Ok(identity) = runtime.block_on(sign_on.verify(&key.token(&but(&name, value)))) {
            prop_assert!(!identity.subject.is_empty() && identity.expires_at > at(NOW));
        }
    }
}
