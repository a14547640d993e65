//! When the keys are read, and what replaces them.

use std::path::PathBuf;
use std::process::Command;

use tempfile::{NamedTempFile, TempDir};

use super::*;

/// Keys in a file that can be changed.
pub(super) struct File {
    pub path: PathBuf,
    _folder: TempDir,
}

impl File {
    pub fn new(keys: &Value) -> Self {
        let folder = TempDir::new().unwrap();
        let file = Self { path: folder.path().join("keys.json"), _folder: folder };
        file.write(keys);
        file
    }

    pub fn write(&self, keys: &Value) {
        std::fs::write(&self.path, keys.to_string()).unwrap();
    }

    pub async fn open(&self) -> Result<Arc<Jwks>, KeysError> {
        Jwks::open(KeySource::File(self.path.clone())).await.map(Arc::new)
    }

    /// The same before anybody has read it.
    pub fn unread(&self) -> Jwks {
        let source = KeySource::File(self.path.clone());
        Jwks::new(source.clone(), Reader::new(source).unwrap())
    }
}

/// A FIFO instead of a file. Whoever opens it hangs until this is gone.
struct Fifo<'a>(&'a File);

impl<'a> Fifo<'a> {
    fn instead_of(file: &'a File) -> Self {
        std::fs::remove_file(&file.path).unwrap();
        assert!(Command::new("mkfifo").arg(&file.path).status().unwrap().success());
        Self(file)
    }
}

impl Drop for Fifo<'_> {
    fn drop(&mut self) {
        // Open for both it hangs nobody; gone, it hangs nobody who comes later.
        let released = std::fs::File::options().read(true).write(true).open(&self.0.path);
        std::fs::remove_file(&self.0.path).unwrap();
        drop(released.unwrap());
    }
}

/// Lets the tasks that can go on do so.
pub(super) async fn settle() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_file_must_be_readable_at_the_start_and_an_address_need_not_answer() {
    let file = File::new(&json!({"keys": []}));
    assert_eq!(file.open().await.err(), Some(KeysError::NoKey));
    std::fs::write(&file.path, vec![b' '; (1 << 20) + 1]).unwrap();
    assert_eq!(file.open().await.err(), Some(KeysError::TooLarge));
    std::fs::remove_file(&file.path).unwrap();
    assert!(matches!(file.open().await.err(), Some(KeysError::Unreadable(_))));
    let nobody = KeySource::parse("https://127.0.0.1:9/keys").unwrap();
    assert_eq!(Jwks::open(nobody).await.map(|jwks| jwks.current().len()), Ok(0));
}

#[tokio::test]
async fn a_document_without_usable_keys_withdraws_them_all() {
    let key = Key::p256("a");
    let file = File::new(&jwks([&key]));
    let keys = file.open().await.unwrap();
    let why = |keys: &Jwks| keys.current().find(Some("a"), Algorithm::ES256).err();
    assert_eq!(why(&keys), None);
    for document in [jwks([]), changed(&key, "use", json!("enc"))] {
        file.write(&document);
        assert!(keys.refresh().await, "it has been read");
        assert_eq!(why(&keys), Some(NoKey::Unknown));
        file.write(&jwks([&key]));
        assert!(keys.refresh().await);
        assert_eq!(why(&keys), None);
    }

    // What is no document withdraws none.
    for document in ["{}", "", "<html>", &" ".repeat((1 << 20) + 1)] {
        std::fs::write(&file.path, document).unwrap();
        assert!(!keys.refresh().await);
        assert_eq!(why(&keys), None);
    }
    std::fs::remove_file(&file.path).unwrap();
    assert!(!keys.refresh().await);
    assert_eq!(why(&keys), None);

    // Never read is not read and empty.
    let never = file.unread();
    assert!(!never.refresh().await);
    assert_eq!(why(&never), Some(NoKey::Unread));
    file.write(&jwks([]));
    assert!(never.refresh().await);
    assert_eq!(why(&never), Some(NoKey::Unknown));
}

