//! A PostgreSQL that fails, hangs, or refuses, and the line to it.

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
use crate::{Form, Outcome};

/// How long nothing comes through in a stall.
const STALL: Duration = Duration::from_secs(5);

/// The server waits for a lock.
const WAITS: &str = "wait_event_type = 'Lock' AND application_name = 'toggled'";

/// A COMMIT waits for a synchronous standby.
const COMMITS: &str = "wait_event = 'SyncRep'";

/// A cluster of its own, a server on it, and a load.
struct World {
    cluster: Cluster,
    database: Database,
    proxy: PostgresProxy,
    load: Load,
    server: Server,
}

impl World {
    async fn new(options: &str) -> Self {
        let cluster = Cluster::start(options).await;
        let database = Database::from_url(&cluster.new_database().await, Backend::Postgres);
        let proxy = PostgresProxy::new(&database).await;
        let server = Server::start(&proxy.database).await;
        let load = Load::start(&[server.address]).await;
        Self { cluster, database, proxy, load, server }
    }

    async fn outcome(self, times: usize) -> Outcome {
        let verdict = self.load.finish(&self.database.url).await;
        Outcome::of(times, verdict)
    }

    /// A connection that is not the server's, and is patient.
    async fn outside(&self) -> PgConnection {
        let options = PgConnectOptions::from_str(&self.database.url).unwrap();
        PgConnection::connect_with(&options.options([("statement_timeout", "0")])).await.unwrap()
    }

    /// Waits until so many sessions are as `what` says.
    async fn until_sessions(&self, least: i64, what: &str) {
        self.until(&format!("SELECT count(*) >= {least} FROM pg_stat_activity WHERE {what}")).await;
    }

    async fn until(&self, sql: &str) {
        let mut outside = self.outside().await;
        let asked = async {
            while !sqlx::query_scalar::<_, bool>(AssertSqlSafe(sql)).fetch_one(&mut outside).await.unwrap() {
                // What PostgreSQL tells of itself is looked at again after a moment.
                sleep(Duration::from_millis(5)).await;
            }
        };
        with_timeout(sql, asked).await;
        outside.close().await.unwrap();
    }

    async fn revision(&self) -> i64 {
        sqlx::query_scalar("SELECT revision FROM log_head").fetch_one(&mut self.outside().await).await.unwrap()
    }

    /// Lets the line lose something.
    async fn lose(&self, line: Link) {
        let lost = self.proxy.dropped();
        self.proxy.set(line);
        self.proxy.wait_until_dropped(lost).await;
    }

    /// Lets nothing be acknowledged by a standby, or whatever the configuration says again.
    async fn standby(&self, admin: &mut PgConnection, is_missing: bool) {
        let sql =
            if is_missing { "SET synchronous_standby_names = 'nobody'" } else { "RESET synchronous_standby_names" };
        alter_system(admin, sql).await;
    }
}

pub async fn stopped(form: Form) -> Outcome {
    let mut world = World::new("").await;
    let times = form.times(2, 20);
    for _ in 0..times {
        world.load.a_while().await;
        world.cluster.command("stop").await;
        world.cluster.command("start").await;
    }
    world.outcome(times).await
}

/// In the middle of appends, in every way that a line can be lost.
pub async fn cut(form: Form) -> Outcome {
    let world = World::new("").await;
    let times = form.times(8, 80);
    for number in 0..times {
        world.load.a_while().await;
        match number % 4 {
            // The append waits for its lock, and is made once it has that, for nobody.
            0 => {
                let held = world.database.lock_head().await;
                world.until_sessions(1, WAITS).await;
                world.proxy.cut().await;
                drop(held);
            }
            // It is made, and nobody is told.
            1 => {
                let held = world.database.lock_head().await;
                world.until_sessions(1, WAITS).await;
                let before = world.revision().await;
                world.proxy.set(Link::DropReplies);
                drop(held);
                world.until(&format!("SELECT revision > {before} FROM log_head")).await;
            }
            // It does not arrive.
            2 => world.lose(Link::DropRequests).await,
            _ => world.lose(Link::HalfClosed).await,
        }
        world.proxy.cut().await;
    }
    world.outcome(times).await
}

/// Nobody acknowledges what is committed, as when the standby is gone: the COMMIT runs, and the line to the server ends.
pub async fn cut_in_commit(form: Form) -> Outcome {
    let world = World::new("").await;
    let mut admin = world.cluster.admin_connection().await;
    let times = form.times(2, 20);
    for _ in 0..times {
        world.load.a_while().await;
        world.standby(&mut admin, true).await;
        world.until_sessions(1, COMMITS).await;
        world.proxy.cut().await;
        // The server has come back, and its second attempt waits for the first.
        world.until_sessions(1, WAITS).await;
        world.standby(&mut admin, false).await;
    }
    world.outcome(times).await
}

/// The same, and the session that waits for the standby is ended: what it has committed can be read then, and no standby has
/// it. Nobody may be told that it was made before one has.
pub async fn ended_in_commit(form: Form) -> Outcome {
    let world = World::new("").await;
    let mut admin = world.cluster.admin_connection().await;
    let times = form.times(2, 20);
    let end = format!("SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE {COMMITS}");
    let mut early = 0;
    for _ in 0..times {
        world.load.a_while().await;
        world.standby(&mut admin, true).await;
        world.until_sessions(1, COMMITS).await;
        // What stands in the log by now was acknowledged when it still might be.
        let before = world.revision().await;
        let ended: Vec<(i32, bool)> = sqlx::query_as(AssertSqlSafe(end.as_str())).fetch_all(&mut admin).await.unwrap();
        let others: String = ended.iter().map(|(pid, _)| format!(" AND pid <> {pid}")).collect();
        // The server has found what it was not told of, and waits in its turn.
        world.until_sessions(1, &format!("{COMMITS}{others}")).await;
        early += usize::from(world.load.told().newest > before);
        world.standby(&mut admin, false).await;
    }
    let mut outcome = world.outcome(times).await;
    if early > 0 {
        outcome.verdict.problems.push(format!("{early} times something was acknowledged that no standby had"));
    }
    outcome
}

