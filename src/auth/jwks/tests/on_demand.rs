//! Tokens that make us read the keys.

use futures::FutureExt;

use super::refresh::{File, settle};
use super::*;
use crate::auth::issuer::Issuer;

#[tokio::test(start_paused = true)]
async fn strangers_make_us_read_the_keys_every_five_seconds_at_the_most() {
    let file = File::new(&jwks([&Key::p256("a")]));
    let keys = file.open().await.unwrap();
    let first = keys.current();
    file.write(&jwks([&Key::p256("b")]));
    keys.look_again(&first).await;
    let second = keys.current();
    assert!(!Arc::ptr_eq(&first, &second));

    file.write(&jwks([&Key::p256("c")]));
    keys.look_again(&second).await;
    assert!(keys.is_current(&second), "too soon");
    tokio::time::advance(PAUSE).await;
    keys.look_again(&first).await;
    assert!(keys.is_current(&second), "what is there is newer than what was seen");
    keys.look_again(&second).await;
    assert!(!keys.is_current(&second));
}

#[tokio::test]
async fn many_strangers_at_once_wait_for_one_reading() {
    let issuer = Issuer::start().await;
    let root = reqwest::Certificate::from_pem(issuer.ca_pem().as_bytes()).unwrap();
    let source = KeySource::parse(&issuer.url("/keys")).unwrap();
    let reader = Reader::with(source.clone(), source::client().tls_certs_only([root]).no_proxy()).unwrap();
    let keys = Arc::new(Jwks::new(source, reader));
    let none = keys.current();

    // One who asks first and goes away takes nothing from the others.
    let gone = tokio::time::timeout(Duration::ZERO, keys.look_again(&none)).await;
    assert!(gone.is_err());
    tokio::time::timeout(Duration::from_secs(60), issuer.wait_for_key_requests(1)).await.unwrap();
    let strangers: Vec<_> = (0..50)
        .map(|_| {
            let (keys, none) = (Arc::clone(&keys), Arc::clone(&none));
            tokio::spawn(async move {
                keys.look_again(&none).await;
                keys.current().len()
            })
        })
        .collect();
    for stranger in strangers {
        assert_eq!(stranger.await.unwrap(), 1);
    }
    issuer.stop().await;
    issuer.restart().await;
    assert!(keys.refresh().await);
    assert_eq!(issuer.key_requests(), 2, "once for them all, and once for us");
}

/// A call that waits for a reading.
fn caller(keys: &Arc<Jwks>) -> tokio::task::JoinHandle<bool> {
    let (keys, seen) = (Arc::clone(keys), keys.current());
    tokio::spawn(async move { keys.look_again(&seen).await })
}

#[tokio::test]
async fn sixty_four_calls_wait_and_the_next_is_answered_at_once() {
    let file = File::new(&jwks([&Key::p256("a")]));
    let keys = file.open().await.unwrap();
    let first = keys.current();
    let reading = keys.asked.lock().await;
    let mut callers: Vec<_> = (0..64).map(|_| caller(&keys)).collect();
    settle().await;
    assert_eq!(keys.look_again(&first).now_or_never(), Some(false));

    // Who goes away makes room.
    callers.pop().unwrap().abort();
    settle().await;
    assert_eq!(keys.look_again(&first).now_or_never(), None, "it waits");

    file.write(&jwks([&Key::p256("b")]));
    drop(reading);
    for caller in callers {
        assert!(caller.await.unwrap(), "there are newer ones");
    }
    assert_eq!(keys.begun.load(Ordering::Relaxed), 1);
    assert_eq!(keys.waiting.available_permits(), 64);
}

/// The one under way when it came may have read what the issuer had before.
#[tokio::test]
async fn who_waits_needs_one_reading_that_began_after_they_came() {
    let file = File::new(&jwks([&Key::p256("a")]));
    let keys = file.open().await.unwrap();

    let turn = keys.asked.lock().await;
    assert!(keys.refresh().await);
    let late = caller(&keys);
    settle().await;
    drop(turn);
    assert!(!late.await.unwrap());
    assert_eq!(keys.begun.load(Ordering::Relaxed), 2, "one of its own");

    let mut turn = keys.asked.lock().await;
    let early = caller(&keys);
    settle().await;
    assert!(keys.refresh().await);
    // Nobody has asked for a long time.
    *turn = None;
    drop(turn);
    assert!(!early.await.unwrap());
    assert_eq!(keys.begun.load(Ordering::Relaxed), 3, "ours was enough");
}

/// The issuer takes connections, and says nothing.
#[tokio::test(start_paused = true)]
async fn an_issuer_that_hangs_is_given_up_after_ten_seconds() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let source = KeySource::parse(&format!("https://{}/keys", silent.local_addr().unwrap())).unwrap();
    let keys = Jwks::open(source).await.unwrap();
    let began = Instant::now();
    assert_eq!(keys.read().await, Err(KeysError::Slow));
    assert_eq!(began.elapsed(), TIMEOUT);
}