#[tokio::test]
async fn that_all_keys_are_withdrawn_is_told_once() {
    let file = File::new(&jwks([&Key::p256("a")]));
    let keys = file.open().await.unwrap();
    let log = NamedTempFile::new().unwrap();
    let writer = Arc::new(log.reopen().unwrap());
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(writer).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    file.write(&jwks([]));
    assert!(keys.refresh().await && keys.refresh().await);
    let told = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains("WARN") && told.contains("no token of the single sign-on works"), "{told}");
}

#[tokio::test]
async fn those_who_wait_are_told_when_the_keys_are_replaced_and_not_otherwise() {
    let file = File::new(&jwks([&Key::p256("a")]));
    let keys = file.open().await.unwrap();
    let changes = keys.changes();
    assert!(keys.refresh().await && !changes.has_changed().unwrap(), "the same");
    std::fs::write(&file.path, "the issuer is down").unwrap();
    assert!(!keys.refresh().await && !changes.has_changed().unwrap());
    file.write(&jwks([]));
    assert!(keys.refresh().await && changes.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn keys_are_read_again_every_five_minutes_and_after_a_failure_every_half() {
    let file = File::new(&jwks([&Key::p256("old")]));
    let jwks_of_file = file.open().await.unwrap();
    let fresh = Arc::clone(&jwks_of_file);
    let task = tokio::spawn(async move { fresh.keep_fresh().await });
    let mut changes = jwks_of_file.current.subscribe();
    let old = jwks_of_file.current();
    let began = Instant::now();

    file.write(&jwks([&Key::p256("new")]));
    changes.changed().await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 300);
    assert!(!jwks_of_file.is_current(&old));

    // An outage keeps the keys, and is over within half a minute of its end.
    let new = jwks_of_file.current();
    std::fs::write(&file.path, "the issuer is down").unwrap();
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    assert!(jwks_of_file.is_current(&new) && jwks_of_file.failing.load(Ordering::Relaxed));
    let over = Instant::now();
    file.write(&jwks([&Key::p256("newest")]));
    changes.changed().await.unwrap();
    assert!(over.elapsed() <= RETRY, "{:?}", over.elapsed());

    // The same keys again are no change.
    let newest = jwks_of_file.current();
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    assert!(jwks_of_file.is_current(&newest));
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn keys_that_were_never_read_are_read_at_once_and_an_empty_set_is_one() {
    let file = File::new(&jwks([]));
    let keys = Arc::new(file.unread());
    let began = Instant::now();
    let fresh = Arc::clone(&keys);
    let task = tokio::spawn(async move { fresh.keep_fresh().await });
    tokio::time::timeout(RETRY, keys.changes().changed()).await.unwrap().unwrap();
    assert_eq!((began.elapsed(), keys.current().is_read()), (Duration::ZERO, true));
    task.abort();

    file.write(&jwks([&Key::p256("a")]));
    let fresh = Arc::clone(&keys);
    let task = tokio::spawn(async move { fresh.keep_fresh().await });
    tokio::time::timeout(REFRESH * 2, keys.changes().changed()).await.unwrap().unwrap();
    assert_eq!(began.elapsed(), REFRESH);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_file_that_hangs_is_given_up_after_ten_seconds() {
    let file = File::new(&jwks([&Key::p256("a")]));
    let keys = file.open().await.unwrap();
    let fifo = Fifo::instead_of(&file);
    // More often than there are places for readings that hang.
    for _ in 0..source::HANGING + 2 {
        let reader = Arc::clone(&keys);
        let reading = tokio::spawn(async move { reader.read().await });
        settle().await;
        assert!(!reading.is_finished());
        tokio::time::advance(TIMEOUT).await;
        settle().await;
        assert!(reading.is_finished());
        assert_eq!(reading.await.unwrap(), Err(KeysError::Slow));
    }
    let Reader::File(_, places) = &keys.reader else { panic!("it is a file") };
    assert_eq!(places.available_permits(), 0, "no thread for the last two");

    // It answers again.
    drop(fifo);
    file.write(&jwks([&Key::p256("b")]));
    assert!(keys.refresh().await);
}

#[tokio::test]
async fn a_file_without_end_is_too_large() {
    let endless = KeySource::File("/dev/zero".into());
    assert_eq!(Jwks::open(endless).await.err(), Some(KeysError::TooLarge));
}
