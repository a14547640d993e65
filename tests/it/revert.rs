//! RevertFeatureFlag: undoes a flip, with an entry that names the reverted one.

use toggled::api::pb::*;
use toggled::domain::audit::Entry;
use toggled::domain::hash::GENESIS;
use toggled::verify::Chain;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::support::{Client, Database, Server, archive, on_both_databases, reason_of, toggle};

fn revert(entry: &AuditLog) -> RevertFeatureFlagRequest {
    RevertFeatureFlagRequest { audit_log_id: entry.id.clone(), ..Default::default() }
}

async fn reverted(client: &mut Client, entry: &AuditLog) -> RevertFeatureFlagResponse {
    client.toggle.revert_feature_flag(revert(entry)).await.unwrap().into_inner()
}

async fn flipped(client: &mut Client, key: &str) -> AuditLog {
    client.flip(key).await.audit_log.unwrap()
}

/// Trims the log through this entry, and returns the entry of the trim.
async fn trim(client: &mut Client, through: &AuditLog) -> AuditLog {
    let through_hash = through.hash.clone();
    let request = TrimAuditLogsRequest { through_revision: through.revision, through_hash, ..Default::default() };
    client.audit.trim_audit_logs(request).await.unwrap().into_inner().audit_log.unwrap()
}

async fn batch(client: &mut Client, keys: &[&str], status: FeatureFlagStatus) -> Vec<AuditLog> {
    let item = |key: &&str| BatchSetItem {
        flag: Some(batch_set_item::Flag::Key((*key).to_owned())),
        status: status.into(),
        expected_revision: None,
        environment: None,
    };
    let request = BatchSetFeatureFlagsRequest { items: keys.iter().map(item).collect(), ..Default::default() };
    let results = client.toggle.batch_set_feature_flags(request).await.unwrap().into_inner().results;
    let log = client.log().await;
    let ids: Vec<_> = results.into_iter().filter_map(|result| result.audit_log_id).collect();
    log.into_iter().filter(|entry| ids.contains(&entry.id)).collect()
}

fn assert_fails(result: Result<tonic::Response<RevertFeatureFlagResponse>, Status>, code: Code, reason: &str) {
    let status = result.unwrap_err();
    assert_eq!((status.code(), reason_of(&status).as_str()), (code, reason), "{status}");
}

