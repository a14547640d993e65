//! The issuer's public keys, kept up to date: they change, and a token signed with a new one is no reason to restart.

mod keys;
mod source;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::{Instant, timeout};

use source::Reader;

pub use keys::KeySet;
pub(super) use keys::{Key, NoKey};
pub use source::KeySource;

/// How often the keys are read again. A key that the issuer has withdrawn works until the next reading that succeeds: no
/// longer than this, but for as long as the issuer is down.
const REFRESH: Duration = Duration::from_secs(300);

/// How soon that is tried again when it failed.
const RETRY: Duration = Duration::from_secs(30);

/// How long nobody can make us read the keys again after somebody has: strangers must not make us hammer the issuer.
const PAUSE: Duration = Duration::from_secs(5);

/// How long a reading may take, to the last byte: those who wait for it are not to wait for ever.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How many calls may wait for a reading. Strangers can make any number of them while the issuer hangs.
const WAITING: usize = 64;

/// Why there are no keys, or no new ones. Goes after the name of the source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// This machine cannot speak TLS.
    #[error("cannot be fetched: {0}")]
    Client(String),
    /// There is no document to be had.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// There is none in time.
    #[error("cannot be read within 10 seconds")]
    Slow,
    /// The document is too large.
    #[error("is larger than 1 MiB")]
    TooLarge,
    /// It is something else.
    #[error("is not a JWKS document: {0}")]
    Document(String),
    /// All its keys are of other kinds, or there are none.
    #[error("holds no key for RS256 (2048 bits or more), ES256 or EdDSA (Ed25519)")]
    NoKey,
}

/// The issuer's keys as they were when last read. While they cannot be read, those that are known stay, and withdrawn ones
/// among them work until the next reading that succeeds.
pub struct Jwks {
    source: KeySource,
    reader: Reader,
    current: watch::Sender<Arc<KeySet>>,
    /// When a token last made us read the keys. Held while they are being read: once at a time is enough.
    asked: Arc<Mutex<Option<Instant>>>,
    /// Places for calls that wait for a reading.
    waiting: Semaphore,
    /// How many readings have begun: who has waited while one began needs no other.
    begun: AtomicU64,
    /// Whether the last reading failed: only the first failure in a row is worth a warning.
    failing: AtomicBool,
}

impl Jwks {
    /// The keys in a file, or those that are fetched as soon as [`Jwks::keep_fresh`] runs: an issuer that does not answer
    /// keeps no server from starting.
    ///
    /// # Errors
    /// When there is a file and it has no key that can be used, or no client for https.
    pub async fn open(source: KeySource) -> Result<Self, KeysError> {
        let jwks = Self::new(source.clone(), Reader::new(source)?);
        if matches!(jwks.source, KeySource::File(_)) {
            let keys = jwks.read().await?;
            // Withdrawn later they are withdrawn; at the start it is the wrong file.
            if keys.len() == 0 {
                return Err(KeysError::NoKey);
            }
            jwks.replace(keys);
        }
        Ok(jwks)
    }

    fn new(source: KeySource, reader: Reader) -> Self {
        let current = watch::Sender::new(Arc::default());
        let waiting = Semaphore::new(WAITING);
        let (begun, failing) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { source, reader, current, asked: Arc::default(), waiting, begun, failing }
    }

    /// The keys that are valid now.
    pub(super) fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.current.borrow())
    }

    /// Whether this key is among them, by the same name.
    pub(super) fn holds(&self, key: &Arc<Key>) -> bool {
        self.current.borrow().holds(key)
    }

    /// Tells when others replace them.
    pub(super) fn changes(&self) -> watch::Receiver<Arc<KeySet>> {
        self.current.subscribe()
    }

    /// Whether nothing has come after these.
    fn is_current(&self, keys: &Arc<KeySet>) -> bool {
        Arc::ptr_eq(&self.current.borrow(), keys)
    }

    /// Reads the keys now and then, for ever. Where that fails the old ones stay: an issuer that is down shuts nobody out
    /// who has a token. Where it works what was read replaces them, even by none.
    pub async fn keep_fresh(&self) {
        let mut wait = if self.current().is_read() { REFRESH } else { Duration::ZERO };
        loop {
            tokio::time::sleep(wait).await;
            let turn = self.asked.lock().await;
            wait = if self.refresh().await { REFRESH } else { RETRY };
            drop(turn);
        }
    }

    /// Reads the keys because `seen`, the current ones, may lack the one that a token needs; not more often than every
    /// [`PAUSE`], and not for more than [`WAITING`] calls at once. Whether there are newer ones now. Takes [`TIMEOUT`] twice
    /// at the most: for a reading that is under way, and for the next.
    pub(super) async fn look_again(self: &Arc<Self>, seen: &Arc<KeySet>) -> bool {
        let Ok(_place) = self.waiting.try_acquire() else { return !self.is_current(seen) };
        let begun = self.begun.load(Ordering::Relaxed);
        let mut asked = Arc::clone(&self.asked).lock_owned().await;
        let one_since = self.begun.load(Ordering::Relaxed) != begun;
        if one_since || !self.is_current(seen) || asked.is_some_and(|last| last.elapsed() < PAUSE) {
            return !self.is_current(seen);
        }
        let this = Arc::clone(self);
        // In a task of its own: others wait for it too, and must not lose it when this caller goes away.
        let reading = tokio::spawn(async move {
            this.refresh().await;
            *asked = Some(Instant::now());
        });
        let _ = reading.await;
        !self.is_current(seen)
    }

    /// Reads the keys, and tells the log where that matters. Whether it worked.
    async fn refresh(&self) -> bool {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let read = self.read().await;
        let worked = read.is_ok();
        let failed_before = self.failing.swap(!worked, Ordering::Relaxed);
        match read {
            Ok(keys) => {
                if failed_before {
                    tracing::info!(source = %self.source, "the issuer's keys can be read again");
                }
                self.replace(keys);
            }
            Err(error) if failed_before => tracing::debug!("the issuer's keys: {} {error}", self.source),
            Err(error) => {
                let keys = self.current().len();
                tracing::warn!(keys, "the issuer's keys: {} {error}; those that are known stay", self.source);
            }
        }
        worked
    }

    /// The keys that are there now.
    async fn read(&self) -> Result<KeySet, KeysError> {
        let document = timeout(TIMEOUT, self.reader.read()).await.map_err(|_| KeysError::Slow)??;
        KeySet::parse(&document)
    }

    fn replace(&self, keys: KeySet) {
        let keys = Arc::new(keys);
        // Equal ones do not replace them: nobody is to be woken for nothing.
        let new = self.current.send_if_modified(|current| {
            let new = *current != keys;
            if new {
                *current = Arc::clone(&keys);
            }
            new
        });
        match keys.len() {
            _ if !new => {}
            0 => {
                let (source, why) = (&self.source, KeysError::NoKey);
                tracing::warn!("the issuer's keys: {source} {why}; no token of the single sign-on works");
            }
            keys => tracing::info!(source = %self.source, keys, "the issuer has new keys"),
        }
    }
}
