//! Reads of the keys that tokens cause.

use futures::FutureExt;

use super::refresh::{KeyFile, run_ready_tasks};
use super::*;
use crate::auth::issuer::Issuer;

#[tokio::test(start_paused = true)]
async fn tokens_cause_a_read_every_five_seconds_at_most() {
    let file = KeyFile::new(&jwks([&Key::p256("a")]));
    let keys = file.open().await.unwrap();
    let first = keys.current();
    file.write(&jwks([&Key::p256("b")]));
    keys.refresh_if_unchanged_since(&first).await;
    let second = keys.current();
    assert!(!Arc::ptr_eq(&first, &second));

    file.write(&jwks([&Key::p256("c")]));
    keys.refresh_if_unchanged_since(&second).await;
    assert!(keys.is_current(&second), "read too soon");
    tokio::time::advance(MIN_READ_INTERVAL).await;
    keys.refresh_if_unchanged_since(&first).await;
    assert!(keys.is_current(&second), "read although newer keys were there");
    keys.refresh_if_unchanged_since(&second).await;
    assert!(!keys.is_current(&second));
}

#[tokio::test]
async fn concurrent_calls_wait_for_one_read() {
    let issuer = Issuer::start().await;
    let root = reqwest::Certificate::from_pem(issuer.ca_pem().as_bytes()).unwrap();
    let source = KeySource::parse(&issuer.url("/keys")).unwrap();
    let reader =
        KeyReader::with_client(source.clone(), source::http_client().tls_certs_only([root]).no_proxy()).unwrap();
    let keys = Arc::new(Jwks::new(source, reader));
    let none = keys.current();

    // The first call is cancelled. The read that it started serves the others.
    let cancelled = tokio::time::timeout(Duration::ZERO, keys.refresh_if_unchanged_since(&none)).await;
    assert!(cancelled.is_err());
    tokio::time::timeout(Duration::from_secs(60), issuer.wait_for_key_requests(1)).await.unwrap();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (keys, none) = (Arc::clone(&keys), Arc::clone(&none));
            tokio::spawn(async move {
                keys.refresh_if_unchanged_since(&none).await;
                keys.current().len()
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), 1);
    }
    issuer.stop().await;
    issuer.restart().await;
    assert!(keys.refresh().await);
    assert_eq!(issuer.key_requests(), 2, "one read for all calls, one for `refresh`");
}

/// A call that waits for a read.
fn waiting_call(keys: &Arc<Jwks>) -> tokio::task::JoinHandle<bool> {
    let (keys, seen) = (Arc::clone(keys), keys.current());
    tokio::spawn(async move { keys.refresh_if_unchanged_since(&seen).await })
}

#[tokio::test]
async fn call_beyond_the_64_waiting_returns_at_once() {
    let file = KeyFile::new(&jwks([&Key::p256("a")]));
    let keys = file.open().await.unwrap();
    let first = keys.current();
    let lock = keys.last_requested.lock().await;
    let mut calls: Vec<_> = (0..64).map(|_| waiting_call(&keys)).collect();
    run_ready_tasks().await;
    assert_eq!(keys.refresh_if_unchanged_since(&first).now_or_never(), Some(false));

    // A cancelled call frees its place.
    calls.pop().unwrap().abort();
    run_ready_tasks().await;
    assert_eq!(keys.refresh_if_unchanged_since(&first).now_or_never(), None, "the call does not wait");

    file.write(&jwks([&Key::p256("b")]));
    drop(lock);
    for call in calls {
        assert!(call.await.unwrap(), "newer keys were not reported");
    }
    assert_eq!(keys.started.load(Ordering::Relaxed), 1);
    assert_eq!(keys.waiting.available_permits(), 64);
}

/// A read in progress may have read what the issuer published before the call.
#[tokio::test]
async fn call_needs_a_read_that_started_after_it() {
    let file = KeyFile::new(&jwks([&Key::p256("a")]));
    let keys = file.open().await.unwrap();

    let lock = keys.last_requested.lock().await;
    assert!(keys.refresh().await);
    let late = waiting_call(&keys);
    run_ready_tasks().await;
    drop(lock);
    assert!(!late.await.unwrap());
    assert_eq!(keys.started.load(Ordering::Relaxed), 2, "the call did not start a read of its own");

    let mut lock = keys.last_requested.lock().await;
    let early = waiting_call(&keys);
    run_ready_tasks().await;
    assert!(keys.refresh().await);
    // The last read that a call caused is long ago.
    *lock = None;
    drop(lock);
    assert!(!early.await.unwrap());
    assert_eq!(keys.started.load(Ordering::Relaxed), 3, "the call started a second read");
}

/// The issuer accepts connections and never answers.
#[tokio::test(start_paused = true)]
async fn hanging_issuer_times_out_after_10_seconds() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let source = KeySource::parse(&format!("https://{}/keys", silent.local_addr().unwrap())).unwrap();
    let keys = Jwks::open(source).await.unwrap();
    let began = Instant::now();
    assert!(matches!(keys.read().await, Err(JwksError::Timeout)));
    assert_eq!(began.elapsed(), READ_TIMEOUT);
}