on_both_databases! {
    async fn revert_flips_back_with_an_entry_naming_the_flip(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let (on, off) = (FeatureFlagStatus::Enabled, FeatureFlagStatus::Disabled);
        admin.create("a").await;
        admin.create("b").await;
        let toggled = flipped(&mut admin, "a").await;

        let request = RevertFeatureFlagRequest { reason: "it broke".into(), ..revert(&toggled) };
        let answer = admin.toggle.revert_feature_flag(request).await.unwrap().into_inner();

        let (flag, entry) = (answer.feature_flag.unwrap(), answer.audit_log.unwrap());
        assert_eq!((&*flag.key, flag.status(), flag.revision), ("a", off, answer.revision));
        assert_eq!((entry.reverts(), entry.hash_version), (&*toggled.id, 2));
        assert_eq!((&*entry.action_type, entry.old_value(), entry.new_value()), ("toggle_disabled", "enabled", "disabled"));
        assert_eq!((entry.reason(), entry.previous_entity_revision()), ("it broke", toggled.revision));
        assert_eq!(entry.method, "toggled.v1.ToggleService/RevertFeatureFlag");
        assert_eq!(admin.get("a").await, flag);
        // The entry of a revert can be reverted too ...
        let again = reverted(&mut admin, &entry).await;
        assert_eq!((again.feature_flag.unwrap().status(), again.audit_log.unwrap().reverts()), (on, &*entry.id));
        // ... and so can entries of a batch.
        for entry in batch(&mut admin, &["a", "b"], off).await.iter().chain(&batch(&mut admin, &["b"], on).await) {
            let answer = reverted(&mut admin, entry).await;
            let was = if entry.old_value() == "enabled" { on } else { off };
            assert_eq!((answer.feature_flag.unwrap().status(), &answer.audit_log.unwrap().old_value), (was, &entry.new_value));
        }
        // Later flips do not matter.
        admin.flip("a").await;
        assert_eq!(admin.get("a").await.status(), off);
        admin.flip("a").await;
        assert_eq!(reverted(&mut admin, &toggled).await.feature_flag.unwrap().status(), off);

        // The hashes of the log can be recomputed.
        let stream = admin.audit.stream_audit_logs(StreamAuditLogsRequest::default()).await.unwrap().into_inner();
        let log_id = { let mut stream = stream; stream.message().await.unwrap().unwrap().log_id };
        let mut chain = Chain::after(log_id.parse().unwrap(), 0, GENESIS);
        let log = admin.log().await;
        for entry in &log {
            chain.push(&Entry::try_from(entry).unwrap()).unwrap();
        }
        assert_eq!(log.iter().filter(|entry| entry.reverts.is_some()).count(), 5);
        assert!(log.iter().all(|entry| entry.hash_version == if entry.reverts.is_some() { 2 } else { 1 }));
    }

    async fn revert_of_already_reverted_flip_is_a_no_op(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let toggled = flipped(&mut admin, "a").await;
        let last = admin.flip("a").await;
        let answer = reverted(&mut admin, &toggled).await;
        assert_eq!((answer.feature_flag, answer.audit_log, answer.revision), (last.feature_flag, None, last.revision));
        // With `validate_only`, nothing changes.
        let dry = RevertFeatureFlagRequest { validate_only: true, ..revert(&last.audit_log.unwrap()) };
        let answer = admin.toggle.revert_feature_flag(dry).await.unwrap().into_inner();
        assert_eq!((answer.feature_flag.unwrap().status(), answer.audit_log), (FeatureFlagStatus::Enabled, None));
        assert_eq!(admin.get("a").await.status(), FeatureFlagStatus::Disabled);
    }

    async fn invalid_revert_is_refused_with_its_reason(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let created = admin.create("a").await;
        let toggled = flipped(&mut admin, "a").await;
        for entry in admin.log().await.iter().filter(|entry| entry.id != toggled.id) {
            let result = admin.toggle.revert_feature_flag(revert(entry)).await;
            assert_fails(result, Code::FailedPrecondition, "NOT_REVERTIBLE");
        }
        for unknown in [Uuid::nil().to_string(), created.id] {
            let request = RevertFeatureFlagRequest { audit_log_id: unknown, ..Default::default() };
            assert_fails(admin.toggle.revert_feature_flag(request).await, Code::NotFound, "AUDIT_LOG_NOT_FOUND");
        }
        let request = RevertFeatureFlagRequest { audit_log_id: "7".into(), ..Default::default() };
        assert_fails(admin.toggle.revert_feature_flag(request).await, Code::InvalidArgument, "INVALID_FIELD");
        let impossible = RevertFeatureFlagRequest { expected_revision: Some(0), ..revert(&toggled) };
        assert_fails(admin.toggle.revert_feature_flag(impossible).await, Code::InvalidArgument, "INVALID_FIELD");
        let outdated = RevertFeatureFlagRequest { expected_revision: Some(toggled.revision - 1), ..revert(&toggled) };
        assert_fails(admin.toggle.revert_feature_flag(outdated).await, Code::Aborted, "REVISION_MISMATCH");
        admin.archive("a").await;
        let result = admin.toggle.revert_feature_flag(revert(&toggled)).await;
        assert_fails(result, Code::FailedPrecondition, "FLAG_ARCHIVED");
        assert_eq!(admin.get("a").await.status(), FeatureFlagStatus::Enabled);
    }

    async fn retried_revert_is_replayed_after_archiving(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let toggled = flipped(&mut admin, "a").await;
        let request = RevertFeatureFlagRequest { request_id: Some("r".into()), ..revert(&toggled) };
        let first = admin.toggle.revert_feature_flag(request.clone()).await.unwrap();
        admin.flip("a").await;
        admin.toggle.archive_feature_flag(archive("a")).await.unwrap();
        let before = admin.log().await;
        let again = admin.toggle.revert_feature_flag(request.clone()).await.unwrap();
        assert_eq!(again.get_ref(), first.get_ref());
        assert!(again.metadata().contains_key("x-request-replayed"));
        assert_eq!(admin.log().await, before);
        // The same request id with another entry is another request.
        let other = RevertFeatureFlagRequest { audit_log_id: before[before.len() - 2].id.clone(), ..request };
        assert_fails(admin.toggle.revert_feature_flag(other).await, Code::FailedPrecondition, "REQUEST_ID_REUSED");
    }

    /// The entry of the flip is gone. A retry is replayed, and a new request fails.
    async fn retried_revert_is_replayed_after_trimming(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let toggled = flipped(&mut admin, "a").await;
        let request = RevertFeatureFlagRequest { request_id: Some("r".into()), ..revert(&toggled) };
        let first = admin.toggle.revert_feature_flag(request.clone()).await.unwrap();
        let kept = flipped(&mut admin, "a").await;
        let trimmed = trim(&mut admin, &toggled).await;
        let before = admin.log().await;
        let again = admin.toggle.revert_feature_flag(request.clone()).await.unwrap();
        assert_eq!(again.get_ref(), first.get_ref());
        assert!(again.metadata().contains_key("x-request-replayed"));
        for request_id in [None, Some("s".into())] {
            let result = admin.toggle.revert_feature_flag(RevertFeatureFlagRequest { request_id, ..request.clone() }).await;
            assert_fails(result, Code::NotFound, "AUDIT_LOG_NOT_FOUND");
        }
        let result = admin.toggle.revert_feature_flag(revert(&trimmed)).await;
        assert_fails(result, Code::FailedPrecondition, "NOT_REVERTIBLE");
        assert_eq!(admin.log().await, before);
        assert_eq!(reverted(&mut admin, &kept).await.audit_log.unwrap().reverts(), kept.id, "an entry above the floor cannot be reverted");
    }

    async fn denied_revert_is_recorded_with_the_flag(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let flag = admin.create("a").await;
        let toggled = flipped(&mut admin, "a").await;
        let secret = admin.new_user("ann@example.com", &["view_feature_flags", "view_audit_logs"]).await;
        let mut ann = server.client(Some(&secret)).await;
        let unknown = RevertFeatureFlagRequest { audit_log_id: Uuid::nil().to_string(), ..Default::default() };
        for request in [revert(&toggled), unknown] {
            assert_fails(ann.toggle.revert_feature_flag(request).await, Code::PermissionDenied, "PERMISSION_DENIED");
        }
        let denied: Vec<_> = admin.log().await.into_iter().filter(|e| e.action_type == "access_denied").collect();
        assert_eq!((denied[0].entity_id(), &*denied[0].entity_key), (&*flag.id, "a"));
        assert_eq!((denied[1].entity_id.as_deref(), &*denied[1].entity_key), (None, ""));
        // The entry of a denial is no flip.
        let result = admin.toggle.revert_feature_flag(revert(&denied[0])).await;
        assert_fails(result, Code::FailedPrecondition, "NOT_REVERTIBLE");
        admin.toggle.toggle_feature_flag(toggle("a")).await.unwrap();
    }
}
