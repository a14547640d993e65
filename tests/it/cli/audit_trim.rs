//! `audit trim`: removes only entries that are on disk, verified and signed.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;
use toggled::api::pb::*;
use toggled::checkpoint::{Note, VerifierKey};
use toggled::domain::hash::GENESIS;
use toggled::domain::hex::hex_digits;

use super::export::odd_flags;
use super::{Shell, server};
use crate::support::{Client, Database, Server, checkpoint_key, on_both_databases};

fn revisions(path: &Path) -> Vec<i64> {
    let revision = |line: &str| serde_json::from_str::<Value>(line).unwrap()["revision"].as_i64().unwrap();
    fs::read_to_string(path).unwrap().lines().map(revision).collect()
}

fn hex(hash: &[u8]) -> String {
    hex_digits(hash.try_into().unwrap())
}

async fn trim(shell: &Shell, path: &Path, before: &str, arguments: &[&str]) -> Value {
    let path = path.display().to_string();
    shell.object(&[&["audit", "trim", "--before", before, "--output-file", &path], arguments].concat()).await
}

/// Trims the log without the command.
async fn trimmed(admin: &mut Client, last: &AuditLog) {
    let request =
        TrimAuditLogsRequest { through_revision: last.revision, through_hash: last.hash.clone(), ..Default::default() };
    admin.audit.trim_audit_logs(request).await.unwrap();
}

on_both_databases! {
    async fn trimmed_entries_are_in_signed_file(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start_with(&database, &[checkpoint_key()]).await;
        let shell = Shell::new(server.address);
        let mut admin = server.admin().await;
        odd_flags(&mut admin).await;
        let log = admin.log().await;
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("log");

        let would = trim(&shell, &path, "6", &[]).await;
        assert_eq!((&would["removed"], &would["entries"], &would["oldest_revision"]), (&false.into(), &5.into(), &1.into()));
        assert_eq!((would["last_revision"].as_i64(), would["last_hash"].as_str()), (Some(5), Some(&*hex(&log[4].hash))));
        assert_eq!(admin.log().await, log, "nothing is removed without --remove");
        assert_eq!(revisions(&path), (1..=5).collect::<Vec<_>>());
        let note = fs::read_to_string(folder.path().join("log.checkpoint")).unwrap();
        let keys = admin.audit.get_audit_checkpoint(GetAuditCheckpointRequest::default()).await.unwrap().into_inner().keys;
        let keys: Vec<_> = keys.iter().map(|key| VerifierKey::parse(&key.verifier_key).unwrap()).collect();
        let note = Note::parse(&note).unwrap();
        note.verify(&keys).unwrap();
        assert_eq!((note.checkpoint.revision, &note.checkpoint.hash[..]), (5, &log[4].hash[..]));

        let done = trim(&shell, &path, "6", &["--remove", "--reason", "kept elsewhere"]).await;
        assert_eq!((&done["removed"], &done["oldest_revision"]), (&true.into(), &6.into()));
        let rest = admin.log().await;
        assert_eq!(rest[..rest.len() - 1], log[5..]);
        let entry = rest.last().unwrap();
        assert_eq!((entry.action_type.as_str(), entry.reason()), ("log_trimmed", "kept elsewhere"));
        let nothing = trim(&shell, &path, "6", &["--remove"]).await;
        assert_eq!((&nothing["removed"], &nothing["entries"]), (&false.into(), &0.into()));

        // The same file is continued; another may start at the floor.
        for name in ["log", "other"] {
            let from = admin.log().await[0].revision;
            let before = (from + 2).to_string();
            let path = folder.path().join(name);
            let done = trim(&shell, &path, &before, &["--remove"]).await;
            assert_eq!((done["first_revision"].as_i64(), done["entries"].as_i64()), (Some(from), Some(2)));
            let first = if name == "log" { 1 } else { from };
            assert_eq!(revisions(&path), (first..from + 2).collect::<Vec<_>>());
            assert_eq!(admin.log().await[0].revision, from + 2);
        }
        let at = admin.log().await[0].clone();
        let time = at.timestamp.unwrap();
        let time = jiff::Timestamp::new(time.seconds, time.nanos).unwrap().to_string();
        let older = trim(&shell, &folder.path().join("other"), &time, &[]).await;
        assert_eq!(older["entries"], 0, "the entry of that very time is not older");
    }
}

/// Every check before the server signs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trim_to_mismatched_file_removes_nothing() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    odd_flags(&mut admin).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    let name = path.display().to_string();
    shell.run(&["audit", "export", "--output-file", &name]).await;
    let whole = fs::read_to_string(&path).unwrap();
    let log = admin.log().await;
    let remove = ["audit", "trim", "--before", "6", "--output-file", &name, "--remove"];

    // The hashes are as exported, but the content of one line differs.
    let altered = whole.replacen("admin@localhost", "nobody@localhost", 1);
    fs::write(&path, &altered).unwrap();
    let message = shell.fails(&remove, 1).await;
    assert!(message.contains("revision 2: altered"), "{message}");
    assert_eq!(fs::read_to_string(&path).unwrap(), altered, "the file is unchanged");
    let holes: String =
        whole.lines().filter(|line| !line.contains("\"revision\":3,")).map(|l| format!("{l}\n")).collect();
    fs::write(&path, &holes).unwrap();
    assert!(shell.fails(&remove, 2).await.contains("entries are missing"));
    fs::write(&path, "hello\n").unwrap();
    assert!(shell.fails(&remove, 2).await.contains("line 1"));
    let late: String = whole.lines().skip(2).map(|l| format!("{l}\n")).collect();
    fs::write(&path, &late).unwrap();
    let message = shell.fails(&remove, 2).await;
    assert!(message.contains("begins with revision 3"), "{message}");
    let beyond = (log.len() + 2).to_string();
    fs::remove_file(&path).unwrap();
    let message = shell.fails(&["audit", "trim", "--before", &beyond, "--output-file", &name, "--remove"], 2).await;
    assert!(message.contains("beyond the end of the log"), "{message}");
    for wrong in ["0", "yesterday", "-1d"] {
        shell.fails(&["audit", "trim", &format!("--before={wrong}"), "--output-file", &name], 2).await;
    }
    assert_eq!(admin.log().await, log, "nothing was removed");
}

/// The file is written and verified before the server is asked to sign.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trim_without_signing_key_removes_nothing() {
    let database = Database::new(crate::support::Backend::Postgres).await;
    // With PostgreSQL there is no default key.
    let server = Server::start(&database).await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    odd_flags(&mut admin).await;
    let first = admin.log().await;
    trimmed(&mut admin, &first[1]).await;
    let log = admin.log().await;
    assert_ne!(log[0].hash, GENESIS);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    let name = path.display().to_string();
    let remove = ["audit", "trim", "--before", "6", "--output-file", &name, "--remove"];
    let (code, out, message) = shell.run(&remove).await;
    assert!(
        code != 0 && out.is_empty() && message.contains("nothing was removed: the server signed no checkpoint"),
        "{message}"
    );
    assert_eq!(revisions(&path), [3, 4, 5], "after the floor");
    assert!(!folder.path().join("log.checkpoint").exists());
    assert_eq!(admin.log().await, log);
    // A file cut in the middle of a line is continued.
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    shell.run(&remove).await;
    assert_eq!(fs::read(&path).unwrap(), whole);
}
