//! A backup that is restored under a running server, which learns of it only some time after.

use toggled::api::pb::*;
use tonic::{Code, Status};

use crate::store::raw::Raw;
use crate::support::{Backend, Client, Database, Server, on_both_databases, reason_of, with_timeout};

const TABLES: [&str; 5] = ["users", "api_tokens", "audit_logs", "feature_flags", "log_head"];

/// So long that a server does not look by itself what has become of its log.
const BLIND: [(&str, &str); 2] = [("TOGGLED_POLL_INTERVAL", "12h"), ("TOGGLED_MAX_STALENESS", "24h")];

/// A log that went on in two ways from a backup. Its database holds the first.
struct Forked {
    database: Database,
    raw: Raw,
    /// A flag as it was in the backup, ...
    saved: FeatureFlag,
    /// ... and what became of it in the log that the database holds.
    log: Vec<AuditLog>,
}

impl Forked {
    async fn new(backend: Backend) -> Self {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let (saved, mut raw) = (admin.create("a").await, Raw::connect(&database).await);
        keep(&mut raw, "backup").await;
        admin.flip("a").await;
        let name = "Second".to_owned();
        let flag = Some(update_feature_flag_request::Flag::Key("a".into()));
        let rename = UpdateFeatureFlagRequest { flag, name, ..Default::default() };
        admin.toggle.update_feature_flag(rename).await.unwrap();
        let log = admin.log().await;
        server.terminate().await;
        keep(&mut raw, "first").await;
        raw.unguard().await;
        restore(&mut raw, "backup").await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("b").await;
        for _ in 0..3 {
            admin.flip("a").await;
        }
        server.terminate().await;
        keep(&mut raw, "second").await;
        restore(&mut raw, "first").await;
        Self { database, raw, saved, log }
    }
}

async fn keep(raw: &mut Raw, name: &str) {
    for table in TABLES {
        raw.run(&format!("CREATE TABLE {name}_{table} AS SELECT * FROM {table}")).await;
    }
}

async fn restore(raw: &mut Raw, name: &str) {
    let begin = if let Raw::Sqlite(_) = raw { "PRAGMA foreign_keys = OFF; BEGIN IMMEDIATE" } else { "BEGIN" };
    raw.run(begin).await;
    put_back(raw, name).await;
    raw.run("COMMIT").await;
}

async fn put_back(raw: &mut Raw, name: &str) {
    for table in TABLES {
        raw.run(&format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM {name}_{table}")).await;
    }
}

async fn get(client: &mut Client, at: i64) -> Result<FeatureFlag, Status> {
    let flag = Some(get_feature_flag_request::Flag::Key("a".into()));
    let request = GetFeatureFlagRequest { flag, as_of_revision: Some(at), ..Default::default() };
    Ok(client.toggle.get_feature_flag(request).await?.into_inner().feature_flag.unwrap())
}

async fn list(client: &mut Client, at: i64) -> Result<Vec<FeatureFlag>, Status> {
    let request = ListFeatureFlagsRequest { as_of_revision: Some(at), ..Default::default() };
    Ok(client.toggle.list_feature_flags(request).await?.into_inner().feature_flags)
}

fn assert_stale<T: std::fmt::Debug>(result: Result<T, Status>, what: &str) {
    let told = result.unwrap_err();
    assert_eq!((told.code(), reason_of(&told).as_str()), (Code::Unavailable, "STALE"), "{what}: {told}");
}

fn assert_true_or_stale<T: std::fmt::Debug + PartialEq>(result: Result<T, Status>, truth: &T, what: &str) {
    match result {
        Ok(told) => assert_eq!(told, *truth, "{what}"),
        told => assert_stale(told, what),
    }
}

on_both_databases! {
    /// Flags in memory and entries of another log do not tell together what a flag was.
    async fn the_past_is_not_told_from_a_log_that_the_server_does_not_know_yet(backend: Backend) {
        let Forked { database, mut raw, saved, .. } = Forked::new(backend).await;
        let server = Server::start_with(&database, &BLIND).await;
        let mut admin = server.admin().await;
        let at = saved.revision;
        // Behind and beside the one that the server knows.
        for other in ["backup", "second"] {
            assert_eq!(get(&mut admin, at).await.unwrap(), saved);
            assert_eq!(list(&mut admin, at).await.unwrap(), std::slice::from_ref(&saved));
            restore(&mut raw, other).await;
            // The look that a server takes at its start may come only now: then it knows the other log, and tells of that.
            assert_true_or_stale(get(&mut admin, at).await, &saved, other);
            assert_true_or_stale(list(&mut admin, at).await, &vec![saved.clone()], other);
            restore(&mut raw, "first").await;
        }
        // Once it has learnt of it, by an append that found the log elsewhere, it tells again.
        restore(&mut raw, "second").await;
        admin.create("c").await;
        assert_eq!(get(&mut admin, at).await.unwrap(), saved);
        assert_eq!(list(&mut admin, at).await.unwrap(), [saved]);
    }
}

/// What a change was decided by was read from the log that it was asked for in, and the log is another by the time that it
/// is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_trimmed_or_taken_back_by_an_entry_of_the_log_that_was_replaced() {
    let Forked { database, mut raw, saved, log } = Forked::new(Backend::Postgres).await;
    let (mut clerk, flip) = (Raw::connect(&database).await, &log[saved.revision as usize]);
    assert_eq!((&*flip.action_type, flip.revision), ("toggle_enabled", saved.revision + 1));
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    for what in ["trim", "revert"] {
        restore(&mut raw, "first").await;
        let server = Server::start_with(&database, &BLIND).await;
        let mut admin = server.admin().await;
        raw.run("BEGIN; SELECT FROM log_head FOR UPDATE").await;
        let asked = async {
            if what == "trim" {
                let (through_revision, through_hash) = (flip.revision, flip.hash.clone());
                let request = TrimAuditLogsRequest { through_revision, through_hash, ..Default::default() };
                admin.audit.trim_audit_logs(request).await.map(drop)
            } else {
                let request = RevertFeatureFlagRequest { audit_log_id: flip.id.clone(), ..Default::default() };
                admin.toggle.revert_feature_flag(request).await.map(drop)
            }
        };
        let replaced = async {
            with_timeout("the append", async { while clerk.number(waiting).await == 0 {} }).await;
            put_back(&mut raw, "second").await;
            raw.run("COMMIT").await;
        };
        let (told, ()) = tokio::join!(asked, replaced);
        assert_stale(told, what);
        let changed = "SELECT count(*) FROM audit_logs WHERE action_type = 'log_trimmed' OR reverts IS NOT NULL";
        assert_eq!((clerk.number(changed).await, clerk.number("SELECT floor FROM log_head").await), (0, 0));
        server.terminate().await;
    }
}
