//! Every limit, set low and exceeded: the excess is refused, and all other callers are served.

mod bytes;
mod slots;
mod watchers;

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::select_all;
use toggled::api::pb::*;
use toggled::config::{FixedLimits, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::support::http2_frames::{HEADERS, connect_http2, frame};
use crate::support::methods::{call_unfinished, channel};
use crate::support::postgres_proxy::{Link, PostgresProxy};
use crate::support::tls::{self, Ca};
use crate::support::{
    Backend, Client, Database, EmbeddedServer, Server, TOKEN, defaults, reason_of, toggle, with_timeout,
};

/// A server with one setting.
async fn server_with(setting: (&str, &str)) -> (Server, Database) {
    let database = Database::new(Backend::Sqlite).await;
    (Server::start_with(&database, &[setting]).await, database)
}

/// A server with one limit that is not an option.
async fn server_limited(fixed: FixedLimits) -> (EmbeddedServer, Database) {
    let database = Database::new(Backend::Sqlite).await;
    (EmbeddedServer::start(&database, Limits { fixed, ..defaults() }).await, database)
}

async fn watch(client: &mut Client) -> Result<Streaming<WatchFeatureFlagsResponse>, Status> {
    let mut stream = client.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await?.into_inner();
    stream.message().await.map(|_| stream)
}

fn assert_refused<T>(result: Result<T, Status>, code: Code, reason: &str) -> Status {
    let status = result.map(|_| panic!("the call was accepted")).unwrap_err();
    assert_eq!((status.code(), reason_of(&status).as_str()), (code, reason), "{status}");
    assert_names_its_limit(&status);
    status
}

/// Asserts that a refusal names its limit, with the value and with what sets it, in its message and in its ErrorInfo.
fn assert_names_its_limit(status: &Status) {
    let info = status.get_details_error_info().unwrap();
    let (limit, setting) = (info.metadata.get("limit"), info.metadata.get("setting"));
    let limit = limit.unwrap_or_else(|| panic!("no limit in {status}"));
    let named = status.message().rsplit_once("limit: ").unwrap_or_else(|| panic!("no limit in {status}")).1;
    assert!(named.starts_with(limit.as_str()) && limit.starts_with(|c: char| ('1'..='9').contains(&c)), "{status}");
    match setting {
        Some(setting) => assert!(setting.starts_with("--max-") || setting == "--request-timeout", "{status}"),
        None => assert!(named.ends_with(", fixed)"), "{status}"),
    }
    assert!(named.contains(setting.map_or("fixed", String::as_str)), "{status}");
}

/// The retry delay in the error's details.
fn retry_after(status: &Status) -> Duration {
    status.get_details_retry_info().unwrap().retry_delay.unwrap()
}

/// Waits until the server closes a connection. Data before that is ignored.
async fn wait_until_closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // A reset counts as closed.
    let _ = with_timeout("the server to close", stream.read_to_end(&mut rest)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_over_the_limit_is_closed() {
    let (server, _database) = server_with(("TOGGLED_MAX_CONNECTIONS", "2")).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let second = connect_http2(server.address).await;
    wait_until_closed(TcpStream::connect(server.address).await.unwrap()).await;
    admin.flip("a").await;
    drop(second);
    with_timeout("a free slot", async {
        loop {
            let mut third = connect_http2(server.address).await;
            // A server that accepts the connection sends its settings.
            if third.read(&mut [0; 9]).await.is_ok_and(|read| read > 0) {
                return;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_over_limit_of_one_connection_wait() {
    let (server, _database) = server_limited(FixedLimits { max_calls_per_connection: 2, ..Default::default() }).await;
    let mut admin = server.admin().await;
    let held = (watch(&mut admin).await.unwrap(), watch(&mut admin).await.unwrap());
    let mut waiting = admin.clone();
    let mut waiting = tokio::spawn(async move { waiting.access.who_am_i(WhoAmIRequest {}).await });
    // Another connection has a limit of its own. By the time it is answered, the waiting call would have been, too.
    server.admin().await.wait_until_authenticated().await;
    assert!(!waiting.is_finished());
    drop(held);
    with_timeout("the waiting call", &mut waiting).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_limit_counts_all_connections_of_a_caller() {
    let (server, _database) = server_with(("TOGGLED_MAX_STREAMS_PER_CALLER", "2")).await;
    let (mut admin, mut again) = (server.admin().await, server.admin().await);
    let held = (watch(&mut admin).await.unwrap(), watch(&mut again).await.unwrap());
    assert_refused(watch(&mut admin).await, Code::ResourceExhausted, "STREAM_LIMIT");
    // Other callers and unary calls are not limited.
    let secret = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
    let ann = watch(&mut server.client(Some(&secret)).await).await.unwrap();
    drop(held);
    with_timeout("a free slot", async { while watch(&mut admin).await.is_err() {} }).await;
    drop(ann);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn global_stream_limit_refuses_other_callers() {
    let (server, _database) = server_with(("TOGGLED_MAX_STREAMS", "1")).await;
    let mut admin = server.admin().await;
    let secret = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
    let held = watch(&mut admin).await.unwrap();
    let mut ann = server.client(Some(&secret)).await;
    let refused = assert_refused(watch(&mut ann).await, Code::Unavailable, "STREAM_LIMIT");
    assert!(retry_after(&refused) > Duration::ZERO);
    drop(held);
    with_timeout("a free slot", async { while watch(&mut ann).await.is_err() {} }).await;
}

/// Health watches need no token. Their callers are distinguished by address, and an address may be a proxy: its limit applies while
/// more than half of the streams of unauthenticated callers, here two of four, are open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anonymous_streams_count_against_the_limit() {
    let database = Database::new(Backend::Sqlite).await;
    let settings = [("TOGGLED_MAX_STREAMS", "8"), ("TOGGLED_MAX_STREAMS_PER_CALLER", "1")];
    let server = Server::start_with(&database, &settings).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel(&server).await);
    let request = tonic_health::pb::HealthCheckRequest::default;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(health.watch(request()).await.unwrap());
    }
    assert_refused(health.watch(request()).await, Code::ResourceExhausted, "STREAM_LIMIT");
    watch(&mut server.admin().await).await.unwrap();
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_messages_are_refused() {
    let fixed = FixedLimits { max_request_bytes: 4_096, max_response_bytes: 8_192, ..Default::default() };
    let (server, _database) = server_limited(fixed).await;
    let mut admin = server.admin().await;
    let create = |key: &str, length| CreateFeatureFlagRequest {
        key: key.into(),
        name: "n".into(),
        description: "d".repeat(length),
        ..Default::default()
    };
    for key in ["a", "b", "c", "d", "e"] {
        admin.toggle.create_feature_flag(create(key, 2_000)).await.unwrap();
    }
    assert_refused(
        admin.toggle.create_feature_flag(create("f", 4_096)).await,
        Code::ResourceExhausted,
        "MESSAGE_TOO_LARGE",
    );
    let all = admin.toggle.list_feature_flags(ListFeatureFlagsRequest::default()).await;
    assert_refused(all, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    admin.get("e").await;
}

/// The sizes of real flags and limits are tested with the service alone. Here, no size fits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_flag_set_names_its_setting() {
    let database = Database::new(Backend::Sqlite).await;
    let server = EmbeddedServer::start(&database, Limits { max_flag_set_mib: 0, ..defaults() }).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let all = admin.sync.fetch_all_flags(flagd::sync::v1::FetchAllFlagsRequest::default()).await;
    let mut stream = admin.sync.sync_flags(flagd::sync::v1::SyncFlagsRequest::default()).await.unwrap().into_inner();
    let resolved = flagd::evaluation::v1::ResolveAllRequest::default();
    let refused =
        [all.map(drop), stream.message().await.map(drop), admin.evaluation_v1.resolve_all(resolved).await.map(drop)];
    for refused in refused {
        let status = refused.unwrap_err();
        assert_eq!((status.code(), reason_of(&status).as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
        assert!(
            status.message().ends_with("limit: 0 bytes for all flags in one message, set by --max-flag-set-mib)"),
            "{status}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_over_the_queue_limit_are_not_written() {
    let database = Database::new(Backend::Postgres).await;
    let server = Server::start_with(&database, &[("TOGGLED_MAX_QUEUE", "2")]).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let held = database.lock_head().await;
    let flip = || {
        let mut admin = admin.clone();
        tokio::spawn(async move { admin.toggle.toggle_feature_flag(toggle("a")).await })
    };
    let mut accepted = vec![flip()];
    held.wait_for_waiter().await;
    // One change is being written and two more may wait. The third is the only one that is answered now.
    let (first_answer, _, waiting) = with_timeout("a flip to be refused", select_all([flip(), flip(), flip()])).await;
    let refused = first_answer.unwrap();
    accepted.extend(waiting);
    let refused = assert_refused(refused, Code::Unavailable, "QUEUE_FULL");
    assert!(retry_after(&refused) > Duration::ZERO);
    assert_eq!(accepted.len(), 3);
    drop(held);
    for flip in accepted {
        with_timeout("a flip that waited", flip).await.unwrap().unwrap();
    }
    assert_eq!(admin.log().await.iter().filter(|entry| entry.action_type.starts_with("toggle_")).count(), 3);
}

/// The server's timeout applies even if the caller sets no deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_end_at_the_request_timeout() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    let server = Server::start_with(&proxy.database, &[("TOGGLED_REQUEST_TIMEOUT", "3s")]).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let late = call_unfinished(channel(&server).await, "/toggled.v1.AccessService/WhoAmI", Some(TOKEN)).await;
    assert_refused(late, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    let late = call_unfinished(channel(&server).await, "/grpc.health.v1.Health/Check", None).await;
    assert_refused(late, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");

    let held = database.lock_head().await;
    let mut first = admin.clone();
    let first = tokio::spawn(async move { first.flip("a").await });
    held.wait_for_waiter().await;
    let queued = admin.toggle.toggle_feature_flag(toggle("a")).await;
    assert_refused(queued, Code::DeadlineExceeded, "DEADLINE_BEFORE_START");
    drop(held);
    let flipped = with_timeout("the flip that was being written", first).await.unwrap();
    assert_eq!(admin.get("a").await.revision, flipped.revision);

    proxy.set(Link::Stalled);
    let read = admin.audit.list_audit_logs(ListAuditLogsRequest::default()).await;
    assert_refused(read, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    // Reads from memory are still answered.
    admin.get("a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_headers_are_refused() {
    let (server, _database) = server_limited(FixedLimits { max_header_bytes: 1_024, ..Default::default() }).await;
    let mut admin = server.admin().await;
    admin.wait_until_authenticated().await;
    let mut large = tonic::Request::new(WhoAmIRequest {});
    large.metadata_mut().insert("x-filler", "x".repeat(2_000).parse().unwrap());
    let refused = admin.access.who_am_i(large).await.unwrap_err();
    // 431 Request Header Fields Too Large.
    assert!(refused.message().contains("431"), "{refused}");
    let mut small = tonic::Request::new(WhoAmIRequest {});
    small.metadata_mut().insert("x-filler", "x".repeat(500).parse().unwrap());
    admin.access.who_am_i(small).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_without_keepalive_answers_is_closed() {
    let (keepalive_interval, keepalive_timeout) = (Duration::from_secs(1), Duration::from_secs(2));
    let fixed = FixedLimits { keepalive_interval, keepalive_timeout, ..Default::default() };
    let (server, _database) = server_limited(fixed).await;
    let mut admin = server.admin().await;
    let mut stream = watch(&mut admin).await.unwrap();
    // This connection never answers a ping.
    wait_until_closed(connect_http2(server.address).await).await;
    // A client that answers pings stays connected.
    admin.create("a").await;
    let message = with_timeout("the flag", stream.message()).await.unwrap().unwrap();
    assert_eq!(message.feature_flags.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_without_a_handshake_is_closed() {
    let fixed = FixedLimits { handshake_timeout: Duration::from_secs(2), ..Default::default() };
    let (server, _database) = server_limited(fixed.clone()).await;
    let mut admin = server.admin().await;
    wait_until_closed(TcpStream::connect(server.address).await.unwrap()).await;
    let mut hesitant = TcpStream::connect(server.address).await.unwrap();
    hesitant.write_all(b"PRI * HTTP/2").await.unwrap();
    wait_until_closed(hesitant).await;
    // The timeout applies only to the handshake.
    admin.wait_until_authenticated().await;

    let (ca, database) = (Ca::new("ours"), Database::new(Backend::Sqlite).await);
    let files = tls::Files::new(&ca.server(), None);
    let limits = Limits { fixed, ..defaults() };
    let server = EmbeddedServer::start_with(&database, limits, defaults(), Some(files.server())).await;
    wait_until_closed(TcpStream::connect(server.address).await.unwrap()).await;
    let mut silent = tls::connect(server.address, &ca, None).await.unwrap();
    let mut rest = Vec::new();
    let _ = with_timeout("the server to close", silent.read_to_end(&mut rest)).await;
    tls::admin(server.address, &ca, None).await.unwrap().wait_until_authenticated().await;
}

/// Sends these frames for many streams in turn. Returns whether the server answers with ENHANCE_YOUR_CALM.
async fn is_told_to_calm_down(address: SocketAddr, frames: impl Fn(u32) -> Vec<u8>) -> bool {
    let mut stream = connect_http2(address).await;
    let bytes: Vec<_> = (1..200).step_by(2).flat_map(frames).collect();
    // The server may close the connection before it has read everything.
    let _ = stream.write_all(&bytes).await;
    let mut answer = Vec::new();
    let _ = with_timeout("the server to close", stream.read_to_end(&mut answer)).await;
    // The error code of the GOAWAY frame.
    answer.windows(4).any(|bytes| bytes == 11u32.to_be_bytes())
}

/// A client opens calls and cancels them at once, faster than the server can process them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_with_many_cancellations_is_closed() {
    let (server, _database) = server_limited(FixedLimits { max_pending_resets: 5, ..Default::default() }).await;
    let cancelled = |id| [frame(1, 4, id, HEADERS), frame(3, 0, id, &8u32.to_be_bytes())].concat();
    assert!(is_told_to_calm_down(server.address, cancelled).await);
    server.admin().await.wait_until_authenticated().await;
}

/// A client whose calls all time out, while the server is busy, cancels them at once. Others on its connection go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_calls_leave_the_connection_open() {
    let (server, _database) = server_limited(FixedLimits::default()).await;
    let mut stream = connect_http2(server.address).await;
    let cancelled = |id| [frame(1, 4, id, HEADERS), frame(3, 0, id, &8u32.to_be_bytes())].concat();
    let bytes: Vec<_> = (1..10_000).step_by(2).flat_map(cancelled).collect();
    stream.write_all(&bytes).await.unwrap();
    assert_pong(&mut stream, 1).await;
}

/// Clients send pings, some often and without calls, so that no proxy closes their connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_of_clients_leave_the_connection_open() {
    let (server, _database) = server_limited(FixedLimits::default()).await;
    let mut stream = connect_http2(server.address).await;
    for number in 0..1_000 {
        assert_pong(&mut stream, number).await;
    }
}

/// Sends a PING with this number, and reads until it is answered.
async fn assert_pong(stream: &mut TcpStream, number: u64) {
    let number = number.to_be_bytes();
    stream.write_all(&frame(6, 0, 0, &number)).await.unwrap();
    let pong = frame(6, 1, 0, &number);
    let mut read = Vec::new();
    with_timeout("a pong", async {
        while !read.windows(pong.len()).any(|bytes| bytes == pong) {
            assert!(stream.read_buf(&mut read).await.unwrap() > 0, "closed");
        }
    })
    .await;
}

/// A client repeatedly sends more data than its `content-length`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_with_many_errors_is_closed() {
    let (server, _database) = server_limited(FixedLimits { max_error_resets: 5, ..Default::default() }).await;
    // `content-length: 1`, followed by two bytes.
    let headers = [HEADERS, b"\x0f\x0d\x011"].concat();
    let faulty = |id| [frame(1, 4, id, &headers), frame(0, 1, id, b"22")].concat();
    assert!(is_told_to_calm_down(server.address, faulty).await);
    server.admin().await.wait_until_authenticated().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_rate_limit_applies_per_caller() {
    let (server, _database) = server_with(("TOGGLED_MAX_CHANGES_PER_SECOND", "10")).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let secret = admin.new_user("ann@example.com", &["toggle_feature_flags"]).await;
    let refused = with_timeout("a refusal", async {
        loop {
            if let Err(refused) = admin.toggle.toggle_feature_flag(toggle("a")).await {
                return refused;
            }
        }
    })
    .await;
    let refused = assert_refused::<()>(Err(refused), Code::ResourceExhausted, "RATE_LIMITED");
    let after = retry_after(&refused);
    assert!(after > Duration::ZERO && after <= Duration::from_millis(100), "{after:?}");
    let made = admin.log().await.len();
    server.client(Some(&secret)).await.flip("a").await;
    // Reads are not limited, and after a while another change is accepted.
    with_timeout("another change to be accepted", async {
        while admin.toggle.toggle_feature_flag(toggle("a")).await.is_err() {}
    })
    .await;
    assert_eq!(admin.log().await.len(), made + 2, "a refused change was written");
}

/// A batch counts as one change per item.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_rate_limit_counts_batch_items() {
    let (server, _database) = server_with(("TOGGLED_MAX_CHANGES_PER_SECOND", "1")).await;
    let mut admin = server.admin().await;
    let item = |number: usize| BatchSetItem {
        flag: Some(batch_set_item::Flag::Key(format!("flag-{number}"))),
        status: FeatureFlagStatus::Enabled.into(),
        ..Default::default()
    };
    let batch =
        |items: usize| BatchSetFeatureFlagsRequest { items: (0..items).map(item).collect(), ..Default::default() };
    // The flags do not exist, which is checked after the rate limit.
    let error = admin.toggle.batch_set_feature_flags(batch(999)).await.unwrap_err();
    assert_eq!(reason_of(&error), "FLAG_NOT_FOUND");
    let refused =
        assert_refused(admin.toggle.batch_set_feature_flags(batch(100)).await, Code::ResourceExhausted, "RATE_LIMITED");
    assert!(retry_after(&refused) > Duration::from_secs(60), "{refused:?}");
}

/// An import of 10,000 flags does not wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_rate_limit_counts_ten_new_flags_once() {
    let (server, _database) = server_with(("TOGGLED_MAX_CHANGES_PER_SECOND", "1")).await;
    let mut admin = server.admin().await;
    let mut keys = (0..).map(|number| format!("flag-{number}"));
    let mut batch = |items: usize| {
        let item = |key: String| BatchCreateItem { name: key.clone(), key, ..Default::default() };
        BatchCreateFeatureFlagsRequest { items: keys.by_ref().take(items).map(item).collect(), ..Default::default() }
    };
    for _ in 0..9 {
        admin.toggle.batch_create_feature_flags(batch(1_000)).await.unwrap();
    }
    admin.toggle.batch_create_feature_flags(batch(991)).await.unwrap();
    let refused = admin.toggle.batch_create_feature_flags(batch(1_000)).await;
    let refused = assert_refused(refused, Code::ResourceExhausted, "RATE_LIMITED");
    assert!(retry_after(&refused) > Duration::from_secs(60), "{refused:?}");
}

/// Under far more changes than the queue holds, the excess is refused at once, reads are answered, and memory stays bounded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_is_refused_and_memory_stays_bounded() {
    let (server, _database) = server_with(("TOGGLED_MAX_QUEUE", "16")).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let mut rounds = Vec::new();
    for _ in 0..3 {
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let client = server.admin().await;
            for _ in 0..64 {
                let mut client = client.clone();
                callers.spawn(async move {
                    let mut made = 0;
                    for _ in 0..10 {
                        match client.toggle.toggle_feature_flag(toggle("a")).await {
                            Ok(_) => made += 1,
                            Err(status) => drop(assert_refused::<()>(Err(status), Code::Unavailable, "QUEUE_FULL")),
                        }
                    }
                    made
                });
            }
        }
        admin.get("a").await;
        let made: usize = with_timeout("all answers", callers.join_all()).await.into_iter().sum();
        rounds.push((made, server.resident_mib()));
    }
    let made: usize = rounds.iter().map(|(made, _)| made).sum();
    assert!((1..15_360).contains(&made), "{made} changes were made: none was refused, or all were");
    let flips = admin.log().await.into_iter().filter(|entry| entry.action_type.starts_with("toggle_")).count();
    assert_eq!(flips, made, "a refused change was written");
    let (first, last) = (rounds[0].1, rounds[2].1);
    assert!(last < first + 32, "{first} MiB after the first round, {last} MiB after the last");
}
