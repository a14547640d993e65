//! Faults of PostgreSQL, and of the network between it and the server.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use toggled::api::pb::*;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Code;

use crate::load::{CLIENTS, Load};
use crate::support::postgres_proxy::{Link, PostgresProxy};
use crate::support::{Backend, Client, Cluster, Database, Server, TOKEN, alter_system, reason_of, with_timeout};
use crate::{FaultReport, RunLength};

/// How long the network stalls.
const STALL: Duration = Duration::from_secs(5);

/// Matches sessions of the server that wait for a lock.
const WAITS_FOR_LOCK: &str = "wait_event_type = 'Lock' AND application_name = 'toggled'";

/// Matches sessions whose COMMIT waits for a synchronous standby.
const WAITS_FOR_STANDBY: &str = "wait_event = 'SyncRep'";

/// A cluster of its own with a server, a proxy between them, and a load.
struct PostgresSetup {
    cluster: Cluster,
    database: Database,
    proxy: PostgresProxy,
    load: Load,
    server: Server,
}

impl PostgresSetup {
    async fn new(options: &str) -> Self {
        let cluster = Cluster::start(options).await;
        let database = Database::from_url(&cluster.new_database().await, Backend::Postgres);
        let proxy = PostgresProxy::new(&database).await;
        let server = Server::start(&proxy.database).await;
        let load = Load::start(&[server.address]).await;
        Self { cluster, database, proxy, load, server }
    }

    async fn finish(self, rounds: usize) -> FaultReport {
        let comparison = self.load.finish(&self.database.url).await;
        FaultReport::new(rounds, comparison)
    }

    /// A connection that bypasses the proxy and has no statement timeout.
    async fn connect_directly(&self) -> PgConnection {
        let options = PgConnectOptions::from_str(&self.database.url).unwrap();
        PgConnection::connect_with(&options.options([("statement_timeout", "0")])).await.unwrap()
    }

    /// Waits until at least `count` sessions match a condition on `pg_stat_activity`.
    async fn wait_for_sessions(&self, count: i64, condition: &str) {
        self.wait_until_true(&format!("SELECT count(*) >= {count} FROM pg_stat_activity WHERE {condition}")).await;
    }

    async fn wait_until_true(&self, sql: &str) {
        let mut direct = self.connect_directly().await;
        let asked = async {
            while !sqlx::query_scalar::<_, bool>(AssertSqlSafe(sql)).fetch_one(&mut direct).await.unwrap() {
                // PostgreSQL's statistics views have no notification, so poll.
                sleep(Duration::from_millis(5)).await;
            }
        };
        with_timeout(sql, asked).await;
        direct.close().await.unwrap();
    }

    async fn revision(&self) -> i64 {
        sqlx::query_scalar("SELECT revision FROM log_head").fetch_one(&mut self.connect_directly().await).await.unwrap()
    }

    /// Sets the link, and waits until it has dropped something.
    async fn drop_something(&self, link: Link) {
        let dropped = self.proxy.dropped();
        self.proxy.set(link);
        self.proxy.wait_until_dropped(dropped).await;
    }
}

/// Makes COMMITs wait for a standby that does not exist.
async fn require_missing_standby(admin: &mut PgConnection) {
    alter_system(admin, "SET synchronous_standby_names = 'nobody'").await;
}

async fn require_no_standby(admin: &mut PgConnection) {
    alter_system(admin, "RESET synchronous_standby_names").await;
}

pub async fn stopped(length: RunLength) -> FaultReport {
    let setup = PostgresSetup::new("").await;
    stop_and_start(setup, length.rounds(2, 20)).await
}

/// Stops PostgreSQL at once and starts it, again and again.
async fn stop_and_start(mut setup: PostgresSetup, rounds: usize) -> FaultReport {
    for _ in 0..rounds {
        setup.load.wait_for_some_flips().await;
        setup.cluster.command("stop").await;
        setup.cluster.command("start").await;
    }
    setup.finish(rounds).await
}

/// The role and the server's file ask for commits that PostgreSQL acknowledges before it has written them. It crashes before it
/// writes them by itself.
pub async fn asynchronous_commits(length: RunLength) -> FaultReport {
    let setup = PostgresSetup::new("-c wal_writer_delay=10s -c wal_writer_flush_after=1GB").await;
    let mut admin = setup.cluster.admin_connection().await;
    admin.execute("ALTER ROLE postgres SET synchronous_commit = off").await.unwrap();
    // The first round is about open sessions, which reload the file. Later ones begin with the role's setting.
    alter_system(&mut admin, "SET synchronous_commit = off").await;
    stop_and_start(setup, length.rounds(2, 20)).await
}

