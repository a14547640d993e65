//! Calls that are cancelled or time out while they are processed.

use std::time::Duration;

use sqlx::{Connection, PgConnection, SqliteConnection};
use toggled::api::pb::*;
use tonic::Code;

use crate::support::{Backend, Database, Server, on_both_databases, reason_of, toggle, with_deadline, with_timeout};

/// Whether no transaction is open, and no lock prevents writes.
async fn is_idle(database: &Database) -> bool {
    match database.backend {
        Backend::Postgres => {
            let mut connection = PgConnection::connect(&database.url).await.unwrap();
            let sql = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'";
            let open: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
            open == 0
        }
        Backend::Sqlite => {
            let mut connection = SqliteConnection::connect(&database.url).await.unwrap();
            sqlx::query("PRAGMA busy_timeout = 0").execute(&mut connection).await.unwrap();
            sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.is_ok()
        }
    }
}

on_both_databases! {
    async fn cancelled_flips_are_made_fully_or_not_at_all(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let mut finished = 0;
        for round in 0..1_000u64 {
            // A flip takes up to about 3 ms, so this cancels it before, during and after the write.
            let timeout = Duration::from_micros(round * 7 % 3_000);
            // After too many cancellations the server closes the connection, and the next call opens another.
            if let Ok(Ok(_)) = tokio::time::timeout(timeout, admin.toggle.toggle_feature_flag(toggle("a"))).await {
                finished += 1;
            }
        }
        // The last flip is processed after all earlier ones.
        server.admin().await.flip("a").await;
        finished += 1;

        let log = admin.log().await;
        let revisions: Vec<_> = log.iter().map(|e| e.revision).collect();
        assert_eq!(revisions, (1..=log.len() as i64).collect::<Vec<_>>());
        let flips: Vec<_> = log.iter().filter(|e| e.action_type.starts_with("toggle_")).collect();
        assert!(flips.len() >= finished, "{} entries, {finished} answers", flips.len());
        assert!(finished < 1_001, "no flip was cancelled in time, so this test proves nothing");
        let flag = admin.get("a").await;
        assert_eq!(flag.status() == FeatureFlagStatus::Enabled, flips.len() % 2 == 1);
        assert_eq!(flag.revision, flips.last().unwrap().revision);
        assert!(is_idle(&database).await);
    }
}

/// While the head is locked, a flip waits behind another one, until its deadline passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_flip_is_not_made_after_its_deadline() {
    let database = Database::new(Backend::Postgres).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let held = database.lock_head().await;
    let mut first = admin.clone();
    let first = tokio::spawn(async move { first.flip("a").await });
    held.wait_for_waiter().await;

    let error = admin.toggle.toggle_feature_flag(with_deadline(toggle("a"))).await.unwrap_err();

    assert_eq!((error.code(), reason_of(&error).as_str()), (Code::DeadlineExceeded, "DEADLINE_BEFORE_START"));
    drop(held);
    let flipped = with_timeout("the first flip", first).await.unwrap();
    admin.create("after").await;
    let log = admin.log().await;
    assert_eq!(log.iter().filter(|e| e.action_type.starts_with("toggle_")).count(), 1);
    assert_eq!(Some(admin.get("a").await), flipped.feature_flag);
}
