//! Once the service has answered for a time, that answer never changes, on any replica.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use toggled::api::pb::*;
use tonic::{Code, Request};
use tonic_types::StatusExt;

use super::{assert_fails, get_at};
use crate::store::raw::Raw;
use crate::support::{Backend, Client, Database, Server, on_both_databases, with_timeout};

/// The present, in microseconds as the service counts.
fn now() -> Timestamp {
    let now = Timestamp::from(SystemTime::now());
    Timestamp { nanos: now.nanos / 1_000 * 1_000, ..now }
}

fn microsecond_after(time: Timestamp) -> Timestamp {
    let mut next = Timestamp { nanos: time.nanos + 1_000, ..time };
    next.normalize();
    next
}

fn until(to: Timestamp) -> ListAuditLogsRequest {
    ListAuditLogsRequest { to_date: Some(to), ..Default::default() }
}

async fn listed(client: &mut Client, request: ListAuditLogsRequest) -> ListAuditLogsResponse {
    client.audit.list_audit_logs(request).await.unwrap().into_inner()
}

/// The revisions from one time to another.
async fn revisions(client: &mut Client, from: Timestamp, to: Timestamp) -> BTreeSet<i64> {
    let first = ListAuditLogsRequest { from_date: Some(from), limit: Some(100), ..until(to) };
    let (mut request, mut found) = (first.clone(), BTreeSet::new());
    loop {
        let page = listed(client, request).await;
        found.extend(page.items.iter().map(|entry| entry.revision));
        if page.next_page_token.is_empty() {
            return found;
        }
        request = ListAuditLogsRequest { page_token: page.next_page_token, ..first.clone() };
    }
}

/// An entry is dated when it is decided, and can be read only later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answer_waits_for_entries_that_are_being_written() {
    let database = Database::new(Backend::Postgres).await;
    let (server, other) = (Server::start(&database).await, Server::start(&database).await);
    let (mut admin, mut reader) = (server.admin().await, other.admin().await);
    admin.create("a").await;
    let held = database.lock_head().await;
    let flip = {
        let mut admin = admin.clone();
        tokio::spawn(async move { admin.flip("a").await })
    };
    held.wait_for_waiter().await;
    let asked = now();
    for client in [&mut admin, &mut reader] {
        // No answer is possible yet. The client's own timer may be the first.
        let mut request = Request::new(get_at("a", asked));
        request.set_timeout(Duration::from_millis(300));
        let late = client.toggle.get_feature_flag(request).await.unwrap_err();
        assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late}");
    }
    let questions = [admin.clone(), reader.clone()].map(|mut client| {
        tokio::spawn(async move {
            let flag = client.toggle.get_feature_flag(get_at("a", asked)).await.unwrap().into_inner();
            (flag, listed(&mut client, until(asked)).await.items)
        })
    });
    drop(held);
    let flip = with_timeout("the flip", flip).await.unwrap();
    let is_before =
        flip.audit_log.as_ref().unwrap().timestamp.is_some_and(|date| {
            date.seconds < asked.seconds || date.seconds == asked.seconds && date.nanos <= asked.nanos
        });
    for question in questions {
        let (flag, items) = with_timeout("an answer", question).await.unwrap();
        assert_eq!((flag.revision == flip.revision, items[0].revision == flip.revision), (is_before, is_before));
        for client in [&mut admin, &mut reader] {
            let again = client.toggle.get_feature_flag(get_at("a", asked)).await.unwrap().into_inner();
            assert_eq!((&again, &listed(client, until(asked)).await.items), (&flag, &items));
        }
    }
}

/// Flips flags until `stop` is set.
fn flip_all_the_time(client: &Client, stop: &Arc<AtomicBool>) -> Vec<tokio::task::JoinHandle<()>> {
    let flips = ["a", "b", "c", "d"].map(|key| {
        let (mut client, stop) = (client.clone(), Arc::clone(stop));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                client.flip(key).await;
            }
        })
    });
    flips.into()
}

