//! Past states of flags: a request for a past revision or time gets the answer that was given at that time.

mod clocks;
mod closed_times;
mod lagging_replica;

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use toggled::api::pb::*;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{Client, Database, Server, archive, on_both_databases, reason_of};

const KEYS: [&str; 4] = ["a", "b", "c-1", "c-2"];

/// The answers that were given at a revision while it was the current one.
#[derive(Debug, PartialEq)]
struct Snapshot {
    revision: i64,
    timestamp: prost_types::Timestamp,
    all: Vec<FeatureFlag>,
    enabled: Vec<FeatureFlag>,
}

fn list(status: FeatureFlagStatus, include_archived: bool) -> ListFeatureFlagsRequest {
    ListFeatureFlagsRequest { status: status.into(), include_archived, ..Default::default() }
}

fn all() -> ListFeatureFlagsRequest {
    list(FeatureFlagStatus::Unspecified, true)
}

fn enabled() -> ListFeatureFlagsRequest {
    list(FeatureFlagStatus::Enabled, false)
}

fn get(key: &str, as_of_revision: Option<i64>) -> GetFeatureFlagRequest {
    GetFeatureFlagRequest {
        flag: Some(get_feature_flag_request::Flag::Key(key.into())),
        as_of_revision,
        ..Default::default()
    }
}

fn get_at(key: &str, time: prost_types::Timestamp) -> GetFeatureFlagRequest {
    GetFeatureFlagRequest { as_of_time: Some(time), ..get(key, None) }
}

async fn listed(client: &mut Client, request: ListFeatureFlagsRequest) -> ListFeatureFlagsResponse {
    client.toggle.list_feature_flags(request).await.unwrap().into_inner()
}

async fn snapshot(client: &mut Client) -> Snapshot {
    let answer = listed(client, all()).await;
    let newest = ListAuditLogsRequest { limit: Some(1), ..Default::default() };
    let newest = client.audit.list_audit_logs(newest).await.unwrap().into_inner().items.remove(0);
    assert_eq!(newest.revision, answer.revision);
    Snapshot {
        revision: answer.revision,
        timestamp: newest.timestamp.unwrap(),
        all: answer.feature_flags,
        enabled: listed(client, enabled()).await.feature_flags,
    }
}

/// Makes one kind of change to a flag. Some changes fail, which is intended.
async fn make_change(client: &mut Client, what: u8, key: &str) {
    match what {
        0 => {
            let new = CreateFeatureFlagRequest { key: key.into(), name: format!("Flag {key}"), ..Default::default() };
            let _ = client.toggle.create_feature_flag(new).await;
        }
        1 => {
            let request = UpdateFeatureFlagRequest {
                flag: Some(update_feature_flag_request::Flag::Key(key.into())),
                name: format!("Name {:?}", SystemTime::now()),
                description: "it's \"new\"".into(),
                ..Default::default()
            };
            let _ = client.toggle.update_feature_flag(request).await;
        }
        2 => drop(client.toggle.archive_feature_flag(archive(key)).await),
        3 => {
            let flag = Some(unarchive_feature_flag_request::Flag::Key(key.into()));
            let _ =
                client.toggle.unarchive_feature_flag(UnarchiveFeatureFlagRequest { flag, ..Default::default() }).await;
        }
        4 => {
            let log = client.log().await;
            for entry in log.iter().rev().filter(|entry| entry.old_value() == "enabled").take(1) {
                let request = RevertFeatureFlagRequest { audit_log_id: entry.id.clone(), ..Default::default() };
                let _ = client.toggle.revert_feature_flag(request).await;
            }
        }
        _ => drop(client.toggle.toggle_feature_flag(crate::support::toggle(key)).await),
    }
}

/// Makes many changes and returns the answers at each revision.
async fn make_history(client: &mut Client) -> Vec<Snapshot> {
    let mut past = vec![snapshot(client).await];
    for (what, key) in [
        (0, "a"),
        (5, "a"),
        (0, "b"),
        (1, "a"),
        (5, "a"),
        (4, "a"),
        (5, "b"),
        (2, "b"),
        (1, "b"),
        (5, "a"),
        (0, "c-1"),
        (3, "b"),
    ] {
        make_change(client, what, key).await;
        past.push(snapshot(client).await);
    }
    let event = (prop_oneof![4 => 5u8..8, 3 => 0u8..5], 0..KEYS.len());
    let events = proptest::collection::vec(event, 40).new_tree(&mut TestRunner::deterministic()).unwrap().current();
    for (what, key) in events {
        make_change(client, what, KEYS[key]).await;
        past.push(snapshot(client).await);
    }
    past.dedup_by_key(|snapshot| snapshot.revision);
    let log = client.log().await;
    for action in
        ["flag_created", "flag_updated", "flag_archived", "flag_unarchived", "toggle_enabled", "toggle_disabled"]
    {
        assert!(log.iter().any(|entry| entry.action_type == action), "{action}");
    }
    assert!(past.len() > 30 && log.iter().any(|entry| entry.reverts.is_some()), "{}", past.len());
    past
}

