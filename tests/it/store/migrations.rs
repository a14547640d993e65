//! Migrations: up once, down only without a log, and refused for a database of another form.

use std::sync::Arc;

use toggled::domain::Revision;
use toggled::store::{Migration, Store, StoreError, open};
use uuid::Uuid;

use super::raw::Raw;
use super::retention::trim;
use super::world::*;
use crate::support::{Backend, Database, invoke, on_both_databases, with_timeout};

fn versions(migrations: &[Migration], applied: bool) -> Vec<i64> {
    migrations.iter().filter(|m| m.applied == applied).map(|m| m.version).collect()
}

/// The objects of our schema: tables, indexes, triggers and functions.
async fn objects(raw: &mut Raw) -> Vec<String> {
    let sql = match raw {
        Raw::Sqlite(_) => "SELECT name FROM sqlite_schema WHERE name NOT LIKE '%\\_sqlx\\_%' ESCAPE '\\'",
        Raw::Postgres(_) => {
            "SELECT relname::text FROM pg_class
                 WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE '\\_sqlx\\_%'
             UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
             UNION ALL SELECT typname::text FROM pg_type
                 WHERE typnamespace = 'public'::regnamespace AND typname NOT LIKE '%\\_sqlx\\_%'"
        }
    };
    let mut objects = raw.texts(sql).await;
    objects.sort();
    objects
}

/// Every column of our tables, by name.
async fn columns(backend: Backend) -> Vec<String> {
    let mut world = World::empty(backend).await;
    let sql = match world.raw {
        Raw::Sqlite(_) => {
            "SELECT t.name || '.' || c.name FROM sqlite_schema t, pragma_table_info(t.name) c
             WHERE t.type = 'table' AND t.name <> '_sqlx_migrations' ORDER BY t.name, c.cid"
        }
        Raw::Postgres(_) => {
            "SELECT table_name || '.' || column_name FROM information_schema.columns
             WHERE table_schema = 'public' AND table_name <> '_sqlx_migrations'
             ORDER BY table_name COLLATE \"C\", ordinal_position"
        }
    };
    world.raw.texts(sql).await
}

async fn migrations(backend: Backend) -> Vec<(i64, String)> {
    let world = World::empty(backend).await;
    world.store.migrations().await.unwrap().into_iter().map(|m| (m.version, m.name)).collect()
}

