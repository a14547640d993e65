//! Verification between two checkpoints, of the server, the database and an exported file.

use tempfile::TempDir;
use toggled::checkpoint::SigningKey;
use uuid::Uuid;

use super::tampered_log::*;
use crate::cli::Shell;
use crate::support::{Server, on_both_databases};

/// The arguments for verifying the server, the database, and a new export.
async fn sources(shell: &Shell, tampered: &TamperedLog, folder: &TempDir) -> [Vec<String>; 3] {
    let path = folder.path().join(Uuid::now_v7().to_string()).display().to_string();
    let (code, _, output) = shell.run(&["audit", "export", "--output-file", &path]).await;
    assert_eq!(code, 0, "{output}");
    [vec![], vec!["--database".to_owned(), tampered.database.url.clone()], vec!["--file".to_owned(), path]]
}

/// Verifies a source. Returns the exit code and the output.
async fn verify_source(shell: &Shell, source: &[String], arguments: &[&str]) -> (i32, String) {
    let source: Vec<_> = source.iter().map(String::as_str).collect();
    let (code, out, output) = shell.run(&[&["audit", "verify"], &source[..], arguments].concat()).await;
    (code, if code == 0 { out } else { output })
}

on_both_databases! {
    async fn only_entries_between_checkpoints_are_verified(backend: Backend) {
        let mut tampered = TamperedLog::new(backend).await;
        let (entries, log_id) = (tampered.entries().await, tampered.store().await.head().await.unwrap().log_id);
        let server = Server::start(&tampered.database).await;
        let (shell, folder, key) = (Shell::new(server.address), TempDir::new().unwrap(), SigningKey::generate().unwrap());
        let [since, until] = [FULL - 4, FULL + 4];
        let signed = |name, log, revision: i64| file(&folder, name, &note(&key, log, &entries[revision as usize - 1]));
        let (from, to) = (signed("since", log_id, since), signed("until", log_id, until));
        let foreign = signed("foreign", Uuid::nil(), until);
        let keys = [log_id, Uuid::nil()].map(|log| key.verifier(log).to_string());
        let range = ["--public-key", &keys[0], "--public-key", &keys[1], "--since", &from, "--until"];
        let alter = |revision: i64| format!("UPDATE audit_logs SET reason = 'x' WHERE revision = {revision}");
        let delete = |revision: i64| format!("DELETE FROM audit_logs WHERE revision = {revision}");
        tampered.save().await;
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
            // The state of the rows at the end of the range is not known.
            ("UPDATE feature_flags SET name = 'x'".to_owned(), None),
        ] {
            tampered.raw.run(&sql).await;
            for source in sources(&shell, &tampered, &folder).await {
                let (code, output) = verify_source(&shell, &source, &[&range[..], &[&to]].concat()).await;
                if let Some((revision, kind)) = found {
                    assert_found(&format!("{source:?}: {sql}"), &(code, output), revision, kind);
                } else {
                    let range = format!("intact: entries {}, revisions {}..{until} ", until - since, since + 1);
                    assert!(code == 0 && output.starts_with(&range), "{source:?}: {sql}: {output}");
                }
            }
            tampered.undo().await;
        }
        // A forged stored checkpoint matters only inside the range. A file contains no checkpoints.
        let other = SigningKey::generate().unwrap();
        for (revision, is_found) in [(since - 1, false), (FULL, true), (until + 1, false)] {
            let stored = note(&other, log_id, &entries[revision as usize - 1]);
            tampered.raw.run(&format!("INSERT INTO checkpoints (revision, note) VALUES ({revision}, '{stored}')")).await;
            for source in &sources(&shell, &tampered, &folder).await[..2] {
                let output = verify_source(&shell, source, &[&range[..], &[&to]].concat()).await;
                if is_found {
                    assert_found(&format!("{source:?}"), &output, revision, "forged");
                } else {
                    assert_eq!(output.0, 0, "{source:?}: {}", output.1);
                }
            }
            tampered.undo().await;
        }
        let wrong = format!("{until}:{}", "0".repeat(64));
        for source in sources(&shell, &tampered, &folder).await {
            for (what, to) in [("foreign", &foreign), ("wrong", &wrong)] {
                let output = verify_source(&shell, &source, &[&range[..], &[to]].concat()).await;
                assert_found(&format!("{source:?}: {what}"), &output, until, "forked");
            }
        }
    }
}
