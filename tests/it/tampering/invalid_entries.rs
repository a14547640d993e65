//! Entries that say what none can.

use tempfile::TempDir;

use super::rows::insert;
use super::tampered_log::*;
use super::trimmed::trim;
use crate::cli::Shell;
use crate::support::{Backend, Server, on_both_databases};

/// Makes an entry say what none can.
fn garble(revision: i64) -> String {
    format!("UPDATE audit_logs SET hash_version = 300 WHERE revision = {revision};")
}

/// Verifies the log of a server; its status and what it says.
async fn ask(shell: &Shell, arguments: &[&str]) -> (i32, String) {
    let (code, out, told) = shell.run(&[&["audit", "verify"], arguments].concat()).await;
    (code, if code == 0 { out } else { told })
}

on_both_databases! {
    async fn it_is_found_where_a_checkpoint_was_kept_and_behind_the_end(backend: Backend) {
        let mut victim = Victim::new(backend).await;
        let entries = victim.entries().await;
        let (kept, last) = (plain(&entries[FULL as usize - 1]), entries.len() as i64);
        let server = Server::start(&victim.database).await;
        let shell = Shell::new(server.address);
        victim.keep().await;
        let short = if backend == Backend::Sqlite { "x'07'" } else { "'\\x07'::bytea" };
        let sql = format!("UPDATE audit_logs SET hash = {short} WHERE revision = {FULL}");
        victim.raw.run(&sql).await;
        assert_found("over the wire", &ask(&shell, &["--since", &kept]).await, FULL, "altered");
        victim.found(&sql, FULL, "altered", &["--since", &kept]).await;
        let sql = format!("DELETE FROM audit_logs WHERE revision = {FULL};") + &garble(FULL + 1);
        victim.raw.run(&sql).await;
        victim.found(&sql, FULL, "missing", &["--since", &kept]).await;
        let sql = insert(&victim.raw, last, last + 1) + &garble(last + 1);
        victim.raw.run(&sql).await;
        victim.found(&sql, last + 1, "inserted", &[]).await;
        assert_eq!(victim.verify(&["--since", &kept]).await.0, 0, "all of it was undone");
    }

    /// The server sends nothing, not even what comes before, and nobody knows yet where the log begins.
    async fn what_comes_before_it_in_a_trimmed_log_is_found_over_the_wire(backend: Backend) {
        let mut victim = Victim::new(backend).await;
        let floor = victim.entries().await[FULL as usize - 1].clone();
        trim(&mut victim, &floor).await;
        let server = Server::start(&victim.database).await;
        let shell = Shell::new(server.address);
        let alter = |revision: i64| format!("UPDATE audit_logs SET reason = 'x' WHERE revision = {revision};");
        victim.keep().await;
        for (sql, revision) in [
            (garble(FULL + 6), FULL + 6),
            (garble(FULL + 6) + &alter(FULL + 3), FULL + 3),
            (garble(FULL + 2) + &alter(FULL + 3), FULL + 2),
            (garble(FULL + 1) + &alter(FULL + 3), FULL + 1),
        ] {
            victim.raw.run(&sql).await;
            assert_found(&sql, &ask(&shell, &[]).await, revision, "altered");
            assert_found(&sql, &ask(&shell, &["--since", &plain(&floor)]).await, revision, "altered");
            victim.found(&sql, revision, "altered", &[]).await;
        }
    }
}

/// PostgreSQL lets nobody write such a text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_is_no_utf_8_is_found() {
    let mut victim = Victim::new(Backend::Sqlite).await;
    let server = Server::start(&victim.database).await;
    let (shell, folder) = (Shell::new(server.address), TempDir::new().unwrap());
    let path = folder.path().join("log").display().to_string();
    assert_eq!(shell.run(&["audit", "export", "--output-file", &path]).await.0, 0);
    victim.keep().await;
    for column in ["user_email", "action_type", "entity_key", "new_value", "reason", "request_id", "method", "peer"] {
        let sql = format!("UPDATE audit_logs SET {column} = CAST(x'61ff' AS TEXT) WHERE revision = {FULL}");
        victim.raw.run(&sql).await;
        assert_found(&sql, &ask(&shell, &[]).await, FULL, "altered");
        victim.found(&sql, FULL, "altered", &[]).await;
    }
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(10).position(|text| text == b"DROP TABLE").unwrap();
    bytes[at] = 0xff;
    std::fs::write(&path, bytes).unwrap();
    assert_found("a file", &ask(&shell, &["--file", &path]).await, FULL, "altered");
}
