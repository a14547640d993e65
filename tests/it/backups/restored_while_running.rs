//! A backup restored under a running server, which notices only later.

use toggled::api::pb::*;
use tonic::{Code, Status};

use crate::store::raw::Raw;
use crate::support::{Backend, Client, Database, Server, on_both_databases, reason_of, with_timeout};

const TABLES: [&str; 5] = ["users", "api_tokens", "audit_logs", "feature_flags", "log_head"];

/// Intervals so long that the server does not read the log by itself.
const NO_POLLING: [(&str, &str); 2] = [("TOGGLED_POLL_INTERVAL", "12h"), ("TOGGLED_MAX_STALENESS", "24h")];

/// Two logs that continue the same backup. The database holds the first.
struct Forked {
    database: Database,
    raw: Raw,
    /// The flag in the backup.
    saved: FeatureFlag,
    /// The entries of the first log.
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
    copy_back(raw, name).await;
    raw.run("COMMIT").await;
}

async fn copy_back(raw: &mut Raw, name: &str) {
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
    let error = result.unwrap_err();
    assert_eq!((error.code(), reason_of(&error).as_str()), (Code::Unavailable, "STALE"), "{what}: {error}");
}

fn assert_true_or_stale<T: std::fmt::Debug + PartialEq>(result: Result<T, Status>, truth: &T, what: &str) {
    match result {
        Ok(value) => assert_eq!(value, *truth, "{what}"),
        error => assert_stale(error, what),
    }
}

on_both_databases! {
    /// A past flag must not be computed from flags in memory and entries of another log.
    async fn past_reads_refuse_a_log_not_yet_followed(backend: Backend) {
        let Forked { database, mut raw, saved, .. } = Forked::new(backend).await;
        let server = Server::start_with(&database, &NO_POLLING).await;
        let mut admin = server.admin().await;
        let at = saved.revision;
        // A log behind the one that the server knows, and one that diverges from it.
        for other in ["backup", "second"] {
            assert_eq!(get(&mut admin, at).await.unwrap(), saved);
            assert_eq!(list(&mut admin, at).await.unwrap(), std::slice::from_ref(&saved));
            restore(&mut raw, other).await;
            // The server's first poll may happen only now. Then it follows the other log and answers from it.
            assert_true_or_stale(get(&mut admin, at).await, &saved, other);
            assert_true_or_stale(list(&mut admin, at).await, &vec![saved.clone()], other);
            restore(&mut raw, "first").await;
        }
        // An append finds the moved head, the server follows the new log, and past reads work again.
        restore(&mut raw, "second").await;
        admin.create("c").await;
        assert_eq!(get(&mut admin, at).await.unwrap(), saved);
        assert_eq!(list(&mut admin, at).await.unwrap(), [saved]);
    }
}

/// A change is decided on an entry of the old log, and the log is replaced before the change is appended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trim_and_revert_fail_when_the_log_is_replaced() {
    let Forked { database, mut raw, saved, log } = Forked::new(Backend::Postgres).await;
    let (mut observer, flip) = (Raw::connect(&database).await, &log[saved.revision as usize]);
    assert_eq!((&*flip.action_type, flip.revision), ("toggle_enabled", saved.revision + 1));
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    for what in ["trim", "revert"] {
        restore(&mut raw, "first").await;
        let server = Server::start_with(&database, &NO_POLLING).await;
        let mut admin = server.admin().await;
        raw.run("BEGIN; SELECT FROM log_head FOR UPDATE").await;
        let change = async {
            if what == "trim" {
                let (through_revision, through_hash) = (flip.revision, flip.hash.clone());
                let request = TrimAuditLogsRequest { through_revision, through_hash, ..Default::default() };
                admin.audit.trim_audit_logs(request).await.map(drop)
            } else {
                let request = RevertFeatureFlagRequest { audit_log_id: flip.id.clone(), ..Default::default() };
                admin.toggle.revert_feature_flag(request).await.map(drop)
            }
        };
        let replacement = async {
            with_timeout("the append", async { while observer.number(waiting).await == 0 {} }).await;
            copy_back(&mut raw, "second").await;
            raw.run("COMMIT").await;
        };
        let (result, ()) = tokio::join!(change, replacement);
        assert_stale(result, what);
        let changed = "SELECT count(*) FROM audit_logs WHERE action_type = 'log_trimmed' OR reverts IS NOT NULL";
        assert_eq!((observer.number(changed).await, observer.number("SELECT floor FROM log_head").await), (0, 0));
        server.terminate().await;
    }
}
