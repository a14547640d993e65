//! The settings that sessions on PostgreSQL rely on, whatever the role, the database and the URL say.

use toggled::store::{StoreError, open};

use super::raw::Raw;
use super::world::*;
use crate::support::{Backend, Database, with_timeout};

/// What an append needs, and what the database is set to instead.
const ENDANGERED: [(&str, &str, &str); 9] = [
    ("DateStyle", "ISO, MDY", "SQL, DMY"),
    ("IntervalStyle", "postgres", "sql_standard"),
    ("bytea_output", "hex", "escape"),
    ("lock_timeout", "5s", "1h"),
    ("row_security", "off", "on"),
    ("session_replication_role", "origin", "replica"),
    ("standard_conforming_strings", "on", "off"),
    ("synchronous_commit", "on", "off"),
    ("transaction_isolation", "read committed", "serializable"),
];

/// Changes a setting of the test's database, for later sessions.
async fn set_for_database(raw: &mut Raw, name: &str, value: &str) {
    let name = if name == "transaction_isolation" { "default_transaction_isolation" } else { name };
    let value = if name == "search_path" { value.to_owned() } else { format!("''{value}''") };
    raw.run(&format!(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET {name} = {value}', current_database()); END $$"
    ))
    .await;
}

/// Records the settings of each session that moves the head.
async fn record_settings(raw: &mut Raw) {
    let names: Vec<_> = ENDANGERED.iter().map(|(name, ..)| format!("('{name}')")).collect();
    let names = names.join(", ");
    raw.run(&format!(
        "CREATE TABLE seen (name text, value text);
         CREATE FUNCTION record_settings() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             DELETE FROM seen;
             INSERT INTO seen SELECT name, current_setting(name) FROM (VALUES {names}) AS names (name);
             RETURN NULL;
         END $$;
         CREATE TRIGGER record_settings AFTER UPDATE ON log_head EXECUTE FUNCTION record_settings();
         ALTER TABLE log_head ENABLE ALWAYS TRIGGER record_settings"
    ))
    .await;
}

async fn seen(raw: &mut Raw) -> Vec<String> {
    raw.texts("SELECT name || ' = ' || value FROM seen ORDER BY name COLLATE \"C\"").await
}

/// Sessions of a new store, as after a restart.
fn reopen(world: &mut World, parameters: &str) {
    world.store = open(&format!("{}{parameters}", world.database.url)).unwrap();
    world.writer = world.store.writer();
}

#[tokio::test]
async fn writing_session_overrides_database_and_url() {
    let mut world = World::new(Backend::Postgres).await;
    record_settings(&mut world.raw).await;
    for (name, _, value) in ENDANGERED {
        set_for_database(&mut world.raw, name, value).await;
    }
    let expected: Vec<_> = ENDANGERED.iter().map(|(name, value, _)| format!("{name} = {value}")).collect();
    for (key, parameters) in [
        ("a", ""),
        ("b", "?options=-c%20synchronous_commit%3Doff%20--lock-timeout=1ms"),
        ("c", "?options[synchronous_commit]=off"),
    ] {
        reopen(&mut world, parameters);
        world.commit(&[service(create(key))]).await;
        assert_eq!(seen(&mut world.raw).await, expected, "{parameters}");
    }
}

/// With `local` or `off`, a failover would lose acknowledged changes. Waiting for more than the disk is the operator's choice.
#[tokio::test]
async fn stronger_synchronous_commit_is_kept() {
    let mut world = World::new(Backend::Postgres).await;
    record_settings(&mut world.raw).await;
    for (value, expected) in [("remote_apply", "remote_apply"), ("remote_write", "remote_write"), ("local", "on")] {
        set_for_database(&mut world.raw, "synchronous_commit", value).await;
        reopen(&mut world, "");
        world.commit(&[service(create(&value.replace('_', "-")))]).await;
        let seen = seen(&mut world.raw).await;
        assert!(seen.contains(&format!("synchronous_commit = {expected}")), "{value}: {seen:?}");
    }
}

/// Another search path leads to another log, or to none.
#[tokio::test]
async fn later_search_path_does_not_reach_new_sessions() {
    let mut world = World::new(Backend::Postgres).await;
    world.raw.run("CREATE SCHEMA elsewhere").await;
    set_for_database(&mut world.raw, "search_path", "elsewhere").await;
    world.writer = world.store.writer();
    world.database.end_connections().await;
    world.commit(&[service(create("a"))]).await;
}

#[tokio::test]
async fn url_names_the_schema() {
    let database = Database::new(Backend::Postgres).await;
    let mut raw = Raw::connect(&database).await;
    raw.run("CREATE SCHEMA \"my flags\"").await;
    for parameters in ["?options=-c%20search_path%3D%22my%5C%20flags%22", "?options[search_path]=%22my%20flags%22"] {
        let store = open(&format!("{}{parameters}", database.url)).unwrap();
        store.migrate_up().await.unwrap();
        store.load().await.unwrap();
    }
    let found = raw.texts("SELECT schemaname::text FROM pg_tables WHERE tablename = 'log_head'").await;
    assert_eq!(found, ["my flags"]);
    assert!(open(&database.url).unwrap().load().await.is_err());
}

/// A migration may take longer than any other statement, and waits for other servers that migrate.
#[tokio::test]
async fn migration_overrides_timeouts() {
    let database = Database::new(Backend::Postgres).await;
    let mut raw = Raw::connect(&database).await;
    set_for_database(&mut raw, "statement_timeout", "200ms").await;
    // Keeps the migration waiting for longer than that.
    let mut other = Raw::connect(&database).await;
    other.run("BEGIN; CREATE TABLE feature_flags (id int)").await;
    let store = open(&database.url).unwrap();
    let migration = tokio::spawn(async move { store.migrate_up().await });
    let waits =
        "SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
        AND clock_timestamp() - query_start > interval '300 ms'";
    with_timeout("the migration to wait", async {
        while raw.texts(waits).await == ["0"] && !migration.is_finished() {}
    })
    .await;
    other.run("ROLLBACK").await;
    with_timeout("the migration", migration).await.unwrap().unwrap();
}

/// A superuser has set it for a role that may not change it.
#[tokio::test]
async fn role_that_skips_triggers_is_misconfigured() {
    let database = Database::new(Backend::Postgres).await;
    let mut raw = Raw::connect(&database).await;
    let role = database.url.rsplit_once('/').unwrap().1.replace("test", "role");
    raw.run(&format!("CREATE ROLE {role} LOGIN; ALTER ROLE {role} SET session_replication_role = replica")).await;
    let url = database.url.replace("postgres@", &format!("{role}@"));
    let problem = open(&url).unwrap().migrate_up().await.unwrap_err();
    let StoreError::Misconfigured(problem) = problem else { panic!("{problem:?}") };
    assert!(problem.message().contains("session_replication_role"), "{problem}");
}
