//! Tokens when the issuer rotates its keys.

use std::time::Duration;

use super::*;

impl TestSignOn {
    /// Publishes these keys and makes the server read them, with a token of an unknown key.
    async fn rotate(&self, keys: &Value) {
        self.publish(keys);
        // Tokens cause a read at most every five seconds.
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(self.verify(&Key::ed25519("unknown").token(&good())).await, Err(JwtRejection::UnknownKey));
    }
}

#[tokio::test(start_paused = true)]
async fn token_is_cached_until_its_key_is_withdrawn() {
    let [old, new] = [Key::p256("old"), Key::p256("new")];
    let sign_on = TestSignOn::new(&jwks([&old])).await;
    let token = old.token(&good());
    assert_eq!(sign_on.cached(&token, at(NOW)), None);
    let identity = sign_on.verify(&token).await.unwrap();
    assert!(Arc::ptr_eq(&identity, &sign_on.cached(&token, at(NOW)).unwrap()));

    // An additional key does not invalidate the cache.
    sign_on.rotate(&jwks([&new, &old])).await;
    assert!(Arc::ptr_eq(&identity, &sign_on.cached(&token, at(NOW)).unwrap()));

    // A withdrawn key invalidates the cached token at the next read.
    sign_on.publish(&jwks([&new]));
    let unknown = Key::ed25519("unknown").token(&good());
    assert_eq!(sign_on.verify(&unknown).await, Err(JwtRejection::UnknownKey), "the keys were read too soon");
    assert!(sign_on.cached(&token, at(NOW)).is_some());
    sign_on.rotate(&jwks([&new])).await;
    assert_eq!(sign_on.cached(&token, at(NOW)), None);
    assert_eq!(sign_on.verify(&token).await, Err(JwtRejection::UnknownKey));
    assert!(sign_on.verify(&new.token(&good())).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn token_is_rejected_when_its_key_id_is_reused() {
    let key = Key::p256("k");
    let sign_on = TestSignOn::new(&jwks([&key])).await;
    let token = key.token(&good());
    assert!(sign_on.verify(&token).await.is_ok());
    sign_on.rotate(&jwks([&Key::p256("k")])).await;
    assert_eq!(sign_on.cached(&token, at(NOW)), None);
    assert_eq!(sign_on.verify(&token).await, Err(JwtRejection::Signature));
}

#[tokio::test(start_paused = true)]
async fn token_is_rejected_when_all_keys_are_withdrawn() {
    let key = Key::p256("k");
    let sign_on = TestSignOn::new(&jwks([&key])).await;
    let token = key.token(&good());
    assert!(sign_on.verify(&token).await.is_ok());
    sign_on.rotate(&jwks([])).await;
    assert_eq!(sign_on.cached(&token, at(NOW)), None);
    assert_eq!(sign_on.verify(&token).await, Err(JwtRejection::UnknownKey));
}

#[tokio::test(start_paused = true)]
async fn receivers_are_notified_when_keys_are_replaced() {
    let [old, new] = [Key::p256("old"), Key::p256("new")];
    let sign_on = TestSignOn::new(&jwks([&old])).await;
    let token = old.token(&good());
    let mut changes = sign_on.inner.key_changes();
    assert!(sign_on.verify(&token).await.is_ok());
    sign_on.rotate(&jwks([&old])).await;
    assert!(!changes.has_changed().unwrap(), "unchanged keys");
    for (keys, works) in [(jwks([&old, &new]), true), (jwks([&new]), false)] {
        sign_on.rotate(&keys).await;
        changes.changed().await.unwrap();
        assert_eq!(sign_on.cached(&token, at(NOW)).is_some(), works);
    }
}

#[tokio::test(start_paused = true)]
async fn token_without_key_id_may_use_a_new_key() {
    let [old, new] = [Key::p256("old"), Key::p256("new")];
    let sign_on = TestSignOn::new(&jwks([&old])).await;
    let without_key_id = |key: &Key| key.token_with(&json!({"alg": "ES256"}), &good());
    sign_on.publish(&jwks([&new]));
    assert!(sign_on.verify(&without_key_id(&new)).await.is_ok());
    assert_eq!(sign_on.verify(&without_key_id(&old)).await, Err(JwtRejection::Signature));

    // For a token with a key id, a wrong signature causes no read.
    tokio::time::advance(Duration::from_secs(5)).await;
    sign_on.publish(&jwks([&old]));
    assert_eq!(sign_on.verify(&old.token_with(&header("ES256", "new"), &good())).await, Err(JwtRejection::Signature));
    assert_eq!(sign_on.verify(&old.token(&good())).await.map(drop), Ok(()), "the keys were not read before");
    assert_eq!(sign_on.verify(&without_key_id(&new)).await, Err(JwtRejection::Signature));
}
