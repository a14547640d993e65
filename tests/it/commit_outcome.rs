//! Changes during which the database connection is lost: callers learn the outcome of the commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::{Executor, PgConnection};
use toggled::api::pb::*;
use tonic::Code;

use crate::store::raw::Raw;
use crate::support::postgres_proxy::{Link, PostgresProxy};
use crate::support::{
    Backend, Client, Cluster, Database, LockedHead, Log, Server, alter_system, reason_of, toggle, with_timeout,
};

/// A server whose next flip of the flag `a` waits for a lock in the database.
struct StalledFlip {
    database: Database,
    proxy: PostgresProxy,
    admin: Client,
    held: Option<LockedHead>,
    _server: Server,
}

impl StalledFlip {
    async fn new() -> Self {
        let (database, proxy) = Self::databases().await;
        let server = Server::start(&proxy.database).await;
        Self::with(database, proxy, server).await
    }

    /// The same, with the server's log.
    async fn logged() -> (Self, Log) {
        let (database, proxy) = Self::databases().await;
        let (mut server, log) = Server::launch_with_log(&proxy.database.url, &[]).await;
        server.ready().await;
        (Self::with(database, proxy, server).await, log)
    }

    async fn databases() -> (Database, PostgresProxy) {
        let database = Database::new(Backend::Postgres).await;
        let proxy = PostgresProxy::new(&database).await;
        (database, proxy)
    }

    async fn with(database: Database, proxy: PostgresProxy, server: Server) -> Self {
        let mut admin = server.admin().await;
        admin.create("a").await;
        let held = Some(database.lock_head().await);
        Self { database, proxy, admin, held, _server: server }
    }

    /// Starts a flip and waits until the database writes it.
    async fn flip(&self) -> tokio::task::JoinHandle<Result<ToggleFeatureFlagResponse, tonic::Status>> {
        let mut admin = self.admin.clone();
        let flip =
            tokio::spawn(async move { admin.toggle.toggle_feature_flag(request()).await.map(|a| a.into_inner()) });
        self.held.as_ref().unwrap().wait_for_waiter().await;
        flip
    }

    /// Lets the database commit the flip while the connection is closed, so that the server gets no answer.
    async fn commit_without_answer(&mut self) {
        self.proxy.set(Link::Closed);
        drop(self.held.take());
        let other = Server::start(&self.database).await;
        let mut direct = other.admin().await;
        with_timeout("the flip to be written", async {
            while direct.get("a").await.status() != FeatureFlagStatus::Enabled {}
        })
        .await;
    }

    async fn flips(&mut self) -> Vec<AuditLog> {
        let log = self.admin.log().await;
        log.into_iter().filter(|entry| entry.action_type.starts_with("toggle_")).collect()
    }
}