on_both_databases! {
    /// Readers who poll by time see every entry exactly once.
    async fn consecutive_windows_miss_nothing(backend: Backend) {
        let database = Database::new(backend).await;
        let servers = [Server::start(&database).await, Server::start(&database).await];
        let mut clients = [servers[0].admin().await, servers[1].admin().await];
        for key in ["a", "b", "c", "d"] {
            clients[0].create(key).await;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let flips = flip_all_the_time(&clients[0], &stop);
        let (mut from, mut seen) = (Timestamp::default(), BTreeSet::new());
        for round in 0..40 {
            let to = now();
            let window = revisions(&mut clients[round % 2], from, to).await;
            assert!(window.is_disjoint(&seen));
            seen.extend(window);
            from = microsecond_after(to);
        }
        stop.store(true, Ordering::Relaxed);
        for flip in flips {
            with_timeout("a flip", flip).await.unwrap();
        }
        seen.extend(revisions(&mut clients[1], from, now()).await);
        let last = clients[0].log().await.last().unwrap().revision;
        assert_eq!(seen.len() as i64, last, "missed {:?}", (1..=last).filter(|n| !seen.contains(n)).collect::<Vec<_>>());
        assert!(last > 40, "{last} entries");
    }

    async fn time_just_ahead_is_awaited(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let created = admin.create("a").await;
        let soon = Timestamp::from(SystemTime::now() + Duration::from_millis(400));
        let answer = admin.toggle.get_feature_flag(get_at("a", soon)).await.unwrap().into_inner();
        assert_eq!(answer.feature_flag, Some(created));
        assert!(SystemTime::now() > SystemTime::try_from(soon).unwrap(), "answered for the future");
        assert!(admin.flip("a").await.audit_log.unwrap().timestamp.unwrap().nanos != soon.nanos);
        let again = admin.toggle.get_feature_flag(get_at("a", soon)).await.unwrap().into_inner();
        assert_eq!(again, answer);
    }

    /// Only a stream that goes on until then may ask about the future.
    async fn time_far_ahead_is_refused(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let later = Some(Timestamp::from(SystemTime::now() + Duration::from_secs(60)));
        let list = ListAuditLogsRequest { to_date: later, ..Default::default() };
        let stream = StreamAuditLogsRequest { to_date: later, ..Default::default() };
        let refused = [
            admin.audit.list_audit_logs(list).await.map(drop).unwrap_err(),
            admin.audit.stream_audit_logs(stream.clone()).await.map(drop).unwrap_err(),
        ];
        for refused in refused {
            assert_fails(&refused, Code::InvalidArgument, "INVALID_FIELD");
            assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, "to_date");
        }
        let follow = StreamAuditLogsRequest { follow: true, ..stream };
        let mut stream = admin.audit.stream_audit_logs(follow).await.unwrap().into_inner();
        assert!(!with_timeout("the entries", stream.message()).await.unwrap().unwrap().items.is_empty());
        // A page that is anchored at a revision does not depend on the present.
        let anchored = ListAuditLogsRequest { to_date: later, as_of_revision: Some(1), ..Default::default() };
        assert_eq!(listed(&mut admin, anchored).await.items.len(), 1);
    }
}

/// What is closed stays answered; anything later cannot be promised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_only_database_answers_closed_times() {
    let database = Database::new(Backend::Postgres).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let closed = now();
    let answer = admin.toggle.get_feature_flag(get_at("a", closed)).await.unwrap().into_inner();
    let mut raw = Raw::connect(&database).await;
    raw.run(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'read-only' USING ERRCODE = '25006'; END $$;
         CREATE TRIGGER fail BEFORE UPDATE ON log_head FOR EACH ROW EXECUTE FUNCTION fail()",
    )
    .await;
    assert_eq!(admin.toggle.get_feature_flag(get_at("a", closed)).await.unwrap().into_inner(), answer);
    for _ in 0..2 {
        let refused = admin.toggle.get_feature_flag(get_at("a", now())).await.unwrap_err();
        assert_fails(&refused, Code::Unavailable, "DATABASE_UNAVAILABLE");
        let refused = admin.audit.list_audit_logs(until(now())).await.unwrap_err();
        assert_fails(&refused, Code::Unavailable, "DATABASE_UNAVAILABLE");
    }
    raw.run("DROP TRIGGER fail ON log_head").await;
    assert_eq!(admin.toggle.get_feature_flag(get_at("a", now())).await.unwrap().into_inner(), answer);
}
