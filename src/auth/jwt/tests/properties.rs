//! Nothing that comes makes it panic, and nothing that is not signed comes in.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;

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
        for (header, claims) in [(&header, &claims), (&header, &good()), (&super::header(key.algorithm(), "k"), &claims)] {
            let parts = [header.to_string(), claims.to_string()].map(|part| base64url(part.as_bytes()));
            let token = format!("{}.{}.{}", parts[0], parts[1], base64url(&end));
            prop_assert!(runtime.block_on(world.verify(&token)).is_err());
        }
    }

    #[test]
    fn nothing_that_is_signed_makes_it_panic(header in any_json(), claims in any_json(), name in text(), value in any_json()) {
        let (runtime, world, key) = lasting();
        // A signature does not mend a header or claims that make no sense. Chance may make a header that does.
        let sensible = header.get("alg") == Some(&key.algorithm().into());
        prop_assert!(sensible || runtime.block_on(world.verify(&key.token_with(&header, &good()))).is_err());
        prop_assert!(runtime.block_on(world.verify(&key.token(&claims))).is_err());
        if let Ok(identity) = runtime.block_on(world.verify(&key.token(&but(&name, value)))) {
            prop_assert!(!identity.subject.is_empty() && identity.expires_at > at(NOW));
        }
    }
}