fn request() -> ToggleFeatureFlagRequest {
    ToggleFeatureFlagRequest { request_id: Some("flip-1".into()), ..toggle("a") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flip_committed_after_lost_connection_succeeds() {
    let mut stalled = StalledFlip::new().await;
    let flip = stalled.flip().await;
    stalled.commit_without_answer().await;
    stalled.proxy.set(Link::Open);
    let answer = with_timeout("the answer", flip).await.unwrap().unwrap();
    assert_eq!(stalled.flips().await, [answer.audit_log.unwrap()]);
}

/// An error of the query for the outcome does not reveal the outcome, so the server asks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flip_succeeds_when_outcome_query_fails_at_first() {
    let (mut stalled, mut log) = StalledFlip::logged().await;
    let flip = stalled.flip().await;
    stalled.commit_without_answer().await;
    let mut raw = Raw::connect(&stalled.database).await;
    raw.run("ALTER TABLE audit_logs RENAME TO elsewhere").await;
    stalled.proxy.set(Link::Open);
    log.wait_for_line("\"audit_logs\" does not exist").await;
    raw.run("ALTER TABLE elsewhere RENAME TO audit_logs").await;
    let answer = with_timeout("the answer", flip).await.unwrap().unwrap();
    assert_eq!(stalled.flips().await, [answer.audit_log.unwrap()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flip_lost_with_connection_is_made_once() {
    let mut stalled = StalledFlip::new().await;
    let flip = stalled.flip().await;
    stalled.database.end_connections().await;
    drop(stalled.held.take());
    let answer = with_timeout("the answer", flip).await.unwrap().unwrap();
    assert_eq!(stalled.flips().await, [answer.audit_log.unwrap()]);
}

/// The server reports the unknown outcome. A retry determines it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_outcome_can_be_retried() {
    let mut stalled = StalledFlip::new().await;
    let flip = stalled.flip().await;
    stalled.proxy.set(Link::Closed);
    // The flip is committed, but the server cannot learn of it.
    drop(stalled.held.take());
    let unknown = with_timeout("an answer", flip).await.unwrap().unwrap_err();
    assert_eq!((unknown.code(), reason_of(&unknown).as_str()), (Code::Unknown, "COMMIT_OUTCOME_UNKNOWN"));
    stalled.proxy.set(Link::Open);
    let answer = with_timeout("a retry to be answered", async {
        loop {
            if let Ok(answer) = stalled.admin.toggle.toggle_feature_flag(request()).await {
                return answer;
            }
        }
    })
    .await;
    assert!(answer.metadata().contains_key("x-request-replayed"), "the first flip was not made");
    assert_eq!(stalled.flips().await, [answer.into_inner().audit_log.unwrap()]);
}

/// Waits until a COMMIT waits for a synchronous standby, or until none does.
async fn until_commits_wait(outside: &mut PgConnection, any: bool) {
    let sql = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let reached = async { while sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut *outside).await.unwrap() != any {} };
    with_timeout(&format!("COMMITs waiting for a standby: {any}"), reached).await;
}

/// The flip can be read before a standby has it, but it is not reported as committed before that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_waits_for_synchronous_standby() {
    let cluster = Cluster::start("").await;
    let database = Database::from_url(&cluster.new_database().await, Backend::Postgres);
    let (one, other) = (Server::start(&database).await, Server::start(&database).await);
    let mut admin = one.admin().await;
    admin.create("a").await;
    let mut outside = cluster.admin_connection().await;
    alter_system(&mut outside, "SET synchronous_standby_names = 'nobody'").await;
    // The setting takes effect after a delay: the last of these flips is the first to wait for a standby.
    let id = Arc::new(AtomicUsize::new(0));
    let flip = |id: usize| ToggleFeatureFlagRequest { request_id: Some(format!("flip-{id}")), ..toggle("a") };
    let current = Arc::clone(&id);
    let flipping = tokio::spawn(async move {
        while admin.toggle.toggle_feature_flag(flip(current.load(Ordering::Relaxed))).await.is_ok() {
            current.fetch_add(1, Ordering::Relaxed);
        }
    });
    until_commits_wait(&mut outside, true).await;
    one.kill().await;
    with_timeout("the flip to be lost", flipping).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    outside.execute(end).await.unwrap();
    until_commits_wait(&mut outside, false).await;

    let mut admin = other.admin().await;
    let request = flip(id.load(Ordering::Relaxed));
    let retry = tokio::spawn(async move { admin.toggle.toggle_feature_flag(request).await });
    until_commits_wait(&mut outside, true).await;
    assert!(!retry.is_finished(), "the retry was answered before a standby had the flip");
    alter_system(&mut outside, "RESET synchronous_standby_names").await;
    let answer = with_timeout("the answer", retry).await.unwrap().unwrap();
    assert!(answer.metadata().contains_key("x-request-replayed"), "the first flip was not made");
}

/// Breaks the database, flips a flag, and returns the error and the line in the log.
async fn flip_on_broken_database(sql: &str, line: &str) -> tonic::Status {
    let database = Database::new(Backend::Postgres).await;
    let (mut server, mut log) = Server::launch_with_log(&database.url, &[]).await;
    server.ready().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let mut raw = Raw::connect(&database).await;
    raw.run(sql).await;
    let refused = with_timeout("an answer", admin.toggle.toggle_feature_flag(request())).await.unwrap_err();
    log.wait_for_line(line).await;
    // The committer lives on.
    admin.toggle.get_feature_flag(GetFeatureFlagRequest::default()).await.unwrap_err();
    let no_op = DisableFeatureFlagRequest {
        flag: Some(disable_feature_flag_request::Flag::Key("a".into())),
        ..Default::default()
    };
    with_timeout("a change of nothing", admin.toggle.disable_feature_flag(no_op)).await.unwrap();
    refused
}

/// The append says that the request exists, and nobody finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_that_cannot_be_read_fails_the_batch() {
    let sql = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'exists' USING ERRCODE = 'unique_violation', TABLE = 'requests', CONSTRAINT = 'requests_pkey';
        END $$;
        CREATE TRIGGER fail BEFORE INSERT ON requests FOR EACH ROW EXECUTE FUNCTION fail()";
    let refused = flip_on_broken_database(sql, "is reported as stored, and cannot be read").await;
    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
}

/// No entry can be dated after the end of time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_lost_races_fail_the_batch() {
    let sql = "UPDATE log_head SET closed_at = '9999-12-30 21:59:59.999999+00'";
    let refused = flip_on_broken_database(sql, "races for the head of the log").await;
    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
}
