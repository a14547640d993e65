//! Lists, streams and watches of a log that is trimmed.

use toggled::api::pb::*;
use toggled::domain::advance::Proposal;
use toggled::domain::hash::GENESIS;
use toggled::domain::text::Reason;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::store::raw::Raw;
use crate::store::world::{self, World};
use crate::support::{Client, Database, Server, TOKEN, on_both_databases, read_until_error, reason_of, with_timeout};

use super::{error_of, flips, list, refused, through, too_old, trim, until_removed};

on_both_databases! {
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
        world.commit(&[world::create_environment("default"), world::create("a")].map(world::service)).await;
        let reason = Some(Reason::parse(&"x".repeat(500)).unwrap());
        world.lengthen(Proposal { reason, ..world::service(world::toggle("a")) }, 9_000).await;
        let server = Server::start(&world.database).await;
        // The stream's window is 64 KiB, and a page of 500 entries is several times that. One page is in flight, the transport
        // holds the next, and the server reads one ahead. So it has read at most four pages when the client has the first. Later
        // pages are larger: up to 900 entries.
        let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap().initial_stream_window_size(65_535);
        let mut admin = Client::with_channel(with_timeout("a connection", endpoint.connect()).await.unwrap(), Some(TOKEN));
        let log = admin.log().await;
        for follow in [false, true] {
            let from = admin.log().await[0].revision;
            let request = StreamAuditLogsRequest { follow, ..Default::default() };
            let mut slow = admin.audit.stream_audit_logs(request).await.unwrap().into_inner();
            let first = with_timeout("a part", slow.message()).await.unwrap().unwrap().items;
            let last = if follow { log.len() - 1 } else { 3_800 };
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
