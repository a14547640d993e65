//! A hundred thousand flags.

use std::collections::HashSet;

use sqlx::{Connection, Executor, PgConnection};
use toggled::grpc::pb::*;

use crate::support::{Backend, Client, Database, Server, invoke, soon};

const FLAGS: usize = 100_000;

/// A hundred thousand flags, written inside the database as one transaction. Their entries have been trimmed away, so
/// that the log begins behind them, and the triggers, which would miss them, are put off.
const FILL: &str = "
    SET session_replication_role = replica;
    BEGIN;
    INSERT INTO feature_flags (id, key, name, description, status, revision, created_at, updated_at, updated_by)
    SELECT ('018f0000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'flag-' || n, 'Flag ' || n, '',
        CASE WHEN n % 2 = 0 THEN 'enabled' ELSE 'disabled' END, n, now(), now(), 'ann@example.com'
    FROM generate_series(1, 100000) AS n;
    UPDATE log_head SET revision = 100000, hash = sha256('a'), timestamp = now(), floor = 100000, floor_hash = sha256('a');
    COMMIT;";

async fn filled() -> Database {
    let database = Database::new(Backend::Postgres).await;
    let migrated = invoke(&["migrate", "up"], &[("TOGGLED_DATABASE_URL", &database.url)]).await;
    assert!(migrated.status.success());
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    connection.execute(FILL).await.unwrap();
    connection.close().await.unwrap();
    database
}

async fn listed(client: &mut Client) -> HashSet<String> {
    let mut keys = HashSet::new();
    let mut request = ListFeatureFlagsRequest { page_size: 1_000, ..Default::default() };
    loop {
        let page = client.toggle.list_feature_flags(request.clone()).await.unwrap().into_inner();
        keys.extend(page.feature_flags.into_iter().map(|flag| flag.key));
        if page.next_page_token.is_empty() {
            return keys;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_flags_are_listed_watched_and_flipped() {
    let database = filled().await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    assert_eq!(listed(&mut admin).await.len(), FLAGS);
    let mut watching =
        admin.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await.unwrap().into_inner();
    let mut seen = HashSet::new();
    let (mut messages, mut caught_up) = (0, false);
    while !caught_up {
        let message = soon("a message", watching.message()).await.unwrap().unwrap();
        seen.extend(message.feature_flags.into_iter().map(|flag| flag.key));
        messages += 1;
        caught_up = message.caught_up;
    }
    assert_eq!((seen.len(), messages), (FLAGS, FLAGS / 1_000 + 1), "a thousand at a time, and that it is all");
    // What follows costs what changes.
    for key in ["flag-1", "flag-100000", "flag-1"] {
        let flipped = admin.flip(key).await.feature_flag.unwrap();
        let message = soon("the flip", watching.message()).await.unwrap().unwrap();
        assert_eq!(message.feature_flags, [flipped]);
    }
}