/// Migrates as a starting server does, with retries while the database is busy. Returns the id of the log.
async fn start(store: Arc<dyn Store>) -> Uuid {
    loop {
        match store.migrate_up().await {
            Ok(()) => return store.head().await.unwrap().log_id,
            // SQLite refuses some of several servers that create the file at once.
            Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    }
}

/// A statement that records a migration as applied.
fn apply(version: i64, checksum: &str) -> String {
    format!(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES ({version}, 'other', TRUE, {checksum}, 0)"
    )
}

/// Asserts that the database is migrated in no direction, and that one line says why.
async fn assert_refused(world: &World, words: &str) {
    let store = open(&world.database.url).unwrap();
    let outcomes = [store.migrate_up().await, store.migrate_down(true).await, store.migrations().await.map(drop)];
    for outcome in outcomes {
        let Err(StoreError::Refused(problem)) = outcome else { panic!("{outcome:?}") };
        assert!(problem.message().contains(words) && !problem.message().contains('\n'), "{problem}");
    }
}

#[tokio::test]
async fn both_databases_have_the_same_columns() {
    let sqlite = columns(Backend::Sqlite).await;
    assert!(sqlite.contains(&"audit_logs.previous_entity_revision".to_owned()), "{sqlite:?}");
    assert_eq!(sqlite, columns(Backend::Postgres).await);
    assert_eq!(migrations(Backend::Sqlite).await, migrations(Backend::Postgres).await);
}

on_both_databases! {
    async fn repeated_migration_changes_nothing(backend: Backend) {
        let database = Database::new(backend).await;
        let store = open(&database.url).unwrap();
        let before = store.migrations().await.unwrap();
        assert!(!before.is_empty());
        assert_eq!(versions(&before, true), [] as [i64; 0]);

        store.migrate_up().await.unwrap();
        let log = store.head().await.unwrap();
        store.migrate_up().await.unwrap();
        open(&database.url).unwrap().migrate_up().await.unwrap();

        let after = store.migrations().await.unwrap();
        assert_eq!(versions(&after, true), versions(&before, false), "in order, and all of them");
        assert_eq!(store.head().await.unwrap(), log, "it is the same log");
    }

    /// Servers of one deployment start at the same moment, on an empty database.
    async fn servers_that_start_at_once_share_one_log(backend: Backend) {
        for _ in 0..5 {
            let database = Database::new(backend).await;
            let starting: Vec<_> = (0..6).map(|_| tokio::spawn(start(open(&database.url).unwrap()))).collect();
            let mut logs = Vec::new();
            for server in starting {
                logs.push(with_timeout("a server's start", server).await.unwrap());
            }
            logs.dedup();
            assert_eq!(logs.len(), 1, "one log for all");
        }
    }

    async fn log_with_entries_is_not_dropped_by_default(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a"))]).await;
        let old = *world.state.head();

        let refused = world.store.migrate_down(false).await;
        assert!(matches!(&refused, Err(StoreError::Refused(why)) if why.message().contains("--drop-log")), "{refused:?}");
        assert_eq!(versions(&world.store.migrations().await.unwrap(), true), [1]);

        world.store.migrate_down(true).await.unwrap();
        assert_eq!(objects(&mut world.raw).await, [] as [String; 0]);
        assert_eq!(versions(&world.store.migrations().await.unwrap(), true), [] as [i64; 0]);
        let gone = world.store.load().await;
        assert!(matches!(gone, Err(StoreError::Refused(_) | StoreError::Inaccessible(_))), "a missing log is an error, not an empty log");
        world.store.migrate_down(true).await.unwrap();
        world.store.migrate_down(false).await.unwrap();

        world.store.migrate_up().await.unwrap();
        let new = world.store.head().await.unwrap();
        assert_eq!((new.revision, new.floor, new.hash), (0 as Revision, 0, [0; 32]));
        assert_ne!(new.log_id, old.log_id, "another log, so that followers of the old one notice");
        let state = world.store.load().await.unwrap();
        assert_eq!(state.all_flags().count(), 0);
    }

    async fn trimmed_log_is_not_dropped_by_default(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a"))]).await;
        trim(&mut world, 1).await;
        let refused = world.store.migrate_down(false).await;
        assert!(matches!(&refused, Err(StoreError::Refused(why)) if why.message().contains("--drop-log")), "{refused:?}");
    }

    /// Until 0.1.0 migrations were edited in place: development versions had others, or others under the same number.
    async fn development_database_is_refused_by_name(backend: Backend) {
        let mut world = World::new(backend).await;
        let other = world.raw.hash(7);
        world.raw.run(&format!("UPDATE _sqlx_migrations SET checksum = {other}")).await;
        assert_refused(&world, "development version").await;
        for version in 2..=4 {
            world.raw.run(&apply(version, &other)).await;
        }
        assert_refused(&world, "development version").await;
        assert_refused(&world, "toggled flag export").await;
        for arguments in [&["serve", "--listen", "127.0.0.1:0"][..], &["migrate", "status"], &["migrate", "up"], &["user", "list"]] {
            let output = invoke(arguments, &[("TOGGLED_DATABASE_URL", &world.database.url)]).await;
            let printed = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {printed}");
            assert!(printed.contains("development version"), "{arguments:?}: {printed}");
        }
    }

    async fn migration_of_a_newer_version_is_named(backend: Backend) {
        let mut world = World::new(backend).await;
        let other = world.raw.hash(7);
        world.raw.run(&apply(99, &other)).await;
        for outcome in [world.store.migrate_up().await, world.store.migrate_down(true).await] {
            assert!(matches!(&outcome, Err(StoreError::Refused(why)) if why.message().contains("migration 99")), "{outcome:?}");
        }
    }

    async fn empty_log_is_dropped_and_created_again(backend: Backend) {
        let mut world = World::empty(backend).await;
        assert!(!objects(&mut world.raw).await.is_empty());
        world.store.migrate_down(false).await.unwrap();
        assert_eq!(objects(&mut world.raw).await, [] as [String; 0]);
        world.store.migrate_up().await.unwrap();
        world.state = world.store.load().await.unwrap();
        // The writer's connection was opened before the tables were created.
        world.commit(&[service(create_environment("default")), service(create("a"))]).await;
        world.commit(&[service(toggle("a"))]).await;
    }
}
