//! Changes whose database is lost while they are written: their callers are told what became of them.

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

/// A server whose next flip of the flag `a` hangs in the database.
struct World {
    database: Database,
    proxy: PostgresProxy,
    admin: Client,
    held: Option<LockedHead>,
    _server: Server,
}

impl World {
    async fn new() -> Self {
        let (database, proxy) = Self::databases().await;
        let server = Server::start(&proxy.database).await;
        Self::with(database, proxy, server).await
    }

    /// The same, and what the server logs.
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

    /// Begins a flip, and waits until it is being written.
    async fn flip(&self) -> tokio::task::JoinHandle<Result<ToggleFeatureFlagResponse, tonic::Status>> {
        let mut admin = self.admin.clone();
        let flip =
            tokio::spawn(async move { admin.toggle.toggle_feature_flag(request()).await.map(|a| a.into_inner()) });
        self.held.as_ref().unwrap().wait_for_waiter().await;
        flip
    }

    /// Has what is being written be written without an answer: the database does not notice that nobody waits for one.
    async fn lose_the_answer(&mut self) {
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
async fn a_flip_whose_commit_ran_on_after_the_connection_was_lost_is_answered_as_made() {
    let mut world = World::new().await;
    let flip = world.flip().await;
    world.lose_the_answer().await;
    world.proxy.set(Link::Open);
    let answer = with_timeout("the answer", flip).await.unwrap().unwrap();
    assert_eq!(world.flips().await, [answer.audit_log.unwrap()]);
}

/// What it refuses says nothing of what it has written; it is asked on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flip_that_the_database_refuses_to_tell_of_for_a_while_is_answered_as_made() {
    let (mut world, mut log) = World::logged().await;
    let flip = world.flip().await;
    world.lose_the_answer().await;
    let mut raw = Raw::connect(&world.database).await;
    raw.run("ALTER TABLE audit_logs RENAME TO elsewhere").await;
    world.proxy.set(Link::Open);
    log.wait_for_line("\"audit_logs\" does not exist").await;
    raw.run("ALTER TABLE elsewhere RENAME TO audit_logs").await;
    let answer = with_timeout("the answer", flip).await.unwrap().unwrap();
    assert_eq!(world.flips().await, [answer.audit_log.unwrap()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flip_that_was_lost_with_the_connection_is_made_again_and_once() {
    let mut world = World::new().await;
    let flip = world.flip().await;
    world.database.end_connections().await;
    drop(world.held.take());
    let answer = with_timeout("the answer", flip).await.unwrap().unwrap();
    assert_eq!(world.flips().await, [answer.audit_log.unwrap()]);
}

/// Nobody can say, and so it is said; a retry finds out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flip_of_which_nothing_can_be_learnt_in_time_is_unknown_and_can_be_retried() {
    let mut world = World::new().await;
    let flip = world.flip().await;
    world.proxy.set(Link::Closed);
    // It is written all the same, and nobody hears of it.
    drop(world.held.take());
    let unknown = with_timeout("an answer", flip).await.unwrap().unwrap_err();
    assert_eq!((unknown.code(), reason_of(&unknown).as_str()), (Code::Unknown, "COMMIT_OUTCOME_UNKNOWN"));
    world.proxy.set(Link::Open);
    let answer = with_timeout("a retry to be answered", async {
        loop {
            if let Ok(answer) = world.admin.toggle.toggle_feature_flag(request()).await {
                return answer;
            }
        }
    })
    .await;
    assert!(answer.metadata().contains_key("x-request-replayed"), "the first was made after all");
    assert_eq!(world.flips().await, [answer.into_inner().audit_log.unwrap()]);
}

/// Waits for sessions whose COMMIT waits for a synchronous standby: whether there are any.
async fn until_commits_wait(outside: &mut PgConnection, any: bool) {
    let sql = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let asked = async { while sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut *outside).await.unwrap() != any {} };
    with_timeout("COMMITs to wait for a standby, or not to", asked).await;
}

/// It can be read, but nobody is told on the strength of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_of_what_no_standby_has_is_answered_when_one_has_it() {
    let cluster = Cluster::start("").await;
    let database = Database::from_url(&cluster.new_database().await, Backend::Postgres);
    let (one, other) = (Server::start(&database).await, Server::start(&database).await);
    let mut admin = one.admin().await;
    admin.create("a").await;
    let mut outside = cluster.admin_connection().await;
    alter_system(&mut outside, "SET synchronous_standby_names = 'nobody'").await;
    // It takes effect a moment later: the last of these flips is the first that waits.
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
    assert!(!retry.is_finished(), "no standby has it");
    alter_system(&mut outside, "RESET synchronous_standby_names").await;
    let answer = with_timeout("the answer", retry).await.unwrap().unwrap();
    assert!(answer.metadata().contains_key("x-request-replayed"), "it was made after all");
}
