//! The schema: it comes, it stays when it came twice, and it goes, but not with a log in it.

use std::sync::Arc;

use toggled::domain::Revision;
use toggled::store::{Migration, Store, StoreError, open};
use uuid::Uuid;

use super::raw::Raw;
use super::retention::trim;
use super::world::*;
use crate::support::{Backend, Database, on_both_databases, with_timeout};

fn versions(migrations: &[Migration], applied: bool) -> Vec<i64> {
    migrations.iter().filter(|m| m.applied == applied).map(|m| m.version).collect()
}

/// What the database holds of ours: tables, indexes, triggers and functions.
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

/// Every column of every table of ours, in order.
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

/// Takes back every migration but the oldest: the first is the one that the log came with, the second what it is verified with.
async fn all_go_but(oldest: usize, world: &World) {
    while versions(&world.store.migrations().await.unwrap(), true).len() > oldest {
        world.store.migrate_down(false).await.unwrap();
    }
}

/// Starts as a server does: while the database is busy, it tries again. Which log it finds.
async fn start(store: Arc<dyn Store>) -> Uuid {
    loop {
        match store.migrate_up().await {
            Ok(()) => return store.head().await.unwrap().log_id,
            // SQLite says so to some of those who all want to make the file at once.
            Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn both_databases_hold_the_same_tables_and_columns() {
    let sqlite = columns(Backend::Sqlite).await;
    assert!(sqlite.contains(&"audit_logs.previous_entity_revision".to_owned()), "{sqlite:?}");
    assert_eq!(sqlite, columns(Backend::Postgres).await);
    assert_eq!(migrations(Backend::Sqlite).await, migrations(Backend::Postgres).await);
}

on_both_databases! {
    async fn the_schema_comes_once_however_often_it_is_asked_for(backend: Backend) {
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

    /// Servers of one deployment start at the same moment, on a database that is not there yet.
    async fn servers_that_start_at_once_do_not_disturb_each_other(backend: Backend) {
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

    async fn a_log_with_entries_is_dropped_only_when_told_to(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a"))]).await;
        let old = *world.state.head();

        // The younger migrations hold nothing yet that anybody would miss.
        all_go_but(1, &world).await;
        let refused = world.store.migrate_down(false).await;
        assert!(matches!(&refused, Err(StoreError::Refused(why)) if why.contains("--drop-log")), "{refused:?}");
        assert_eq!(versions(&world.store.migrations().await.unwrap(), true), [1]);

        world.store.migrate_down(true).await.unwrap();
        assert_eq!(objects(&mut world.raw).await, [] as [String; 0]);
        assert_eq!(versions(&world.store.migrations().await.unwrap(), true), [] as [i64; 0]);
        let gone = world.store.load().await;
        assert!(matches!(gone, Err(StoreError::Refused(_))), "what is not there is an error, not an empty log");
        world.store.migrate_down(true).await.unwrap();
        world.store.migrate_down(false).await.unwrap();

        world.store.migrate_up().await.unwrap();
        let new = world.store.head().await.unwrap();
        assert_eq!((new.revision, new.floor, new.hash), (0 as Revision, 0, [0; 32]));
        assert_ne!(new.log_id, old.log_id, "another log: who followed the old one must see that");
        let state = world.store.load().await.unwrap();
        assert_eq!(state.flags("", None).count(), 0);
    }

    async fn a_log_outlives_its_younger_migrations(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a"))]).await;
        let schema = objects(&mut world.raw).await;
        all_go_but(1, &world).await;
        assert_ne!(objects(&mut world.raw).await, schema);
        world.store.migrate_up().await.unwrap();
        assert_eq!(objects(&mut world.raw).await, schema, "all comes again");
        world.commit(&[service(toggle("a"))]).await;
        world.verify().await;
    }

    async fn what_the_log_is_verified_with_goes_only_when_told_to(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a"))]).await;
        world.store.add_checkpoint(1, "a note").await.unwrap();
        all_go_but(2, &world).await;
        let refused = world.store.migrate_down(false).await;
        assert!(matches!(&refused, Err(StoreError::Refused(why)) if why.contains("checkpoints")), "{refused:?}");
        world.store.migrate_down(true).await.unwrap();
        world.store.migrate_up().await.unwrap();
        trim(&mut world, 1).await;
        all_go_but(2, &world).await;
        let refused = world.store.migrate_down(false).await;
        assert!(matches!(&refused, Err(StoreError::Refused(why)) if why.contains("--drop-log")), "{refused:?}");
        world.store.migrate_down(true).await.unwrap();
        assert_eq!(versions(&world.store.migrations().await.unwrap(), true), [1]);
    }

    async fn an_empty_log_goes_without_a_word_and_comes_again(backend: Backend) {
        let mut world = World::empty(backend).await;
        assert!(!objects(&mut world.raw).await.is_empty());
        all_go_but(1, &world).await;
        world.store.migrate_down(false).await.unwrap();
        assert_eq!(objects(&mut world.raw).await, [] as [String; 0]);
        world.store.migrate_up().await.unwrap();
        world.state = world.store.load().await.unwrap();
        // The writer's connection is older than the tables.
        world.commit(&[service(create("a"))]).await;
        world.commit(&[service(toggle("a"))]).await;
    }
}