async fn check_snapshot(client: &mut Client, expected: &Snapshot) {
    let at = Some(expected.revision);
    let answer = listed(client, ListFeatureFlagsRequest { as_of_revision: at, ..all() }).await;
    assert_eq!((answer.revision, &answer.feature_flags), (expected.revision, &expected.all));
    let answer = listed(client, ListFeatureFlagsRequest { as_of_revision: at, ..enabled() }).await;
    assert_eq!((answer.revision, &answer.feature_flags), (expected.revision, &expected.enabled));
    let answer = listed(client, ListFeatureFlagsRequest { as_of_time: Some(expected.timestamp), ..all() }).await;
    assert_eq!((answer.revision, &answer.feature_flags), (expected.revision, &expected.all));
    for request in KEYS.into_iter().flat_map(|key| [get(key, at), get_at(key, expected.timestamp)]) {
        let found = client.toggle.get_feature_flag(request.clone()).await;
        let Some(get_feature_flag_request::Flag::Key(key)) = request.flag else { panic!("{request:?}") };
        match expected.all.iter().find(|flag| flag.key == key) {
            Some(flag) => {
                let found = found.unwrap().into_inner();
                assert_eq!((found.feature_flag.as_ref(), found.revision), (Some(flag), expected.revision));
            }
            None => assert_fails(&found.unwrap_err(), Code::NotFound, "FLAG_NOT_FOUND"),
        }
    }
}

fn assert_fails(status: &Status, code: Code, reason: &str) {
    assert_eq!((status.code(), reason_of(status).as_str()), (code, reason), "{status}");
}

async fn refused(client: &mut Client, request: ListFeatureFlagsRequest) -> Status {
    client.toggle.list_feature_flags(request).await.unwrap_err()
}

/// Removes the log up to this revision.
async fn trim(client: &mut Client, through_revision: i64) {
    let log = client.log().await;
    let through = log.iter().find(|entry| entry.revision == through_revision).unwrap();
    let request = TrimAuditLogsRequest { through_revision, through_hash: through.hash.clone(), ..Default::default() };
    client.audit.trim_audit_logs(request).await.unwrap();
}

