//! What is verified from one checkpoint to another, wherever the log is read from.

use tempfile::TempDir;
use toggled::checkpoint::SigningKey;
use uuid::Uuid;

use super::tampered_log::*;
use crate::cli::Shell;
use crate::support::{Server, on_both_databases};

/// Where the log is verified from: its server, its database, and a file of what it is now.
async fn places(shell: &Shell, victim: &Victim, folder: &TempDir) -> [Vec<String>; 3] {
    let path = folder.path().join(Uuid::now_v7().to_string()).display().to_string();
    let (code, _, told) = shell.run(&["audit", "export", "--output-file", &path]).await;
    assert_eq!(code, 0, "{told}");
    [vec![], vec!["--database".to_owned(), victim.database.url.clone()], vec!["--file".to_owned(), path]]
}

/// Verifies it there; the status and what it says.
async fn verify_at(shell: &Shell, place: &[String], arguments: &[&str]) -> (i32, String) {
    let place: Vec<_> = place.iter().map(String::as_str).collect();
    let (code, out, told) = shell.run(&[&["audit", "verify"], &place[..], arguments].concat()).await;
    (code, if code == 0 { out } else { told })
}

on_both_databases! {
    async fn only_what_is_between_two_checkpoints_counts(backend: Backend) {
        let mut victim = Victim::new(backend).await;
        let (entries, log_id) = (victim.entries().await, victim.store().await.head().await.unwrap().log_id);
        let server = Server::start(&victim.database).await;
        let (shell, folder, key) = (Shell::new(server.address), TempDir::new().unwrap(), SigningKey::generate().unwrap());
        let [since, until] = [FULL - 4, FULL + 4];
        let signed = |name, log, revision: i64| file(&folder, name, &note(&key, log, &entries[revision as usize - 1]));
        let (from, to) = (signed("since", log_id, since), signed("until", log_id, until));
        let foreign = signed("foreign", Uuid::nil(), until);
        let keys = [log_id, Uuid::nil()].map(|log| key.verifier(log).to_string());
        let range = ["--public-key", &keys[0], "--public-key", &keys[1], "--since", &from, "--until"];
        let alter = |revision: i64| format!("UPDATE audit_logs SET reason = 'x' WHERE revision = {revision}");
        let delete = |revision: i64| format!("DELETE FROM audit_logs WHERE revision = {revision}");
        victim.keep().await;
        for (sql, found) in [
            (alter(2), None),
            (delete(2), None),
            (alter(since - 1), None),
            (delete(since - 1), None),
            (alter(since + 1), Some((since + 1, "altered"))),
            (delete(since + 1), Some((since + 1, "missing"))),
            (alter(FULL), Some((FULL, "altered"))),
            (delete(FULL), Some((FULL, "missing"))),
            (alter(until), Some((until, "altered"))),
            (delete(until), Some((until, "missing"))),
            (alter(until + 1), None),
            (delete(until + 1), None),
            (delete(entries.len() as i64 - 1), None),
            // What the rows were at the end of the range nobody knows any more.
            ("UPDATE feature_flags SET name = 'x'".to_owned(), None),
        ] {
            victim.raw.run(&sql).await;
            for place in places(&shell, &victim, &folder).await {
                let (code, told) = verify_at(&shell, &place, &[&range[..], &[&to]].concat()).await;
                if let Some((revision, kind)) = found {
                    assert_found(&format!("{place:?}: {sql}"), &(code, told), revision, kind);
                } else {
                    let range = format!("intact: entries {}, revisions {}..{until} ", until - since, since + 1);
                    assert!(code == 0 && told.starts_with(&range), "{place:?}: {sql}: {told}");
                }
            }
            victim.undo().await;
        }
        // Nor does a stored checkpoint that nobody signed count elsewhere. A file knows of none.
        let other = SigningKey::generate().unwrap();
        for (revision, is_found) in [(since - 1, false), (FULL, true), (until + 1, false)] {
            let stored = note(&other, log_id, &entries[revision as usize - 1]);
            victim.raw.run(&format!("INSERT INTO checkpoints (revision, note) VALUES ({revision}, '{stored}')")).await;
            for place in &places(&shell, &victim, &folder).await[..2] {
                let told = verify_at(&shell, place, &[&range[..], &[&to]].concat()).await;
                if is_found {
                    assert_found(&format!("{place:?}"), &told, revision, "forged");
                } else {
                    assert_eq!(told.0, 0, "{place:?}: {}", told.1);
                }
            }
            victim.undo().await;
        }
        let wrong = format!("{until}:{}", "0".repeat(64));
        for place in places(&shell, &victim, &folder).await {
            for (what, to) in [("foreign", &foreign), ("wrong", &wrong)] {
                let told = verify_at(&shell, &place, &[&range[..], &[to]].concat()).await;
                assert_found(&format!("{place:?}: {what}"), &told, until, "forked");
            }
        }
    }
}
