//! Many watches: what they keep, how late they are, and what happens to those whose clients do not read.

use std::time::Duration;

use futures::StreamExt;
use toggled::api::pb::*;
use toggled::config::FixedLimits;
use tokio::task::JoinSet;
use tonic::{Code, Streaming};

use super::bytes::create_flags;
use super::{server_limited, server_with};
use crate::support::events::{Events, bulk};
use crate::support::hostile::{EMPTY_MESSAGE, HostileConnection};
use crate::support::web::Web;
use crate::support::{Backend, Client, Database, Server, TOKEN, reason_of, with_timeout};

const WATCH: &str = "/toggled.v1.ToggleService/WatchFeatureFlags";
const AUDIT: &str = "/toggled.v1.AuditService/StreamAuditLogs";
const EVENTS: &str = "/flagd.evaluation.v1.Service/EventStream";
const SYNC: &str = "/flagd.sync.v1.FlagSyncService/SyncFlags";

/// The window of a client that reads.
const WINDOW: u32 = 1 << 20;

/// Limits that end a watch soon after its client stops reading.
fn impatient() -> FixedLimits {
    let soon = Duration::from_millis(200);
    FixedLimits { unread_timeout: soon, reset_timeout: soon, ..Default::default() }
}

/// Opens a stream and reads this many messages of it.
async fn open(connection: &mut HostileConnection, path: &str, messages: usize) -> h2::RecvStream {
    let mut call = connection.call(path, Some(TOKEN)).await.unwrap();
    call.send(EMPTY_MESSAGE, true).await;
    let (headers, mut body) = call.headers().await.unwrap();
    assert!(tonic::Status::from_header_map(&headers).is_none(), "{headers:?}");
    let mut unread = Vec::new();
    for _ in 0..messages {
        let mut length = 5;
        while unread.len() < length {
            let data = with_timeout("data", body.data()).await.unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            unread.extend(data);
            if let Some(prefix) = unread.get(1..5) {
                length = 5 + usize::try_from(u32::from_be_bytes(prefix.try_into().unwrap())).unwrap();
            }
        }
        unread.drain(..length);
    }
    body
}

/// Waits until the server resets the stream.
async fn wait_until_reset(mut body: h2::RecvStream) {
    let ended = with_timeout("a reset", async {
        loop {
            match body.data().await {
                Some(Ok(_)) => {}
                ended => return ended.and_then(Result::err),
            }
        }
    });
    let reason = ended.await.expect("not an error").reason();
    assert_eq!(reason, Some(h2::Reason::CANCEL));
}

/// Each of 200 watches was sent 235 KB at the beginning; 47 MB in all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_a_watcher_is_free_of_flags() {
    let (server, _database) = server_with(("TOGGLED_MAX_BUFFERED_MIB", "64")).await;
    let mut admin = server.admin().await;
    create_flags(&mut admin, 100).await;
    // Events begin with one that names no flags.
    for (path, messages) in [(WATCH, 1), (SYNC, 1), (EVENTS, 2)] {
        let before = server.resident_mib();
        let (mut connections, mut held) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let mut connection = HostileConnection::open(server.address, WINDOW).await;
            for _ in 0..100 {
                held.push(open(&mut connection, path, messages).await);
            }
            connections.push(connection);
        }
        let after = server.resident_mib();
        assert!(after < before + 14, "{path}: {before} MiB before, {after} MiB with {} watches", held.len());
    }
}

/// A client whose window is empty, and one that has read a part of a message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_that_nobody_reads_is_reset() {
    let (server, _database) = server_limited(impatient()).await;
    let mut admin = server.admin().await;
    create_flags(&mut admin, 2).await;
    for path in [WATCH, SYNC, EVENTS] {
        for window in [0, 100] {
            let mut connection = HostileConnection::open(server.address, window).await;
            let mut call = connection.call(path, Some(TOKEN)).await.unwrap();
            call.send(EMPTY_MESSAGE, true).await;
            wait_until_reset(call.headers().await.unwrap().1).await;
        }
    }
    // A client that reads keeps its watch.
    let mut read = admin.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await.unwrap().into_inner();
    next(&mut read).await;
    admin.create("a").await;
    assert_eq!(next(&mut read).await.feature_flags[0].key, "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_server_sent_events_are_reset() {
    let (server, _database) = server_limited(impatient()).await;
    let mut admin = server.admin().await;
    let uri = bulk(&Web::both(server.address)[1], TOKEN, "default", None, None).await.events();
    for window in [0, 1] {
        let mut connection = HostileConnection::open(server.address, window).await;
        wait_until_reset(connection.get(&uri).await.unwrap().headers().await.unwrap().1).await;
    }
    // One that reads is kept.
    let mut events = Events::open(&Web::both(server.address)[1], &uri, None).await;
    admin.create("a").await;
    events.next().await;
}

