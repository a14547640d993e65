//! A SQLite database whose file is moved, deleted, replaced or overwritten while it is open.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use futures::future::join_all;
use toggled::domain::filter::Filter;
use toggled::store::{AppendOutcome, EntryQuery, Order, StoreError, open, open_existing};

use super::files::{file_of, names};
use super::open::every_read_fails;
use super::raw::Raw;
use super::world::*;
use crate::support::Backend;

/// How the database is lost, and how it comes back, if it does.
struct Loss {
    name: &'static str,
    lose: fn(&Path),
    restore: Option<fn(&Path)>,
    /// Words of the error.
    words: &'static str,
}

const LOSSES: [Loss; 8] = [
    Loss { name: "moved", lose: move_away, restore: Some(move_back), words: "moved or deleted" },
    Loss { name: "deleted", lose: |file| fs::remove_file(file).unwrap(), restore: None, words: "moved or deleted" },
    Loss {
        name: "moved with its companions",
        lose: |file| companions(file).iter().for_each(|file| move_away(file)),
        restore: Some(|file| companions(file).iter().for_each(|file| move_back(file))),
        words: "moved or deleted",
    },
    Loss {
        name: "folder moved",
        lose: |file| move_away(file.parent().unwrap()),
        restore: Some(|file| move_back(file.parent().unwrap())),
        words: "moved or deleted",
    },
    Loss {
        name: "write-ahead log moved",
        lose: |file| move_away(&companions(file)[1]),
        restore: Some(|file| move_back(&companions(file)[1])),
        words: "toggled.db-wal was moved or deleted",
    },
    Loss {
        name: "write-ahead log deleted",
        lose: |file| fs::remove_file(&companions(file)[1]).unwrap(),
        restore: None,
        words: "toggled.db-wal was moved or deleted",
    },
    Loss {
        name: "replaced by a copy",
        lose: |file| {
            copy(file, &aside(file));
            move_back(file);
        },
        restore: None,
        words: "another file",
    },
    Loss {
        name: "folder replaced by a copy",
        lose: |file| {
            let folder = file.parent().unwrap();
            move_away(folder);
            copy(&aside(folder), folder);
        },
        restore: Some(|file| {
            let folder = file.parent().unwrap();
            fs::remove_dir_all(folder).unwrap();
            move_back(folder);
        }),
        words: "another file",
    },
];

fn companions(file: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|ending| format!("{}{ending}", file.display()).into())
}

fn aside(path: &Path) -> PathBuf {
    format!("{}.aside", path.display()).into()
}

fn move_away(path: &Path) {
    fs::rename(path, aside(path)).unwrap();
}

fn move_back(path: &Path) {
    fs::rename(aside(path), path).unwrap();
}

/// Copies with another process: when this one closes a file that SQLite has open, SQLite loses its locks.
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-rT").args([from, to]).status().unwrap().success());
}

fn is_unusable(error: &StoreError) -> bool {
    matches!(error, StoreError::Unusable(_))
}

/// Asserts that nothing is read or written any more.
async fn assert_unusable(world: &mut World, words: &str) {
    let step = world.decide(&[service(create("later"))]);
    for outcome in [world.writer.append(&step).await, world.store.writer().append(&step).await] {
        let problem = outcome.unwrap_err();
        assert!(is_unusable(&problem) && problem.to_string().contains(words), "{problem:?}");
    }
    // More than there are connections, so that some would be opened.
    let range = world.all();
    let query = EntryQuery { filter: Filter::default(), range, order: Order::NewestFirst, offset: 0, limit: 10 };
    for entries in join_all((0..12).map(|_| world.store.entries(&query))).await {
        assert!(is_unusable(&entries.unwrap_err()));
    }
    every_read_fails(&*world.store, is_unusable).await;
    for outcome in [world.store.check().await, world.store.probe().await, world.writer.lock_head().await] {
        assert!(is_unusable(&outcome.unwrap_err()));
    }
}

#[tokio::test]
async fn lost_sqlite_file_is_neither_used_nor_replaced() {
    for Loss { name, lose, restore, words } in LOSSES {
        println!("{name}");
        let mut world = World::new(Backend::Sqlite).await;
        world.commit(&[service(create("a"))]).await;
        let file = file_of(&world.database);
        let folders = || [file.parent().unwrap(), &aside(file.parent().unwrap())].map(names);
        lose(&file);
        let before = folders();

        assert_unusable(&mut world, words).await;

        assert_eq!(folders(), before, "{name}: nothing is created");
        if let Some(restore) = restore {
            restore(&file);
            world.verify().await;
            world.commit(&[service(create("b"))]).await;
        }
        world.writer.close().await;
        world.store.close().await;
        let _ = fs::remove_dir_all(aside(file.parent().unwrap()));
    }
}

