//! Two servers on one PostgreSQL database, and a server during an outage of its database.

use toggled::api::pb::flagd::evaluation::{v1, v2};
use toggled::api::pb::flagd::sync::v1 as sync;
use toggled::api::pb::*;
use tonic::{Code, Status, Streaming};

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::events::{Events, bulk};
use crate::support::http::Http;
use crate::support::postgres_proxy::{Link, PostgresProxy};
use crate::support::web::Web;
use crate::support::{
    Backend, Client, Database, RARE_POLLS, Server, TOKEN, methods, read_until_error, reason_of, toggle, with_deadline,
    with_timeout,
};

/// Detects a database outage within seconds, but not merely because the machine is busy.
const SHORT_STALENESS: [(&str, &str); 2] = [("TOGGLED_POLL_INTERVAL", "50ms"), ("TOGGLED_MAX_STALENESS", "5s")];

type WatchStream = Streaming<WatchFeatureFlagsResponse>;

/// A watch that has caught up.
async fn watch(client: &mut Client) -> WatchStream {
    let request = WatchFeatureFlagsRequest::default();
    let mut stream = client.toggle.watch_feature_flags(request).await.unwrap().into_inner();
    while !stream.message().await.unwrap().unwrap().caught_up {}
    stream
}

/// The keys in the next message with flags.
async fn changed_keys(stream: &mut WatchStream) -> Vec<String> {
    with_timeout("a change", async {
        loop {
            let message = stream.message().await.unwrap().unwrap();
            if !message.feature_flags.is_empty() {
                return message.feature_flags.into_iter().map(|flag| flag.key).collect();
            }
        }
    })
    .await
}