on_both_databases! {
    async fn past_state_equals_former_current_state(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let past = make_history(&mut admin).await;
        // Also on a server that was started later.
        let other = Server::start(&database).await;
        let mut on_other = other.admin().await;
        for expected in &past {
            check_snapshot(&mut admin, expected).await;
            check_snapshot(&mut on_other, expected).await;
        }
        // A time between two entries has the state after the first of them. Before all entries there were no flags.
        let [.., before, last] = past.as_slice() else { panic!("{past:?}") };
        let mut between = last.timestamp;
        between.nanos -= 1;
        between.normalize();
        let answer = listed(&mut admin, ListFeatureFlagsRequest { as_of_time: Some(between), ..all() }).await;
        assert_eq!((answer.revision, &answer.feature_flags), (before.revision, &before.all));
        for flag in &before.all {
            let answer = admin.toggle.get_feature_flag(get_at(&flag.key, between)).await.unwrap().into_inner();
            assert_eq!((answer.revision, answer.feature_flag.as_ref()), (before.revision, Some(flag)));
        }
        let never = admin.toggle.get_feature_flag(get_at("a", prost_types::Timestamp::default())).await.unwrap_err();
        assert_fails(&never, Code::NotFound, "FLAG_NOT_FOUND");
        for request in [
            ListFeatureFlagsRequest { as_of_time: Some(prost_types::Timestamp::default()), ..all() },
            ListFeatureFlagsRequest { as_of_revision: Some(0), ..all() },
        ] {
            assert_eq!(listed(&mut admin, request).await, ListFeatureFlagsResponse::default());
        }
    }

    async fn pages_of_a_past_state_are_full_and_stable(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        for n in 0..25 {
            admin.create(&format!("flag-{n:02}")).await;
            if n % 2 == 0 {
                admin.flip(&format!("flag-{n:02}")).await;
            }
        }
        let expected = snapshot(&mut admin).await;
        for n in 0..25 {
            admin.flip(&format!("flag-{n:02}")).await;
        }
        let answer = listed(&mut admin, all()).await;
        assert_eq!(answer.feature_flags.iter().filter(|flag| flag.status() == FeatureFlagStatus::Enabled).count(), 12);
        let (revision, time) = (Some(expected.revision), Some(expected.timestamp));
        let by_revision = ListFeatureFlagsRequest { as_of_revision: revision, page_size: 3, ..enabled() };
        let by_time = ListFeatureFlagsRequest { as_of_time: time, page_size: 3, ..enabled() };
        for first in [by_revision.clone(), by_time] {
            let (mut request, mut flags, mut sizes) = (first.clone(), Vec::new(), Vec::new());
            loop {
                let page = listed(&mut admin, request).await;
                assert_eq!(page.revision, expected.revision);
                sizes.push(page.feature_flags.len());
                flags.extend(page.feature_flags);
                // Changes between two pages do not matter.
                admin.flip("flag-24").await;
                if page.next_page_token.is_empty() {
                    break;
                }
                request = ListFeatureFlagsRequest { page_token: page.next_page_token, ..first.clone() };
            }
            assert_eq!((flags, sizes), (expected.enabled.clone(), vec![3, 3, 3, 3, 1]));
        }
        // A page token is valid only for the state that it was created for.
        let token = listed(&mut admin, by_revision.clone()).await.next_page_token;
        let present = listed(&mut admin, ListFeatureFlagsRequest { page_size: 3, ..enabled() }).await.next_page_token;
        for request in [
            ListFeatureFlagsRequest { page_token: token.clone(), as_of_revision: None, ..by_revision.clone() },
            ListFeatureFlagsRequest { page_token: token, as_of_revision: Some(9), ..by_revision.clone() },
            ListFeatureFlagsRequest { page_token: present, ..by_revision },
        ] {
            assert_fails(&refused(&mut admin, request).await, Code::InvalidArgument, "INVALID_FIELD");
        }
    }

    async fn invalid_point_in_time_is_refused(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let head = admin.create("a").await.revision;
        let error = refused(&mut admin, ListFeatureFlagsRequest { as_of_revision: Some(head + 1), ..all() }).await;
        assert_fails(&error, Code::OutOfRange, "CURSOR_IN_FUTURE");
        assert_eq!(error.get_details_error_info().unwrap().metadata["head_revision"], head.to_string());
        let later = prost_types::Timestamp::from(SystemTime::now() + Duration::from_secs(3_600));
        let epoch = Some(prost_types::Timestamp::default());
        for (request, field, rule) in [
            (ListFeatureFlagsRequest { as_of_time: Some(later), ..all() }, "as_of_time", "must not be more than 5 seconds ahead"),
            (ListFeatureFlagsRequest { as_of_revision: Some(-1), ..all() }, "as_of_revision", "must be at least 0"),
            (ListFeatureFlagsRequest { as_of_revision: Some(1), as_of_time: epoch, ..all() }, "as_of_time", "must not be given together"),
            (ListFeatureFlagsRequest { as_of_revision: Some(1), min_revision: Some(2), ..all() }, "min_revision", "must not be beyond"),
        ] {
            let error = refused(&mut admin, request).await;
            assert_fails(&error, Code::InvalidArgument, "INVALID_FIELD");
            let violation = error.get_details_bad_request().unwrap().field_violations.remove(0);
            assert!(violation.field == field && violation.description.starts_with(rule), "{violation:?}");
        }
        let error = admin.toggle.get_feature_flag(get("a", Some(head + 1))).await.unwrap_err();
        assert_fails(&error, Code::OutOfRange, "CURSOR_IN_FUTURE");
        let both = GetFeatureFlagRequest { as_of_time: epoch, ..get("a", Some(1)) };
        for request in [both, get_at("a", later)] {
            let error = admin.toggle.get_feature_flag(request).await.unwrap_err();
            assert_fails(&error, Code::InvalidArgument, "INVALID_FIELD");
        }
    }

    /// From the floor on, only the time and author of changes before the floor are lost.
    async fn history_starts_at_the_floor_after_a_trim(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let past = make_history(&mut admin).await;
        let (gone, kept) = past.split_at(past.len() / 2);
        let floor = kept[0].revision;
        trim(&mut admin, floor).await;
        for (index, expected) in kept.iter().enumerate() {
            let request = ListFeatureFlagsRequest { as_of_revision: Some(expected.revision), ..all() };
            let answer = listed(&mut admin, request).await;
            assert_eq!((answer.revision, answer.feature_flags.len()), (expected.revision, expected.all.len()));
            for (found, flag) in answer.feature_flags.iter().zip(&expected.all) {
                let without_update = FeatureFlag { updated_at: None, updated_by: String::new(), last_flip: None, ..flag.clone() };
                assert!(found == flag || flag.revision <= floor && *found == without_update, "{found:?} {flag:?}");
            }
            let some_without_update = answer.feature_flags.iter().any(|flag| flag.updated_at.is_none());
            assert!(some_without_update || index > 0, "no flag was last changed at or before the floor");
        }
        for expected in gone {
            let time = ListFeatureFlagsRequest { as_of_time: Some(expected.timestamp), ..all() };
            let revision = ListFeatureFlagsRequest { as_of_revision: Some(expected.revision), ..all() };
            for request in [time, revision] {
                let error = refused(&mut admin, request).await;
                assert_fails(&error, Code::OutOfRange, "CURSOR_TOO_OLD");
                assert_eq!(error.get_details_error_info().unwrap().metadata["oldest_revision"], (floor + 1).to_string());
            }
            for request in [get("a", Some(expected.revision)), get_at("a", expected.timestamp)] {
                let error = admin.toggle.get_feature_flag(request).await.unwrap_err();
                assert_fails(&error, Code::OutOfRange, "CURSOR_TOO_OLD");
            }
        }
    }
}
