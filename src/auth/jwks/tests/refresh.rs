//! Periodic reads of the keys, and when the result replaces the known keys.

use std::path::PathBuf;
use std::process::Command;

use tempfile::{NamedTempFile, TempDir};

use super::*;

/// A file of keys that a test can change.
pub(super) struct KeyFile {
    pub path: PathBuf,
    _folder: TempDir,
}

impl KeyFile {
    pub fn new(keys: &Value) -> Self {
        let folder = TempDir::new().unwrap();
        let file = Self { path: folder.path().join("keys.json"), _folder: folder };
        file.write(keys);
        file
    }

    pub fn write(&self, keys: &Value) {
        std::fs::write(&self.path, keys.to_string()).unwrap();
    }

    pub async fn open(&self) -> Result<Arc<Jwks>, JwksError> {
        Jwks::open(KeySource::File(self.path.clone())).await.map(Arc::new)
    }

    /// The keys of this file before the first read.
    pub fn unread(&self) -> Jwks {
        let source = KeySource::File(self.path.clone());
        Jwks::new(source.clone(), KeyReader::new(source).unwrap())
    }
}

/// A FIFO in place of the file. Opening it blocks until the FIFO is dropped.
struct Fifo<'a>(&'a KeyFile);

impl<'a> Fifo<'a> {
    fn in_place_of(file: &'a KeyFile) -> Self {
        std::fs::remove_file(&file.path).unwrap();
        assert!(Command::new("mkfifo").arg(&file.path).status().unwrap().success());
        Self(file)
    }
}

impl Drop for Fifo<'_> {
    fn drop(&mut self) {
        // Opening it for reading and writing releases blocked readers. Removing it keeps later readers from blocking.
        let released = std::fs::File::options().read(true).write(true).open(&self.0.path);
        std::fs::remove_file(&self.0.path).unwrap();
        drop(released.unwrap());
    }
}

