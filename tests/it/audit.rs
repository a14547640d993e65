//! Listing the audit log over gRPC.

pub mod environments;
mod streams;

use std::collections::HashSet;

use prost_types::Timestamp;
use toggled::api::pb::*;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{BOOTSTRAP_ENTRIES, Client, Database, Server, on_both_databases, reason_of, toggle, with_timeout};

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
    for key in ["a", "b", "b"] {
        let because = ToggleFeatureFlagRequest { reason: "because".into(), ..toggle(key) };
        admin.toggle.toggle_feature_flag(because).await.unwrap();
    }
    admin.log().await
}

/// The request for a stream of the same entries.
fn stream_of(list: ListAuditLogsRequest) -> StreamAuditLogsRequest {
    StreamAuditLogsRequest {
        user_id: list.user_id,
        user_email: list.user_email,
        entity_type: list.entity_type,
        entity_id: list.entity_id,
        entity_key: list.entity_key,
        key_prefix: list.key_prefix,
        action_type: list.action_type,
        action_types: list.action_types,
        without_reason: list.without_reason,
        ..Default::default()
    }
}

async fn list(client: &mut Client, request: ListAuditLogsRequest) -> ListAuditLogsResponse {
    client.audit.list_audit_logs(request).await.unwrap().into_inner()
}

on_both_databases! {
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
            (ListAuditLogsRequest { entity_key: Some("a".into()), ..all.clone() }, Box::new(|e| e.entity_key == "a")),
            (ListAuditLogsRequest { entity_key: Some("ann@example.com".into()), ..all.clone() },
                Box::new(|e| e.entity_key == "ann@example.com")),
            (ListAuditLogsRequest { entity_key: Some("A".into()), ..all.clone() }, Box::new(|_| false)),
            (ListAuditLogsRequest { key_prefix: Some("a".into()), ..all.clone() },
                Box::new(|e| e.entity_key.starts_with('a'))),
            (ListAuditLogsRequest { key_prefix: Some("ad".into()), user_email: Some("bootstrap@localhost".into()), ..all.clone() },
                Box::new(|e| e.entity_key.starts_with("ad") && e.user_email == "bootstrap@localhost")),
            (ListAuditLogsRequest { action_types: vec!["flag_created".into(), "toggle_enabled".into()], ..all.clone() },
                Box::new(|e| ["flag_created", "toggle_enabled"].contains(&&*e.action_type))),
            (ListAuditLogsRequest { action_types: vec!["flag_created".into(); 2], ..all.clone() },
                Box::new(|e| e.action_type == "flag_created")),
            (ListAuditLogsRequest { without_reason: true, ..all.clone() },
                Box::new(|e| e.action_type.starts_with("toggle") && e.reason.is_none())),
            (ListAuditLogsRequest { without_reason: true, key_prefix: Some("b".into()), ..all.clone() },
                Box::new(|e| e.action_type.starts_with("toggle") && e.reason.is_none() && e.entity_key == "b")),
        ];
        for (request, expected) in cases {
            let found = list(&mut admin, request.clone()).await;
            let mut wanted: Vec<_> = log.iter().filter(|e| expected(e)).cloned().collect();
            wanted.reverse();
            assert_eq!(found.items, wanted, "{request:?}");
            assert_eq!(found.total, Some(wanted.len() as i64), "{request:?}");
            // Page by page, and as a stream, oldest first.
            let (mut pages, mut next) = (Vec::new(), ListAuditLogsRequest { limit: Some(4), ..request.clone() });
            loop {
                let page = list(&mut admin, next.clone()).await;
                pages.extend(page.items);
                if page.next_page_token.is_empty() {
                    break;
                }
                next.page_token = page.next_page_token;
            }
            assert_eq!(pages, wanted, "{request:?}");
            let mut stream = admin.audit.stream_audit_logs(stream_of(request)).await.unwrap().into_inner();
            let mut streamed = Vec::new();
            while let Some(message) = stream.message().await.unwrap() {
                streamed.extend(message.items);
            }
            streamed.reverse();
            assert_eq!(streamed, wanted);
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
            (ListAuditLogsRequest { action_types: vec!["flag_created".into(), "x".into()], ..good.clone() }, "action_types[1]"),
            (ListAuditLogsRequest { action_types: vec!["flag_created".into(); 33], ..good.clone() }, "action_types"),
            (ListAuditLogsRequest {
                action_type: Some("flag_created".into()),
                action_types: vec!["flag_created".into()],
                ..good.clone()
            }, "action_types"),
            (ListAuditLogsRequest { entity_key: Some(String::new()), ..good.clone() }, "entity_key"),
            (ListAuditLogsRequest { entity_key: Some("k".repeat(1_025)), ..good.clone() }, "entity_key"),
            (ListAuditLogsRequest { key_prefix: Some("\0".into()), ..good.clone() }, "key_prefix"),
            (ListAuditLogsRequest { entity_key: Some("a".into()), key_prefix: Some("a".into()), ..good.clone() }, "key_prefix"),
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
        assert_eq!(log.len(), BOOTSTRAP_ENTRIES + 151);
        let request = ListAuditLogsRequest { limit: Some(100), ..Default::default() };
        assert_eq!(list(&mut admin, request).await.items.len(), 100);
    }
}
