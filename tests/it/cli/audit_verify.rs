//! `audit verify` of logs that were not tampered with.

use tempfile::TempDir;
use toggled::api::pb::ListAuditCheckpointsRequest;
use toggled::checkpoint::{Checkpoint, SigningKey};
use toggled::domain::time::Timestamp;
use toggled::store::open_existing;
use tokio::task::JoinHandle;

use super::Shell;
use super::export::odd_flags;
use crate::store::raw::Raw;
use crate::support::{Backend, Database, Server, checkpoint_key, on_both_databases, with_timeout};

/// Starts `audit verify` and waits until it blocks on a table, which is locked until the transaction ends. Only PostgreSQL
/// makes a reader wait.
async fn verify_until_blocked(raw: &mut Raw, table: &str, database: &Database) -> JoinHandle<(i32, String, String)> {
    raw.run(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")).await;
    let url = database.url.clone();
    let verify = async move { Shell::anonymous("127.0.0.1:1").run(&["audit", "verify", "--database", &url]).await };
    let verifying = tokio::spawn(verify);
    let waiting = format!(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    );
    with_timeout("the reader to wait", async { while raw.number(&waiting).await == 0 {} }).await;
    verifying
}

/// The checkpoints are read first, then their keys and the entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoint_stored_while_reading_is_no_fault() {
    let database = Database::new(Backend::Postgres).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let mut raw = Raw::connect(&database).await;
    let verifying = verify_until_blocked(&mut raw, "checkpoints", &database).await;
    let entry = admin.flip("a").await.audit_log.unwrap();
    let log_id = open_existing(&database.url).unwrap().head().await.unwrap().log_id;
    let (key, hash) = (SigningKey::generate().unwrap(), entry.hash.try_into().unwrap());
    let note = key.sign(Checkpoint { log_id, revision: entry.revision, hash, time: Timestamp::default() });
    let (vkey, revision) = (key.verifier(log_id), entry.revision);
    raw.run(&format!("INSERT INTO checkpoints (revision, note) VALUES ({revision}, '{note}')")).await;
    raw.run(&format!("INSERT INTO checkpoint_keys (key, added_at) VALUES ('{vkey}', now()); COMMIT")).await;
    let (code, out, message) = verifying.await.unwrap();
    assert!(
        code == 0 && out.contains(&format!(", revisions 1..{revision} of log {log_id}, ")),
        "{code} {out}{message}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_trimmed_while_reading_exits_unavailable() {
    let database = Database::new(Backend::Postgres).await;
    let server = Server::start(&database).await;
    odd_flags(&mut server.admin().await).await;
    assert!(server.terminate().await.success());
    let mut raw = Raw::connect(&database).await;
    raw.unguard().await;
    let verifying = verify_until_blocked(&mut raw, "audit_logs", &database).await;
    let floor = "UPDATE log_head SET floor = 3, floor_hash = (SELECT hash FROM audit_logs WHERE revision = 3)";
    raw.run(&format!("{floor}; DELETE FROM audit_logs WHERE revision <= 3; COMMIT")).await;
    let (code, _, message) = verifying.await.unwrap();
    assert!(code == 6 && message.contains("trimmed while it was read; verify it again"), "{code} {message}");
}

on_both_databases! {
    async fn log_that_grows_while_reading_is_intact(backend: Backend) {
        let database = Database::new(backend).await;
        let settings = [
            checkpoint_key(),
            ("TOGGLED_CHECKPOINT_INTERVAL", "10"),
            ("TOGGLED_MAX_CHANGES_PER_SECOND", "1000000"),
        ];
        let server = Server::start_with(&database, &settings).await;
        let [mut admin, mut reader] = [server.admin().await, server.admin().await];
        admin.create("a").await;
        let writing = tokio::spawn(async move {
            loop {
                admin.flip("a").await;
            }
        });
        let shell = Shell::anonymous("127.0.0.1:1");
        let growing = async {
            let (mut grown, mut last, mut stored) = (0, 0, 0);
            while grown < 10 || stored < 10 {
                let report = shell.object(&["audit", "verify", "--database", &database.url]).await;
                let end = report["last_revision"].as_i64().unwrap();
                grown += i32::from(end > last);
                last = end;
                let checkpoints = reader.audit.list_audit_checkpoints(ListAuditCheckpointsRequest::default()).await;
                stored = checkpoints.unwrap().into_inner().checkpoints.len();
            }
        };
        with_timeout("the log to grow", growing).await;
        writing.abort();
    }

    async fn trimmed_log_is_verified_file_by_file(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start_with(&database, &[checkpoint_key()]).await;
        odd_flags(&mut server.admin().await).await;
        let (shell, folder) = (Shell::new(server.address), TempDir::new().unwrap());
        let [first, second] = ["first", "second"].map(|name| folder.path().join(name).display().to_string());
        for (path, before) in [(&first, "4"), (&second, "7")] {
            let trim = ["audit", "trim", "--before", before, "--output-file", path, "--remove"];
            assert!(shell.succeeds(&trim).await.starts_with("removed: "));
        }
        let keys = shell.object(&["audit", "checkpoint"]).await["verifier_keys"].clone();
        let verify = ["audit", "verify", "--public-key", keys[0].as_str().unwrap()];
        let [one, two] = [&first, &second].map(|path| format!("{path}.checkpoint"));
        let url = &database.url;
        for (arguments, range) in [
            (&["--file", &first, "--until", &one][..], "revisions 1..3 "),
            (&["--file", &second, "--since", &one, "--until", &two], "revisions 4..6 "),
            (&["--since", &two], "revisions 7.."),
            (&["--database", url, "--since", &two], "revisions 7.."),
        ] {
            let (code, out, message) = shell.run(&[&verify, arguments].concat()).await;
            assert!(code == 0 && out.contains(range), "{arguments:?}: {out}{message}");
        }
        // A missing file leaves a gap, and so does one with its end cut off.
        let whole = std::fs::read_to_string(&first).unwrap();
        let cut = whole.lines().take(2).map(|line| format!("{line}\n")).collect::<String>();
        std::fs::write(&first, cut).unwrap();
        for (arguments, code, words) in [
            (&["--file", &first, "--until", &one][..], 1, "revision 3: truncated: "),
            (&["--file", &second, "--until", &two], 1, "revision 3: missing: "),
            (&["--file", &first, "--since", &one, "--until", &two], 1, "revision 3: truncated: "),
            (&["--since", &one], 2, "pass the FILE.checkpoint that audit trim wrote"),
            (&["--database-url", url, "--since", &one], 2, "pass the FILE.checkpoint that audit trim wrote"),
        ] {
            let message = shell.fails(&[&verify, arguments].concat(), code).await;
            assert!(message.contains(words), "{arguments:?}: {message}");
        }
    }
}
