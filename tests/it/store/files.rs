//! The files of a SQLite database: created once, readable by their owner, one file after a close.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use toggled::store::{Store, StoreError, open, open_existing};

use super::world::*;
use crate::support::{Backend, Database};

/// The database's file.
pub fn file_of(database: &Database) -> PathBuf {
    database.url.strip_prefix("sqlite://").unwrap().into()
}

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn sqlite_files_are_readable_by_owner_only() {
    let world = World::new(Backend::Sqlite).await;
    let folder = file_of(&world.database).parent().unwrap().to_owned();
    let names = names(&folder);
    assert_eq!(names, ["toggled.db", "toggled.db-shm", "toggled.db-wal"]);
    for name in names {
        let mode = fs::metadata(folder.join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn closed_sqlite_database_is_one_file() {
    let mut world = World::new(Backend::Sqlite).await;
    let file = file_of(&world.database);
    world.commit(&[service(create("a"))]).await;
    world.raw.close().await;

    world.writer.close().await;
    world.store.close().await;

    assert_eq!(names(file.parent().unwrap()), ["toggled.db"]);
    let closed = world.store.head().await;
    assert!(matches!(closed, Err(StoreError::Unavailable(_))), "{closed:?}");
    let store = open_existing(&world.database.url).unwrap();
    assert_eq!(store.head().await.unwrap(), *world.state.head());
    store.close().await;
    assert_eq!(names(file.parent().unwrap()), ["toggled.db"]);
}

async fn inaccessible(store: &dyn Store, words: &str) {
    let problem = store.migrate_up().await.unwrap_err();
    assert!(matches!(problem, StoreError::Inaccessible(_)), "{problem:?}");
    assert!(problem.to_string().contains(words), "{problem}");
}

/// SQLite would delete the write-ahead log, which holds the changes since the last checkpoint.
#[tokio::test]
async fn log_without_its_database_is_not_replaced() {
    let database = Database::new(Backend::Sqlite).await;
    let file = file_of(&database);
    let log = file.with_extension("db-wal");
    fs::write(&log, "changes").unwrap();

    inaccessible(&*open(&database.url).unwrap(), "move").await;

    assert!(!file.exists());
    assert_eq!(fs::read(&log).unwrap(), b"changes");
    fs::remove_file(log).unwrap();
    open(&database.url).unwrap().migrate_up().await.unwrap();
}

#[tokio::test]
async fn missing_sqlite_file_is_created_only_on_request() {
    let database = Database::new(Backend::Sqlite).await;
    let file = file_of(&database);
    inaccessible(&*open_existing(&database.url).unwrap(), "cannot be opened").await;
    assert!(!file.exists());
    let folder = TempDir::new().unwrap();
    let missing = format!("sqlite://{}/missing/toggled.db", folder.path().display());
    let problem = open(&missing).err().unwrap();
    assert!(problem.contains("/missing: No such file or directory"), "{problem}");
    // A link to a file system that is not mounted, for example.
    std::os::unix::fs::symlink(folder.path().join("target"), &file).unwrap();
    inaccessible(&*open(&database.url).unwrap(), "cannot be opened").await;
    assert_eq!(names(folder.path()), [] as [&str; 0]);
}