/// Connections are lost during appends, in each way that a network can lose them.
pub async fn cut(length: RunLength) -> FaultReport {
    let setup = PostgresSetup::new("").await;
    let rounds = length.rounds(8, 80);
    for number in 0..rounds {
        setup.load.wait_for_some_flips().await;
        match number % 4 {
            // The append waits for its lock. It is committed after the connection is gone.
            0 => {
                let held = setup.database.lock_head().await;
                setup.wait_for_sessions(1, WAITS_FOR_LOCK).await;
                setup.proxy.cut().await;
                drop(held);
            }
            // The append is committed, and the reply is lost.
            1 => {
                let held = setup.database.lock_head().await;
                setup.wait_for_sessions(1, WAITS_FOR_LOCK).await;
                let before = setup.revision().await;
                setup.proxy.set(Link::DropReplies);
                drop(held);
                setup.wait_until_true(&format!("SELECT revision > {before} FROM log_head")).await;
            }
            // The append does not reach the database.
            2 => setup.drop_something(Link::DropRequests).await,
            _ => setup.drop_something(Link::HalfClosed).await,
        }
        setup.proxy.cut().await;
    }
    setup.finish(rounds).await
}

/// The connection is cut while the COMMIT waits for a standby that does not answer.
pub async fn cut_in_commit(length: RunLength) -> FaultReport {
    let setup = PostgresSetup::new("").await;
    let mut admin = setup.cluster.admin_connection().await;
    let rounds = length.rounds(2, 20);
    for _ in 0..rounds {
        setup.load.wait_for_some_flips().await;
        require_missing_standby(&mut admin).await;
        setup.wait_for_sessions(1, WAITS_FOR_STANDBY).await;
        setup.proxy.cut().await;
        // The server has reconnected, and its second attempt waits for the first.
        setup.wait_for_sessions(1, WAITS_FOR_LOCK).await;
        require_no_standby(&mut admin).await;
    }
    setup.finish(rounds).await
}

/// The session whose COMMIT waits for the standby is terminated. Its change can be read then, but no standby has it. It must
/// not be acknowledged before one has.
pub async fn terminated_in_commit(length: RunLength) -> FaultReport {
    let setup = PostgresSetup::new("").await;
    let mut admin = setup.cluster.admin_connection().await;
    let rounds = length.rounds(2, 20);
    let end = format!("SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE {WAITS_FOR_STANDBY}");
    let mut early = 0;
    for _ in 0..rounds {
        setup.load.wait_for_some_flips().await;
        require_missing_standby(&mut admin).await;
        setup.wait_for_sessions(1, WAITS_FOR_STANDBY).await;
        // Changes up to here may have been acknowledged before the standby went missing.
        let before = setup.revision().await;
        let ended: Vec<(i32, bool)> = sqlx::query_as(AssertSqlSafe(end.as_str())).fetch_all(&mut admin).await.unwrap();
        let others: String = ended.iter().map(|(pid, _)| format!(" AND pid <> {pid}")).collect();
        // The server has found the change in the log, and its own write waits for the standby.
        setup.wait_for_sessions(1, &format!("{WAITS_FOR_STANDBY}{others}")).await;
        early += usize::from(setup.load.progress().newest > before);
        require_no_standby(&mut admin).await;
    }
    let mut report = setup.finish(rounds).await;
    if early > 0 {
        report.comparison.problems.push(format!("{early} changes were acknowledged before a standby had them"));
    }
    report
}

pub async fn slow(length: RunLength) -> FaultReport {
    let setup = PostgresSetup::new("").await;
    setup.proxy.set(Link::Slow);
    setup.load.wait_for_flips(length.rounds(50, 500)).await;
    setup.proxy.set(Link::Open);
    setup.finish(1).await
}

pub async fn stalled(length: RunLength) -> FaultReport {
    let setup = PostgresSetup::new("").await;
    let rounds = length.rounds(1, 10);
    for _ in 0..rounds {
        setup.load.wait_for_some_flips().await;
        setup.proxy.set(Link::Stalled);
        let before = setup.load.progress();
        // The sleep is the fault.
        sleep(STALL).await;
        // Each client may still have received an answer that was sent before the stall.
        assert!(setup.load.progress().flips() <= before.flips() + CLIENTS, "the network did not stall");
        setup.proxy.set(Link::Open);
    }
    setup.finish(rounds).await
}

