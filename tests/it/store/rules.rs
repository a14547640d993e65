//! What the database itself refuses, also from other programs and from a bug in the service.

use toggled::domain::flag::Status;
use toggled::domain::state::FlagRef;
use uuid::Uuid;

use super::raw::Raw;
use super::world::*;
use crate::support::on_both_databases;

/// A log with a flag that is off and one that is on.
async fn with_flags(backend: crate::support::Backend) -> World {
    let mut world = World::new(backend).await;
    world.commit(&[service(create("off")), service(create_as("on", Status::Enabled))]).await;
    world
}

/// The statement that writes an entry about a flag, at a revision, with these values.
fn entry(world: &World, revision: i64, flag: Uuid, action: &str, new_value: &str) -> String {
    let key = world.state.flag(&FlagRef::id(flag)).map_or("k", |flag| flag.key.as_str());
    format!(
        "INSERT INTO audit_logs (id, revision, timestamp, user_email, action_type, entity_type, entity_id, entity_key,
             entity_name, new_value, method, hash_version, hash)
         VALUES ({id}, {revision}, {time}, 'mallory@example.com', '{action}', 'feature_flag', {flag}, '{key}', 'n',
             {new_value}, 'psql', 1, {hash});",
        id = world.raw.id(Uuid::now_v7()),
        time = world.raw.time(world.now),
        flag = world.raw.id(flag),
        hash = world.raw.hash(8),
    )
}

