//! Manipulations of database rows, with triggers and constraints removed.

use tempfile::TempDir;
use toggled::checkpoint::SigningKey;
use toggled::domain::audit::Entry;
use toggled::domain::hash::entry_hash;
use toggled::domain::time::Timestamp;
use uuid::Uuid;

use super::tampered_log::*;
use crate::store::raw::Raw;
use crate::support::on_both_databases;

/// Every hashed column except the revision, with another value for it. Some values have another length or are NULL.
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
    let texts = ["old_value", "new_value", "reason", "request_id", "peer", "user_agent", "environment"];
    all.extend(texts.into_iter().flat_map(|column| [(column, text.clone()), (column, "NULL".to_owned())]));
    all
}

/// Swaps the entries at two revisions.
fn swap(one: i64, other: i64) -> String {
    let move_entry = |from: i64, to: i64| format!("UPDATE audit_logs SET revision = {to} WHERE revision = {from};");
    [move_entry(one, 1_000_000), move_entry(other, one), move_entry(1_000_000, other)].concat()
}

/// Inserts a copy of an entry with another id at this revision.
pub fn insert(raw: &Raw, of: i64, at: i64) -> String {
    let copied = "timestamp, user_id, user_email, token_id, action_type, entity_type, entity_id, entity_key, entity_name,
        old_value, new_value, reason, request_id, method, peer, user_agent, previous_entity_revision, hash_version, hash";
    let id = raw.id(Uuid::now_v7());
    format!(
        "INSERT INTO audit_logs (id, revision, {copied}) SELECT {id}, {at}, {copied} FROM audit_logs WHERE revision = {of};"
    )
}