async fn until_healthy(server: &Server, expected: ServingStatus) {
    let mut health = HealthClient::new(methods::channel(server).await);
    let mut statuses = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    with_timeout("the health status to change", async {
        while statuses.message().await.unwrap().unwrap().status() != expected {}
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flip_reaches_other_replica_by_notification() {
    let database = Database::new(Backend::Postgres).await;
    let first = Server::start(&database).await;
    let second = Server::start_with(&database, &RARE_POLLS).await;
    let mut watching = watch(&mut second.admin().await).await;
    let mut admin = first.admin().await;
    admin.create("a").await;
    assert_eq!(changed_keys(&mut watching).await, ["a"]);
    for _ in 0..20 {
        let flipped = admin.flip("a").await.feature_flag.unwrap();
        assert_eq!(changed_keys(&mut watching).await, ["a"]);
        assert_eq!(second.admin().await.get("a").await, flipped);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flip_reaches_replica_by_poll_without_notifications() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    let first = Server::start(&database).await;
    let second = Server::start(&proxy.database).await;
    let mut watching = watch(&mut second.admin().await).await;
    let mut admin = first.admin().await;
    database.wait_for_listeners(2).await;
    proxy.set(Link::DropNotifications);
    admin.create("a").await;
    assert_eq!(changed_keys(&mut watching).await, ["a"]);
    for _ in 0..5 {
        let flipped = admin.flip("a").await.feature_flag.unwrap();
        assert_eq!(changed_keys(&mut watching).await, ["a"]);
        assert_eq!(second.admin().await.get("a").await, flipped);
    }
    proxy.wait_until_dropped(5).await;
}

/// The second server does not know the change yet. A read of it waits until the change arrives or the deadline expires.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_waits_for_its_min_revision() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    let first = Server::start(&database).await;
    let second = Server::start_with(&proxy.database, &RARE_POLLS).await;
    let (mut admin, mut reader) = (first.admin().await, second.admin().await);
    database.wait_for_listeners(2).await;
    // Make sure that notifications from the start of listening have been handled.
    let known = admin.create("known").await.revision;
    let request = |min_revision| ListFeatureFlagsRequest { min_revision: Some(min_revision), ..Default::default() };
    reader.toggle.list_feature_flags(request(known)).await.unwrap();

    proxy.set(Link::DropNotifications);
    let missed = admin.create("unheard").await.revision;
    let late = reader.toggle.list_feature_flags(with_deadline(request(missed))).await.unwrap_err();
    assert_eq!((late.code(), reason_of(&late).as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    let mut waiting_reader = reader.clone();
    let waiting = tokio::spawn(async move { waiting_reader.toggle.list_feature_flags(request(missed)).await });
    proxy.set(Link::Open);
    admin.create("heard").await;
    let answer = with_timeout("the read to be answered", waiting).await.unwrap().unwrap().into_inner();
    assert!(answer.revision >= missed && answer.feature_flags.iter().any(|flag| flag.key == "unheard"));

    let beyond = reader.toggle.list_feature_flags(request(answer.revision + 100)).await.unwrap_err();
    assert_eq!((beyond.code(), reason_of(&beyond).as_str()), (Code::OutOfRange, "CURSOR_IN_FUTURE"));
}

/// The server restores the lost connection for notifications, and finds entries appended meanwhile without a poll.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_catches_up_after_lost_connection() {
    let database = Database::new(Backend::Postgres).await;
    let first = Server::start(&database).await;
    let proxy = PostgresProxy::new(&database).await;
    let second = Server::start_with(&proxy.database, &RARE_POLLS).await;
    let mut watching = watch(&mut second.admin().await).await;
    database.wait_for_listeners(2).await;
    proxy.set(Link::Closed);
    database.wait_for_listeners(1).await;
    first.admin().await.create("a").await;
    proxy.set(Link::Open);
    assert_eq!(changed_keys(&mut watching).await, ["a"]);
}

/// The second server makes a change before it knows an earlier one. It then applies both in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_change_applies_missing_entries_first() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    let first = Server::start(&database).await;
    let second = Server::start_with(&proxy.database, &RARE_POLLS).await;
    let mut admin = first.admin().await;
    let known = admin.create("known").await.revision;
    let mut other = second.admin().await;
    let request = ListFeatureFlagsRequest { min_revision: Some(known), ..Default::default() };
    other.toggle.list_feature_flags(request).await.unwrap();
    database.wait_for_listeners(2).await;
    let mut watching = watch(&mut other).await;
    proxy.set(Link::DropNotifications);
    let missed = admin.create("unheard").await;
    let flipped = other.flip("known").await;
    assert_eq!(flipped.revision, missed.revision + 1);
    assert_eq!(other.get("unheard").await, missed);
    let mut keys = changed_keys(&mut watching).await;
    while keys.len() < 2 {
        keys.extend(changed_keys(&mut watching).await);
    }
    assert_eq!(keys, ["unheard", "known"]);
}

/// Makes every kind of call that is answered from memory, in every protocol. The flag `a` is disabled.
async fn read_everything(server: &Server, client: &mut Client) {
    assert_eq!(client.get("a").await.status(), FeatureFlagStatus::Disabled);
    let listed = client.toggle.list_feature_flags(ListFeatureFlagsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.feature_flags.len(), 1);
    watch(client).await;

    let request = v1::ResolveBooleanRequest { flag_key: "a".into(), context: Vec::new() };
    assert!(!client.evaluation_v1.resolve_boolean(request).await.unwrap().into_inner().value);
    let request = v2::ResolveBooleanRequest { flag_key: "a".into(), context: Vec::new() };
    assert_eq!(client.evaluation_v2.resolve_boolean(request).await.unwrap().into_inner().value, Some(false));
    let all =
        client.evaluation_v1.resolve_all(v1::ResolveAllRequest { context: Vec::new() }).await.unwrap().into_inner();
    assert_eq!(all.flags.len(), 1);
    let fetched = client.sync.fetch_all_flags(sync::FetchAllFlagsRequest::default()).await.unwrap().into_inner();
    assert!(fetched.flag_configuration.contains(r#""defaultVariant":"off""#), "{}", fetched.flag_configuration);

    let mut http = Http::connect(server.address).await;
    for path in ["/ofrep/v1/evaluate/flags/a", "/ofrep/v1/evaluate/flags"] {
        let request = http::Request::post(path).header("content-type", "application/json");
        let request = request.header("authorization", format!("Bearer {TOKEN}"));
        let answer = http.send(request.body("{}".to_owned()).unwrap()).await;
        assert_eq!(answer.status(), 200, "{path}");
    }
}

/// Makes calls that are not answered from memory, and returns their errors.
async fn refused_calls(client: &mut Client, reader: &mut Client) -> Vec<Status> {
    let list = client.audit.list_audit_logs(ListAuditLogsRequest::default()).await.unwrap_err();
    let stream = client.audit.stream_audit_logs(StreamAuditLogsRequest::default()).await.unwrap_err();
    let me = client.access.who_am_i(WhoAmIRequest {}).await.unwrap_err();
    let users = client.access.list_users(ListUsersRequest::default()).await.unwrap_err();
    let flip = client.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err();
    // The denial would have to be recorded, which is impossible during the outage.
    let forbidden = reader.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err();
    vec![list, stream, me, users, flip, forbidden]
}

async fn survives_outage(lost: Link) {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    let server = Server::start_with(&proxy.database, &SHORT_STALENESS).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let reader = admin.new_user("reader@example.com", &["view_feature_flags"]).await;
    let mut reader = server.client(Some(&reader)).await;
    let mut watching = watch(&mut admin).await;
    let mut events = admin.evaluation_v2.event_stream(v2::EventStreamRequest {}).await.unwrap().into_inner();
    let mut syncing = admin.sync.sync_flags(sync::SyncFlagsRequest::default()).await.unwrap().into_inner();
    syncing.message().await.unwrap().unwrap();
    let [web, _] = Web::both(server.address);
    let uri = bulk(&web, TOKEN, "default", None, None).await.events();
    let mut server_sent = vec![Events::open(&web, &uri, None).await];
    let follow = StreamAuditLogsRequest { follow: true, ..Default::default() };
    let mut following = admin.audit.stream_audit_logs(follow).await.unwrap().into_inner();
    while !following.message().await.unwrap().unwrap().caught_up {}

    proxy.set(lost);
    until_healthy(&server, ServingStatus::NotServing).await;
    for status in refused_calls(&mut admin, &mut reader).await {
        assert_eq!((status.code(), reason_of(&status).as_str()), (Code::Unavailable, "STALE"), "{status}");
    }
    let ended = read_until_error(&mut following).await;
    assert_eq!((ended.code(), reason_of(&ended).as_str()), (Code::Unavailable, "STALE"));
    read_everything(&server, &mut admin).await;
    // A resumed watch is accepted while the server cannot check its hash.
    let request = WatchFeatureFlagsRequest { after_revision: Some(1), after_hash: vec![7; 32], ..Default::default() };
    admin.toggle.watch_feature_flags(request).await.unwrap();
    server_sent.push(Events::open(&web, &uri, None).await);

    proxy.set(Link::Open);
    until_healthy(&server, ServingStatus::Serving).await;
    admin.flip("a").await;
    let now = bulk(&web, TOKEN, "default", None, None).await.tag();
    for events in &mut server_sent {
        assert_eq!(events.next().await.id, now);
    }
    assert_eq!(changed_keys(&mut watching).await, ["a"]);
    let synced = with_timeout("the flip", syncing.message()).await.unwrap().unwrap();
    assert!(synced.flag_configuration.contains(r#""defaultVariant":"on""#), "{}", synced.flag_configuration);
    for kind in ["provider_ready", "configuration_change", "configuration_change"] {
        assert_eq!(with_timeout(kind, events.message()).await.unwrap().unwrap().r#type, kind);
    }
    assert_eq!(admin.log().await.last().unwrap().action_type, "toggle_enabled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_survives_database_outage() {
    survives_outage(Link::Closed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_survives_silent_database() {
    survives_outage(Link::Stalled).await;
}

/// A backup is restored while the server runs. Watches end, so that no client keeps a state that no longer exists.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_backup_ends_watches() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    let server = Server::start_with(&proxy.database, &SHORT_STALENESS).await;
    let mut admin = server.admin().await;
    let saved = admin.create("a").await;
    proxy.set(Link::Closed);
    let backup = database.copy().await;
    proxy.set(Link::Open);
    until_healthy(&server, ServingStatus::Serving).await;
    let lost = admin.flip("a").await;
    let mut watching = watch(&mut admin).await;
    let [web, _] = Web::both(server.address);
    let lost_flags = bulk(&web, TOKEN, "default", None, None).await;
    let mut server_sent = Events::open(&web, &lost_flags.events(), None).await;

    proxy.set(Link::Closed);
    database.replace_with(&backup).await;
    proxy.set(Link::Open);
    // Server-sent events have no cursor: clients fetch all flags again.
    let announced = server_sent.next().await.id;
    assert_ne!(announced, lost_flags.tag());
    assert_eq!(bulk(&web, TOKEN, "default", Some(&lost_flags.etag), Some(&announced)).await.tag(), announced);
    let ended = read_until_error(&mut watching).await;
    assert_eq!((ended.code(), reason_of(&ended).as_str()), (Code::FailedPrecondition, "LOG_MISMATCH"));
    assert_eq!(admin.get("a").await, saved);

    // The log continues differently. A client that resumes with the hash of a lost entry is refused too.
    let request = WatchFeatureFlagsRequest { after_revision: Some(lost.revision), ..Default::default() };
    let ahead = admin.toggle.watch_feature_flags(request.clone()).await.unwrap_err();
    assert_eq!((ahead.code(), reason_of(&ahead).as_str()), (Code::OutOfRange, "CURSOR_IN_FUTURE"));
    admin.create("b").await;
    admin.create("c").await;
    let after_hash = lost.audit_log.unwrap().hash;
    let request = WatchFeatureFlagsRequest { after_hash, ..request };
    let forked = admin.toggle.watch_feature_flags(request).await.unwrap_err();
    assert_eq!((forked.code(), reason_of(&forked).as_str()), (Code::FailedPrecondition, "LOG_MISMATCH"));
}
