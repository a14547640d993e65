//! Trimming the log: requests, the entry of a trim, and the removal of rows.

mod readers;
mod replicas;

use futures::future::join_all;
use toggled::api::pb::*;
use toggled::domain::audit::Entry;
use toggled::domain::hash::GENESIS;
use toggled::verify::Chain;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt;

use crate::store::raw::Raw;
use crate::support::{Client, Database, Server, on_both_databases, reason_of, with_timeout};

/// A request to trim the log through this entry.
fn through(entry: &AuditLog) -> TrimAuditLogsRequest {
    TrimAuditLogsRequest {
        through_revision: entry.revision,
        through_hash: entry.hash.clone(),
        reason: "older than a year".into(),
        ..Default::default()
    }
}

async fn trim(client: &mut Client, request: TrimAuditLogsRequest) -> TrimAuditLogsResponse {
    client.audit.trim_audit_logs(request).await.unwrap().into_inner()
}

/// Makes this many flips and returns the log.
async fn flips(admin: &mut Client, count: usize) -> Vec<AuditLog> {
    admin.create("a").await;
    for _ in 0..count {
        admin.flip("a").await;
    }
    admin.log().await
}

async fn concurrent_flips(admin: &Client, count: usize) {
    let flips = (0..count).map(|_| {
        let mut client = admin.clone();
        async move { client.flip("a").await }
    });
    join_all(flips).await;
}

async fn list(client: &mut Client, request: ListAuditLogsRequest) -> ListAuditLogsResponse {
    client.audit.list_audit_logs(request).await.unwrap().into_inner()
}

fn is_replay<T>(response: &Response<T>) -> bool {
    response.metadata().get("x-request-replayed").is_some_and(|value| value == "true")
}

/// Waits until no row up to the floor is left, and checks that all rows above it are there.
async fn until_removed(raw: &mut Raw, floor: i64) {
    let below = format!("SELECT count(*) FROM audit_logs WHERE revision <= {floor}");
    with_timeout("the rows to be removed", async { while raw.number(&below).await > 0 {} }).await;
    assert_eq!(raw.number("SELECT count(*) - (SELECT revision - floor FROM log_head) FROM audit_logs").await, 0);
}

/// The code, the reason, and the oldest revision, if the error has one.
fn error_of(status: &Status) -> (Code, String, Option<String>) {
    let oldest = status.get_details_error_info().and_then(|info| info.metadata.get("oldest_revision").cloned());
    (status.code(), reason_of(status), oldest)
}

fn too_old(oldest: i64) -> (Code, String, Option<String>) {
    (Code::OutOfRange, "CURSOR_TOO_OLD".into(), Some(oldest.to_string()))
}

fn refused(code: Code, reason: &str) -> (Code, String, Option<String>) {
    (code, reason.into(), None)
}

/// Asserts that this part of the log continues from the floor with correct hashes.
fn assert_continues(log_id: &str, floor: i64, hash: &[u8], log: &[AuditLog]) {
    let mut chain = Chain::after(log_id.parse().unwrap(), floor, hash.try_into().unwrap());
    for entry in log {
        chain.push(&Entry::try_from(entry).unwrap()).unwrap();
    }
}

