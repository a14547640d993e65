//! The issuer's public keys, kept up to date: they change, and a token signed with a new one is no reason to restart.

mod keys;
mod source;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use source::Reader;

pub use keys::KeySet;
pub(super) use keys::{Key, NoKey};
pub use source::KeySource;

/// How often the keys are read again: a key that the issuer has withdrawn works no longer than this.
const REFRESH: Duration = Duration::from_secs(300);

/// How soon that is tried again when it failed.
const RETRY: Duration = Duration::from_secs(30);

/// How long nobody can make us read the keys again after somebody has: strangers must not make us hammer the issuer.
const PAUSE: Duration = Duration::from_secs(5);

/// Why there are no keys, or no new ones. Goes after the name of the source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// This machine cannot speak TLS.
    #[error("cannot be fetched: {0}")]
    Client(String),
    /// There is no document to be had.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// The document is too large.
    #[error("is larger than 1 MiB")]
    TooLarge,
    /// It is something else.
    #[error("is not a JWKS document: {0}")]
    Document(String),
    /// All its keys are of other kinds.
    #[error("holds no key for RS256 (2048 bits or more), ES256 or EdDSA (Ed25519)")]
    NoKey,
}

/// The issuer's keys as they were when last read.
pub struct Jwks {
    source: KeySource,
    reader: Reader,
    current: watch::Sender<Arc<KeySet>>,
    /// When a token last made us read the keys. Held while they are being read: once at a time is enough.
    asked: Arc<Mutex<Option<Instant>>>,
    /// Whether the last reading failed: only the first failure in a row is worth a warning.
    failing: AtomicBool,
}

impl Jwks {
    /// The keys in a file, or those that are fetched as soon as [`Jwks::keep_fresh`] runs: an issuer that does not answer
    /// keeps no server from starting.
    ///
    /// # Errors
    /// When there is a file and it has no keys, or no client for https.
    pub async fn open(source: KeySource) -> Result<Self, KeysError> {
        let jwks = Self::new(source.clone(), Reader::new(source)?);
        if matches!(jwks.source, KeySource::File(_)) {
            jwks.load().await?;
        }
        Ok(jwks)
    }

    fn new(source: KeySource, reader: Reader) -> Self {
        let current = watch::Sender::new(Arc::default());
        Self { source, reader, current, asked: Arc::default(), failing: AtomicBool::new(false) }
    }

    /// The keys that are valid now.
    pub(super) fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.current.borrow())
    }

    /// Whether nothing has come after these.
    pub(super) fn is_current(&self, keys: &Arc<KeySet>) -> bool {
        Arc::ptr_eq(&self.current.borrow(), keys)
    }

    /// Reads the keys now and then, for ever. Where that fails the old ones stay: an issuer that is down shuts nobody out
    /// who has a token.
    pub async fn keep_fresh(&self) {
        let mut wait = if self.current().len() == 0 { Duration::ZERO } else { REFRESH };
        loop {
            tokio::time::sleep(wait).await;
            let turn = self.asked.lock().await;
            wait = if self.refresh().await { REFRESH } else { RETRY };
            drop(turn);
        }
    }

    /// Reads the keys because `seen`, the current ones, lack the one that a token needs; not more often than every
    /// [`PAUSE`]. Returns when new ones may be there.
    pub(super) async fn look_again(self: &Arc<Self>, seen: &Arc<KeySet>) {
        let mut asked = Arc::clone(&self.asked).lock_owned().await;
        if !self.is_current(seen) || asked.is_some_and(|last| last.elapsed() < PAUSE) {
            return;
        }
        let this = Arc::clone(self);
        // In a task of its own: others wait for it too, and must not lose it when this caller goes away.
        let reading = tokio::spawn(async move {
            this.refresh().await;
            *asked = Some(Instant::now());
        });
        let _ = reading.await;
    }

    /// Reads the keys, and tells the log where that matters. Whether it worked.
    async fn refresh(&self) -> bool {
        let loaded = self.load().await;
        let worked = loaded.is_ok();
        let failed_before = self.failing.swap(!worked, Ordering::Relaxed);
        match loaded {
            Ok(()) if failed_before => tracing::info!(source = %self.source, "the issuer's keys can be read again"),
            Ok(()) => {}
            Err(error) if failed_before => tracing::debug!("the issuer's keys: {} {error}", self.source),
            Err(error) => {
                let keys = self.current().len();
                tracing::warn!(keys, "the issuer's keys: {} {error}; those that are known stay", self.source);
            }
        }
        worked
    }

    async fn load(&self) -> Result<(), KeysError> {
        let keys = Arc::new(KeySet::parse(&self.reader.read().await?)?);
        // Equal ones do not replace them: what was verified with those that are there stays verified.
        let new = self.current.send_if_modified(|current| {
            let new = *current != keys;
            if new {
                *current = Arc::clone(&keys);
            }
            new
        });
        if new {
            tracing::info!(source = %self.source, keys = keys.len(), "the issuer has new keys");
        }
        Ok(())
    }
}