/// It can be moved back, and no start takes its write-ahead log for that of another file.
#[tokio::test]
async fn moved_sqlite_file_is_complete_after_close() {
    let mut world = World::new(Backend::Sqlite).await;
    world.commit(&[service(create("a"))]).await;
    let file = file_of(&world.database);
    move_away(&file);

    world.writer.close().await;
    world.store.close().await;

    let moved = open_existing(&format!("sqlite://{}", aside(&file).display())).unwrap();
    assert_eq!(moved.head().await.unwrap(), *world.state.head());
    let refused = open(&world.database.url).unwrap().migrate_up().await;
    assert!(matches!(refused, Err(StoreError::Inaccessible(_))), "{refused:?}");
    let log = fs::metadata(&companions(&file)[1]).unwrap();
    assert_eq!(log.len(), 0);
}

/// A restart would open the other file.
#[tokio::test]
async fn link_to_another_file_makes_database_unusable() {
    let world = World::new(Backend::Sqlite).await;
    let file = file_of(&world.database);
    let link = file.with_file_name("link.db");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let store = open(&format!("sqlite://{}", link.display())).unwrap();
    assert_eq!(store.head().await.unwrap(), *world.state.head());
    let other = World::new(Backend::Sqlite).await;
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(file_of(&other.database), &link).unwrap();

    let problem = store.head().await.unwrap_err();

    assert!(is_unusable(&problem) && problem.to_string().contains("another file"), "{problem:?}");
}

/// A world whose last entry is in the write-ahead log only, and a copy of the file from before its last two entries.
async fn with_older_copy() -> (World, PathBuf) {
    let mut world = World::new(Backend::Sqlite).await;
    let older = aside(&file_of(&world.database));
    world.raw.run("PRAGMA wal_checkpoint(TRUNCATE)").await;
    copy(&file_of(&world.database), &older);
    world.commit(&[service(create("a"))]).await;
    world.raw.run("PRAGMA wal_checkpoint(PASSIVE)").await;
    world.commit(&[service(create("b"))]).await;
    (world, older)
}

/// The file has the same device and inode afterwards, and SQLite would lay its write-ahead log over the other content.
#[tokio::test]
async fn overwritten_sqlite_file_is_neither_used_nor_changed() {
    let (mut world, older) = with_older_copy().await;
    let file = file_of(&world.database);
    copy(&older, &file);

    assert_unusable(&mut world, "overwritten").await;

    world.writer.close().await;
    world.store.close().await;
    assert!(Command::new("cmp").args([&older, &file]).status().unwrap().success(), "the restored file was changed");
}

/// A backup of the same log at the same revision. Its pages lie elsewhere, so the write-ahead log would destroy it.
#[tokio::test]
async fn sqlite_file_overwritten_by_newer_backup_is_neither_used_nor_changed() {
    let (mut world, _) = with_older_copy().await;
    let file = file_of(&world.database);
    world.store.check().await.unwrap();
    let backup = file.with_file_name("backup.db");
    world.raw.run(&format!("VACUUM INTO '{}'", backup.display())).await;
    copy(&backup, &file);

    assert_unusable(&mut world, "keep a copy").await;

    world.writer.close().await;
    world.store.close().await;
    assert!(Command::new("cmp").args([&backup, &file]).status().unwrap().success(), "the restored file was changed");
}

/// The backup was made from a server that had itself started from such a backup: the tables begin at the same pages, and the
/// head of the log is in the write-ahead log only, before and after. Nothing but the missing checkpoint tells it.
#[tokio::test]
async fn restored_sqlite_file_overwritten_by_its_backup_is_unusable() {
    let (mut world, backup) = restored_with_backup().await;
    let file = file_of(&world.database);
    let log = &companions(&file)[1];
    copy(&backup, &file);
    let kept = aside(log);
    copy(log, &kept);

    assert_unusable(&mut world, "overwritten").await;

    world.writer.close().await;
    world.store.close().await;
    assert!(Command::new("cmp").args([&backup, &file]).status().unwrap().success(), "the restored file was changed");
    assert!(Command::new("cmp").args([log, &kept]).status().unwrap().success(), "the write-ahead log was changed");
}

