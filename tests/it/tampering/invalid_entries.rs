//! Entries with values that no valid entry can have.

use tempfile::TempDir;

use super::rows::insert;
use super::tampered_log::*;
use super::trimmed::trim;
use crate::cli::Shell;
use crate::support::{Backend, Server, on_both_databases};

/// Gives an entry an invalid value.
fn garble(revision: i64) -> String {
    format!("UPDATE audit_logs SET hash_version = 300 WHERE revision = {revision};")
}

/// Verifies the log through its server. Returns the exit code and the output.
async fn verify_server(shell: &Shell, arguments: &[&str]) -> (i32, String) {
    let (code, out, stderr) = shell.run(&[&["audit", "verify"], arguments].concat()).await;
    (code, if code == 0 { out } else { stderr })
}

on_both_databases! {
    async fn invalid_entry_is_detected_at_checkpoint_and_end(backend: Backend) {
        let mut log = TamperedLog::new(backend).await;
        let entries = log.entries().await;
        let (kept, last) = (plain(&entries[FULL as usize - 1]), entries.len() as i64);
        let server = Server::start(&log.database).await;
        let shell = Shell::new(server.address);
        log.save().await;
        let short = if backend == Backend::Sqlite { "x'07'" } else { "'\\x07'::bytea" };
        let sql = format!("UPDATE audit_logs SET hash = {short} WHERE revision = {FULL}");
        log.raw.run(&sql).await;
        assert_found("through the server", &verify_server(&shell, &["--since", &kept]).await, FULL, "altered");
        log.assert_found_and_undo(&sql, FULL, "altered", &["--since", &kept]).await;
        let sql = format!("DELETE FROM audit_logs WHERE revision = {FULL};") + &garble(FULL + 1);
        log.raw.run(&sql).await;
        log.assert_found_and_undo(&sql, FULL, "missing", &["--since", &kept]).await;
        let sql = insert(&log.raw, last, last + 1) + &garble(last + 1);
        log.raw.run(&sql).await;
        log.assert_found_and_undo(&sql, last + 1, "inserted", &[]).await;
        assert_eq!(log.verify(&["--since", &kept]).await.0, 0, "a manipulation was not undone");
    }

    /// The server sends no entries at all, and the start of a trimmed log is not known before the first entry.
    async fn alteration_before_invalid_entry_is_detected(backend: Backend) {
        let mut log = TamperedLog::new(backend).await;
        let floor = log.entries().await[FULL as usize - 1].clone();
        trim(&mut log, &floor).await;
        let server = Server::start(&log.database).await;
        let shell = Shell::new(server.address);
        let alter = |revision: i64| format!("UPDATE audit_logs SET reason = 'x' WHERE revision = {revision};");
        log.save().await;
        for (sql, revision) in [
            (garble(FULL + 6), FULL + 6),
            (garble(FULL + 6) + &alter(FULL + 3), FULL + 3),
            (garble(FULL + 2) + &alter(FULL + 3), FULL + 2),
            (garble(FULL + 1) + &alter(FULL + 3), FULL + 1),
        ] {
            log.raw.run(&sql).await;
            assert_found(&sql, &verify_server(&shell, &[]).await, revision, "altered");
            assert_found(&sql, &verify_server(&shell, &["--since", &plain(&floor)]).await, revision, "altered");
            log.assert_found_and_undo(&sql, revision, "altered", &[]).await;
        }
    }
}

/// PostgreSQL does not allow such texts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_utf_8_is_detected() {
    let mut log = TamperedLog::new(Backend::Sqlite).await;
    let server = Server::start(&log.database).await;
    let (shell, folder) = (Shell::new(server.address), TempDir::new().unwrap());
    let path = folder.path().join("log").display().to_string();
    assert_eq!(shell.run(&["audit", "export", "--output-file", &path]).await.0, 0);
    log.save().await;
    for column in ["user_email", "action_type", "entity_key", "new_value", "reason", "request_id", "method", "peer"] {
        let sql = format!("UPDATE audit_logs SET {column} = CAST(x'61ff' AS TEXT) WHERE revision = {FULL}");
        log.raw.run(&sql).await;
        assert_found(&sql, &verify_server(&shell, &[]).await, FULL, "altered");
        log.assert_found_and_undo(&sql, FULL, "altered", &[]).await;
    }
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(10).position(|text| text == b"DROP TABLE").unwrap();
    bytes[at] = 0xff;
    std::fs::write(&path, bytes).unwrap();
    assert_found("a file", &verify_server(&shell, &["--file", &path]).await, FULL, "altered");
}
