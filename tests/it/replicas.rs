//! Two servers on one PostgreSQL, and a server whose database is gone for a while.

use std::time::Duration;
use toggled::api::pb::flagd::evaluation::{v1, v2};
use toggled::api::pb::flagd::sync::v1 as sync;
use toggled::api::pb::*;
use tonic::{Code, Status, Streaming};

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::http::Http;
use crate::support::postgres_proxy::{Link, PostgresProxy};
use crate::support::{
    Backend, Client, Database, Server, TOKEN, methods, read_until_error, reason_of, toggle, with_timeout,
};

/// So rare that what arrives has come another way.
const NEVER_POLLED: [(&str, &str); 2] = [("TOGGLED_POLL_INTERVAL", "1h"), ("TOGGLED_MAX_STALENESS", "2h")];

/// A server that soon knows that its database is gone, and does not believe it because the machine is busy.
const IMPATIENT: [(&str, &str); 2] = [("TOGGLED_POLL_INTERVAL", "50ms"), ("TOGGLED_MAX_STALENESS", "5s")];

type Watching = Streaming<WatchFeatureFlagsResponse>;

/// A stream that has told everything so far.
async fn watch(client: &mut Client) -> Watching {
    let request = WatchFeatureFlagsRequest::default();
    let mut stream = client.toggle.watch_feature_flags(request).await.unwrap().into_inner();
    while !stream.message().await.unwrap().unwrap().caught_up {}
    stream
}

/// The keys of the next flags that are told of.
async fn told(stream: &mut Watching) -> Vec<String> {
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

async fn until_healthy(server: &Server, wanted: ServingStatus) {
    let mut health = HealthClient::new(methods::channel(server).await);
    let mut statuses = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    with_timeout("another health", async { while statuses.message().await.unwrap().unwrap().status() != wanted {} })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flip_on_one_server_is_told_by_the_other_without_a_poll() {
    let database = Database::new(Backend::Postgres).await;
    let here = Server::start(&database).await;
    let there = Server::start_with(&database, &NEVER_POLLED).await;
    let mut watching = watch(&mut there.admin().await).await;
    let mut admin = here.admin().await;
    admin.create("a").await;
    assert_eq!(told(&mut watching).await, ["a"]);
    for _ in 0..20 {
        let flipped = admin.flip("a").await.feature_flag.unwrap();
        assert_eq!(told(&mut watching).await, ["a"]);
        assert_eq!(there.admin().await.get("a").await, flipped);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_notifications_are_lost_the_next_poll_finds_the_flip() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    let here = Server::start(&database).await;
    let there = Server::start(&proxy.database).await;
    let mut watching = watch(&mut there.admin().await).await;
    let mut admin = here.admin().await;
    database.wait_for_listeners(2).await;
    proxy.set(Link::DropNotifications);
    admin.create("a").await;
    assert_eq!(told(&mut watching).await, ["a"]);
    for _ in 0..5 {
        let flipped = admin.flip("a").await.feature_flag.unwrap();
        assert_eq!(told(&mut watching).await, ["a"]);
        assert_eq!(there.admin().await.get("a").await, flipped);
    }
    proxy.wait_until_dropped(5).await;
}

/// The one server has not heard of the change yet: who asks for it waits, as long as they said, and gets it when it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_waits_for_the_revision_that_it_asks_for() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    let here = Server::start(&database).await;
    let there = Server::start_with(&proxy.database, &NEVER_POLLED).await;
    let (mut admin, mut reader) = (here.admin().await, there.admin().await);
    database.wait_for_listeners(2).await;
    // What was listened to first is behind it.
    let known = admin.create("known").await.revision;
    let request = |min_revision| ListFeatureFlagsRequest { min_revision: Some(min_revision), ..Default::default() };
    reader.toggle.list_feature_flags(request(known)).await.unwrap();

    proxy.set(Link::DropNotifications);
    let unheard = admin.create("unheard").await.revision;
    let mut brief = tonic::Request::new(request(unheard));
    brief.set_timeout(Duration::from_secs(2));
    let late = reader.toggle.list_feature_flags(brief).await.unwrap_err();
    assert_eq!((late.code(), reason_of(&late).as_str()), (Code::Unavailable, "STALE"));
    let mut patient = reader.clone();
    let waiting = tokio::spawn(async move { patient.toggle.list_feature_flags(request(unheard)).await });
    proxy.set(Link::Open);
    admin.create("heard").await;
    let answer = with_timeout("the read to be answered", waiting).await.unwrap().unwrap().into_inner();
    assert!(answer.revision >= unheard && answer.feature_flags.iter().any(|flag| flag.key == "unheard"));

    let beyond = reader.toggle.list_feature_flags(request(answer.revision + 100)).await.unwrap_err();
    assert_eq!((beyond.code(), reason_of(&beyond).as_str()), (Code::OutOfRange, "CURSOR_IN_FUTURE"));
}

/// A lost connection is listened on again, and what was appended meanwhile is found without a poll.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_while_the_line_is_down_is_found_when_it_is_up() {
    let database = Database::new(Backend::Postgres).await;
    let here = Server::start(&database).await;
    let proxy = PostgresProxy::new(&database).await;
    let there = Server::start_with(&proxy.database, &NEVER_POLLED).await;
    let mut watching = watch(&mut there.admin().await).await;
    database.wait_for_listeners(2).await;
    proxy.set(Link::Closed);
    database.wait_for_listeners(1).await;
    here.admin().await.create("a").await;
    proxy.set(Link::Open);
    assert_eq!(told(&mut watching).await, ["a"]);
}

/// The one server has not heard of a change when it makes one itself: it learns of both, in their order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_ones_own_closes_the_gap_before_it() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    let here = Server::start(&database).await;
    let there = Server::start_with(&proxy.database, &NEVER_POLLED).await;
    let mut admin = here.admin().await;
    let known = admin.create("known").await.revision;
    let mut other = there.admin().await;
    let request = ListFeatureFlagsRequest { min_revision: Some(known), ..Default::default() };
    other.toggle.list_feature_flags(request).await.unwrap();
    database.wait_for_listeners(2).await;
    let mut watching = watch(&mut other).await;
    proxy.set(Link::DropNotifications);
    let unheard = admin.create("unheard").await;
    let flipped = other.flip("known").await;
    assert_eq!(flipped.revision, unheard.revision + 1);
    assert_eq!(other.get("unheard").await, unheard);
    let mut keys = told(&mut watching).await;
    while keys.len() < 2 {
        keys.extend(told(&mut watching).await);
    }
    assert_eq!(keys, ["unheard", "known"]);
}

