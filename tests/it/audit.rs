//! Listing and streaming the audit log over gRPC.

use std::collections::HashSet;

use prost_types::Timestamp;
use toggled::api::pb::*;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{Client, Database, Server, on_both_databases, reason_of, with_timeout};

/// Writes a log with entries of several kinds and users.
async fn write_history(admin: &mut Client, server: &Server) -> Vec<AuditLog> {
    for key in ["a", "b"] {
        admin.create(key).await;
    }
    let ann = admin.new_user("ann@example.com", &["toggle_feature_flags"]).await;
    let mut ann = server.client(Some(&ann)).await;
    for _ in 0..10 {
        admin.flip("a").await;
        ann.flip("b").await;
    }
    admin.log().await
}

async fn list(client: &mut Client, request: ListAuditLogsRequest) -> ListAuditLogsResponse {
    client.audit.list_audit_logs(request).await.unwrap().into_inner()
}

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
        assert_eq!(with_timeout("the log", admin.log()).await.len(), 303);
    }

    async fn filters_match_a_scan_of_the_whole_log(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let log = write_history(&mut admin, &server).await;
        let ann = log.iter().find(|e| e.user_email == "ann@example.com").unwrap().clone();
        let flag = log.iter().find(|e| e.entity_key == "a").unwrap().clone();
        let all = ListAuditLogsRequest { limit: Some(100), ..Default::default() };
        type Expected = Box<dyn Fn(&AuditLog) -> bool>;
        let cases: Vec<(ListAuditLogsRequest, Expected)> = vec![
            (all.clone(), Box::new(|_| true)),
            (ListAuditLogsRequest { user_id: ann.user_id.clone(), ..all.clone() }, {
                let id = ann.user_id.clone();
                Box::new(move |e| e.user_id == id)
            }),
            (ListAuditLogsRequest { user_email: Some("ANN@example.com".into()), ..all.clone() },
                Box::new(|e| e.user_email == "ann@example.com")),
            (ListAuditLogsRequest { user_email: Some("bootstrap@localhost".into()), ..all.clone() },
                Box::new(|e| e.user_email == "bootstrap@localhost")),
            (ListAuditLogsRequest { entity_type: Some("feature_flag".into()), ..all.clone() },
                Box::new(|e| e.entity_type == "feature_flag")),
            (ListAuditLogsRequest { entity_type: Some("api_token".into()), ..all.clone() },
                Box::new(|e| e.entity_type == "api_token")),
            (ListAuditLogsRequest { entity_type: Some("log".into()), ..all.clone() }, Box::new(|_| false)),
            (ListAuditLogsRequest { entity_id: flag.entity_id.clone(), ..all.clone() },
                Box::new(|e| e.entity_key == "a")),
            (ListAuditLogsRequest { action_type: Some("toggle_enabled".into()), ..all.clone() },
                Box::new(|e| e.action_type == "toggle_enabled")),
            (ListAuditLogsRequest {
                action_type: Some("toggle_enabled".into()),
                entity_id: flag.entity_id.clone(),
                entity_type: Some("feature_flag".into()),
                user_email: Some("admin@localhost".into()),
                ..all.clone()
            }, Box::new(|e| e.action_type == "toggle_enabled" && e.entity_key == "a")),
        ];
        for (request, expected) in cases {
            let found = list(&mut admin, request.clone()).await;
            let mut wanted: Vec<_> = log.iter().filter(|e| expected(e)).cloned().collect();
            wanted.reverse();
            assert_eq!(found.items, wanted, "{request:?}");
            assert_eq!(found.total, Some(wanted.len() as i64), "{request:?}");
        }
    }

    async fn time_range_includes_both_ends(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let log = write_history(&mut admin, &server).await;
        let (from, to) = (log[5].timestamp, log[9].timestamp);
        let time = |t: &Option<Timestamp>| t.map(|t| (t.seconds, t.nanos));
        let wanted: Vec<_> =
            log.iter().filter(|e| time(&e.timestamp) >= time(&from) && time(&e.timestamp) <= time(&to)).collect();
        let between = ListAuditLogsRequest { from_date: from, to_date: to, ..Default::default() };
        let found = list(&mut admin, between.clone()).await;
        assert_eq!(found.items.iter().rev().collect::<Vec<_>>(), wanted);
        assert_eq!(found.total, Some(wanted.len() as i64));
        // One nanosecond inside the range, the ends are excluded.
        let inside = |t: Option<Timestamp>, by: i32| t.map(|t| Timestamp { nanos: t.nanos + by, ..t });
        let narrow = ListAuditLogsRequest { from_date: inside(from, 1), ..between.clone() };
        assert_eq!(list(&mut admin, narrow).await.items.last(), log.iter().find(|e| time(&e.timestamp) > time(&from)));
        let nothing = ListAuditLogsRequest { from_date: to, to_date: from, ..between };
        assert_eq!(list(&mut admin, nothing).await.total, Some(0));
        let stream = StreamAuditLogsRequest { from_date: from, to_date: to, follow: true, ..Default::default() };
        let mut stream = admin.audit.stream_audit_logs(stream).await.unwrap().into_inner();
        let mut streamed = Vec::new();
        while let Some(part) = with_timeout("the end of a past time range", stream.message()).await.unwrap() {
            streamed.extend(part.items);
        }
        assert_eq!(streamed.iter().collect::<Vec<_>>(), wanted);
    }

    async fn pages_are_stable_while_the_log_grows(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let log = write_history(&mut admin, &server).await;
        for filter in [None, Some("toggle_enabled".to_owned())] {
            let wanted: Vec<_> =
                log.iter().rev().filter(|e| filter.as_ref().is_none_or(|f| *f == e.action_type)).cloned().collect();
            let request = ListAuditLogsRequest {
                limit: Some(3),
                action_type: filter,
                as_of_revision: Some(log.len() as i64),
                ..Default::default()
            };
            let mut page = list(&mut admin, request.clone()).await;
            assert_eq!((page.total, page.page, page.limit), (Some(wanted.len() as i64), 1, 3));
            let mut by_token = page.items.clone();
            let mut number = 1;
            while !page.next_page_token.is_empty() {
                admin.flip("a").await;
                let next = ListAuditLogsRequest {
                    page_token: page.next_page_token.clone(),
                    as_of_revision: None,
                    ..request.clone()
                };
                page = list(&mut admin, next).await;
                number += 1;
                assert_eq!((page.page, page.as_of_revision), (number, log.len() as i64));
                by_token.extend(page.items.clone());
                let by_number = ListAuditLogsRequest { page: Some(number), ..request.clone() };
                assert_eq!(list(&mut admin, by_number).await.items, page.items);
            }
            assert_eq!(by_token, wanted);
            let past = list(&mut admin, ListAuditLogsRequest { page: Some(i32::MAX), ..request }).await;
            assert_eq!((past.items.len(), past.total), (0, Some(wanted.len() as i64)));
        }
    }

    async fn invalid_page_requests_are_refused(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        write_history(&mut admin, &server).await;
        let good = ListAuditLogsRequest { limit: Some(2), ..Default::default() };
        let token = list(&mut admin, good.clone()).await.next_page_token;
        let bad = [
            (ListAuditLogsRequest { page: Some(0), ..good.clone() }, "page"),
            (ListAuditLogsRequest { limit: Some(0), ..good.clone() }, "limit"),
            (ListAuditLogsRequest { limit: Some(101), ..good.clone() }, "limit"),
            (ListAuditLogsRequest { page: Some(2), page_token: token.clone(), ..good.clone() }, "page"),
            (ListAuditLogsRequest { limit: Some(3), page_token: token.clone(), ..good.clone() }, "page_token"),
            (ListAuditLogsRequest { page_token: "x".into(), ..good.clone() }, "page_token"),
            (ListAuditLogsRequest { user_id: Some("'; DROP TABLE audit_logs; --".into()), ..good.clone() }, "user_id"),
            (ListAuditLogsRequest { user_id: Some(String::new()), ..good.clone() }, "user_id"),
            (ListAuditLogsRequest { entity_type: Some("flag".into()), ..good.clone() }, "entity_type"),
            (ListAuditLogsRequest { action_type: Some("toggled".into()), ..good.clone() }, "action_type"),
            (ListAuditLogsRequest {
                from_date: Some(Timestamp { seconds: i64::MAX, nanos: 0 }),
                ..good.clone()
            }, "from_date"),
        ];
        for (request, field) in bad {
            let error = admin.audit.list_audit_logs(request).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
            assert_eq!(error.get_details_bad_request().unwrap().field_violations[0].field, field);
        }
        let future = ListAuditLogsRequest { as_of_revision: Some(1_000), ..good };
        assert_eq!(reason_of(&admin.audit.list_audit_logs(future).await.unwrap_err()), "CURSOR_IN_FUTURE");
        let none = GetAuditLogRequest { id: uuid::Uuid::nil().to_string() };
        assert_eq!(reason_of(&admin.audit.get_audit_log(none).await.unwrap_err()), "AUDIT_LOG_NOT_FOUND");
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
        let last = FLIPS as i64 + 3;
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

    /// With entries of the maximum size, no message exceeds the default limit of clients.
    async fn large_entries_fit_the_message_limit_of_clients(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let update = |n: usize| UpdateFeatureFlagRequest {
            flag: Some(update_feature_flag_request::Flag::Key("a".into())),
            name: format!("{n:->255}"),
            description: "\u{1}".repeat(2_000),
            reason: "🦀".repeat(2_000),
            ..Default::default()
        };
        let updates = (0..150).map(|n| {
            let mut admin = admin.clone();
            async move { admin.toggle.update_feature_flag(update(n)).await.unwrap() }
        });
        futures::future::join_all(updates).await;
        let log = admin.log().await;
        assert_eq!(log.iter().map(|e| e.revision).collect::<HashSet<_>>().len(), log.len());
        assert_eq!(log.len(), 153);
        let request = ListAuditLogsRequest { limit: Some(100), ..Default::default() };
        assert_eq!(list(&mut admin, request).await.items.len(), 100);
    }
}
