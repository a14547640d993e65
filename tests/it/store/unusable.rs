//! Databases that can be read but not written, until an operator acts.

use toggled::store::{AppendOutcome, StoreError, open};

use super::files::file_of;
use super::raw::Raw;
use super::world::*;
use crate::support::{Backend, on_both_databases};

fn is_unusable<T>(outcome: &Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Unusable(_)))
}

/// Lets PostgreSQL refuse all appends and probes with an SQLSTATE.
async fn fail_writes(raw: &mut Raw, code: &str) {
    raw.run(&format!(
        "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{code}'; END $$;
         CREATE OR REPLACE TRIGGER fail BEFORE UPDATE ON log_head EXECUTE FUNCTION fail();
         CREATE OR REPLACE TRIGGER fail BEFORE INSERT ON requests EXECUTE FUNCTION fail()"
    ))
    .await;
}

on_both_databases! {
    async fn probe_changes_nothing(backend: Backend) {
        let mut world = World::new(backend).await;
        world.store.probe().await.unwrap();
        world.store.check().await.unwrap();
        world.verify().await;
        world.commit(&[service(create("a"))]).await;
    }

    async fn read_only_database_is_unusable(backend: Backend) {
        let mut world = World::new(backend).await;
        let store = match backend {
            Backend::Sqlite => open(&format!("{}?mode=ro", world.database.url)).unwrap(),
            Backend::Postgres => {
                fail_writes(&mut world.raw, "25006").await;
                open(&world.database.url).unwrap()
            }
        };
        let step = world.decide(&[service(create("a"))]);

        let appended = store.writer().append(&step).await;

        assert!(is_unusable(&appended), "{appended:?}");
        let probed = store.probe().await;
        assert!(is_unusable(&probed), "{probed:?}");
        assert_eq!(store.head().await.unwrap(), *world.state.head());
    }
}

/// A probe that writes less than a change finds space where the change has none.
#[tokio::test]
async fn sqlite_probe_needs_the_space_of_a_batch() {
    let mut world = World::new(Backend::Sqlite).await;
    let log = format!("{}-wal", file_of(&world.database).display());
    let length = || std::fs::metadata(&log).unwrap().len();
    let flags: Vec<_> = (0..100).map(|flag| service(create(&format!("flag-{flag}")))).collect();
    let before = length();
    world.commit(&flags).await;
    let batch = length() - before;

    let before = length();
    world.store.probe().await.unwrap();

    assert!(length() > before + batch, "{batch} {before} {}", length());
    world.verify().await;
    world.commit(&[service(create("a"))]).await;
}

#[tokio::test]
async fn full_postgres_is_unusable_until_it_has_space() {
    let mut world = World::new(Backend::Postgres).await;
    let step = world.decide(&[service(create("a"))]);
    for code in ["53100", "58030"] {
        fail_writes(&mut world.raw, code).await;
        let appended = world.writer.append(&step).await;
        assert!(is_unusable(&appended), "{appended:?}");
        world.store.usability().record_error(&appended.unwrap_err());
        let probed = world.store.probe().await;
        assert!(is_unusable(&probed), "{probed:?}");
        world.store.usability().record_probe(&probed);
        assert!(!world.store.usability().is_usable());
    }
    world.raw.run("DROP TRIGGER fail ON log_head; DROP TRIGGER fail ON requests").await;
    world.store.usability().record_probe(&world.store.probe().await);
    assert!(world.store.usability().is_usable());
    assert_eq!(world.writer.append(&step).await.unwrap(), AppendOutcome::Appended);
}

/// A role that may not log in, or a database that does not exist: a wrong setting at a start, and an outage later.
#[tokio::test]
async fn refused_login_is_inaccessible() {
    let world = World::new(Backend::Postgres).await;
    let missing = format!("{}_missing", world.database.url);
    let nobody = world.database.url.replace("postgres@", "nobody@");
    for url in [missing, nobody] {
        let store = open(&url).unwrap();
        for outcome in [store.head().await.map(drop), store.migrate_up().await, store.load().await.map(drop)] {
            assert!(matches!(outcome, Err(StoreError::Inaccessible(_))), "{outcome:?}");
        }
    }
}