on_both_databases! {
    async fn trim_removes_oldest_entries_and_records_the_floor(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut raw = Raw::connect(&database).await;
        let mut admin = server.admin().await;
        let log = flips(&mut admin, 20).await;
        let (last, end) = (&log[9], log.len() as i64);
        let done = trim(&mut admin, through(last)).await;
        assert_eq!((done.oldest_revision, done.revision), (11, end + 1));
        // The entries are gone at once, even if their rows are not removed yet.
        for gone in &log[..10] {
            let id = gone.id.clone();
            let error = admin.audit.get_audit_log(GetAuditLogRequest { id }).await.unwrap_err();
            assert_eq!(error_of(&error), refused(Code::NotFound, "AUDIT_LOG_NOT_FOUND"));
        }
        let entry = done.audit_log.unwrap();
        assert_eq!((entry.action_type.as_str(), entry.entity_type.as_str()), ("log_trimmed", "log"));
        assert_eq!((&entry.entity_key, entry.entity_name.as_str()), (entry.entity_id.as_ref().unwrap(), "audit log"));
        assert_eq!(entry.reason(), "older than a year");
        assert_eq!(entry.old_value(), format!("{{\"floor\":0,\"hash\":\"{}\"}}", hex::encode(GENESIS)));
        assert_eq!(entry.new_value(), format!("{{\"floor\":10,\"hash\":\"{}\"}}", hex::encode(&last.hash)));
        let rest = [&log[10..], std::slice::from_ref(&entry)].concat();
        assert_eq!(admin.log().await, rest);
        assert_continues(entry.entity_id(), 10, &last.hash, &rest);
        until_removed(&mut raw, 10).await;
        assert_eq!(admin.log().await, rest);
        assert_eq!(admin.get("a").await.revision, end, "the flag changed with its entries");

        // A second trim, through the last entry.
        let second = trim(&mut admin, through(&entry)).await;
        let kept = second.audit_log.unwrap();
        assert_eq!((second.oldest_revision, kept.old_value()), (kept.revision, entry.new_value()));
        until_removed(&mut raw, entry.revision).await;
        assert_eq!(admin.log().await, std::slice::from_ref(&kept));
        assert_continues(kept.entity_id(), entry.revision, &entry.hash, std::slice::from_ref(&kept));
        admin.flip("a").await;
    }

    async fn trim_with_wrong_revision_or_hash_is_refused(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut raw = Raw::connect(&database).await;
        let mut admin = server.admin().await;
        let log = flips(&mut admin, 10).await;
        trim(&mut admin, through(&log[4])).await;
        let head = log.len() as i64 + 1;
        let good = through(&log[7]);
        let other_hash = TrimAuditLogsRequest { through_hash: vec![7; 32], ..good.clone() };
        let future = TrimAuditLogsRequest { through_revision: head + 1, ..good.clone() };
        for (request, expected) in [
            (other_hash, refused(Code::FailedPrecondition, "LOG_MISMATCH")),
            (future, refused(Code::OutOfRange, "CURSOR_IN_FUTURE")),
            (through(&log[4]), too_old(6)),
            (through(&log[2]), too_old(6)),
        ] {
            let error = admin.audit.trim_audit_logs(request.clone()).await.unwrap_err();
            assert_eq!(error_of(&error), expected, "{request:?}");
        }
        let empty = admin.audit.trim_audit_logs(TrimAuditLogsRequest::default()).await.unwrap_err();
        let bad: Vec<_> = empty.get_details_bad_request().unwrap().field_violations;
        let fields: Vec<_> = bad.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!((empty.code(), fields), (Code::InvalidArgument, vec!["through_revision", "through_hash"]));
        let checked = trim(&mut admin, TrimAuditLogsRequest { validate_only: true, ..good.clone() }).await;
        assert_eq!((checked.oldest_revision, checked.audit_log, checked.revision), (9, None, head));
        assert_eq!(raw.number("SELECT floor FROM log_head").await, 5);
        assert_eq!(admin.log().await.len() as i64, head - 5);

        let all_else = ["manage_access", "manage_feature_flags", "toggle_feature_flags", "view_audit_logs"];
        let ann = admin.new_user("ann@example.com", &all_else).await;
        let error = server.client(Some(&ann)).await.audit.trim_audit_logs(good.clone()).await.unwrap_err();
        assert_eq!(error.message(), "Insufficient permissions: manage_audit_retention required");
        let bob = admin.new_user("bob@example.com", &["manage_audit_retention"]).await;
        let done = trim(&mut server.client(Some(&bob)).await, good).await;
        assert_eq!(done.audit_log.unwrap().user_email, "bob@example.com");
    }

    async fn retried_trim_is_replayed_after_removal(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut raw = Raw::connect(&database).await;
        let mut admin = server.admin().await;
        let log = flips(&mut admin, 10).await;
        let named = |entry| TrimAuditLogsRequest { request_id: Some("trim".into()), ..through(entry) };
        let first = admin.audit.trim_audit_logs(named(&log[4])).await.unwrap();
        until_removed(&mut raw, 5).await;
        let again = admin.audit.trim_audit_logs(named(&log[4])).await.unwrap();
        assert!(is_replay(&again) && !is_replay(&first));
        assert_eq!(again.get_ref(), first.get_ref());
        let error = admin.audit.trim_audit_logs(named(&log[7])).await.unwrap_err();
        assert_eq!(error_of(&error), refused(Code::FailedPrecondition, "REQUEST_ID_REUSED"));
        assert_eq!(raw.number("SELECT floor FROM log_head").await, 5);
    }

    async fn flips_continue_while_rows_are_removed(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut raw = Raw::connect(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        for _ in 0..15 {
            concurrent_flips(&admin, 100).await;
        }
        let log = admin.log().await;
        let last = log.last().unwrap();
        let mut other = admin.clone();
        let (trimmed, ()) = tokio::join!(trim(&mut other, through(last)), async {
            for _ in 0..5 {
                concurrent_flips(&admin, 50).await;
            }
        });
        until_removed(&mut raw, last.revision).await;
        let rest = admin.log().await;
        assert_eq!(rest.len(), 251);
        assert_continues(trimmed.audit_log.unwrap().entity_id(), last.revision, &last.hash, &rest);
    }
}
