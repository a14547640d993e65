//! WatchFeatureFlags.

use std::collections::{BTreeMap, HashSet};

use toggled::api::pb::*;
use tonic::transport::Endpoint;
use tonic::{Code, Streaming};
use tonic_types::StatusExt;

use crate::support::{Client, Database, Server, on_both_databases, read_until_error, reason_of, with_timeout};

type WatchStream = Streaming<WatchFeatureFlagsResponse>;

async fn watch(client: &mut Client, request: WatchFeatureFlagsRequest) -> WatchStream {
    client.toggle.watch_feature_flags(request).await.unwrap().into_inner()
}

async fn next(stream: &mut WatchStream) -> WatchFeatureFlagsResponse {
    with_timeout("a message", stream.message()).await.unwrap().unwrap()
}

/// All messages up to the first with `caught_up`.
async fn caught_up(stream: &mut WatchStream) -> Vec<WatchFeatureFlagsResponse> {
    let mut messages = vec![next(stream).await];
    while !messages.last().unwrap().caught_up {
        messages.push(next(stream).await);
    }
    messages
}

fn flags(messages: &[WatchFeatureFlagsResponse]) -> Vec<FeatureFlag> {
    messages.iter().flat_map(|message| message.feature_flags.clone()).collect()
}

fn keys(message: &WatchFeatureFlagsResponse) -> Vec<&str> {
    message.feature_flags.iter().map(|flag| flag.key.as_str()).collect()
}

/// A request to resume after a message.
fn after(message: &WatchFeatureFlagsResponse) -> WatchFeatureFlagsRequest {
    WatchFeatureFlagsRequest {
        after_revision: Some(message.revision),
        log_id: Some(message.log_id.clone()),
        after_hash: message.hash.clone(),
        ..Default::default()
    }
}

/// Sets flags in one batch and returns the revision.
async fn set(client: &mut Client, keys: &[String], status: FeatureFlagStatus) -> i64 {
    let item = |key: &String| BatchSetItem {
        flag: Some(batch_set_item::Flag::Key(key.clone())),
        status: status.into(),
        ..Default::default()
    };
    let request = BatchSetFeatureFlagsRequest { items: keys.iter().map(item).collect(), ..Default::default() };
    client.toggle.batch_set_feature_flags(request).await.unwrap().into_inner().revision
}

/// Creates flags with long descriptions. Ten of them make a message of 80 KB.
async fn create_large(client: &mut Client, count: usize) -> Vec<String> {
    let keys: Vec<_> = (0..count).map(|n| format!("large-{n:04}")).collect();
    for key in &keys {
        let request = CreateFeatureFlagRequest {
            key: key.clone(),
            name: "Large".into(),
            description: "\u{1f418}".repeat(2_000),
            ..Default::default()
        };
        client.toggle.create_feature_flag(request).await.unwrap();
    }
    keys
}

