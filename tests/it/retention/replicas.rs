//! Two servers whose log is trimmed.

use toggled::api::pb::*;
use uuid::Uuid;

use crate::store::raw::Raw;
use crate::support::postgres_proxy::{Link, PostgresProxy};
use crate::support::{Backend, Database, Server, with_timeout};

use super::{flips, through, trim, until_removed};

/// A server loses its connection, and the log is trimmed beyond the server's revision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_below_floor_catches_up_and_keeps_watches() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    let first_server = Server::start(&database).await;
    let second_server = Server::start_with(&proxy.database, &[("TOGGLED_POLL_INTERVAL", "50ms")]).await;
    let mut admin = first_server.admin().await;
    flips(&mut admin, 5).await;
    admin.create("b").await;
    let log = admin.log().await;
    let mut away = second_server.admin().await;
    let mut watching = away.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await.unwrap().into_inner();
    with_timeout("everything", async {
        while watching.message().await.unwrap().unwrap().revision < log.len() as i64 {}
    })
    .await;
    proxy.set(Link::Closed);
    admin.flip("a").await;
    let last = admin.log().await.pop().unwrap();
    trim(&mut admin, through(&last)).await;
    until_removed(&mut Raw::connect(&database).await, last.revision).await;
    proxy.set(Link::Open);
    let changed = with_timeout("the change", async {
        loop {
            let message = watching.message().await.unwrap().unwrap();
            if !message.feature_flags.is_empty() {
                return message.feature_flags;
            }
        }
    })
    .await;
    assert_eq!(changed.iter().map(|flag| flag.key.as_str()).collect::<Vec<_>>(), ["a"], "other flags were sent");
    assert_eq!(away.get("a").await, admin.get("a").await);
    assert!(Uuid::try_parse(&changed[0].id).is_ok());
}

/// Both servers remove rows. None is left, and neither disturbs the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_remove_rows_concurrently() {
    let database = Database::new(Backend::Postgres).await;
    let (first_server, second_server) = (Server::start(&database).await, Server::start(&database).await);
    let mut raw = Raw::connect(&database).await;
    let (mut admin, mut other) = (first_server.admin().await, second_server.admin().await);
    let log = flips(&mut admin, 40).await;
    for last in [&log[9], &log[19], &log[29]] {
        trim(&mut admin, through(last)).await;
        assert_eq!(other.log().await[0].revision, last.revision + 1, "the other server still lists trimmed entries");
        until_removed(&mut raw, last.revision).await;
    }
    other.flip("a").await;
    assert_eq!(admin.log().await, other.log().await);
}