/// Alters an entry and recomputes all hashes from there on.
fn rewrite(entries: &mut [Entry], log_id: Uuid, from: usize) {
    entries[from].reason = Some("nothing to see".into());
    for at in from..entries.len() {
        entries[at].hash = entry_hash(&entries[at - 1].hash, log_id, &entries[at]);
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
    async fn alteration_of_any_field_is_detected(backend: Backend) {
        let mut tampered = TamperedLog::new(backend).await;
        tampered.save().await;
        let full = tampered.entries().await[FULL as usize - 1].clone();
        assert!(full.reason.is_some() && full.request_id.is_some() && full.peer.is_some(), "{full:?}");
        for (column, value) in alterations(&tampered.raw) {
            let sql = format!("UPDATE audit_logs SET {column} = {value} WHERE revision = {FULL}");
            tampered.raw.run(&sql).await;
            tampered.assert_found_and_undo(&sql, FULL, "altered", &[]).await;
        }
        // An absent text and an empty text have the same hash.
        let sql = format!("UPDATE audit_logs SET reason = '' WHERE revision = {}", FULL + 1);
        tampered.raw.run(&sql).await;
        tampered.assert_found_and_undo(&sql, FULL + 1, "altered", &[]).await;
        let sql = format!("UPDATE audit_logs SET revision = 1000000 WHERE revision = {FULL}");
        tampered.raw.run(&sql).await;
        tampered.assert_found_and_undo(&sql, FULL, "missing", &[]).await;
        assert_eq!(tampered.verify(&[]).await.0, 0, "a manipulation was not undone");
    }

    async fn missing_extra_or_moved_entries_are_detected(backend: Backend) {
        let mut tampered = TamperedLog::new(backend).await;
        tampered.save().await;
        let last = tampered.entries().await.len() as i64;
        let shift = |from: i64, by: i64| {
            format!(
                "UPDATE audit_logs SET revision = revision + 1000000 WHERE revision >= {from};
                 UPDATE audit_logs SET revision = revision - 1000000 + {by} WHERE revision >= 1000000;"
            )
        };
        let behind = insert(&tampered.raw, last, last + 1);
        let middle = shift(FULL, 1) + &insert(&tampered.raw, FULL + 5, FULL);
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
            (format!("UPDATE log_head SET hash = {}", tampered.raw.hash(7)), last, "forked"),
            (format!("UPDATE log_head SET floor_hash = {}", tampered.raw.hash(7)), 0, "forked"),
        ] {
            tampered.raw.run(&sql).await;
            tampered.assert_found_and_undo(&sql, revision, kind, &[]).await;
        }
        assert_eq!(tampered.verify(&[]).await.0, 0, "a manipulation was not undone");
    }

    async fn rows_that_differ_from_the_log_are_detected(backend: Backend) {
        let mut tampered = TamperedLog::new(backend).await;
        tampered.save().await;
        let entries = tampered.entries().await;
        let last = |key: &str| entries.iter().rfind(|entry| &*entry.entity_key == key).unwrap().revision;
        let all = if matches!(tampered.raw, Raw::Sqlite(_)) { "'[\"manage_access\"]'" } else { "'{manage_access}'" };
        let token = entries.iter().find(|entry| &*entry.entity_name == "short").unwrap();
        let (short, never) = (tampered.raw.id(token.entity_id.unwrap()), tampered.raw.time(Timestamp::MAX));
        let columns = "environment, key, name, status, revision, created_at, updated_at, updated_by";
        let copied = columns.replacen("key", "'forged'", 1);
        let elsewhere = columns.replacen("environment", "'forged'", 1);
        let yes = if matches!(tampered.raw, Raw::Sqlite(_)) { "1" } else { "TRUE" };
        let environment = "key, name, require_reason, revision, created_at, updated_at, updated_by";
        let forged = environment.replacen("key", "'forged'", 1);
        let id = tampered.raw.id(Uuid::now_v7());
        let columns_of_flip = ["audit_log_id", "by", "revision", "time", "reason"].map(|column| format!("last_flip_{column}"));
        let removed = columns_of_flip.map(|column| format!("{column} = NULL")).join(", ");
        let added = "last_flip_audit_log_id = id, last_flip_by = updated_by, last_flip_revision = revision, last_flip_time = updated_at";
        for (sql, revision) in [
            ("UPDATE feature_flags SET status = 'enabled' WHERE key = 'old-two'".to_owned(), last("old-two")),
            ("UPDATE feature_flags SET status = 'enabled' WHERE key = 'old-one'".to_owned(), last("old-one")),
            ("UPDATE feature_flags SET name = 'x' WHERE key = 'old-one'".to_owned(), last("old-one")),
            ("UPDATE feature_flags SET description = 'x' WHERE key = 'old-one'".to_owned(), last("old-one")),
            ("UPDATE feature_flags SET updated_by = 'x' WHERE key = 'old-one'".to_owned(), last("old-one")),
            ("UPDATE feature_flags SET last_flip_by = 'x' WHERE key = 'old-one'".to_owned(), last("old-one")),
            ("UPDATE feature_flags SET last_flip_reason = 'x' WHERE key = 'old-one'".to_owned(), last("old-one")),
            ("UPDATE feature_flags SET last_flip_revision = 1 WHERE key = 'old-one'".to_owned(), last("old-one")),
            ("UPDATE feature_flags SET last_flip_time = created_at WHERE key = 'old-one'".to_owned(), last("old-one")),
            ("UPDATE feature_flags SET last_flip_audit_log_id = id WHERE key = 'old-one'".to_owned(), last("old-one")),
            (format!("UPDATE feature_flags SET {removed} WHERE key = 'old-one'"), last("old-one")),
            // It was never flipped.
            (format!("UPDATE feature_flags SET {added} WHERE key = 'old-two'"), last("old-two")),
            ("UPDATE feature_flags SET revision = revision - 1 WHERE key = 'old-one'".to_owned(), last("old-one")),
            ("UPDATE feature_flags SET archived_at = NULL WHERE key = 'old-two'".to_owned(), last("old-two")),
            ("DELETE FROM feature_flags WHERE key = 'old-two'".to_owned(), last("old-two")),
            (format!("INSERT INTO feature_flags (id, {columns}) SELECT {id}, {copied} FROM feature_flags WHERE key = 'old-two'"),
                last("old-two")),
            (format!("INSERT INTO feature_flags (id, {columns}) SELECT {id}, {elsewhere} FROM feature_flags WHERE key = 'old-two'"),
                last("old-two")),
            ("UPDATE feature_flags SET environment = 'x' WHERE key = 'old-one'".to_owned(), last("old-one")),
            ("UPDATE environments SET name = 'x'".to_owned(), last("default")),
            (format!("UPDATE environments SET require_reason = {yes}"), last("default")),
            ("UPDATE environments SET archived_at = created_at".to_owned(), last("default")),
            ("DELETE FROM environments".to_owned(), last("default")),
            (format!("INSERT INTO environments (id, {environment}) SELECT {id}, {forged} FROM environments"), last("default")),
            (format!("UPDATE users SET permissions = {all} WHERE email = 'old@example.com'"), last("old@example.com")),
            ("UPDATE users SET deactivated_at = created_at WHERE email = 'old@example.com'".to_owned(), last("old@example.com")),
            (format!("UPDATE api_tokens SET expires_at = {never} WHERE id = {short}"), token.revision),
            (format!("UPDATE api_tokens SET permissions = {all} WHERE id = {short}"), token.revision),
            (format!("UPDATE api_tokens SET environment = NULL WHERE id = {short}"), token.revision),
            (format!("DELETE FROM api_tokens WHERE id = {short}"), token.revision),
        ] {
            tampered.raw.run(&sql).await;
            tampered.assert_found_and_undo(&sql, revision, "state", &[]).await;
        }
        // The owner of a token matters as well as its permissions. The message names the field.
        let (user, old) = ("UPDATE users SET", "WHERE email = 'old@example.com'");
        let copied = "permissions, revision, created_at, updated_at";
        let other = "(SELECT id FROM users WHERE email = 'new@example.com')";
        let forged = format!(
            "INSERT INTO users (id, email, {copied}) SELECT {id}, 'forged@example.com', {copied} FROM users {old}"
        );
        for (sql, revision, words) in [
            ("UPDATE environments SET key = 'x'".to_owned(), last("default"), "environment default: key is \"x\""),
            (format!("{user} email = 'x@example.com' {old}"), last("old@example.com"), "email is \"x@example.com\""),
            (format!("{user} issuer = 'x', subject = 'y' {old}"), last("old@example.com"), "issuer is \"x\""),
            (format!("DELETE FROM users {old}"), last("old@example.com"), "user old@example.com is in the log but has no row"),
            (forged, last("old@example.com"), "user forged@example.com has a row but no entry in the log"),
            (format!("UPDATE api_tokens SET user_id = {other} WHERE id = {short}"), token.revision, ": user_id is \""),
            (format!("UPDATE api_tokens SET revoked_at = created_at WHERE id = {short}"), token.revision, ": revoked_at is \""),
            (format!("UPDATE api_tokens SET environment = 'x' WHERE id = {short}"), token.revision, ": environment is \"x\""),
        ] {
            tampered.raw.run(&sql).await;
            let output = tampered.verify(&[]).await;
            assert!(output.1.contains(words), "{sql}: {}", output.1);
            tampered.assert_found_and_undo(&sql, revision, "state", &[]).await;
        }
        // Rows without an entry: at revisions without entries, with a nil id, and of an unknown user.
        let nil = tampered.raw.id(Uuid::nil());
        let columns = "name, permissions, created_at";
        let forged_token = |id: &str, owner: &str, revision: &str, hash: String| {
            format!(
                "INSERT INTO api_tokens (id, user_id, secret_hash, revision, {columns})
                 SELECT {id}, {owner}, {hash}, {revision}, {columns} FROM api_tokens WHERE id = {short}"
            )
        };
        let hash = || tampered.raw.hash(9);
        for (sql, revision) in [
            (forged_token(&nil, "user_id", "revision", hash()), token.revision),
            (forged_token(&id, &id, "revision", hash()), token.revision),
            (forged_token(&id, "user_id", "0", hash()), 0),
            (forged_token(&id, "user_id", "-7", hash()), -7),
        ] {
            tampered.raw.run(&sql).await;
            tampered.assert_found_and_undo(&sql, revision, "state", &[]).await;
        }
        // A row with invalid values is reported, unless the log has a problem.
        for (sql, revision) in [
            ("UPDATE users SET email = '' WHERE email = 'old@example.com'".to_owned(), last("old@example.com")),
            ("UPDATE environments SET name = ''".to_owned(), last("default")),
            (format!("UPDATE api_tokens SET name = '' WHERE id = {short}"), token.revision),
        ] {
            tampered.raw.run(&sql).await;
            assert_found(&sql, &tampered.verify(&[]).await, revision, "state");
            tampered.raw.run(&format!("DELETE FROM audit_logs WHERE revision = {}", revision + 1)).await;
            tampered.assert_found_and_undo(&sql, revision + 1, "missing", &[]).await;
        }
        // The oldest bad entry is reported before differing rows.
        tampered.raw.run("UPDATE feature_flags SET status = 'enabled' WHERE key = 'old-two'").await;
        tampered.raw.run(&format!("DELETE FROM audit_logs WHERE revision = {FULL}")).await;
        tampered.assert_found_and_undo("both", FULL, "missing", &[]).await;
        tampered.raw.run("UPDATE api_tokens SET last_used_at = created_at").await;
        assert_eq!(tampered.verify(&[]).await.0, 0, "the last use of a token was compared with the log");
    }

    async fn older_copy_is_detected_by_checkpoint(backend: Backend) {
        let (tampered, past) = TamperedLog::with_past(backend).await;
        let (entries, log_id) = (tampered.entries().await, tampered.store().await.head().await.unwrap().log_id);
        let (code, output) = verify(&past, &[]).await;
        assert_eq!(code, 0, "the copy is not intact by itself: {output}");
        let end = last_revision(&past).await;
        let (key, folder) = (SigningKey::generate().unwrap(), TempDir::new().unwrap());
        let (last, vkey) = (entries.last().unwrap(), key.verifier(log_id).to_string());
        let signed = file(&folder, "last", &note(&key, log_id, last));
        for kept in [plain(last), signed] {
            for argument in ["--since", "--until"] {
                let output = verify(&past, &[argument, &kept, "--public-key", &vkey]).await;
                assert_found(&format!("{argument} {kept}"), &output, end + 1, "truncated");
                let (code, output) = tampered.verify(&[argument, &kept, "--public-key", &vkey]).await;
                assert_eq!(code, 0, "{argument} {kept}: {output}");
            }
        }
        // Checkpoints with another signature, an altered text, or of another log are detected.
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
                let output = tampered.verify(&[&[argument, &path], &keys[..]].concat()).await;
                assert_found(name, &output, last.revision, kind);
            }
        }
    }

    async fn entry_of_checkpoint_must_exist(backend: Backend) {
        let mut tampered = TamperedLog::new(backend).await;
        tampered.save().await;
        let entries = tampered.entries().await;
        let last = entries.last().unwrap();
        for (kept, kind) in [(&entries[FULL as usize - 1], "missing"), (last, "truncated")] {
            let sql = format!("DELETE FROM audit_logs WHERE revision = {}", kept.revision);
            tampered.raw.run(&sql).await;
            tampered.assert_found_and_undo(&sql, kept.revision, kind, &["--since", &plain(kept)]).await;
        }
    }

    async fn rewritten_tail_is_detected_by_checkpoint(backend: Backend) {
        let mut tampered = TamperedLog::new(backend).await;
        let (mut entries, store) = (tampered.entries().await, tampered.store().await);
        let (log_id, key) = (store.head().await.unwrap().log_id, SigningKey::generate().unwrap());
        let [before, after] = [FULL - 3, FULL + 3].map(|revision| entries[revision as usize - 1].clone());
        store.add_checkpoint_key(&key.verifier(log_id).to_string(), Timestamp::default()).await.unwrap();
        for entry in [&before, &after] {
            store.add_checkpoint(entry.revision, &note(&key, log_id, entry)).await.unwrap();
        }
        tampered.save().await;
        let vkey = key.verifier(log_id).to_string();
        let (code, output) = tampered.verify(&["--public-key", &vkey]).await;
        assert_eq!(code, 0, "{output}");
        let other = SigningKey::generate().unwrap().verifier(log_id).to_string();
        tampered.assert_found_and_undo("signed by another", before.revision, "forged", &["--public-key", &other]).await;
        let sql = format!("UPDATE checkpoints SET note = replace(note, 'time 2023', 'time 2022') WHERE revision = {}", after.revision);
        tampered.raw.run(&sql).await;
        tampered.assert_found_and_undo(&sql, after.revision, "forged", &[]).await;
        let sql = format!("UPDATE checkpoints SET revision = revision + 1 WHERE revision = {}", after.revision);
        tampered.raw.run(&sql).await;
        tampered.assert_found_and_undo(&sql, after.revision + 1, "forged", &[]).await;

        rewrite(&mut entries, log_id, FULL as usize - 1);
        write(&mut tampered.raw, &entries).await;
        assert_found("stored", &tampered.verify(&[]).await, after.revision, "forked");
        assert_eq!(tampered.verify(&["--until", &plain(&before)]).await.0, 0, "the log was altered before the checkpoint");
        tampered.raw.run("DELETE FROM checkpoints").await;
        for argument in ["--since", "--until"] {
            let output = tampered.verify(&[argument, &plain(&after)]).await;
            assert_found(argument, &output, after.revision, "forked");
        }
        assert_eq!(tampered.verify(&[]).await.0, 0, "the rewritten log is not intact by itself");
        tampered.undo().await;
        assert_eq!(tampered.verify(&[]).await.0, 0);
    }
}
