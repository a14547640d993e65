//! Flipping and managing flags over the wire.

use toggled::grpc::pb::*;

use crate::support::{Database, Server, on_both};

on_both! {
    /// The whole plan in one: create, flip with a reason, and find who did it in the log.
    async fn a_flip_is_in_the_log_with_its_caller_and_reason(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let flag = admin.create("checkout").await;
        assert_eq!(flag.status(), FeatureFlagStatus::Disabled);

        let request = ToggleFeatureFlagRequest { reason: "Integration test".into(), ..crate::support::toggle("checkout") };
        let flipped = admin.toggle.toggle_feature_flag(request).await.unwrap().into_inner();

        assert_eq!(flipped.feature_flag.unwrap().status(), FeatureFlagStatus::Enabled);
        let listed = ListAuditLogsRequest { entity_id: Some(flag.id.clone()), ..Default::default() };
        let listed = admin.audit.list_audit_logs(listed).await.unwrap().into_inner();
        assert_eq!(listed.total, Some(2));
        let entry = &listed.items[0];
        assert_eq!(*entry, flipped.audit_log.unwrap(), "what was answered is what is kept");
        assert_eq!(entry.entity_id.as_deref(), Some(flag.id.as_str()));
        assert_eq!(entry.reason.as_deref(), Some("Integration test"));
        assert_eq!((entry.user_email.as_str(), entry.action_type.as_str()), ("admin@localhost", "toggle_enabled"));
        assert_eq!(entry.method, "toggled.v1.ToggleService/ToggleFeatureFlag");
        assert!(entry.peer.as_deref().unwrap().starts_with("127.0.0.1:"));
        assert!(entry.user_agent.as_deref().unwrap().starts_with("tests"));
    }
}