/// The status comes after what was sent before, when the client reads that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_reader_learns_why_its_watch_ended() {
    let fixed = FixedLimits { reset_timeout: Duration::from_secs(60), ..impatient() };
    let (server, _database) = server_limited(fixed).await;
    let mut admin = server.admin().await;
    create_flags(&mut admin, 2).await;
    let mut connection = HostileConnection::open(server.address, 100).await;
    let mut call = connection.call(WATCH, Some(TOKEN)).await.unwrap();
    call.send(EMPTY_MESSAGE, true).await;
    // The client does something else for a while.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (status, length) = call.status().await;
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::ResourceExhausted, "BUFFER_LIMIT"), "{status}");
    assert!(status.message().contains("not read this stream"), "{status}");
    assert!(length > 4_000, "{length}: the first message is complete");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_stream_of_a_revoked_caller_is_reset() {
    let fixed = FixedLimits { reset_timeout: Duration::from_millis(200), ..Default::default() };
    let (server, _database) = server_limited(fixed).await;
    let mut admin = server.admin().await;
    create_flags(&mut admin, 2).await;
    for (path, permission) in [(WATCH, "view_feature_flags"), (AUDIT, "view_audit_logs")] {
        let email = format!("{permission}@example.com");
        let token = admin.new_user(&email, &[permission]).await;
        let mut blocked = Vec::new();
        for window in [1, 100] {
            let mut connection = HostileConnection::open(server.address, window).await;
            let mut call = connection.call(path, Some(&token)).await.unwrap();
            call.send(EMPTY_MESSAGE, true).await;
            let mut body = call.headers().await.unwrap().1;
            // A part of a message: the rest has no room in the window.
            let begun = with_timeout("data", body.data()).await.unwrap().unwrap();
            assert_eq!(begun.len(), usize::try_from(window).unwrap());
            blocked.push((body, connection));
        }
        let id = Client::connect(server.address, Some(&token)).await.access.who_am_i(WhoAmIRequest {}).await.unwrap();
        let id = id.into_inner().user.unwrap().id;
        admin.access.deactivate_user(DeactivateUserRequest { id, ..Default::default() }).await.unwrap();
        for (body, _connection) in blocked {
            wait_until_reset(body).await;
        }
    }
}

async fn next(stream: &mut Streaming<WatchFeatureFlagsResponse>) -> WatchFeatureFlagsResponse {
    with_timeout("a message", stream.next()).await.unwrap().unwrap()
}

/// Watchers of all flags and of one, while flags change all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_watcher_ends_at_the_head_under_load() {
    const WATCHERS: usize = 300;
    const FLIPS: usize = 300;
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    for number in 0..10 {
        admin.create(&format!("flag-{number}")).await;
    }
    let mut watching = JoinSet::new();
    for number in 0..WATCHERS {
        let keys: Vec<_> = (number % 3 > 0).then(|| format!("flag-{}", number % 10)).into_iter().collect();
        let mut client = admin.clone();
        watching.spawn(async move {
            let request = WatchFeatureFlagsRequest { keys: keys.clone(), ..Default::default() };
            let mut stream = client.toggle.watch_feature_flags(request).await.unwrap().into_inner();
            let (mut known, mut messages, mut revision) = (std::collections::BTreeMap::new(), 0, 0);
            loop {
                let message = next(&mut stream).await;
                assert!(message.revision >= revision, "{} after {revision}", message.revision);
                revision = message.revision;
                messages += 1;
                for flag in message.feature_flags {
                    assert!(known.get(&flag.key).is_none_or(|old: &FeatureFlag| old.revision < flag.revision));
                    known.insert(flag.key.clone(), flag);
                }
                // Each flag is archived at the end.
                if !known.is_empty() && known.values().all(|flag| flag.archived_at.is_some()) {
                    return (keys, known, messages);
                }
            }
        });
    }
    let mut flipping = JoinSet::new();
    for number in 0..10 {
        let mut client = admin.clone();
        flipping.spawn(async move {
            let key = format!("flag-{number}");
            for _ in 0..FLIPS / 10 {
                client.flip(&key).await;
            }
            client.archive(&key).await
        });
    }
    let mut now = Vec::new();
    while let Some(flag) = flipping.join_next().await {
        now.push(flag.unwrap());
    }
    now.sort_by(|a, b| a.key.cmp(&b.key));
    while let Some(watched) = with_timeout("all watchers", watching.join_next()).await {
        let (keys, known, messages) = watched.unwrap();
        let expected: Vec<_> = now.iter().filter(|flag| keys.is_empty() || keys.contains(&flag.key)).cloned().collect();
        assert_eq!(known.into_values().collect::<Vec<_>>(), expected);
        assert!(messages <= FLIPS + 30, "{messages} messages: changes are sent together");
    }
}
