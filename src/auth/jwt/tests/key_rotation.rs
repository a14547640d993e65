//! What becomes of tokens when the issuer has other keys.

use std::time::Duration;

use super::*;

impl World {
    /// The issuer has these keys now, and it is known here: a stranger has made us look.
    async fn rotate(&self, keys: &Value) {
        self.publish(keys);
        // Nobody can make us look sooner.
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(self.verify(&Key::ed25519("stranger").token(&good())).await, Err(Rejected::UnknownKey));
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_remembered_until_its_key_is_gone() {
    let [old, new] = [Key::p256("old"), Key::p256("new")];
    let world = World::new(&jwks([&old])).await;
    let token = old.token(&good());
    assert_eq!(world.cached(&token, at(NOW)), None);
    let identity = world.verify(&token).await.unwrap();
    assert!(Arc::ptr_eq(&identity, &world.cached(&token, at(NOW)).unwrap()));

    // With a new key beside its own nothing has to be verified again.
    world.rotate(&jwks([&new, &old])).await;
    assert!(Arc::ptr_eq(&identity, &world.cached(&token, at(NOW)).unwrap()));

    // Withdrawn: what is remembered is worth nothing from the next reading on.
    world.publish(&jwks([&new]));
    let stranger = Key::ed25519("stranger").token(&good());
    assert_eq!(world.verify(&stranger).await, Err(Rejected::UnknownKey), "it has just looked");
    assert!(world.cached(&token, at(NOW)).is_some());
    world.rotate(&jwks([&new])).await;
    assert_eq!(world.cached(&token, at(NOW)), None);
    assert_eq!(world.verify(&token).await, Err(Rejected::UnknownKey));
    assert!(world.verify(&new.token(&good())).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn another_key_of_the_same_name_vouches_for_nothing() {
    let key = Key::p256("k");
    let world = World::new(&jwks([&key])).await;
    let token = key.token(&good());
    assert!(world.verify(&token).await.is_ok());
    world.rotate(&jwks([&Key::p256("k")])).await;
    assert_eq!(world.cached(&token, at(NOW)), None);
    assert_eq!(world.verify(&token).await, Err(Rejected::Signature));
}

#[tokio::test(start_paused = true)]
async fn when_all_keys_are_withdrawn_no_token_works() {
    let key = Key::p256("k");
    let world = World::new(&jwks([&key])).await;
    let token = key.token(&good());
    assert!(world.verify(&token).await.is_ok());
    world.rotate(&jwks([])).await;
    assert_eq!(world.cached(&token, at(NOW)), None);
    assert_eq!(world.verify(&token).await, Err(Rejected::UnknownKey));
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_woken_when_the_keys_are_replaced() {
    let [old, new] = [Key::p256("old"), Key::p256("new")];
    let world = World::new(&jwks([&old])).await;
    let token = old.token(&good());
    let mut changes = world.sign_on.key_changes();
    assert!(world.verify(&token).await.is_ok());
    world.rotate(&jwks([&old])).await;
    assert!(!changes.has_changed().unwrap(), "they are the same");
    for (keys, works) in [(jwks([&old, &new]), true), (jwks([&new]), false)] {
        world.rotate(&keys).await;
        changes.changed().await.unwrap();
        assert_eq!(world.cached(&token, at(NOW)).is_some(), works);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_names_no_key_may_be_signed_with_a_new_one() {
    let [old, new] = [Key::p256("old"), Key::p256("new")];
    let world = World::new(&jwks([&old])).await;
    let nameless = |key: &Key| key.token_with(&json!({"alg": "ES256"}), &good());
    world.publish(&jwks([&new]));
    assert!(world.verify(&nameless(&new)).await.is_ok());
    assert_eq!(world.verify(&nameless(&old)).await, Err(Rejected::Signature));

    // One that names its key has said which: a wrong signature is no reason to look.
    tokio::time::advance(Duration::from_secs(5)).await;
    world.publish(&jwks([&old]));
    assert_eq!(world.verify(&old.token_with(&header("ES256", "new"), &good())).await, Err(Rejected::Signature));
    assert_eq!(world.verify(&old.token(&good())).await.map(drop), Ok(()), "nobody has looked, so it could");
    assert_eq!(world.verify(&nameless(&new)).await, Err(Rejected::Signature));
}
