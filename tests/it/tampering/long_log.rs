//! A log that is longer than what is read at once.

use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::rows::insert;
use super::tampered_log::*;
use crate::cli::Shell;
use crate::support::{Backend, Database, Server, program, with_timeout};

/// A log of more than a page.
async fn long(backend: Backend) -> (Server, Database) {
    let database = Database::new(backend).await;
    let server = Server::start_with(&database, &[("TOGGLED_MAX_CHANGES_PER_SECOND", "1000000")]).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    while admin.flip("a").await.revision < 1_010 {}
    (server, database)
}

/// Only PostgreSQL lets go of what keeps revisions apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_entry_at_the_end_of_a_page_is_found() {
    let (server, database) = long(Backend::Postgres).await;
    assert!(server.terminate().await.success());
    let mut victim = Victim::of(database).await;
    // The one that was there first comes first.
    let sql = "ALTER TABLE audit_logs DROP CONSTRAINT audit_logs_revision_key;
        CREATE INDEX ON audit_logs (revision, id);
        DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET enable_sort = off', current_database()); END $$";
    victim.raw.run(sql).await;
    victim.keep().await;
    for revision in [999, 1_000, 1_001] {
        let sql = insert(&victim.raw, 500, revision);
        victim.raw.run(&sql).await;
        victim.found(&sql, revision, "inserted", &[]).await;
    }
    assert_eq!(victim.verify(&[]).await.0, 0, "all of it was undone");
}

/// What comes behind `--until` is of no interest, even while it does not come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_that_stays_open_holds_nothing_up() {
    let (server, database) = long(Backend::Sqlite).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log").display().to_string();
    assert_eq!(Shell::new(server.address).run(&["audit", "export", "--output-file", &path]).await.0, 0);
    let text = std::fs::read_to_string(&path).unwrap();
    let victim = Victim::of(database).await;
    let kept = plain(&victim.entries().await[99]);
    let mut command = program(folder.path());
    command.args(["audit", "verify", "--file", "-", "--until", &kept]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut pipe = process.stdin.take().unwrap();
    let some: String = text.lines().take(300).map(|line| format!("{line}\n")).collect();
    pipe.write_all(some.as_bytes()).await.unwrap();
    let output = with_timeout("the program to end", process.wait_with_output()).await.unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.ends_with(&format!("at {kept}\n")), "{told}");
    drop(pipe);
}
