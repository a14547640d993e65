//! What was kept of a log that was trimmed since, and what is done to the rest.

use tempfile::TempDir;
use toggled::api::pb::*;

use super::tampered_log::*;
use crate::cli::Shell;
use crate::support::{Server, on_both_databases, with_timeout};

/// Moves the floor to an entry, and waits until nothing is left up to there.
pub async fn trim(victim: &mut Victim, kept: &toggled::domain::audit::Entry) {
    let server = Server::start(&victim.database).await;
    let through_hash = kept.hash.to_vec();
    let request = TrimAuditLogsRequest { through_revision: kept.revision, through_hash, ..Default::default() };
    server.admin().await.audit.trim_audit_logs(request).await.unwrap();
    let below = format!("SELECT count(*) FROM audit_logs WHERE revision <= {}", kept.revision);
    with_timeout("the rows to go", async { while victim.raw.number(&below).await > 0 {} }).await;
    assert!(server.terminate().await.success());
}

on_both_databases! {
    async fn what_was_kept_of_a_trimmed_log_is_compared_or_refused(backend: Backend) {
        let mut victim = Victim::new(backend).await;
        let entries = victim.entries().await;
        let [below, floor, between, end] =
            [FULL - 4, FULL, FULL + 3, entries.len() as i64].map(|revision| entries[revision as usize - 1].clone());
        trim(&mut victim, &floor).await;
        let server = Server::start(&victim.database).await;
        let (shell, folder) = (Shell::new(server.address), TempDir::new().unwrap());
        let path = folder.path().join("log").display().to_string();
        assert_eq!(shell.run(&["audit", "export", "--output-file", &path]).await.0, 0);
        let of = [vec!["--database", &victim.database.url], vec!["--file", &path], vec![]];
        for kept in [&floor, &between, &end] {
            let wrong = format!("{}:{}", kept.revision, "0".repeat(64));
            for of in &of {
                let told = shell.says(&[&["audit", "verify", "--until", &plain(kept)], &of[..]].concat()).await;
                assert!(told.starts_with("intact: ") && told.contains(&format!(" {}..", FULL + 1)), "{of:?}: {told}");
                let told = shell.fails(&[&["audit", "verify", "--until", &wrong], &of[..]].concat(), 1).await;
                assert!(told.contains(&format!("revision {}: forked: ", kept.revision)), "{of:?}: {told}");
            }
        }
        for kept in [plain(&below), format!("{}:{}", below.revision, "0".repeat(64)), format!("0:{}", "0".repeat(64))] {
            let (code, told) = victim.verify(&["--until", &kept]).await;
            assert!(code == 2 && told.contains("--until: the log was trimmed after revision "), "{code} {told}");
            for of in &of[1..] {
                let (code, _, told) = shell.run(&[&["audit", "verify", "--until", &kept], &of[..]].concat()).await;
                assert!(code != 0 && told.contains("trimmed"), "{of:?}: {code} {told}");
            }
        }
    }

    async fn a_trimmed_log_that_lost_more_is_found_and_what_could_not_be_compared_is_told(backend: Backend) {
        let mut victim = Victim::new(backend).await;
        let entries = victim.entries().await;
        let (floor, end) = (entries[FULL as usize - 1].clone(), entries.last().unwrap().clone());
        let (_, _, told) = verify_all(&victim, &[]).await;
        assert!(!told.contains("compared"), "{told}");
        trim(&mut victim, &floor).await;
        // By then there are the administrator with its token, and the user with a token of the past.
        let older = |told: &str| told.lines().find_map(|line| line.split_once(" rows were not compared").map(|(rows, _)| rows.to_owned()));
        let (code, _, told) = verify_all(&victim, &[]).await;
        let rows = older(&told).and_then(|line| line.split_whitespace().last()?.parse::<i64>().ok());
        let unspoken = "SELECT (SELECT count(*) FROM feature_flags WHERE revision <= 12)
            + (SELECT count(*) FROM users WHERE revision <= 12) + (SELECT count(*) FROM api_tokens WHERE revision <= 12)";
        assert_eq!((code, rows), (0, Some(victim.raw.number(unspoken).await)), "{told}");
        let (code, _, told) = verify_all(&victim, &["--since", &plain(&end)]).await;
        assert!(code == 0 && older(&told).is_some(), "{told}");
        victim.keep().await;
        for (sql, revision, kind) in [
            ("DELETE FROM audit_logs".to_owned(), FULL + 1, "truncated"),
            (format!("DELETE FROM audit_logs WHERE revision = {}", FULL + 1), FULL + 1, "missing"),
            (format!("UPDATE log_head SET floor_hash = {}", victim.raw.hash(7)), FULL, "forked"),
        ] {
            victim.raw.run(&sql).await;
            victim.found(&sql, revision, kind, &[]).await;
        }
    }
}

/// Verifies the database; its status, and what it says on standard output and beside it.
async fn verify_all(victim: &Victim, arguments: &[&str]) -> (i32, String, String) {
    let all = [&["audit", "verify", "--database", &victim.database.url], arguments].concat();
    Shell::anonymous("127.0.0.1:1").run(&all).await
}
