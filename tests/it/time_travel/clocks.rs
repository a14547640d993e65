//! The present is the database's, and the log may be ahead of it.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

use super::get_at;
use crate::store::raw::Raw;
use crate::support::{Backend, Database, Server, on_both_databases};

/// An hour from now.
fn in_an_hour() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3_600)
}

/// Servers whose own clocks are wrong agree, since only the database's counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_clock_dates_entries() {
    let database = Database::new(Backend::Postgres).await;
    let mut raw = Raw::connect(&database).await;
    // An hour ahead of the servers' clocks.
    raw.run(
        "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
         $$ SELECT pg_catalog.clock_timestamp() + interval '1 hour' $$;
         DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END $$",
    )
    .await;
    let servers = [Server::start(&database).await, Server::start(&database).await];
    let mut clients = [servers[0].admin().await, servers[1].admin().await];
    let began = in_an_hour();
    clients[0].create("a").await;
    for client in &mut clients {
        let entry = client.flip("a").await.audit_log.unwrap();
        for date in [entry.timestamp, entry.created_at] {
            let date = SystemTime::try_from(date.unwrap()).unwrap();
            let tolerance = Duration::from_secs(60);
            assert!(date + tolerance > began && date < in_an_hour() + tolerance, "{date:?}, began {began:?}");
        }
    }
    // A time that has not come yet by the clock of this machine.
    let soon = Timestamp::from(in_an_hour() - Duration::from_secs(60));
    for client in &mut clients {
        client.toggle.get_feature_flag(get_at("a", soon)).await.unwrap_err();
        let past = Timestamp::from(in_an_hour());
        assert!(client.toggle.get_feature_flag(get_at("a", past)).await.is_ok());
    }
}

on_both_databases! {
    /// As after the clock was set back: entries are dated after the closed time, logged once, and none is refused.
    async fn log_ahead_of_the_clock_stays_writable(backend: Backend) {
        let database = Database::new(backend).await;
        let (mut server, mut log) = Server::launch_with_log(&database.url, &[]).await;
        server.ready().await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let mut raw = Raw::connect(&database).await;
        let ahead = jiff::Timestamp::try_from(in_an_hour()).unwrap().as_microsecond();
        let closed = raw.time(toggled::domain::time::Timestamp::from_micros(ahead));
        raw.run(&format!("UPDATE log_head SET closed_at = {closed}")).await;
        for _ in 0..3 {
            let date = admin.flip("a").await.audit_log.unwrap().timestamp.unwrap();
            assert_eq!(date.seconds * 1_000_000 + i64::from(date.nanos / 1_000), ahead + 1);
        }
        // The present is closed, so nothing waits.
        let now = Timestamp::from(SystemTime::now());
        let then = admin.toggle.get_feature_flag(get_at("a", now)).await.unwrap().into_inner();
        admin.flip("a").await;
        assert_eq!(admin.toggle.get_feature_flag(get_at("a", now)).await.unwrap().into_inner(), then);
        log.wait_for_line("log is ahead of the clock").await;
        assert!(server.terminate().await.success());
        assert!(!log.rest().await.contains("log is ahead of the clock"), "logged twice");
    }
}