/// Everything that is read from memory, in every protocol: the flag `a` is off.
async fn read_everything(server: &Server, client: &mut Client) {
    assert_eq!(client.get("a").await.status(), FeatureFlagStatus::Disabled);
    let listed = client.toggle.list_feature_flags(ListFeatureFlagsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.feature_flags.len(), 1);
    watch(client).await;

    let request = v1::ResolveBooleanRequest { flag_key: "a".into(), context: None };
    assert!(!client.evaluation_v1.resolve_boolean(request).await.unwrap().into_inner().value);
    let request = v2::ResolveBooleanRequest { flag_key: "a".into(), context: None };
    assert_eq!(client.evaluation_v2.resolve_boolean(request).await.unwrap().into_inner().value, Some(false));
    let all = client.evaluation_v1.resolve_all(v1::ResolveAllRequest { context: None }).await.unwrap().into_inner();
    assert_eq!(all.flags.len(), 1);
    let fetched = client.sync.fetch_all_flags(sync::FetchAllFlagsRequest::default()).await.unwrap().into_inner();
    assert!(fetched.flag_configuration.contains(r#""defaultVariant":"off""#), "{}", fetched.flag_configuration);

    let mut http = Http::connect(server.address).await;
    for path in ["/ofrep/v1/evaluate/flags/a", "/ofrep/v1/evaluate/flags"] {
        let request = http::Request::post(path).header("authorization", format!("Bearer {TOKEN}"));
        let answer = http.send(request.body("{}".to_owned()).unwrap()).await;
        assert_eq!(answer.status(), 200, "{path}");
    }
}

/// Everything that is not answered from memory, and how it is refused; also to who may only read flags.
async fn refused(client: &mut Client, reader: &mut Client) -> Vec<Status> {
    let list = client.audit.list_audit_logs(ListAuditLogsRequest::default()).await.unwrap_err();
    let stream = client.audit.stream_audit_logs(StreamAuditLogsRequest::default()).await.unwrap_err();
    let me = client.access.who_am_i(WhoAmIRequest {}).await.unwrap_err();
    let users = client.access.list_users(ListUsersRequest::default()).await.unwrap_err();
    let flip = client.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err();
    // That they may not would be recorded, which now cannot be.
    let forbidden = reader.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err();
    vec![list, stream, me, users, flip, forbidden]
}

async fn lives_through(lost: Link) {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    let server = Server::start_with(&proxy.database, &IMPATIENT).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let reader = admin.new_user("reader@example.com", &["view_feature_flags"]).await;
    let mut reader = server.client(Some(&reader)).await;
    let mut watching = watch(&mut admin).await;
    let mut events = admin.evaluation_v2.event_stream(v2::EventStreamRequest {}).await.unwrap().into_inner();
    let mut syncing = admin.sync.sync_flags(sync::SyncFlagsRequest::default()).await.unwrap().into_inner();
    syncing.message().await.unwrap().unwrap();
    let follow = StreamAuditLogsRequest { follow: true, ..Default::default() };
    let mut following = admin.audit.stream_audit_logs(follow).await.unwrap().into_inner();
    while !following.message().await.unwrap().unwrap().caught_up {}

    proxy.set(lost);
    until_healthy(&server, ServingStatus::NotServing).await;
    for status in refused(&mut admin, &mut reader).await {
        assert_eq!((status.code(), reason_of(&status).as_str()), (Code::Unavailable, "STALE"), "{status}");
    }
    let ended = read_until_error(&mut following).await;
    assert_eq!((ended.code(), reason_of(&ended).as_str()), (Code::Unavailable, "STALE"));
    read_everything(&server, &mut admin).await;
    // Who resumes is believed, as long as nobody can tell that they should not be.
    let request = WatchFeatureFlagsRequest { after_revision: Some(1), after_hash: vec![7; 32], ..Default::default() };
    admin.toggle.watch_feature_flags(request).await.unwrap();

    proxy.set(Link::Open);
    until_healthy(&server, ServingStatus::Serving).await;
    admin.flip("a").await;
    assert_eq!(told(&mut watching).await, ["a"]);
    let synced = with_timeout("the flip", syncing.message()).await.unwrap().unwrap();
    assert!(synced.flag_configuration.contains(r#""defaultVariant":"on""#), "{}", synced.flag_configuration);
    for kind in ["provider_ready", "configuration_change", "configuration_change"] {
        assert_eq!(with_timeout(kind, events.message()).await.unwrap().unwrap().r#type, kind);
    }
    assert_eq!(admin.log().await.last().unwrap().action_type, "toggle_enabled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_lives_through_a_database_that_is_down() {
    lives_through(Link::Closed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_lives_through_a_database_that_says_nothing() {
    lives_through(Link::Stalled).await;
}

/// A backup that is restored under a running server: who watched is told, nobody is left with what never was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_are_told_that_a_backup_was_restored() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    let server = Server::start_with(&proxy.database, &IMPATIENT).await;
    let mut admin = server.admin().await;
    let saved = admin.create("a").await;
    proxy.set(Link::Closed);
    let backup = database.copy().await;
    proxy.set(Link::Open);
    until_healthy(&server, ServingStatus::Serving).await;
    let lost = admin.flip("a").await;
    let mut watching = watch(&mut admin).await;

    proxy.set(Link::Closed);
    database.replace_with(&backup).await;
    proxy.set(Link::Open);
    let ended = read_until_error(&mut watching).await;
    assert_eq!((ended.code(), reason_of(&ended).as_str()), (Code::FailedPrecondition, "LOG_MISMATCH"));
    assert_eq!(admin.get("a").await, saved);

    // The log goes on differently. Who was away meanwhile and shows the hash that they have seen is told as well.
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