on_both_databases! {
    async fn flag_change_without_entry_is_refused(backend: Backend) {
        let mut world = with_flags(backend).await;
        let higher = "a change needs a higher revision";
        let none = if matches!(world.raw, Raw::Sqlite(_)) {
            "no entry of this flag"
        } else {
            "there is no entry at its revision"
        };
        for (change, words) in [
            ("status = 'enabled'", higher),
            ("name = 'Other'", higher),
            ("description = 'Other'", higher),
            ("updated_by = 'mallory@example.com'", higher),
            ("archived_at = updated_at", higher),
            ("last_flip_audit_log_id = id, last_flip_by = 'x', last_flip_revision = 1, last_flip_time = updated_at", higher),
            ("updated_at = created_at, status = 'enabled', revision = revision", higher),
            ("revision = revision - 1", higher),
            ("status = 'enabled', revision = 1", higher),
            ("revision = 99", none),
            ("status = 'enabled', revision = 99", none),
            ("name = 'Other', revision = 6", none),
            ("key = 'other'", "never change"),
        ] {
            world.raw.refuses(&format!("UPDATE feature_flags SET {change} WHERE key = 'off'"), words).await;
        }
        // Nor with the entry of another flag.
        let other = if matches!(world.raw, Raw::Sqlite(_)) { none } else { "is not about a change of this flag" };
        world.raw.refuses("UPDATE feature_flags SET status = 'enabled', revision = 5 WHERE key = 'off'", other).await;
        // All rows are checked, not only the first.
        world.raw.refuses("UPDATE feature_flags SET status = 'disabled'", higher).await;
        world.raw.run("UPDATE feature_flags SET status = status").await;
        world.commit(&[service(create_environment("two"))]).await;
        world.raw.refuses("UPDATE feature_flags SET environment = 'two' WHERE key = 'off'", "never change").await;
        world.verify().await;
    }

    async fn status_that_contradicts_its_entry_is_refused(backend: Backend) {
        let mut world = with_flags(backend).await;
        let id = world.flag("off").id;
        let flip = "UPDATE feature_flags SET status = 'enabled', revision = 6 WHERE key = 'off'";
        for (action, new_value, words) in [
            ("toggle_disabled", "'disabled'", "not what its newest status entry says"),
            ("flag_updated", "'enabled'", "not what its newest status entry says"),
            ("access_denied", "'enabled'", ""),
        ] {
            let sql = format!("BEGIN; {} {flip}", entry(&world, 6, id, action, new_value));
            world.raw.refuses(&sql, words).await;
            world.raw.run("ROLLBACK").await;
        }
        // Nor does the entry of a later edit hide that of a flip.
        let edit = "UPDATE feature_flags SET name = 'Other', revision = 7 WHERE key = 'off'";
        let entries = entry(&world, 6, id, "toggle_enabled", "'enabled'") + &entry(&world, 7, id, "flag_updated", "NULL");
        world.raw.refuses(&format!("BEGIN; {entries} {edit}"), "not what its newest status entry says").await;
        world.raw.run("ROLLBACK").await;
        if matches!(world.raw, Raw::Sqlite(_)) {
            // Nor under another key, by which it would not be found.
            let entries = entries.replacen("'off'", "'k'", 1);
            world.raw.refuses(&format!("BEGIN; {entries} {edit}"), "names its flag by its key").await;
            world.raw.run("ROLLBACK").await;
        }
        world.verify().await;
        let good = format!("BEGIN; {} {flip}; COMMIT", entry(&world, 6, id, "toggle_enabled", "'enabled'"));
        world.raw.run(&good).await;
        assert_eq!(world.store.load().await.unwrap().flag(&flag("off")).unwrap().status, Status::Enabled);
    }

    async fn new_flag_without_entry_is_refused(backend: Backend) {
        let mut world = with_flags(backend).await;
        let id = Uuid::now_v7();
        let new = |revision: i64, status: &str| {
            format!(
                "INSERT INTO feature_flags (id, environment, key, name, status, revision, created_at, updated_at, updated_by)
                 VALUES ({}, 'default', 'new', 'New', '{status}', {revision}, {time}, {time}, 'mallory@example.com')",
                world.raw.id(id),
                time = world.raw.time(world.now),
            )
        };
        let (forged, borrowed, good, bad) =
            (new(6, "enabled"), new(4, "enabled"), new(6, "disabled"), new(6, "enabled"));
        world.raw.refuses(&forged, "no entry of this flag").await;
        world.raw.refuses(&borrowed, "no entry of this flag").await;
        let created = entry(&world, 6, id, "flag_created", r#"'{"status":"disabled"}'"#);
        world.raw.refuses(&format!("BEGIN; {created} {bad}"), "not what its newest entry says").await;
        world.raw.run("ROLLBACK").await;
        let flipped = entry(&world, 6, id, "toggle_enabled", "'enabled'");
        world.raw.refuses(&format!("BEGIN; {flipped} {forged}"), "no flag_created entry").await;
        world.raw.run("ROLLBACK").await;
        world.verify().await;
        world.raw.run(&format!("BEGIN; {created} {good}; ROLLBACK")).await;
        let foreign_key = if matches!(world.raw, Raw::Sqlite(_)) { "FOREIGN KEY" } else { "foreign key" };
        let elsewhere = good.replacen("'default'", "'nowhere'", 1);
        world.raw.refuses(&format!("BEGIN; {created} {elsewhere}; COMMIT"), foreign_key).await;
        world.raw.run("ROLLBACK").await;
        world.verify().await;
    }

    async fn change_of_an_entry_is_refused(backend: Backend) {
        let mut world = with_flags(backend).await;
        world.raw.refuses("UPDATE audit_logs SET reason = 'Another'", "UPDATE is refused").await;
        world.raw.refuses("UPDATE audit_logs SET revision = revision + 10", "UPDATE is refused").await;
        world
            .raw
            .refuses("UPDATE audit_logs SET created_at = created_at WHERE revision = 1", "UPDATE is refused")
            .await;
        world.raw.refuses("DELETE FROM audit_logs", "is refused").await;
        world.raw.refuses("DELETE FROM audit_logs WHERE revision = 1", "is refused").await;
        world.raw.refuses("DELETE FROM audit_logs WHERE revision = 5", "is refused").await;
        match world.raw {
            Raw::Sqlite(_) => {
                // REPLACE removes a conflicting row without firing a trigger for deletions: the row with the same revision,
                // the same rowid (another name of the revision), or the same id.
                let taken =
                    entry(&world, 1, Uuid::nil(), "flag_updated", "NULL").replacen("INSERT", "INSERT OR REPLACE", 1);
                world.raw.refuses(&taken, "not taken").await;
                world.raw.refuses(&taken.replacen("revision,", "rowid,", 1), "not taken").await;
                let free =
                    entry(&world, 6, Uuid::nil(), "flag_updated", "NULL").replacen("INSERT", "INSERT OR REPLACE", 1);
                let id = world.raw.id(world.entry_at(1).id);
                let taken = free.replacen(free.split(['(', ',']).find(|part| part.starts_with("x'")).unwrap(), &id, 1);
                world.raw.refuses(&taken, "not taken").await;
                let copy = "INSERT OR IGNORE INTO audit_logs SELECT * FROM audit_logs WHERE revision = 1";
                world.raw.refuses(copy, "not taken").await;
                let replace = "UPDATE OR REPLACE audit_logs SET revision = 2 WHERE revision = 1";
                world.raw.refuses(replace, "UPDATE is refused").await;
            }
            Raw::Postgres(_) => {
                world.raw.refuses("TRUNCATE audit_logs", "TRUNCATE is refused").await;
                world.raw.refuses("TRUNCATE audit_logs CASCADE", "TRUNCATE is refused").await;
                world.raw.refuses("TRUNCATE users CASCADE", "TRUNCATE is refused").await;
                let upsert = entry(&world, 1, Uuid::nil(), "flag_updated", "NULL")
                    .replace(';', " ON CONFLICT (revision) DO UPDATE SET reason = 'Another'");
                world.raw.refuses(&upsert, "UPDATE is refused").await;
            }
        }
        world.verify().await;
    }

    async fn removal_of_any_row_is_refused(backend: Backend) {
        let mut world = with_flags(backend).await;
        world.commit(&["one", "two"].map(|key| service(create_environment(key)))).await;
        for table in ["feature_flags", "environments", "users", "api_tokens", "log_head"] {
            world.raw.refuses(&format!("DELETE FROM {table}"), "DELETE is refused").await;
            if matches!(world.raw, Raw::Postgres(_)) {
                world.raw.refuses(&format!("TRUNCATE {table} CASCADE"), "TRUNCATE is refused").await;
            }
        }
        if matches!(world.raw, Raw::Sqlite(_)) {
            let id = world.raw.id(Uuid::now_v7());
            let takeover = |set: &str, key: &str| {
                format!(
                    "INSERT OR REPLACE INTO feature_flags SELECT {set}, name, description, 'enabled', revision,
                         created_at, updated_at, updated_by, archived_at, NULL, NULL, NULL, NULL, NULL FROM feature_flags
                     WHERE key = '{key}'"
                )
            };
            world.raw.refuses(&takeover("id, environment, key", "off"), "exists").await;
            world.raw.refuses(&takeover(&format!("{id}, environment, key"), "off"), "exists").await;
            world.raw.refuses(&takeover("id, 'two', 'other'", "off"), "exists").await;
            world.raw.refuses("INSERT OR REPLACE INTO log_head SELECT * FROM log_head", "exactly one head").await;
            let user = format!(
                "INSERT OR REPLACE INTO users SELECT {id}, email, issuer, subject, permissions, revision,
                created_at, updated_at, deactivated_at FROM users"
            );
            world.raw.refuses(&user, "another user").await;
            let environment = format!(
                "INSERT OR REPLACE INTO environments SELECT {id}, key, name, description, require_reason, revision,
                created_at, updated_at, updated_by, archived_at FROM environments"
            );
            world.raw.refuses(&environment, "another environment").await;
            world.raw.refuses("UPDATE OR REPLACE environments SET key = 'two'", "id and key never change").await;
            let token = format!(
                "INSERT OR REPLACE INTO api_tokens SELECT {id}, user_id, name, secret_hash, permissions, environment,
                revision, created_at, expires_at, revoked_at, last_used_at FROM api_tokens"
            );
            world.raw.refuses(&token, "another token").await;
        }
        world.verify().await;
    }

    async fn head_that_moves_backwards_is_refused(backend: Backend) {
        let mut world = with_flags(backend).await;
        let (other, hash) = (world.raw.id(Uuid::now_v7()), world.raw.hash(3));
        let earlier = world.raw.time(toggled::domain::time::Timestamp::default());
        for (change, words) in [
            ("revision = revision - 1".to_owned(), "never decreases"),
            (format!("log_id = {other}"), "log_id never changes"),
            (format!("hash = {hash}"), "only with the revision"),
            (format!("revision = revision + 1, timestamp = {earlier}"), "never runs backwards"),
            ("floor = 1".to_owned(), "only with a log_trimmed entry"),
            ("floor_hash = hash".to_owned(), "only with the floor"),
            ("revision = revision + 1, floor_hash = hash".to_owned(), "only with the floor"),
            ("revision = revision + 1, floor = 1".to_owned(), "only with a log_trimmed entry"),
            ("floor = revision + 1".to_owned(), ""),
        ] {
            world.raw.refuses(&format!("UPDATE log_head SET {change}"), words).await;
        }
        let second = match world.raw {
            Raw::Sqlite(_) => "INSERT INTO log_head SELECT 2, log_id, revision, hash, timestamp, floor, floor_hash, closed_at FROM log_head",
            Raw::Postgres(_) => {
                "INSERT INTO log_head SELECT NOT singleton, log_id, revision, hash, timestamp, floor, floor_hash, closed_at FROM log_head"
            }
        };
        world.raw.refuses(second, "").await;
        world.verify().await;
    }
}
