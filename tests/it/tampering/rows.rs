//! What is done to the rows, past the service and all triggers.

use tempfile::TempDir;
use toggled::checkpoint::SigningKey;
use toggled::domain::audit::Entry;
use toggled::domain::hash::chain;
use toggled::domain::time::Timestamp;
use uuid::Uuid;

use super::tampered_log::*;
use crate::store::raw::Raw;
use crate::support::on_both_databases;

/// Everything that is hashed but the revision, and something else that it could be. By another name some are of another
/// length, or absent.
fn alterations(raw: &Raw) -> Vec<(&'static str, String)> {
    let (id, text) = (raw.id(Uuid::now_v7()), "'x'".to_owned());
    let later = if matches!(raw, Raw::Sqlite(_)) { "timestamp + 1" } else { "timestamp + interval '1 microsecond'" };
    let mut all = vec![
        ("id", id.clone()),
        ("timestamp", later.to_owned()),
        ("action_type", "'flag_updated'".to_owned()),
        ("action_type", "'unheard_of'".to_owned()),
        ("entity_type", "'log'".to_owned()),
        ("previous_entity_revision", "1".to_owned()),
        ("previous_entity_revision", "NULL".to_owned()),
        ("reverts", id.clone()),
        ("hash_version", "2".to_owned()),
        ("hash", raw.hash(7)),
        ("entity_key", "''".to_owned()),
    ];
    all.extend(
        ["user_id", "token_id", "entity_id"]
            .into_iter()
            .flat_map(|column| [(column, id.clone()), (column, "NULL".to_owned())]),
    );
    all.extend(["user_email", "entity_key", "entity_name", "method"].map(|column| (column, text.clone())));
    let texts = ["old_value", "new_value", "reason", "request_id", "peer", "user_agent"];
    all.extend(texts.into_iter().flat_map(|column| [(column, text.clone()), (column, "NULL".to_owned())]));
    all
}

/// Moves the entries at two revisions to each other's place.
fn swap(one: i64, other: i64) -> String {
    let go = |from: i64, to: i64| format!("UPDATE audit_logs SET revision = {to} WHERE revision = {from};");
    [go(one, 1_000_000), go(other, one), go(1_000_000, other)].concat()
}

/// A copy of an entry under another id, at this revision.
pub fn insert(raw: &Raw, of: i64, at: i64) -> String {
    let copied = "timestamp, user_id, user_email, token_id, action_type, entity_type, entity_id, entity_key, entity_name,
        old_value, new_value, reason, request_id, method, peer, user_agent, previous_entity_revision, hash_version, hash";
    let id = raw.id(Uuid::now_v7());
    format!(
        "INSERT INTO audit_logs (id, revision, {copied}) SELECT {id}, {at}, {copied} FROM audit_logs WHERE revision = {of};"
    )
}

/// What an alteration is called that is hashed in again, with all that comes after.
fn rewrite(entries: &mut [Entry], log_id: Uuid, from: usize) {
    entries[from].reason = Some("nothing to see".into());
    for at in from..entries.len() {
        entries[at].hash = chain(&entries[at - 1].hash, log_id, &entries[at]);
    }
}

async fn write(raw: &mut Raw, entries: &[Entry]) {
    let hash = |raw: &Raw, entry: &Entry| {
        let hex = plain(entry).split_once(':').unwrap().1.to_owned();
        if matches!(raw, Raw::Sqlite(_)) { format!("x'{hex}'") } else { format!("'\\x{hex}'::bytea") }
    };
    for entry in entries {
        let reason = entry.reason.as_deref().map_or("NULL".into(), |text| format!("'{}'", text.replace('\'', "''")));
        let (hash, revision) = (hash(raw, entry), entry.revision);
        raw.run(&format!("UPDATE audit_logs SET reason = {reason}, hash = {hash} WHERE revision = {revision}")).await;
    }
    let hash = hash(raw, entries.last().unwrap());
    raw.run(&format!("UPDATE log_head SET hash = {hash}")).await;
}