pub async fn slow(form: Form) -> Outcome {
    let world = World::new("").await;
    world.proxy.set(Link::Slow);
    world.load.some(form.times(50, 500)).await;
    world.proxy.set(Link::Open);
    world.outcome(1).await
}

pub async fn stalled(form: Form) -> Outcome {
    let world = World::new("").await;
    let times = form.times(1, 10);
    for _ in 0..times {
        world.load.a_while().await;
        world.proxy.set(Link::Stalled);
        let before = world.load.told();
        // The fault itself is that this passes.
        sleep(STALL).await;
        // What was answered already may have come.
        assert!(world.load.told().flips() <= before.flips() + CLIENTS, "the line was not silent");
        world.proxy.set(Link::Open);
    }
    world.outcome(times).await
}

/// Callers hold all connections that there are for reading the log, and one more is turned away; flips go on.
pub async fn pool_exhausted(form: Form) -> Outcome {
    let world = World::new("").await;
    let times = form.times(1, 5);
    for _ in 0..times {
        let mut holder = world.outside().await;
        holder.execute("BEGIN; LOCK TABLE checkpoints IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let mut callers = JoinSet::new();
        for _ in 0..50 {
            let mut client = Client::connect(world.server.address, Some(TOKEN)).await;
            callers.spawn(
                async move { client.audit.list_audit_checkpoints(ListAuditCheckpointsRequest::default()).await },
            );
        }
        world.until_sessions(8, "wait_event_type = 'Lock'").await;
        world.load.some(200).await;
        let refused =
            with_timeout("a caller to be turned away", callers.join_next()).await.unwrap().unwrap().unwrap_err();
        assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
        holder.execute("COMMIT").await.unwrap();
        for answer in callers.join_all().await {
            let refused = answer.err().map(|status| status.code());
            assert!(refused.is_none_or(|code| code == Code::Unavailable), "{refused:?}");
        }
    }
    world.outcome(times).await
}

/// Others take all connections, and the server loses its own.
pub async fn no_connections(form: Form) -> Outcome {
    let world = World::new("-c max_connections=40").await;
    let times = form.times(1, 5);
    let mut admin = world.outside().await;
    for _ in 0..times {
        world.load.a_while().await;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'toggled'";
        let mut others = Vec::new();
        with_timeout("all connections to be taken", async {
            // Until there is none to end, and none to be had.
            while admin.execute(end).await.unwrap().rows_affected() > 0 || others.len() < 35 {
                while let Ok(other) = PgConnection::connect(&world.database.url).await {
                    others.push(other);
                }
            }
        })
        .await;
        world.load.until_refused(&world.load.told()).await;
        let before = world.load.told();
        world.load.until_refused(&before).await;
        assert_eq!(world.load.told().flips(), before.flips(), "there were connections left");
        drop(others);
    }
    world.outcome(times).await
}

/// The database gives up on statements that the server waits for.
pub async fn statement_timeout(form: Form) -> Outcome {
    let world = World::new("").await;
    let mut admin = world.cluster.admin_connection().await;
    admin.execute("SET statement_timeout = 0").await.unwrap();
    let times = form.times(2, 20);
    for _ in 0..times {
        world.load.a_while().await;
        alter_system(&mut admin, "SET statement_timeout = '1s'").await;
        let (held, before) = (world.database.lock_head().await, world.load.told());
        world.until_sessions(1, WAITS).await;
        // Sooner than the server would give up on the lock itself.
        world.load.until_refused(&before).await;
        alter_system(&mut admin, "RESET statement_timeout").await;
        drop(held);
    }
    world.outcome(times).await
}

/// Somebody locks what an append needs, in another order, until an append was the one to be ended.
pub async fn deadlock(form: Form) -> Outcome {
    let world = World::new("-c deadlock_timeout=500ms").await;
    let times = form.times(2, 20);
    let mut outside = world.outside().await;
    for _ in 0..times {
        world.load.a_while().await;
        with_timeout("an append to be ended", async {
            loop {
                outside.execute("BEGIN; SET LOCAL deadlock_timeout = '10s'").await.unwrap();
                outside.execute("SELECT * FROM feature_flags FOR UPDATE").await.unwrap();
                // An append has the head and waits for a flag.
                world.until_sessions(1, WAITS).await;
                let survived = outside.execute("SELECT * FROM log_head FOR UPDATE").await.is_ok();
                outside.execute("ROLLBACK").await.unwrap();
                if survived {
                    return;
                }
            }
        })
        .await;
    }
    // And for this reason, not because it had waited for long enough.
    world.until(&format!("SELECT deadlocks >= {times} FROM pg_stat_database WHERE datname = current_database()")).await;
    world.outcome(times).await
}

/// The database says of some appends that they could not be serialized.
pub async fn serialization(form: Form) -> Outcome {
    let world = World::new("").await;
    let mut outside = world.outside().await;
    outside
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
    let times = form.times(10, 200);
    for _ in 0..times {
        let before = world.load.told();
        world.load.until_refused(&before).await;
    }
    outside.execute("DROP TRIGGER fail ON log_head").await.unwrap();
    world.outcome(times).await
}