on_both_databases! {
    async fn watch_sends_all_flags_and_then_changes(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let (a, c) = (admin.create("a").await, admin.create("c").await);
        let b = admin.create("b").await;
        let archived = admin.archive("a").await;
        let mut watching = watch(&mut admin, WatchFeatureFlagsRequest::default()).await;
        let first = next(&mut watching).await;
        assert_eq!(first.feature_flags, [c, b, archived], "not the current flags in order of their last change");
        let log = admin.log().await;
        let last = log.last().unwrap();
        assert!(first.caught_up && a.key == "a");
        assert_eq!((first.revision, &first.hash), (last.revision, &last.hash));

        let flipped = admin.flip("b").await;
        let message = next(&mut watching).await;
        assert_eq!((message.revision, message.caught_up), (flipped.revision, true));
        assert_eq!(message.feature_flags, [flipped.feature_flag.unwrap()]);
        assert_eq!((message.hash, message.log_id), (flipped.audit_log.unwrap().hash, first.log_id));
        let created = admin.create("d").await;
        assert_eq!(next(&mut watching).await.feature_flags, [created]);
    }

    async fn watch_without_flags_reports_empty_state(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let mut watching = watch(&mut admin, WatchFeatureFlagsRequest::default()).await;
        let first = next(&mut watching).await;
        assert!(first.caught_up && first.feature_flags.is_empty() && first.revision > 0, "{first:?}");
        // Changes of users and permissions are not sent.
        admin.new_user("ann@example.com", &[]).await;
        let created = admin.create("a").await;
        assert_eq!(next(&mut watching).await.feature_flags, [created]);
    }

    async fn resumed_watch_sends_each_changed_flag_once(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        for key in ["a", "b", "c"] {
            admin.create(key).await;
        }
        let mut watching = watch(&mut admin, WatchFeatureFlagsRequest::default()).await;
        let seen = next(&mut watching).await;
        drop(watching);
        let unchanged = next(&mut watch(&mut admin, after(&seen)).await).await;
        assert_eq!((unchanged.feature_flags.len(), unchanged.caught_up, unchanged.revision), (0, true, seen.revision));

        for _ in 0..5 {
            admin.flip("c").await;
        }
        admin.flip("a").await;
        let (a, c) = (admin.get("a").await, admin.get("c").await);
        let resumed = next(&mut watch(&mut admin, after(&seen)).await).await;
        assert_eq!(resumed.feature_flags, [c, a]);
        // Resuming does not depend on the same server or its memory.
        assert!(server.terminate().await.success());
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let again = next(&mut watch(&mut admin, after(&seen)).await).await;
        assert_eq!(again, resumed);
    }

    async fn watch_of_keys_sends_only_these_flags(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        for key in ["a", "b", "c"] {
            admin.create(key).await;
        }
        let request = WatchFeatureFlagsRequest { keys: vec!["c".into(), "later".into(), "a".into(), "a".into()], ..Default::default() };
        let mut watching = watch(&mut admin, request.clone()).await;
        let first = next(&mut watching).await;
        assert_eq!(keys(&first), ["a", "c"]);
        for _ in 0..50 {
            admin.flip("b").await;
        }
        let flipped = admin.flip("c").await;
        let message = next(&mut watching).await;
        assert_eq!((keys(&message), message.revision), (vec!["c"], flipped.revision));
        admin.create("later").await;
        assert_eq!(keys(&next(&mut watching).await), ["later"]);

        admin.flip("a").await;
        admin.flip("b").await;
        let resumed = next(&mut watch(&mut admin, WatchFeatureFlagsRequest { keys: request.keys, ..after(&message) }).await).await;
        assert_eq!(keys(&resumed), ["later", "a"]);
    }

    async fn interrupted_snapshot_is_completed_on_resume(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let all = create_large(&mut admin, 300).await;
        let mut watching = watch(&mut admin, WatchFeatureFlagsRequest::default()).await;
        let whole = caught_up(&mut watching).await;
        assert!(whole.len() > 2, "{} messages", whole.len());
        assert!(whole.iter().all(|message| prost::Message::encoded_len(message) < 2 << 20));
        assert_eq!(flags(&whole).iter().map(|flag| flag.key.clone()).collect::<Vec<_>>(), all);
        drop(watching);
        // Change one flag that was received and one that was not.
        admin.flip(&all[0]).await;
        admin.flip(&all[299]).await;
        let rest = caught_up(&mut watch(&mut admin, after(&whole[0])).await).await;
        let mut known: BTreeMap<String, FeatureFlag> = BTreeMap::new();
        for flag in whole[0].feature_flags.iter().cloned().chain(flags(&rest)) {
            known.insert(flag.key.clone(), flag);
        }
        let now = caught_up(&mut watch(&mut admin, WatchFeatureFlagsRequest::default()).await).await;
        assert_eq!(known, flags(&now).into_iter().map(|flag| (flag.key.clone(), flag)).collect());
        assert_eq!(flags(&rest).len(), 300 - whole[0].feature_flags.len() + 1, "a flag was sent twice");
    }

    async fn invalid_watch_request_is_refused(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let revision = admin.create("a").await.revision;
        let mut bad = vec!["a".to_owned(); 1_001];
        bad[3] = "no key".into();
        let request = WatchFeatureFlagsRequest {
            after_revision: Some(-1),
            keys: bad,
            log_id: Some("none".into()),
            after_hash: vec![1],
            environment: Some("No".into()),
        };
        let refused = admin.toggle.watch_feature_flags(request).await.unwrap_err();
        assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
        let fields: HashSet<_> =
            refused.get_details_bad_request().unwrap().field_violations.into_iter().map(|v| v.field).collect();
        let expected = ["after_revision", "keys", "keys[3]", "log_id", "after_hash", "environment"].map(str::to_owned);
        assert_eq!(fields, HashSet::from(expected));

        let good = WatchFeatureFlagsRequest { after_revision: Some(revision), ..Default::default() };
        let cases = [
            (WatchFeatureFlagsRequest { after_hash: vec![0; 32], ..Default::default() }, Code::InvalidArgument, "INVALID_FIELD"),
            (WatchFeatureFlagsRequest { after_revision: Some(revision + 1), ..good.clone() }, Code::OutOfRange, "CURSOR_IN_FUTURE"),
            (WatchFeatureFlagsRequest { log_id: Some(uuid::Uuid::nil().to_string()), ..good.clone() },
                Code::FailedPrecondition, "LOG_MISMATCH"),
            (WatchFeatureFlagsRequest { after_hash: vec![7; 32], ..good.clone() }, Code::FailedPrecondition, "LOG_MISMATCH"),
            (WatchFeatureFlagsRequest { after_revision: Some(1), after_hash: vec![7; 32], ..good },
                Code::FailedPrecondition, "LOG_MISMATCH"),
        ];
        for (request, code, reason) in cases {
            let refused = admin.toggle.watch_feature_flags(request.clone()).await.unwrap_err();
            assert_eq!((refused.code(), reason_of(&refused).as_str()), (code, reason), "{request:?}");
        }
    }

    async fn watch_ends_on_lost_access_and_on_shutdown(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let mut endings = Vec::new();
        for email in ["narrowed@example.com", "gone@example.com"] {
            let secret = admin.new_user(email, &["view_feature_flags"]).await;
            let mut client = server.client(Some(&secret)).await;
            let mut watching = watch(&mut client, WatchFeatureFlagsRequest::default()).await;
            caught_up(&mut watching).await;
            let id = client.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().user.unwrap().id;
            if email.starts_with("gone") {
                admin.access.deactivate_user(DeactivateUserRequest { id, ..Default::default() }).await.unwrap();
            } else {
                let permissions = vec!["view_audit_logs".to_owned()];
                let request = UpdateUserRequest { id, permissions, ..Default::default() };
                admin.access.update_user(request).await.unwrap();
            }
            endings.push(read_until_error(&mut watching).await);
        }
        let mut watching = watch(&mut admin, WatchFeatureFlagsRequest::default()).await;
        caught_up(&mut watching).await;
        assert!(server.terminate().await.success());
        endings.push(read_until_error(&mut watching).await);
        let endings: Vec<_> = endings.iter().map(|status| (status.code(), reason_of(status))).collect();
        let expected = [
            (Code::PermissionDenied, "PERMISSION_DENIED"),
            (Code::Unauthenticated, "UNAUTHENTICATED"),
            (Code::Unavailable, "DRAINING"),
        ];
        assert_eq!(endings, expected.map(|(code, reason)| (code, reason.to_owned())));
    }

    /// A slow watcher gets only the latest state of each flag, and does not delay a quick watcher.
    async fn slow_watcher_gets_latest_state_without_delaying(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let all = create_large(&mut admin, 10).await;
        // A small window, so that messages that the client does not read stay on the server.
        let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap().initial_stream_window_size(65_535);
        let channel = with_timeout("a connection", endpoint.connect()).await.unwrap();
        let mut slow_client = Client::with_channel(channel, Some(crate::support::TOKEN));
        let mut slow = watch(&mut slow_client, WatchFeatureFlagsRequest::default()).await;
        caught_up(&mut slow).await;
        let mut quick = watch(&mut admin.clone(), WatchFeatureFlagsRequest::default()).await;
        caught_up(&mut quick).await;
        let mut last = 0;
        for round in 0..100 {
            let status = if round % 2 == 0 { FeatureFlagStatus::Enabled } else { FeatureFlagStatus::Disabled };
            last = set(&mut admin, &all, status).await;
            // The quick watcher receives this round before the next begins.
            while next(&mut quick).await.revision < last {}
        }
        let now = flags(&caught_up(&mut watch(&mut admin, WatchFeatureFlagsRequest::default()).await).await);
        let mut messages = Vec::new();
        while messages.last().is_none_or(|message: &WatchFeatureFlagsResponse| message.revision < last) {
            messages.push(next(&mut slow).await);
        }
        assert!(messages.len() < 20, "{} messages for 100 rounds", messages.len());
        let known: BTreeMap<_, _> = flags(&messages).into_iter().map(|flag| (flag.key.clone(), flag)).collect();
        assert_eq!(known.into_values().collect::<Vec<_>>(), now);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_watchers_see_every_flip() {
    let database = Database::new(crate::support::Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let mut watchers = Vec::new();
    for _ in 0..10 {
        let mut client = server.admin().await;
        for _ in 0..100 {
            let mut stream = watch(&mut client, WatchFeatureFlagsRequest::default()).await;
            caught_up(&mut stream).await;
            watchers.push(stream);
        }
    }
    for left in [1_000, 1_000, 1_000, 500, 500] {
        watchers.truncate(left);
        let flipped = admin.flip("a").await.feature_flag.unwrap();
        for stream in &mut watchers {
            let mut message = next(stream).await;
            // On a slow machine a heartbeat may come first.
            while message.feature_flags.is_empty() {
                message = next(stream).await;
            }
            assert_eq!(message.feature_flags, std::slice::from_ref(&flipped));
        }
    }
}