/// Callers use up the four connections for look-ups, and one more is rejected. Flips continue.
pub async fn pool_exhausted(length: RunLength) -> FaultReport {
    let setup = PostgresSetup::new("").await;
    let rounds = length.rounds(1, 5);
    for _ in 0..rounds {
        let mut holder = setup.connect_directly().await;
        holder.execute("BEGIN; LOCK TABLE checkpoints IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let mut callers = JoinSet::new();
        for _ in 0..50 {
            let mut client = Client::connect(setup.server.address, Some(TOKEN)).await;
            callers.spawn(
                async move { client.audit.list_audit_checkpoints(ListAuditCheckpointsRequest::default()).await },
            );
        }
        setup.wait_for_sessions(4, "wait_event_type = 'Lock'").await;
        setup.load.wait_for_flips(200).await;
        let refused = with_timeout("a call to be rejected", callers.join_next()).await.unwrap().unwrap().unwrap_err();
        assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
        holder.execute("COMMIT").await.unwrap();
        for answer in callers.join_all().await {
            let refused = answer.err().map(|status| status.code());
            assert!(refused.is_none_or(|code| code == Code::Unavailable), "{refused:?}");
        }
    }
    setup.finish(rounds).await
}

/// Other clients take all connections, and the server loses its own.
pub async fn no_connections(length: RunLength) -> FaultReport {
    let setup = PostgresSetup::new("-c max_connections=40").await;
    let rounds = length.rounds(1, 5);
    let mut admin = setup.connect_directly().await;
    for _ in 0..rounds {
        setup.load.wait_for_some_flips().await;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'toggled'";
        let mut others = Vec::new();
        with_timeout("all connections to be taken", async {
            // Until the server has no connection, and there is no free one.
            while admin.execute(end).await.unwrap().rows_affected() > 0 || others.len() < 35 {
                while let Ok(other) = PgConnection::connect(&setup.database.url).await {
                    others.push(other);
                }
            }
        })
        .await;
        setup.load.wait_for_refusal(&setup.load.progress()).await;
        let before = setup.load.progress();
        setup.load.wait_for_refusal(&before).await;
        assert_eq!(setup.load.progress().flips(), before.flips(), "the server still had a connection");
        drop(others);
    }
    setup.finish(rounds).await
}

/// The database cancels statements of the server after its `statement_timeout`.
pub async fn statement_timeout(length: RunLength) -> FaultReport {
    let setup = PostgresSetup::new("").await;
    let mut admin = setup.cluster.admin_connection().await;
    admin.execute("SET statement_timeout = 0").await.unwrap();
    let rounds = length.rounds(2, 20);
    for _ in 0..rounds {
        setup.load.wait_for_some_flips().await;
        alter_system(&mut admin, "SET statement_timeout = '1s'").await;
        let (held, before) = (setup.database.lock_head().await, setup.load.progress());
        setup.wait_for_sessions(1, WAITS_FOR_LOCK).await;
        // This happens before the server's own lock timeout.
        setup.load.wait_for_refusal(&before).await;
        alter_system(&mut admin, "RESET statement_timeout").await;
        drop(held);
    }
    setup.finish(rounds).await
}

/// Another session takes the locks of an append in another order, until PostgreSQL ends the append.
pub async fn deadlock(length: RunLength) -> FaultReport {
    let setup = PostgresSetup::new("-c deadlock_timeout=500ms").await;
    let rounds = length.rounds(2, 20);
    let mut direct = setup.connect_directly().await;
    for _ in 0..rounds {
        setup.load.wait_for_some_flips().await;
        with_timeout("an append to be ended", async {
            loop {
                direct.execute("BEGIN; SET LOCAL deadlock_timeout = '10s'").await.unwrap();
                direct.execute("SELECT * FROM feature_flags FOR UPDATE").await.unwrap();
                // An append holds the head and waits for a flag.
                setup.wait_for_sessions(1, WAITS_FOR_LOCK).await;
                let survived = direct.execute("SELECT * FROM log_head FOR UPDATE").await.is_ok();
                direct.execute("ROLLBACK").await.unwrap();
                if survived {
                    return;
                }
            }
        })
        .await;
    }
    // The appends failed because of the deadlock, not because of the lock timeout.
    setup
        .wait_until_true(&format!(
            "SELECT deadlocks >= {rounds} FROM pg_stat_database WHERE datname = current_database()"
        ))
        .await;
    setup.finish(rounds).await
}

/// The database rejects some appends with a serialization failure.
pub async fn serialization(length: RunLength) -> FaultReport {
    let setup = PostgresSetup::new("").await;
    let mut direct = setup.connect_directly().await;
    direct
        .execute(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF random() < 0.2 THEN
                    RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '40001';
                END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER fail BEFORE UPDATE ON log_head FOR EACH ROW EXECUTE FUNCTION fail()",
        )
        .await
        .unwrap();
    let rounds = length.rounds(10, 200);
    for _ in 0..rounds {
        let before = setup.load.progress();
        setup.load.wait_for_refusal(&before).await;
    }
    direct.execute("DROP TRIGGER fail ON log_head").await.unwrap();
    setup.finish(rounds).await
}
