//! Streaming the audit log over gRPC.

use prost::Message;
use toggled::api::pb::*;

use super::write_history;
use crate::support::{BOOTSTRAP_ENTRIES, Client, Database, Server, on_both_databases, reason_of, toggle, with_timeout};

/// The position of a reader, with which it resumes a stream.
#[derive(Default, Clone)]
struct Cursor {
    after_revision: Option<i64>,
    log_id: Option<String>,
    after_hash: Option<Vec<u8>>,
}

impl Cursor {
    fn at(part: &StreamAuditLogsResponse) -> Self {
        Self {
            after_revision: Some(part.through_revision),
            log_id: Some(part.log_id.clone()),
            after_hash: Some(part.through_hash.clone()),
        }
    }

    fn request(&self) -> StreamAuditLogsRequest {
        StreamAuditLogsRequest {
            after_revision: self.after_revision,
            log_id: self.log_id.clone(),
            after_hash: self.after_hash.clone(),
            ..Default::default()
        }
    }
}

on_both_databases! {
    /// The server finishes its database reads for slow readers, and frees the connections, however many readers there are.
    async fn stalled_readers_do_not_block_other_readers(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let mut unread = Vec::new();
        for _ in 0..30 {
            let mut client = Client::with_window(server.address, 1_024).await;
            let follow = StreamAuditLogsRequest { follow: true, ..Default::default() };
            unread.push(with_timeout("a stream", client.audit.stream_audit_logs(follow)).await.unwrap());
            for _ in 0..10 {
                admin.flip("a").await;
            }
        }
        assert_eq!(with_timeout("the log", admin.log()).await.len(), BOOTSTRAP_ENTRIES + 301);
    }

    /// Readers are disconnected at random while flips continue.
    async fn resumed_stream_delivers_each_entry_once_in_order(backend: Backend) {
        const FLIPS: usize = 2_000;
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let writers: Vec<_> = (0..8)
            .map(|_| {
                let mut client = admin.clone();
                tokio::spawn(async move {
                    for _ in 0..FLIPS / 8 {
                        client.flip("a").await;
                    }
                })
            })
            .collect();
        let last = (BOOTSTRAP_ENTRIES + 1 + FLIPS) as i64;
        let readers = (0..4u64).map(|seed| {
            let mut client = admin.clone();
            async move {
                let mut cursor = Cursor::default();
                let mut seen = Vec::new();
                let mut random = seed;
                while cursor.after_revision != Some(last) {
                    let request = StreamAuditLogsRequest { follow: true, ..cursor.request() };
                    let mut stream = client.audit.stream_audit_logs(request).await.unwrap().into_inner();
                    // A pseudo-random number of messages before this connection is dropped.
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    for _ in 0..(random >> 60) {
                        if cursor.after_revision == Some(last) {
                            break;
                        }
                        let part = with_timeout("the next part", stream.message()).await.unwrap().unwrap();
                        assert!(part.head_revision >= part.through_revision);
                        assert_eq!(part.caught_up, part.head_revision == part.through_revision);
                        cursor = Cursor::at(&part);
                        seen.extend(part.items.into_iter().map(|entry| entry.revision));
                    }
                }
                seen
            }
        });
        let seen = futures::future::join_all(readers).await;
        for writer in writers {
            writer.await.unwrap();
        }
        for revisions in seen {
            assert_eq!(revisions, (1..=last).collect::<Vec<_>>());
        }
    }

    /// A part is limited by its size, not by the number of its entries: short ones before and after long ones.
    async fn parts_of_a_stream_are_limited_in_bytes(backend: Backend) {
        const LONG: usize = 300;
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let long = "\u{1f6a9}".repeat(2_000);
        for reason in ["", &*long, ""] {
            let flips = (0..LONG).map(|_| {
                let (mut client, flip) = (admin.clone(), ToggleFeatureFlagRequest { reason: reason.into(), ..toggle("a") });
                async move { client.toggle.toggle_feature_flag(flip).await.unwrap() }
            });
            futures::future::join_all(flips).await;
        }
        let last = (BOOTSTRAP_ENTRIES + 1 + 3 * LONG) as i64;
        let action_type = |action: &str| Some(action.to_owned());
        for (after, action) in [(0, None), (LONG as i64, None), (0, action_type("toggle_enabled"))] {
            let request = StreamAuditLogsRequest { after_revision: Some(after), action_type: action.clone(), ..Default::default() };
            let mut stream = admin.audit.stream_audit_logs(request).await.unwrap().into_inner();
            let (mut seen, mut through) = (Vec::new(), after);
            while let Some(part) = with_timeout("the next part", stream.message()).await.unwrap() {
                // Half a mebibyte, and an entry.
                assert!(part.encoded_len() < 540_000, "{} bytes", part.encoded_len());
                assert!(part.through_revision > through);
                through = part.through_revision;
                seen.extend(part.items.into_iter().map(|entry| entry.revision));
            }
            assert_eq!(through, last);
            let flips = if action.is_some() { 3 * LONG / 2 } else { usize::try_from(last - after).unwrap() };
            assert!(seen.is_sorted() && seen.len() == flips, "{} entries", seen.len());
        }
    }

    async fn filtered_stream_reports_its_progress(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let log = write_history(&mut admin, &server).await;
        let request = StreamAuditLogsRequest {
            entity_type: Some("user".into()),
            follow: true,
            ..Default::default()
        };
        let mut stream = admin.audit.stream_audit_logs(request).await.unwrap().into_inner();
        let part = stream.message().await.unwrap().unwrap();
        assert_eq!(part.items.iter().map(|e| e.entity_key.as_str()).collect::<Vec<_>>(), ["admin@localhost", "ann@example.com"]);
        let last = log.last().unwrap();
        assert_eq!((part.through_revision, part.through_hash, part.caught_up), (last.revision, last.hash.clone(), true));
        let flip = admin.flip("a").await;
        let part = with_timeout("progress past a revision that does not match", stream.message()).await.unwrap().unwrap();
        assert_eq!((part.items.len(), part.through_revision), (0, flip.revision));
        admin.new_user("bob@example.com", &[]).await;
        let part = with_timeout("the new user", stream.message()).await.unwrap().unwrap();
        assert_eq!(part.items[0].entity_key, "bob@example.com");
    }

    async fn stream_with_a_limit_ends_there(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let log = write_history(&mut admin, &server).await;
        let limited = StreamAuditLogsRequest { limit: Some(3), follow: true, after_revision: Some(2), ..Default::default() };
        let mut stream = admin.audit.stream_audit_logs(limited).await.unwrap().into_inner();
        let part = stream.message().await.unwrap().unwrap();
        assert_eq!(part.items, log[2..5]);
        assert_eq!((part.through_revision, &part.through_hash, part.caught_up), (5, &log[4].hash, false));
        assert!(with_timeout("the end", stream.message()).await.unwrap().is_none());
    }

    async fn cursor_of_another_log_is_refused(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let log = write_history(&mut admin, &server).await;
        let last = log.len() as i64;
        let cases = [
            (StreamAuditLogsRequest { after_revision: Some(last + 1), ..Default::default() }, "CURSOR_IN_FUTURE"),
            (StreamAuditLogsRequest { log_id: Some(uuid::Uuid::nil().into()), ..Default::default() }, "LOG_MISMATCH"),
            (StreamAuditLogsRequest {
                after_revision: Some(3),
                after_hash: Some(vec![0; 32]),
                ..Default::default()
            }, "LOG_MISMATCH"),
            (StreamAuditLogsRequest {
                after_revision: Some(0),
                after_hash: Some(vec![1; 32]),
                ..Default::default()
            }, "LOG_MISMATCH"),
            (StreamAuditLogsRequest { after_hash: Some(vec![0; 32]), ..Default::default() }, "INVALID_FIELD"),
            (StreamAuditLogsRequest { after_revision: Some(-1), ..Default::default() }, "INVALID_FIELD"),
            (StreamAuditLogsRequest { limit: Some(0), ..Default::default() }, "INVALID_FIELD"),
        ];
        for (request, reason) in cases {
            let error = admin.audit.stream_audit_logs(request).await.unwrap_err();
            assert_eq!(reason_of(&error), reason);
        }
        for revision in [0, 3] {
            let hash = log.get((revision as usize).wrapping_sub(1)).map_or(vec![0; 32], |entry| entry.hash.clone());
            let good = StreamAuditLogsRequest { after_revision: Some(revision), after_hash: Some(hash), ..Default::default() };
            let mut stream = admin.audit.stream_audit_logs(good).await.unwrap().into_inner();
            assert_eq!(stream.message().await.unwrap().unwrap().items[0].revision, revision + 1);
        }
    }
}
