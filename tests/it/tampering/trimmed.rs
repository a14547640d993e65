//! Checkpoints of a log that was trimmed since, and manipulations of the kept entries.

use tempfile::TempDir;
use toggled::api::pb::*;

use super::tampered_log::*;
use crate::cli::Shell;
use crate::support::{Server, on_both_databases, with_timeout};

/// Trims the log through an entry, and waits until the rows are removed.
pub async fn trim(tampered: &mut TamperedLog, kept: &toggled::domain::audit::Entry) {
    let server = Server::start(&tampered.database).await;
    let through_hash = kept.hash.to_vec();
    let request = TrimAuditLogsRequest { through_revision: kept.revision, through_hash, ..Default::default() };
    server.admin().await.audit.trim_audit_logs(request).await.unwrap();
    let below = format!("SELECT count(*) FROM audit_logs WHERE revision <= {}", kept.revision);
    with_timeout("the rows to be removed", async { while tampered.raw.number(&below).await > 0 {} }).await;
    assert!(server.terminate().await.success());
}

on_both_databases! {
    async fn checkpoint_of_trimmed_log_is_compared_or_refused(backend: Backend) {
        let mut tampered = TamperedLog::new(backend).await;
        let entries = tampered.entries().await;
        let [below, floor, between, end] =
            [FULL - 4, FULL, FULL + 3, entries.len() as i64].map(|revision| entries[revision as usize - 1].clone());
        trim(&mut tampered, &floor).await;
        let server = Server::start(&tampered.database).await;
        let (shell, folder) = (Shell::new(server.address), TempDir::new().unwrap());
        let path = folder.path().join("log").display().to_string();
        assert_eq!(shell.run(&["audit", "export", "--output-file", &path]).await.0, 0);
        let sources = [vec!["--database", &tampered.database.url], vec!["--file", &path], vec![]];
        for kept in [&floor, &between, &end] {
            let wrong = format!("{}:{}", kept.revision, "0".repeat(64));
            for source in &sources {
                let output = shell.succeeds(&[&["audit", "verify", "--until", &plain(kept)], &source[..]].concat()).await;
                assert!(output.starts_with("intact: ") && output.contains(&format!(" {}..", FULL + 1)), "{source:?}: {output}");
                let output = shell.fails(&[&["audit", "verify", "--until", &wrong], &source[..]].concat(), 1).await;
                assert!(output.contains(&format!("revision {}: forked: ", kept.revision)), "{source:?}: {output}");
            }
        }
        for kept in [plain(&below), format!("{}:{}", below.revision, "0".repeat(64)), format!("0:{}", "0".repeat(64))] {
            let (code, output) = tampered.verify(&["--until", &kept]).await;
            assert!(code == 2 && output.contains("--until: revision ") && output.contains(" was trimmed from the log"), "{code} {output}");
            for source in &sources[1..] {
                let (code, _, output) = shell.run(&[&["audit", "verify", "--until", &kept], &source[..]].concat()).await;
                assert!(code != 0 && output.contains("trimmed"), "{source:?}: {code} {output}");
            }
        }
    }

    async fn further_loss_in_trimmed_log_is_detected(backend: Backend) {
        let mut tampered = TamperedLog::new(backend).await;
        let entries = tampered.entries().await;
        let (floor, end) = (entries[FULL as usize - 1].clone(), entries.last().unwrap().clone());
        let last = |key: &str| entries.iter().rfind(|entry| &*entry.entity_key == key).unwrap().revision;
        let (_, _, output) = verify_all(&tampered, &[]).await;
        assert!(!output.contains("compared"), "{output}");
        trim(&mut tampered, &floor).await;
        // At the floor there are the environment, the administrator and the old user, with their tokens.
        let older = |output: &str| output.lines().find_map(|line| line.split_once(" rows were not compared").map(|(rows, _)| rows.to_owned()));
        let (code, _, output) = verify_all(&tampered, &[]).await;
        let rows = older(&output).and_then(|line| line.split_whitespace().last()?.parse::<i64>().ok());
        let mut rows_below_floor = 0;
        for table in ["feature_flags", "environments", "users", "api_tokens"] {
            rows_below_floor += tampered.raw.number(&format!("SELECT count(*) FROM {table} WHERE revision <= {FULL}")).await;
        }
        assert_eq!((code, rows), (0, Some(rows_below_floor)), "{output}");
        let (code, _, output) = verify_all(&tampered, &["--since", &plain(&end)]).await;
        assert!(code == 0 && older(&output).is_some(), "{output}");
        tampered.save().await;
        for (sql, revision, kind) in [
            ("DELETE FROM audit_logs".to_owned(), FULL + 1, "truncated"),
            (format!("DELETE FROM audit_logs WHERE revision = {}", FULL + 1), FULL + 1, "missing"),
            (format!("UPDATE log_head SET floor_hash = {}", tampered.raw.hash(7)), FULL, "forked"),
            ("UPDATE feature_flags SET last_flip_reason = 'x' WHERE key = 'old-one'".to_owned(), last("old-one"), "state"),
        ] {
            tampered.raw.run(&sql).await;
            tampered.assert_found_and_undo(&sql, revision, kind, &[]).await;
        }
    }
}

/// Verifies the database. Returns the exit code, standard output and standard error.
async fn verify_all(tampered: &TamperedLog, arguments: &[&str]) -> (i32, String, String) {
    let all = [&["audit", "verify", "--database", &tampered.database.url], arguments].concat();
    Shell::anonymous("127.0.0.1:1").run(&all).await
}
