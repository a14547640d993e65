//! A log that is longer than one page.

use std::process::Stdio;

use futures::future::join_all;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::rows::insert;
use super::tampered_log::*;
use crate::cli::Shell;
use crate::support::{Backend, Database, Server, program, with_timeout};

/// A server with a log of more than one page.
async fn start_with_long_log(backend: Backend) -> (Server, Database) {
    let database = Database::new(backend).await;
    let server = Server::start_with(&database, &[("TOGGLED_MAX_CHANGES_PER_SECOND", "1000000")]).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    join_all((0..1_010).map(|_| {
        let mut client = admin.clone();
        async move { client.flip("a").await }
    }))
    .await;
    (server, database)
}

/// Only PostgreSQL allows dropping the constraint that makes revisions unique.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicate_entry_at_page_boundary_is_detected() {
    let (server, database) = start_with_long_log(Backend::Postgres).await;
    assert!(server.terminate().await.success());
    let mut log = TamperedLog::of(database).await;
    // Make the database return the original entry before its duplicate.
    let sql = "ALTER TABLE audit_logs DROP CONSTRAINT audit_logs_revision_key;
        CREATE INDEX ON audit_logs (revision, id);
        DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET enable_sort = off', current_database()); END $$";
    log.raw.run(sql).await;
    log.save().await;
    for revision in [999, 1_000, 1_001] {
        let sql = insert(&log.raw, 500, revision);
        log.raw.run(&sql).await;
        log.assert_found_and_undo(&sql, revision, "inserted", &[]).await;
    }
    assert_eq!(log.verify(&[]).await.0, 0, "a manipulation was not undone");
}

/// Verification ends at `--until`, even if the pipe stays open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_pipe_does_not_delay_verification() {
    let (server, database) = start_with_long_log(Backend::Sqlite).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log").display().to_string();
    assert_eq!(Shell::new(server.address).run(&["audit", "export", "--output-file", &path]).await.0, 0);
    let text = std::fs::read_to_string(&path).unwrap();
    let log = TamperedLog::of(database).await;
    let kept = plain(&log.entries().await[99]);
    let mut command = program(folder.path());
    command.args(["audit", "verify", "--file", "-", "--until", &kept]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut pipe = process.stdin.take().unwrap();
    let some: String = text.lines().take(300).map(|line| format!("{line}\n")).collect();
    pipe.write_all(some.as_bytes()).await.unwrap();
    let output = with_timeout("the program to end", process.wait_with_output()).await.unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.ends_with(&format!("at {kept}\n")), "{stdout}");
    drop(pipe);
}