on_both_databases! {
    async fn an_alteration_of_any_field_is_found(backend: Backend) {
        let mut victim = Victim::new(backend).await;
        victim.keep().await;
        let full = victim.entries().await[FULL as usize - 1].clone();
        assert!(full.reason.is_some() && full.request_id.is_some() && full.peer.is_some(), "{full:?}");
        for (column, value) in alterations(&victim.raw) {
            let sql = format!("UPDATE audit_logs SET {column} = {value} WHERE revision = {FULL}");
            victim.raw.run(&sql).await;
            victim.found(&sql, FULL, "altered", &[]).await;
        }
        // An absent text and an empty one have one hash.
        let sql = format!("UPDATE audit_logs SET reason = '' WHERE revision = {}", FULL + 1);
        victim.raw.run(&sql).await;
        victim.found(&sql, FULL + 1, "altered", &[]).await;
        let sql = format!("UPDATE audit_logs SET revision = 1000000 WHERE revision = {FULL}");
        victim.raw.run(&sql).await;
        victim.found(&sql, FULL, "missing", &[]).await;
        assert_eq!(victim.verify(&[]).await.0, 0, "all of it was undone");
    }

    async fn entries_that_go_come_or_change_places_are_found(backend: Backend) {
        let mut victim = Victim::new(backend).await;
        victim.keep().await;
        let last = victim.entries().await.len() as i64;
        let shift = |from: i64, by: i64| {
            format!(
                "UPDATE audit_logs SET revision = revision + 1000000 WHERE revision >= {from};
                 UPDATE audit_logs SET revision = revision - 1000000 + {by} WHERE revision >= 1000000;"
            )
        };
        let behind = insert(&victim.raw, last, last + 1);
        let middle = shift(FULL, 1) + &insert(&victim.raw, FULL + 5, FULL);
        for (sql, revision, kind) in [
            (format!("DELETE FROM audit_logs WHERE revision = {FULL}"), FULL, "missing"),
            ("DELETE FROM audit_logs WHERE revision = 1".to_owned(), 1, "missing"),
            (format!("DELETE FROM audit_logs WHERE revision BETWEEN {FULL} AND {}", FULL + 3), FULL, "missing"),
            (format!("DELETE FROM audit_logs WHERE revision = {last}"), last, "truncated"),
            (format!("DELETE FROM audit_logs WHERE revision > {FULL}"), FULL + 1, "truncated"),
            ("DELETE FROM audit_logs".to_owned(), 1, "truncated"),
            (swap(FULL, FULL + 1), FULL, "reordered"),
            (swap(FULL, FULL + 7), FULL, "reordered"),
            (swap(1, last), 1, "reordered"),
            (behind, last + 1, "inserted"),
            (middle, FULL, "inserted"),
            ("UPDATE log_head SET revision = revision - 1".to_owned(), last - 1, "forked"),
            (format!("UPDATE log_head SET hash = {}", victim.raw.hash(7)), last, "forked"),
            (format!("UPDATE log_head SET floor_hash = {}", victim.raw.hash(7)), 0, "forked"),
        ] {
            victim.raw.run(&sql).await;
            victim.found(&sql, revision, kind, &[]).await;
        }
        assert_eq!(victim.verify(&[]).await.0, 0, "all of it was undone");
    }

    async fn rows_that_do_not_fit_the_log_are_found(backend: Backend) {
        let mut victim = Victim::new(backend).await;
        victim.keep().await;
        let entries = victim.entries().await;
        let last = |key: &str| entries.iter().rfind(|entry| &*entry.entity_key == key).unwrap().revision;
        let all = if matches!(victim.raw, Raw::Sqlite(_)) { "'[\"manage_access\"]'" } else { "'{manage_access}'" };
        let token = entries.iter().find(|entry| &*entry.entity_name == "short").unwrap();
        let (short, never) = (victim.raw.id(token.entity_id.unwrap()), victim.raw.time(Timestamp::MAX));
        let columns = "key, name, status, revision, created_at, updated_at, updated_by";
        let copied = columns.replacen("key", "'forged'", 1);
        let id = victim.raw.id(Uuid::now_v7());
        for (sql, revision) in [
            ("UPDATE feature_flags SET status = 'enabled' WHERE key = 'old-two'".to_owned(), last("old-two")),
            ("UPDATE feature_flags SET status = 'enabled' WHERE key = 'old-one'".to_owned(), last("old-one")),
            ("UPDATE feature_flags SET name = 'x' WHERE key = 'old-one'".to_owned(), last("old-one")),
            ("UPDATE feature_flags SET description = 'x' WHERE key = 'old-one'".to_owned(), last("old-one")),
            ("UPDATE feature_flags SET updated_by = 'x' WHERE key = 'old-one'".to_owned(), last("old-one")),
            ("UPDATE feature_flags SET revision = revision - 1 WHERE key = 'old-one'".to_owned(), last("old-one")),
            ("UPDATE feature_flags SET archived_at = NULL WHERE key = 'old-two'".to_owned(), last("old-two")),
            ("DELETE FROM feature_flags WHERE key = 'old-two'".to_owned(), last("old-two")),
            (format!("INSERT INTO feature_flags (id, {columns}) SELECT {id}, {copied} FROM feature_flags WHERE key = 'old-two'"),
                last("old-two")),
            (format!("UPDATE users SET permissions = {all} WHERE email = 'old@example.com'"), last("old@example.com")),
            ("UPDATE users SET deactivated_at = created_at WHERE email = 'old@example.com'".to_owned(), last("old@example.com")),
            (format!("UPDATE api_tokens SET expires_at = {never} WHERE id = {short}"), token.revision),
            (format!("UPDATE api_tokens SET permissions = {all} WHERE id = {short}"), token.revision),
            (format!("DELETE FROM api_tokens WHERE id = {short}"), token.revision),
        ] {
            victim.raw.run(&sql).await;
            victim.found(&sql, revision, "state", &[]).await;
        }
        // Whose it is counts as well as what it may do, and the words say which.
        let (user, old) = ("UPDATE users SET", "WHERE email = 'old@example.com'");
        let copied = "permissions, revision, created_at, updated_at";
        let other = "(SELECT id FROM users WHERE email = 'new@example.com')";
        let forged = format!(
            "INSERT INTO users (id, email, {copied}) SELECT {id}, 'forged@example.com', {copied} FROM users {old}"
        );
        for (sql, revision, words) in [
            (format!("{user} email = 'x@example.com' {old}"), last("old@example.com"), "email is \"x@example.com\""),
            (format!("{user} issuer = 'x', subject = 'y' {old}"), last("old@example.com"), "issuer is \"x\""),
            (format!("DELETE FROM users {old}"), last("old@example.com"), "user old@example.com is in the log but has no row"),
            (forged, last("old@example.com"), "user forged@example.com has a row but no entry in the log"),
            (format!("UPDATE api_tokens SET user_id = {other} WHERE id = {short}"), token.revision, ": user_id is \""),
            (format!("UPDATE api_tokens SET revoked_at = created_at WHERE id = {short}"), token.revision, ": revoked_at is \""),
        ] {
            victim.raw.run(&sql).await;
            let told = victim.verify(&[]).await;
            assert!(told.1.contains(words), "{sql}: {}", told.1);
            victim.found(&sql, revision, "state", &[]).await;
        }
        // Rows that no entry speaks of, at revisions that no entry has, with ids that nobody makes and of nobody.
        let nil = victim.raw.id(Uuid::nil());
        let columns = "name, permissions, created_at";
        let forged_token = |id: &str, owner: &str, revision: &str, hash: String| {
            format!(
                "INSERT INTO api_tokens (id, user_id, secret_hash, revision, {columns})
                 SELECT {id}, {owner}, {hash}, {revision}, {columns} FROM api_tokens WHERE id = {short}"
            )
        };
        let hash = || victim.raw.hash(9);
        for (sql, revision) in [
            (forged_token(&nil, "user_id", "revision", hash()), token.revision),
            (forged_token(&id, &id, "revision", hash()), token.revision),
            (forged_token(&id, "user_id", "0", hash()), 0),
            (forged_token(&id, "user_id", "-7", hash()), -7),
        ] {
            victim.raw.run(&sql).await;
            victim.found(&sql, revision, "state", &[]).await;
        }
        // A row that says nothing that one could is told as such, after the log.
        for (sql, revision) in [
            ("UPDATE users SET email = '' WHERE email = 'old@example.com'".to_owned(), last("old@example.com")),
            (format!("UPDATE api_tokens SET name = '' WHERE id = {short}"), token.revision),
        ] {
            victim.raw.run(&sql).await;
            assert_found(&sql, &victim.verify(&[]).await, revision, "state");
            victim.raw.run(&format!("DELETE FROM audit_logs WHERE revision = {}", revision + 1)).await;
            victim.found(&sql, revision + 1, "missing", &[]).await;
        }
        // The oldest bad entry counts, whatever the rows are.
        victim.raw.run("UPDATE feature_flags SET status = 'enabled' WHERE key = 'old-two'").await;
        victim.raw.run(&format!("DELETE FROM audit_logs WHERE revision = {FULL}")).await;
        victim.found("both", FULL, "missing", &[]).await;
        victim.raw.run("UPDATE api_tokens SET last_used_at = created_at").await;
        assert_eq!(victim.verify(&[]).await.0, 0, "when tokens were used is no part of the log");
    }

    async fn an_older_copy_is_found_by_what_was_kept(backend: Backend) {
        let (victim, past) = Victim::with_past(backend).await;
        let (entries, log_id) = (victim.entries().await, victim.store().await.head().await.unwrap().log_id);
        let (code, told) = verify(&past, &[]).await;
        assert_eq!(code, 0, "by itself it is whole: {told}");
        let end = ends(&past).await;
        let (key, folder) = (SigningKey::generate().unwrap(), TempDir::new().unwrap());
        let (last, vkey) = (entries.last().unwrap(), key.verifier(log_id).to_string());
        let signed = file(&folder, "last", &note(&key, log_id, last));
        for kept in [plain(last), signed] {
            for argument in ["--since", "--until"] {
                let told = verify(&past, &[argument, &kept, "--public-key", &vkey]).await;
                assert_found(&format!("{argument} {kept}"), &told, end + 1, "truncated");
                let (code, told) = victim.verify(&[argument, &kept, "--public-key", &vkey]).await;
                assert_eq!(code, 0, "{argument} {kept}: {told}");
            }
        }
        // Nor does one pass for another that nobody has signed, or that is of another log.
        let other = SigningKey::generate().unwrap();
        let foreign = note(&key, Uuid::nil(), last);
        let cut = note(&key, log_id, last).replace("time 2023", "time 2022");
        for (name, text, keys, kind) in [
            ("other", note(&other, log_id, last), vec!["--public-key", &vkey], "forged"),
            ("cut", cut, vec!["--public-key", &vkey], "forged"),
            ("foreign", foreign, vec![], "forked"),
        ] {
            let path = file(&folder, name, &text);
            for argument in ["--since", "--until"] {
                let told = victim.verify(&[&[argument, &path], &keys[..]].concat()).await;
                assert_found(name, &told, last.revision, kind);
            }
        }
    }

    async fn what_was_kept_must_still_be_there(backend: Backend) {
        let mut victim = Victim::new(backend).await;
        victim.keep().await;
        let entries = victim.entries().await;
        let last = entries.last().unwrap();
        for (kept, kind) in [(&entries[FULL as usize - 1], "missing"), (last, "truncated")] {
            let sql = format!("DELETE FROM audit_logs WHERE revision = {}", kept.revision);
            victim.raw.run(&sql).await;
            victim.found(&sql, kept.revision, kind, &["--since", &plain(kept)]).await;
        }
    }

    async fn a_tail_that_was_hashed_anew_is_found_by_a_checkpoint(backend: Backend) {
        let mut victim = Victim::new(backend).await;
        let (mut entries, store) = (victim.entries().await, victim.store().await);
        let (log_id, key) = (store.head().await.unwrap().log_id, SigningKey::generate().unwrap());
        let [before, after] = [FULL - 3, FULL + 3].map(|revision| entries[revision as usize - 1].clone());
        store.add_checkpoint_key(&key.verifier(log_id).to_string(), Timestamp::default()).await.unwrap();
        for entry in [&before, &after] {
            store.add_checkpoint(entry.revision, &note(&key, log_id, entry)).await.unwrap();
        }
        victim.keep().await;
        let vkey = key.verifier(log_id).to_string();
        let (code, told) = victim.verify(&["--public-key", &vkey]).await;
        assert_eq!(code, 0, "{told}");
        let other = SigningKey::generate().unwrap().verifier(log_id).to_string();
        victim.found("signed by another", before.revision, "forged", &["--public-key", &other]).await;
        let sql = format!("UPDATE checkpoints SET note = replace(note, 'time 2023', 'time 2022') WHERE revision = {}", after.revision);
        victim.raw.run(&sql).await;
        victim.found(&sql, after.revision, "forged", &[]).await;
        let sql = format!("UPDATE checkpoints SET revision = revision + 1 WHERE revision = {}", after.revision);
        victim.raw.run(&sql).await;
        victim.found(&sql, after.revision + 1, "forged", &[]).await;

        rewrite(&mut entries, log_id, FULL as usize - 1);
        write(&mut victim.raw, &entries).await;
        assert_found("stored", &victim.verify(&[]).await, after.revision, "forked");
        assert_eq!(victim.verify(&["--until", &plain(&before)]).await.0, 0, "up to there it is what it was");
        victim.raw.run("DELETE FROM checkpoints").await;
        for argument in ["--since", "--until"] {
            let told = victim.verify(&[argument, &plain(&after)]).await;
            assert_found(argument, &told, after.revision, "forked");
        }
        assert_eq!(victim.verify(&[]).await.0, 0, "nobody knows but who has kept something");
        victim.undo().await;
        assert_eq!(victim.verify(&[]).await.0, 0);
    }
}
