//! The issuer's public keys. They are refreshed while the server runs, so that key rotation needs no restart.

mod keys;
mod source;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::{Instant, timeout};

use source::KeyReader;

pub(super) use keys::{IssuerKey, KeyLookupError};
pub use keys::{KeyFingerprint, KeySet};
pub use source::KeySource;

/// How often the keys are read. A withdrawn key is accepted until the next successful read: for this long at most, or until
/// the issuer is reachable again.
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);

/// The delay after a failed read.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// The minimum time between two reads that tokens cause. Unauthenticated clients must not be able to overload the issuer.
const MIN_READ_INTERVAL: Duration = Duration::from_secs(5);

/// Time limit for one read, including the whole body.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The most calls that wait for a read. While the issuer hangs, unauthenticated clients could add any number of them.
const MAX_WAITING_CALLS: usize = 64;

/// Why the keys could not be read. The message does not name the source.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// The HTTP client cannot be created.
    #[error("cannot create the HTTP client: {}", source::causes(.0))]
    Client(#[source] reqwest::Error),
    /// The keys cannot be fetched from their URL.
    #[error("cannot fetch the keys: {}", source::causes(.0))]
    Fetch(#[source] reqwest::Error),
    /// The file of keys cannot be read.
    #[error("cannot read the file: {0}")]
    File(#[source] std::io::Error),
    /// The read exceeded its time limit.
    #[error("cannot read the keys within 10 seconds")]
    Timeout,
    /// The document exceeds the size limit.
    #[error("the document is larger than 1 MiB")]
    TooLarge,
    /// The document is not a JWKS document.
    #[error("the document is not a JWKS document: {0}")]
    Document(#[source] serde_json::Error),
    /// The document has no usable key.
    #[error("the document has no key for RS256 (2048 bits or more), ES256 or EdDSA (Ed25519)")]
    NoKey,
}

/// The issuer's keys as of the last successful read. While reads fail, the known keys stay valid, including keys that the
/// issuer has withdrawn since.
pub struct Jwks {
    source: KeySource,
    reader: KeyReader,
    current: watch::Sender<Arc<KeySet>>,
    /// When a token last caused a read. The lock is held during every read, so that only one runs at a time.
    last_requested: Arc<Mutex<Option<Instant>>>,
    /// Permits for calls that wait for a read.
    waiting: Semaphore,
    /// The number of reads started. A call that waited while a read started needs no other read.
    started: AtomicU64,
    /// Whether the last read failed. Only the first failure in a row is logged as a warning.
    failing: AtomicBool,
}

impl Jwks {
    /// Reads the keys from a file. Keys at a URL are first fetched by [`Jwks::refresh_periodically`], so that the server
    /// starts even if the issuer does not answer.
    ///
    /// # Errors
    /// When the file has no usable key, or the HTTP client cannot be created.
    pub async fn open(source: KeySource) -> Result<Self, JwksError> {
        let jwks = Self::new(source.clone(), KeyReader::new(source)?);
        if matches!(jwks.source, KeySource::File(_)) {
            let keys = jwks.read().await?;
            // Later, an empty document withdraws all keys. At the start it means that the file is wrong.
            if keys.len() == 0 {
                return Err(JwksError::NoKey);
            }
            jwks.replace(keys);
        }
        Ok(jwks)
    }

    fn new(source: KeySource, reader: KeyReader) -> Self {
        let current = watch::Sender::new(Arc::default());
        let waiting = Semaphore::new(MAX_WAITING_CALLS);
        let (started, failing) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { source, reader, current, last_requested: Arc::default(), waiting, started, failing }
    }

    /// The current keys.
    pub(super) fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.current.borrow())
    }

    /// Whether the current keys contain this key under the same id.
    pub(super) fn contains(&self, key: &Arc<IssuerKey>) -> bool {
        self.current.borrow().contains(key)
    }

    /// A receiver that is notified when the keys are replaced.
    pub(super) fn changes(&self) -> watch::Receiver<Arc<KeySet>> {
        self.current.subscribe()
    }

    /// Whether these are the current keys.
    fn is_current(&self, keys: &Arc<KeySet>) -> bool {
        Arc::ptr_eq(&self.current.borrow(), keys)
    }

    /// Reads the keys periodically, forever. A failed read keeps the known keys, so that tokens work while the issuer is
    /// down. A successful read replaces them, even by an empty set.
    pub async fn refresh_periodically(&self) {
        let mut delay = if self.current().is_read() { REFRESH_INTERVAL } else { Duration::ZERO };
        loop {
            tokio::time::sleep(delay).await;
            let lock = self.last_requested.lock().await;
            delay = if self.refresh().await { REFRESH_INTERVAL } else { RETRY_DELAY };
            drop(lock);
        }
    }

    /// Reads the keys because `seen` lacks the key that a token needs. Returns whether the current keys are newer than
    /// `seen`. Reads at most once per [`MIN_READ_INTERVAL`], and for at most [`MAX_WAITING_CALLS`] calls at a time. Takes at
    /// most twice [`READ_TIMEOUT`]: for a read in progress and for the next one.
    pub(super) async fn refresh_if_unchanged_since(self: &Arc<Self>, seen: &Arc<KeySet>) -> bool {
        let Ok(_permit) = self.waiting.try_acquire() else { return !self.is_current(seen) };
        let started_before = self.started.load(Ordering::Relaxed);
        let mut last_requested = Arc::clone(&self.last_requested).lock_owned().await;
        let started_since = self.started.load(Ordering::Relaxed) != started_before;
        let too_soon = last_requested.is_some_and(|last| last.elapsed() < MIN_READ_INTERVAL);
        if started_since || too_soon || !self.is_current(seen) {
            return !self.is_current(seen);
        }
        let this = Arc::clone(self);
        // In its own task: other calls wait for this read too, and it must not end when this call is cancelled.
        let read = tokio::spawn(async move {
            this.refresh().await;
            *last_requested = Some(Instant::now());
        });
        let _ = read.await;
        !self.is_current(seen)
    }

    /// Reads the keys and logs changes. Returns whether the read succeeded.
    async fn refresh(&self) -> bool {
        self.started.fetch_add(1, Ordering::Relaxed);
        let read = self.read().await;
        let succeeded = read.is_ok();
        let failed_before = self.failing.swap(!succeeded, Ordering::Relaxed);
        let source = &self.source;
        match read {
            Ok(keys) => {
                if failed_before {
                    tracing::info!(%source, "issuer keys read again");
                }
                self.replace(keys);
            }
            Err(error) if failed_before => tracing::debug!(%source, %error, "issuer keys not read"),
            Err(error) => {
                let keys = self.current().len();
                tracing::warn!(%source, %error, keys, "issuer keys not read, known keys stay valid");
            }
        }
        succeeded
    }

    /// Reads the keys from the source.
    async fn read(&self) -> Result<KeySet, JwksError> {
        let document = timeout(READ_TIMEOUT, self.reader.read()).await.map_err(|_| JwksError::Timeout)??;
        KeySet::parse(&document)
    }

    fn replace(&self, keys: KeySet) {
        let keys = Arc::new(keys);
        // Equal keys notify no receiver.
        let changed = self.current.send_if_modified(|current| {
            let changed = *current != keys;
            if changed {
                *current = Arc::clone(&keys);
            }
            changed
        });
        let source = &self.source;
        match keys.len() {
            _ if !changed => {}
            0 => {
                tracing::warn!(%source, error = %JwksError::NoKey, "issuer keys withdrawn, all single sign-on tokens are rejected")
            }
            keys => tracing::info!(%source, keys, "issuer keys replaced"),
        }
    }
}
