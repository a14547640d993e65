//! Trimming the log: removed entries, kept entries, and readers of either.

use futures::future::join_all;
use toggled::api::pb::*;
use toggled::domain::advance::Proposal;
use toggled::domain::audit::Entry;
use toggled::domain::hash::GENESIS;
use toggled::domain::text::Reason;
use toggled::verify::Chain;
use tonic::transport::Endpoint;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::store::raw::Raw;
use crate::store::world::{self, World};
use crate::support::postgres_proxy::{Link, PostgresProxy};
use crate::support::{
    Backend, Client, Database, Server, TOKEN, on_both_databases, read_until_error, reason_of, with_timeout,
};

/// A request to trim the log through this entry.
fn through(entry: &AuditLog) -> TrimAuditLogsRequest {
    TrimAuditLogsRequest {
        through_revision: entry.revision,
        through_hash: entry.hash.clone(),
        reason: "older than a year".into(),
        ..Default::default()
    }
}

async fn trim(client: &mut Client, request: TrimAuditLogsRequest) -> TrimAuditLogsResponse {
    client.audit.trim_audit_logs(request).await.unwrap().into_inner()
}

/// Makes this many flips and returns the log.
async fn flips(admin: &mut Client, count: usize) -> Vec<AuditLog> {
    admin.create("a").await;
    for _ in 0..count {
        admin.flip("a").await;
    }
    admin.log().await
}

async fn concurrent_flips(admin: &Client, count: usize) {
    let flips = (0..count).map(|_| {
        let mut client = admin.clone();
        async move { client.flip("a").await }
    });
    join_all(flips).await;
}

async fn list(client: &mut Client, request: ListAuditLogsRequest) -> ListAuditLogsResponse {
    client.audit.list_audit_logs(request).await.unwrap().into_inner()
}

fn is_replay<T>(response: &Response<T>) -> bool {
    response.metadata().get("x-request-replayed").is_some_and(|value| value == "true")
}

/// Waits until no row up to the floor is left, and checks that all rows above it are there.
async fn until_removed(raw: &mut Raw, floor: i64) {
    let below = format!("SELECT count(*) FROM audit_logs WHERE revision <= {floor}");
    with_timeout("the rows to be removed", async { while raw.number(&below).await > 0 {} }).await;
    assert_eq!(raw.number("SELECT count(*) - (SELECT revision - floor FROM log_head) FROM audit_logs").await, 0);
}

/// The code, the reason, and the oldest revision, if the error has one.
fn error_of(status: &Status) -> (Code, String, Option<String>) {
    let oldest = status.get_details_error_info().and_then(|info| info.metadata.get("oldest_revision").cloned());
    (status.code(), reason_of(status), oldest)
}

fn too_old(oldest: i64) -> (Code, String, Option<String>) {
    (Code::OutOfRange, "CURSOR_TOO_OLD".into(), Some(oldest.to_string()))
}

fn refused(code: Code, reason: &str) -> (Code, String, Option<String>) {
    (code, reason.into(), None)
}

/// Asserts that this part of the log continues from the floor with correct hashes.
fn assert_continues(log_id: &str, floor: i64, hash: &[u8], log: &[AuditLog]) {
    let mut chain = Chain::after(log_id.parse().unwrap(), floor, hash.try_into().unwrap());
    for entry in log {
        chain.push(&Entry::try_from(entry).unwrap()).unwrap();
    }
}

