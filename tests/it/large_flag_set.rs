//! A database with a hundred thousand flags.

use std::collections::HashSet;

use sqlx::{Connection, Executor, PgConnection};
use toggled::api::pb::*;
use toggled::domain::audit::{Action, EntityType, Entry, LogStart};
use toggled::domain::hash::entry_hash;
use toggled::domain::time::Timestamp;
use uuid::Uuid;

use crate::support::{Backend, Client, Database, Server, invoke, with_timeout};

const FLAGS: usize = 100_000;

/// Inserts a hundred thousand flags in one transaction. The log starts after their entries, as if it had been trimmed.
/// Triggers are disabled, since they would require the entries.
const INSERT_FLAGS: &str = "
    SET session_replication_role = replica;
    BEGIN;
    INSERT INTO feature_flags (id, environment, key, name, description, status, revision, created_at, updated_at, updated_by)
    SELECT ('018f0000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'default', 'flag-' || n, 'Flag ' || n, '',
        CASE WHEN n % 2 = 0 THEN 'enabled' ELSE 'disabled' END, n, now(), now(), 'ann@example.com'
    FROM generate_series(1, 100000) AS n;
    UPDATE log_head SET revision = 100001, timestamp = to_timestamp(0), floor = 100000, floor_hash = sha256('a');
    COMMIT;";

/// Inserts the last entry, `log_trimmed`, and moves the head to it.
const INSERT_TRIM_ENTRY: &str = "WITH head AS (UPDATE log_head SET hash = $2)
    INSERT INTO audit_logs (id, revision, timestamp, user_email, action_type, entity_type, entity_key, entity_name,
        new_value, method, hash_version, hash)
    VALUES ($1, 100001, to_timestamp(0), '', 'log_trimmed', 'log', '', '', $3, '', 1, $2)";

fn trim_entry(start: LogStart) -> Entry {
    Entry {
        id: Uuid::from_u128(1),
        revision: start.floor + 1,
        timestamp: Timestamp::default(),
        user_id: None,
        user_email: "".into(),
        token_id: None,
        action: Action::LogTrimmed,
        entity_type: EntityType::Log,
        entity_id: None,
        entity_key: "".into(),
        entity_name: "".into(),
        old_value: None,
        new_value: Some(start.to_json().into()),
        reason: None,
        request_id: None,
        method: "".into(),
        peer: None,
        user_agent: None,
        previous_entity_revision: None,
        reverts: None,
        environment: None,
        hash_version: 1,
        hash: [0; 32],
        created_at: Timestamp::default(),
    }
}

async fn database_with_flags() -> Database {
    let database = Database::new(Backend::Postgres).await;
    let migrated = invoke(&["migrate", "up"], &[("TOGGLED_DATABASE_URL", &database.url)]).await;
    assert!(migrated.status.success());
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    connection.execute(INSERT_FLAGS).await.unwrap();
    let head: (Uuid, Vec<u8>) =
        sqlx::query_as("SELECT log_id, floor_hash FROM log_head").fetch_one(&mut connection).await.unwrap();
    let start = LogStart { floor: FLAGS as i64, hash: head.1.try_into().unwrap() };
    let trim = trim_entry(start);
    let hash = entry_hash(&start.hash, head.0, &trim);
    let written = sqlx::query(INSERT_TRIM_ENTRY).bind(trim.id).bind(&hash[..]).bind(trim.new_value.as_deref());
    written.execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    database
}

async fn list_all(client: &mut Client) -> HashSet<String> {
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
async fn large_flag_set_is_listed_watched_and_flipped() {
    let database = database_with_flags().await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    assert_eq!(list_all(&mut admin).await.len(), FLAGS);
    let mut watching =
        admin.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await.unwrap().into_inner();
    let mut seen = HashSet::new();
    let (mut messages, mut caught_up) = (0, false);
    while !caught_up {
        let message = with_timeout("a message", watching.message()).await.unwrap().unwrap();
        seen.extend(message.feature_flags.into_iter().map(|flag| flag.key));
        messages += 1;
        caught_up = message.caught_up;
    }
    assert_eq!(
        (seen.len(), messages),
        (FLAGS, FLAGS / 1_000 + 1),
        "messages of 1,000 flags, and one that is caught up"
    );
    // Later messages hold only the changed flag.
    for key in ["flag-1", "flag-100000", "flag-1"] {
        let flipped = admin.flip(key).await.feature_flag.unwrap();
        let message = with_timeout("the flip", watching.message()).await.unwrap().unwrap();
        assert_eq!(message.feature_flags, [flipped]);
    }
}