/// A long write-ahead log, which SQLite would move into the file in the middle of a COMMIT.
#[tokio::test]
async fn write_ahead_log_is_not_moved_into_overwritten_file() {
    let (mut world, backup) = restored_with_backup().await;
    let file = file_of(&world.database);
    let mut step = world.decide(&[service(create("last"))]);
    for part in 0..200 {
        if is_long(&file) {
            break;
        }
        world.writer.append(&step).await.unwrap();
        world.appended(&step);
        let flags: Vec<_> = (0..50).map(|flag| service(create(&format!("long-{part}-{flag}")))).collect();
        step = world.decide(&flags);
    }
    assert!(is_long(&file));
    copy(&backup, &file);

    for _ in 0..3 {
        assert!(is_unusable(&world.writer.append(&step).await.unwrap_err()));
    }

    assert!(Command::new("cmp").args([&backup, &file]).status().unwrap().success(), "the restored file was changed");
}

/// A world on a copy by `VACUUM INTO`, and another such copy of it. Both lack later entries.
async fn restored_with_backup() -> (World, PathBuf) {
    let mut world = World::new(Backend::Sqlite).await;
    world.commit(&[service(create("a"))]).await;
    let file = file_of(&world.database);
    let backup = |name: &str| file.with_file_name(name);
    world.raw.run(&format!("VACUUM INTO '{}'", backup("first.db").display())).await;
    world.writer.close().await;
    world.store.close().await;
    let elsewhere = World::empty(Backend::Sqlite).await;
    std::mem::replace(&mut world.raw, elsewhere.raw).close().await;
    for file in companions(&file) {
        let _ = fs::remove_file(file);
    }
    copy(&backup("first.db"), &file);
    world.store = open(&world.database.url).unwrap();
    world.store.migrate_up().await.unwrap();
    world.writer = world.store.writer();
    world.raw = Raw::connect(&world.database).await;
    world.commit(&[service(create("b"))]).await;
    world.raw.run(&format!("VACUUM INTO '{}'", backup("second.db").display())).await;
    world.commit(&[service(create("c"))]).await;
    (world, backup("second.db"))
}

/// Whether the write-ahead log is so long that the next write moves it into the file.
fn is_long(file: &Path) -> bool {
    fs::metadata(&companions(file)[1]).unwrap().len() > 1000 * (4096 + 24)
}

/// Lets the file look as if a checkpoint had begun to write to it, and was not finished. Another process does it: see `copy`.
fn begin_checkpoint(file: &Path) {
    let write =
        format!("printf '\\377\\377\\377\\0' | dd of='{}' bs=1 seek=128 conv=notrunc", companions(file)[2].display());
    assert!(Command::new("sh").args(["-c", &write]).stderr(Stdio::null()).status().unwrap().success());
}

/// What a careful operator does beside a server, and other processes that write, leave the database usable.
#[tokio::test]
async fn sqlite_file_that_others_read_and_write_is_used() {
    let (mut world, _) = with_older_copy().await;
    let file = file_of(&world.database);
    let backup = file.with_file_name("backup.db");
    let run = |program: &str, arguments: &[&str]| {
        assert!(Command::new(program).args(arguments).arg(&file).status().unwrap().success(), "{program}");
    };
    world.store.check().await.unwrap();
    run("chmod", &["640"]);
    run("touch", &[]);
    world.store.check().await.unwrap();
    fs::hard_link(&file, file.with_file_name("link.db")).unwrap();
    world.store.check().await.unwrap();
    world.raw.run(&format!("VACUUM INTO '{}'", backup.display())).await;
    for checkpoint in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
        world.commit(&[service(create(checkpoint))]).await;
        world.raw.run(&format!("PRAGMA wal_checkpoint({checkpoint})")).await;
        // Reads what the checkpoint wrote, at the second time without a change.
        world.store.check().await.unwrap();
        world.store.check().await.unwrap();
    }
    let other = open(&world.database.url).unwrap();
    let mut writer = other.writer();
    let step = world.decide(&[service(create("other"))]);
    writer.append(&step).await.unwrap();
    world.appended(&step);
    writer.close().await;
    other.close().await;
    world.commit(&[service(create("last"))]).await;
}

/// A checkpoint between two changes of the schema leaves a layout in the file that is neither that before nor the one that SQLite
/// shows.
#[tokio::test]
async fn sqlite_file_whose_schema_others_change_is_used() {
    let (mut world, _) = with_older_copy().await;
    world.store.check().await.unwrap();
    for night in ["first", "second"] {
        world.raw.run("PRAGMA wal_checkpoint(TRUNCATE)").await;
        world.raw.run("VACUUM; PRAGMA wal_checkpoint(PASSIVE); ANALYZE; CREATE TABLE others (a)").await;
        // A change waits until the content is certain.
        world.commit(&[service(create(night))]).await;
        world.raw.run("DROP TABLE others; DROP TABLE sqlite_stat1").await;
        world.commit(&[service(create(&format!("after-{night}")))]).await;
    }
    world.verify().await;
}