on_both_databases! {
    async fn trim_removes_oldest_entries_and_records_the_floor(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut raw = Raw::connect(&database).await;
        let mut admin = server.admin().await;
        let log = flips(&mut admin, 20).await;
        let (last, end) = (&log[9], log.len() as i64);
        let done = trim(&mut admin, through(last)).await;
        assert_eq!((done.oldest_revision, done.revision), (11, end + 1));
        // The entries are gone at once, even if their rows are not removed yet.
        for gone in &log[..10] {
            let id = gone.id.clone();
            let error = admin.audit.get_audit_log(GetAuditLogRequest { id }).await.unwrap_err();
            assert_eq!(error_of(&error), refused(Code::NotFound, "AUDIT_LOG_NOT_FOUND"));
        }
        let entry = done.audit_log.unwrap();
        assert_eq!((entry.action_type.as_str(), entry.entity_type.as_str()), ("log_trimmed", "log"));
        assert_eq!((&entry.entity_key, entry.entity_name.as_str()), (entry.entity_id.as_ref().unwrap(), "audit log"));
        assert_eq!(entry.reason(), "older than a year");
        assert_eq!(entry.old_value(), format!("{{\"floor\":0,\"hash\":\"{}\"}}", hex::encode(GENESIS)));
        assert_eq!(entry.new_value(), format!("{{\"floor\":10,\"hash\":\"{}\"}}", hex::encode(&last.hash)));
        let rest = [&log[10..], std::slice::from_ref(&entry)].concat();
        assert_eq!(admin.log().await, rest);
        assert_continues(entry.entity_id(), 10, &last.hash, &rest);
        until_removed(&mut raw, 10).await;
        assert_eq!(admin.log().await, rest);
        assert_eq!(admin.get("a").await.revision, end, "the flag changed with its entries");

        // A second trim, through the last entry.
        let second = trim(&mut admin, through(&entry)).await;
        let kept = second.audit_log.unwrap();
        assert_eq!((second.oldest_revision, kept.old_value()), (kept.revision, entry.new_value()));
        until_removed(&mut raw, entry.revision).await;
        assert_eq!(admin.log().await, std::slice::from_ref(&kept));
        assert_continues(kept.entity_id(), entry.revision, &entry.hash, std::slice::from_ref(&kept));
        admin.flip("a").await;
    }

    async fn lists_after_a_trim_cover_only_kept_entries(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let log = flips(&mut admin, 20).await;
        let page = ListAuditLogsRequest { limit: Some(5), ..Default::default() };
        let before = list(&mut admin, page.clone()).await;
        let early = ListAuditLogsRequest { as_of_revision: Some(9), ..page.clone() };
        let early_page = list(&mut admin, early.clone()).await;
        assert_eq!(early_page.total, Some(9));
        trim(&mut admin, through(&log[9])).await;
        let rest: Vec<_> = admin.log().await.into_iter().rev().collect();
        let mut found = Vec::new();
        let mut request = page.clone();
        loop {
            let part = list(&mut admin, request).await;
            if found.is_empty() {
                assert_eq!(part.total, Some(rest.len() as i64));
            }
            found.extend(part.items);
            if part.next_page_token.is_empty() {
                break;
            }
            request = ListAuditLogsRequest { page_token: part.next_page_token, ..page.clone() };
        }
        assert_eq!(found, rest);
        let by_action = ListAuditLogsRequest { action_type: Some("toggle_enabled".into()), ..Default::default() };
        let enabled = rest.iter().filter(|entry| entry.action_type == "toggle_enabled").count();
        assert_eq!(list(&mut admin, by_action).await.total, Some(enabled as i64));
        let of_then = ListAuditLogsRequest { to_date: log[9].timestamp, ..Default::default() };
        assert!(list(&mut admin, of_then).await.items.iter().all(|entry| entry.revision > 10));

        // Paging continues with the kept entries. Paging below the floor is an error.
        let next_page = ListAuditLogsRequest { page_token: before.next_page_token, ..page.clone() };
        assert_eq!(list(&mut admin, next_page).await.items.len(), 5);
        let gone = ListAuditLogsRequest { page_token: early_page.next_page_token, ..page.clone() };
        for request in [early, gone] {
            let error = admin.audit.list_audit_logs(request).await.unwrap_err();
            assert_eq!(error_of(&error), too_old(11));
        }
        let at = list(&mut admin, ListAuditLogsRequest { as_of_revision: Some(10), ..page.clone() }).await;
        assert_eq!((at.items.len(), at.total), (0, Some(0)));
        let next = list(&mut admin, ListAuditLogsRequest { as_of_revision: Some(11), ..page }).await;
        assert_eq!((&next.items[..], next.total), (&log[10..11], Some(1)));
    }

    async fn trim_with_wrong_revision_or_hash_is_refused(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut raw = Raw::connect(&database).await;
        let mut admin = server.admin().await;
        let log = flips(&mut admin, 10).await;
        trim(&mut admin, through(&log[4])).await;
        let head = log.len() as i64 + 1;
        let good = through(&log[7]);
        let other_hash = TrimAuditLogsRequest { through_hash: vec![7; 32], ..good.clone() };
        let future = TrimAuditLogsRequest { through_revision: head + 1, ..good.clone() };
        for (request, expected) in [
            (other_hash, refused(Code::FailedPrecondition, "LOG_MISMATCH")),
            (future, refused(Code::OutOfRange, "CURSOR_IN_FUTURE")),
            (through(&log[4]), too_old(6)),
            (through(&log[2]), too_old(6)),
        ] {
            let error = admin.audit.trim_audit_logs(request.clone()).await.unwrap_err();
            assert_eq!(error_of(&error), expected, "{request:?}");
        }
        let empty = admin.audit.trim_audit_logs(TrimAuditLogsRequest::default()).await.unwrap_err();
        let bad: Vec<_> = empty.get_details_bad_request().unwrap().field_violations;
        let fields: Vec<_> = bad.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!((empty.code(), fields), (Code::InvalidArgument, vec!["through_revision", "through_hash"]));
        let checked = trim(&mut admin, TrimAuditLogsRequest { validate_only: true, ..good.clone() }).await;
        assert_eq!((checked.oldest_revision, checked.audit_log, checked.revision), (9, None, head));
        assert_eq!(raw.number("SELECT floor FROM log_head").await, 5);
        assert_eq!(admin.log().await.len() as i64, head - 5);

        let all_else = ["manage_access", "manage_feature_flags", "toggle_feature_flags", "view_audit_logs"];
        let ann = admin.new_user("ann@example.com", &all_else).await;
        let error = server.client(Some(&ann)).await.audit.trim_audit_logs(good.clone()).await.unwrap_err();
        assert_eq!(error.message(), "Insufficient permissions: manage_audit_retention required");
        let bob = admin.new_user("bob@example.com", &["manage_audit_retention"]).await;
        let done = trim(&mut server.client(Some(&bob)).await, good).await;
        assert_eq!(done.audit_log.unwrap().user_email, "bob@example.com");
    }

    async fn retried_trim_is_replayed_after_removal(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut raw = Raw::connect(&database).await;
        let mut admin = server.admin().await;
        let log = flips(&mut admin, 10).await;
        let named = |entry| TrimAuditLogsRequest { request_id: Some("trim".into()), ..through(entry) };
        let first = admin.audit.trim_audit_logs(named(&log[4])).await.unwrap();
        until_removed(&mut raw, 5).await;
        let again = admin.audit.trim_audit_logs(named(&log[4])).await.unwrap();
        assert!(is_replay(&again) && !is_replay(&first));
        assert_eq!(again.get_ref(), first.get_ref());
        let error = admin.audit.trim_audit_logs(named(&log[7])).await.unwrap_err();
        assert_eq!(error_of(&error), refused(Code::FailedPrecondition, "REQUEST_ID_REUSED"));
        assert_eq!(raw.number("SELECT floor FROM log_head").await, 5);
    }

    async fn stream_resumes_at_the_floor_but_not_below(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut raw = Raw::connect(&database).await;
        let mut admin = server.admin().await;
        let log = flips(&mut admin, 20).await;
        let beyond = StreamAuditLogsRequest { after_revision: Some(12), follow: true, ..Default::default() };
        let mut beyond = admin.audit.stream_audit_logs(beyond).await.unwrap().into_inner();
        let mut seen = with_timeout("a part", beyond.message()).await.unwrap().unwrap().items;
        trim(&mut admin, through(&log[9])).await;
        until_removed(&mut raw, 10).await;
        admin.flip("a").await;
        let rest = admin.log().await;
        assert_eq!(rest[0], log[10], "a stream without a cursor starts at the oldest kept entry");
        with_timeout("later entries", async {
            while seen.len() < rest.len() - 2 {
                seen.extend(beyond.message().await.unwrap().unwrap().items);
            }
        })
        .await;
        assert_eq!(seen, rest[2..], "the open stream missed an entry");

        let after = |revision: i64, hash: &[u8]| StreamAuditLogsRequest {
            after_revision: Some(revision),
            after_hash: Some(hash.to_vec()),
            ..Default::default()
        };
        let mut at = admin.audit.stream_audit_logs(after(10, &log[9].hash)).await.unwrap().into_inner();
        assert_eq!(at.message().await.unwrap().unwrap().items, rest);
        for (request, expected) in [
            (after(10, &[7; 32]), refused(Code::FailedPrecondition, "LOG_MISMATCH")),
            (after(10, &GENESIS), refused(Code::FailedPrecondition, "LOG_MISMATCH")),
            (after(9, &log[8].hash), too_old(11)),
            (after(0, &GENESIS), too_old(11)),
        ] {
            let error = admin.audit.stream_audit_logs(request.clone()).await.unwrap_err();
            assert_eq!(error_of(&error), expected, "{request:?}");
        }
    }

    async fn stream_overtaken_by_trim_ends_without_gap(backend: Backend) {
        let mut world = World::empty(backend).await;
        world.commit(&[world::service(world::create("a"))]).await;
        let reason = Some(Reason::parse(&"x".repeat(500)).unwrap());
        world.lengthen(Proposal { reason, ..world::service(world::toggle("a")) }, 4_300).await;
        let server = Server::start(&world.database).await;
        // The stream's window is 64 KiB, and a page of 500 entries is several times that. One page is in flight, the transport
        // holds the next, and the server reads one ahead. So it has read at most four pages when the client has the first.
        let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap().initial_stream_window_size(65_535);
        let mut admin = Client::with_channel(with_timeout("a connection", endpoint.connect()).await.unwrap(), Some(TOKEN));
        let log = admin.log().await;
        for follow in [false, true] {
            let from = admin.log().await[0].revision;
            let request = StreamAuditLogsRequest { follow, ..Default::default() };
            let mut slow = admin.audit.stream_audit_logs(request).await.unwrap().into_inner();
            let first = with_timeout("a part", slow.message()).await.unwrap().unwrap().items;
            let last = if follow { log.len() - 1 } else { 2_100 };
            trim(&mut admin, through(&log[last])).await;
            let mut expected = from..;
            assert!(first.iter().all(|entry| Some(entry.revision) == expected.next()));
            let ended = with_timeout("the end", async {
                loop {
                    match slow.message().await {
                        Ok(part) => {
                            let items = part.expect("the stream ended as if it were complete").items;
                            assert!(items.iter().all(|entry| Some(entry.revision) == expected.next()), "a gap");
                        }
                        Err(status) => return status,
                    }
                }
            })
            .await;
            assert_eq!(error_of(&ended), too_old(log[last].revision + 1));
        }
    }

    async fn flips_continue_while_rows_are_removed(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut raw = Raw::connect(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        for _ in 0..15 {
            concurrent_flips(&admin, 100).await;
        }
        let log = admin.log().await;
        let last = log.last().unwrap();
        let mut other = admin.clone();
        let (trimmed, ()) = tokio::join!(trim(&mut other, through(last)), async {
            for _ in 0..5 {
                concurrent_flips(&admin, 50).await;
            }
        });
        until_removed(&mut raw, last.revision).await;
        let rest = admin.log().await;
        assert_eq!(rest.len(), 251);
        assert_continues(trimmed.audit_log.unwrap().entity_id(), last.revision, &last.hash, &rest);
    }

    async fn watch_from_below_the_floor_gets_changed_flags(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("b").await;
        let log = flips(&mut admin, 5).await;
        trim(&mut admin, through(log.last().unwrap())).await;
        let flipped = admin.flip("b").await.feature_flag.unwrap();
        for (seen, expected) in [(&log[2], vec!["a", "b"]), (log.last().unwrap(), vec!["b"])] {
            let request = WatchFeatureFlagsRequest {
                after_revision: Some(seen.revision),
                after_hash: seen.hash.clone(),
                ..Default::default()
            };
            let mut stream = admin.toggle.watch_feature_flags(request).await.unwrap().into_inner();
            let first = stream.message().await.unwrap().unwrap();
            let mut keys: Vec<_> = first.feature_flags.iter().map(|flag| flag.key.as_str()).collect();
            keys.sort();
            assert_eq!((keys, first.caught_up), (expected, true));
            assert!(first.feature_flags.contains(&flipped), "the flag is not in its current state");
        }
        let forged = WatchFeatureFlagsRequest {
            after_revision: Some(log.len() as i64),
            after_hash: vec![7; 32],
            ..Default::default()
        };
        let mut stream = admin.toggle.watch_feature_flags(forged).await;
        let error = match &mut stream {
            Ok(stream) => read_until_error(stream.get_mut()).await,
            Err(status) => status.clone(),
        };
        assert_eq!(reason_of(&error), "LOG_MISMATCH", "the hash of the floor was not checked");
    }
}

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