/// Runs all tasks that are ready.
pub(super) async fn run_ready_tasks() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn start_needs_readable_file_but_not_reachable_url() {
    let file = KeyFile::new(&json!({"keys": []}));
    assert!(matches!(file.open().await.err(), Some(JwksError::NoKey)));
    std::fs::write(&file.path, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(matches!(file.open().await.err(), Some(JwksError::TooLarge)));
    std::fs::remove_file(&file.path).unwrap();
    assert!(matches!(file.open().await.err(), Some(JwksError::File(_))));
    let unreachable = KeySource::parse("https://127.0.0.1:9/keys").unwrap();
    assert_eq!(Jwks::open(unreachable).await.unwrap().current().len(), 0);
}

#[tokio::test]
async fn document_without_usable_keys_withdraws_all() {
    let key = Key::p256("a");
    let file = KeyFile::new(&jwks([&key]));
    let keys = file.open().await.unwrap();
    let lookup_error = |keys: &Jwks| keys.current().find(Some("a"), Algorithm::ES256).err();
    assert_eq!(lookup_error(&keys), None);
    for document in [jwks([]), changed(&key, "use", json!("enc"))] {
        file.write(&document);
        assert!(keys.refresh().await, "the document was not read");
        assert_eq!(lookup_error(&keys), Some(KeyLookupError::Unknown));
        file.write(&jwks([&key]));
        assert!(keys.refresh().await);
        assert_eq!(lookup_error(&keys), None);
    }

    // An invalid document withdraws no key.
    for document in ["{}", "", "<html>", &" ".repeat((1 << 20) + 1)] {
        std::fs::write(&file.path, document).unwrap();
        assert!(!keys.refresh().await);
        assert_eq!(lookup_error(&keys), None);
    }
    std::fs::remove_file(&file.path).unwrap();
    assert!(!keys.refresh().await);
    assert_eq!(lookup_error(&keys), None);

    // Keys that were never read differ from an empty document.
    let unread = file.unread();
    assert!(!unread.refresh().await);
    assert_eq!(lookup_error(&unread), Some(KeyLookupError::Unread));
    file.write(&jwks([]));
    assert!(unread.refresh().await);
    assert_eq!(lookup_error(&unread), Some(KeyLookupError::Unknown));
}

#[tokio::test]
async fn withdrawal_of_all_keys_is_logged_once() {
    let file = KeyFile::new(&jwks([&Key::p256("a")]));
    let keys = file.open().await.unwrap();
    let log = NamedTempFile::new().unwrap();
    let writer = Arc::new(log.reopen().unwrap());
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(writer).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    file.write(&jwks([]));
    assert!(keys.refresh().await && keys.refresh().await);
    let logged = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(logged.lines().count(), 1, "{logged}");
    assert!(logged.contains("WARN") && logged.contains("all single sign-on tokens are rejected"), "{logged}");
}

#[tokio::test]
async fn receivers_are_notified_only_of_replaced_keys() {
    let file = KeyFile::new(&jwks([&Key::p256("a")]));
    let keys = file.open().await.unwrap();
    let changes = keys.changes();
    assert!(keys.refresh().await && !changes.has_changed().unwrap(), "unchanged keys");
    std::fs::write(&file.path, "the issuer is down").unwrap();
    assert!(!keys.refresh().await && !changes.has_changed().unwrap());
    file.write(&jwks([]));
    assert!(keys.refresh().await && changes.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn refresh_runs_every_5_minutes_or_30_s_on_failure() {
    let file = KeyFile::new(&jwks([&Key::p256("old")]));
    let jwks_of_file = file.open().await.unwrap();
    let refreshed = Arc::clone(&jwks_of_file);
    let task = tokio::spawn(async move { refreshed.refresh_periodically().await });
    let mut changes = jwks_of_file.current.subscribe();
    let old = jwks_of_file.current();
    let began = Instant::now();

    file.write(&jwks([&Key::p256("new")]));
    changes.changed().await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 300);
    assert!(!jwks_of_file.is_current(&old));

    // An outage keeps the keys. New keys are read within 30 seconds after its end.
    let new = jwks_of_file.current();
    std::fs::write(&file.path, "the issuer is down").unwrap();
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    assert!(jwks_of_file.is_current(&new) && jwks_of_file.failing.load(Ordering::Relaxed));
    let over = Instant::now();
    file.write(&jwks([&Key::p256("newest")]));
    changes.changed().await.unwrap();
    assert!(over.elapsed() <= RETRY_DELAY, "{:?}", over.elapsed());

    // Unchanged keys are not replaced.
    let newest = jwks_of_file.current();
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    assert!(jwks_of_file.is_current(&newest));
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn unread_keys_are_read_at_once_and_may_be_empty() {
    let file = KeyFile::new(&jwks([]));
    let keys = Arc::new(file.unread());
    let began = Instant::now();
    let refreshed = Arc::clone(&keys);
    let task = tokio::spawn(async move { refreshed.refresh_periodically().await });
    tokio::time::timeout(RETRY_DELAY, keys.changes().changed()).await.unwrap().unwrap();
    assert_eq!((began.elapsed(), keys.current().is_read()), (Duration::ZERO, true));
    task.abort();

    file.write(&jwks([&Key::p256("a")]));
    let refreshed = Arc::clone(&keys);
    let task = tokio::spawn(async move { refreshed.refresh_periodically().await });
    tokio::time::timeout(REFRESH_INTERVAL * 2, keys.changes().changed()).await.unwrap().unwrap();
    assert_eq!(began.elapsed(), REFRESH_INTERVAL);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn hanging_file_times_out_after_10_seconds() {
    let file = KeyFile::new(&jwks([&Key::p256("a")]));
    let keys = file.open().await.unwrap();
    let fifo = Fifo::in_place_of(&file);
    // More reads than can hang at the same time.
    for _ in 0..source::MAX_FILE_READS + 2 {
        let reader = Arc::clone(&keys);
        let read = tokio::spawn(async move { reader.read().await });
        run_ready_tasks().await;
        assert!(!read.is_finished());
        tokio::time::advance(READ_TIMEOUT).await;
        run_ready_tasks().await;
        assert!(read.is_finished());
        assert!(matches!(read.await.unwrap(), Err(JwksError::Timeout)));
    }
    let KeyReader::File(_, permits) = &keys.reader else { panic!("the source is not a file") };
    assert_eq!(permits.available_permits(), 0, "more reads hang than the limit allows");

    // The file can be read again.
    drop(fifo);
    file.write(&jwks([&Key::p256("b")]));
    assert!(keys.refresh().await);
}

#[tokio::test]
async fn endless_file_is_too_large() {
    let endless = KeySource::File("/dev/zero".into());
    assert!(matches!(Jwks::open(endless).await.err(), Some(JwksError::TooLarge)));
}