#[tokio::test]
async fn cut_write_ahead_log_makes_sqlite_file_unusable() {
    let mut world = World::new(Backend::Sqlite).await;
    world.commit(&[service(create("a"))]).await;
    let file = file_of(&world.database);
    world.store.check().await.unwrap();
    let log = &companions(&file)[1];
    assert!(Command::new("truncate").args(["-s", "0"]).arg(log).status().unwrap().success());

    assert_unusable(&mut world, "overwritten").await;
}

#[tokio::test]
async fn long_write_ahead_log_is_moved_into_file() {
    let mut world = World::new(Backend::Sqlite).await;
    let file = file_of(&world.database);
    let size = |file: &Path| fs::metadata(file).unwrap().len();
    let before = size(&file);
    for part in 0..200 {
        let flags: Vec<_> = (0..50).map(|flag| service(create(&format!("long-{part}-{flag}")))).collect();
        let step = world.decide(&flags);
        assert_eq!(world.writer.append(&step).await.unwrap(), AppendOutcome::Appended);
        world.appended(&step);
        if size(&file) > before {
            break;
        }
    }
    assert!(size(&file) > before);
    world.verify().await;
}

/// A page of another file that does not fit, for example.
#[tokio::test]
async fn content_that_cannot_be_read_makes_sqlite_file_unusable() {
    let (mut world, _) = with_older_copy().await;
    let (file, known) = (file_of(&world.database), *world.state.head());
    world.store.load().await.unwrap();
    world.commit(&[service(create("c"))]).await;
    world.raw.unguard().await;
    world.raw.run("UPDATE feature_flags SET name = CAST(X'ff' AS TEXT)").await;
    let log = &companions(&file)[1];
    let kept = aside(log);
    copy(log, &kept);

    let problem = world.store.follow(&known).await.unwrap_err();

    assert!(is_unusable(&problem) && problem.to_string().contains("is damaged"), "{problem:?}");
    assert_unusable(&mut world, "is damaged").await;
    world.writer.close().await;
    world.store.close().await;
    assert!(Command::new("cmp").args([log, &kept]).status().unwrap().success(), "the write-ahead log was changed");
}

/// SQLite's own checkpoint leaves the file unreadable for a moment: its first page already counts the pages that follow.
#[tokio::test]
async fn sqlite_file_that_is_unreadable_for_a_moment_is_used() {
    let mut world = World::new(Backend::Sqlite).await;
    let file = file_of(&world.database);
    world.raw.run("PRAGMA wal_checkpoint(TRUNCATE)").await;
    world.store.check().await.unwrap();
    // Puts all pages into the write-ahead log.
    world.raw.run("VACUUM").await;
    let whole = file.with_file_name("whole.db");
    copy(&file, &whole);
    begin_checkpoint(&file);
    for size in ["4096", "8192"] {
        assert!(Command::new("truncate").args(["-s", size]).arg(&file).status().unwrap().success());
        world.store.check().await.unwrap();
    }
    copy(&whole, &file);

    world.commit(&[service(create("c"))]).await;

    world.verify().await;
}

/// SQLite's own VACUUM changes what it shows first, and the file at the next checkpoint.
#[tokio::test]
async fn vacuumed_sqlite_file_is_used() {
    let (mut world, _) = with_older_copy().await;
    world.store.check().await.unwrap();
    world.raw.run("VACUUM").await;
    world.commit(&[service(create("c"))]).await;
    world.raw.run("PRAGMA wal_checkpoint(TRUNCATE)").await;
    world.commit(&[service(create("d"))]).await;
    world.verify().await;
}

/// The file ends with the process, so the changes since the last checkpoint are nowhere else.
#[tokio::test]
async fn deleted_sqlite_file_leaves_its_write_ahead_log() {
    let (mut world, _) = with_older_copy().await;
    let file = file_of(&world.database);
    let log = &companions(&file)[1];
    let kept = aside(log);
    copy(log, &kept);
    fs::remove_file(&file).unwrap();

    world.writer.close().await;
    world.store.close().await;

    assert!(fs::metadata(log).unwrap().len() > 0);
    assert!(Command::new("cmp").args([log, &kept]).status().unwrap().success(), "the write-ahead log was changed");
}

/// SQLite's own restore goes through the write-ahead log.
#[tokio::test]
async fn older_state_restored_through_sqlite_is_used() {
    let (mut world, _) = with_older_copy().await;
    world.raw.unguard().await;
    world.raw.run("UPDATE log_head SET revision = 1; PRAGMA wal_checkpoint(TRUNCATE)").await;
    assert_eq!(world.store.head().await.unwrap().revision, 1);
    world.store.check().await.unwrap();
}
