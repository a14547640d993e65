//! Denied changes are recorded in the audit log.

use std::time::Duration;

use http::uri::PathAndQuery;
use sqlx::{Connection, Executor, SqliteConnection};
use toggled::api::pb::*;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::methods::channel;
use crate::support::{Backend, Client, Database, Server, on_both_databases, reason_of, toggle, with_timeout};

/// The denials in the log, oldest first.
async fn denials(admin: &mut Client) -> Vec<AuditLog> {
    let request = ListAuditLogsRequest { action_type: Some("access_denied".into()), ..Default::default() };
    let mut items = admin.audit.list_audit_logs(request).await.unwrap().into_inner().items;
    items.reverse();
    items
}

fn assert_denied<T: std::fmt::Debug>(result: Result<T, Status>, permission: &str) {
    let status = result.unwrap_err();
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::PermissionDenied, "PERMISSION_DENIED"));
    assert_eq!(status.message(), format!("Insufficient permissions: {permission} required"));
}

async fn ann(server: &Server, permissions: &[&str]) -> Client {
    let secret = server.admin().await.new_user("ann@example.com", permissions).await;
    server.client(Some(&secret)).await
}

on_both_databases! {
    async fn denied_change_is_recorded_with_caller_and_flag(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let flag = admin.create("a").await;
        let mut ann = ann(&server, &["view_feature_flags"]).await;

        assert_denied(ann.toggle.toggle_feature_flag(toggle("a")).await, "toggle_feature_flags");

        let entry = denials(&mut admin).await.pop().unwrap();
        assert_eq!((&*entry.user_email, &*entry.entity_type), ("ann@example.com", "feature_flag"));
        assert_eq!((entry.entity_id(), &*entry.entity_key, &*entry.entity_name), (&*flag.id, "a", "Flag a"));
        assert_eq!(entry.method, "toggled.v1.ToggleService/ToggleFeatureFlag");
        assert_eq!(entry.new_value(), r#"{"permission":"toggle_feature_flags","suppressed":0}"#);
        assert!(entry.peer().starts_with("127.0.0.1:") && entry.user_agent().starts_with("tests"));
        assert!(entry.token_id.is_some() && entry.user_id.is_some());
        // The denied change had no effect, and the flag can still be changed.
        assert_eq!(admin.get("a").await, flag);
        assert_eq!(admin.flip("a").await.feature_flag.unwrap().status(), FeatureFlagStatus::Enabled);
    }

    async fn denied_change_records_object_of_each_request_type(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let flag = admin.create("a").await;
        let mut ann = ann(&server, &["view_feature_flags"]).await;
        let me = ann.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
        let (user_id, token_id) = (me.user.unwrap().id, me.token_id);

        let item = |key: &str| BatchSetItem { flag: Some(batch_set_item::Flag::Key(key.into())), ..Default::default() };
        let batch = BatchSetFeatureFlagsRequest { items: vec![item("a")], ..Default::default() };
        assert_denied(ann.toggle.batch_set_feature_flags(batch).await, "toggle_feature_flags");
        let new = CreateFeatureFlagRequest { key: "new".into(), ..Default::default() };
        assert_denied(ann.toggle.create_feature_flag(new).await, "manage_feature_flags");
        let update = UpdateUserRequest { id: user_id.clone(), ..Default::default() };
        assert_denied(ann.access.update_user(update).await, "manage_access");
        let revoke = RevokeTokenRequest { id: token_id.clone(), ..Default::default() };
        assert_denied(ann.access.revoke_token(revoke).await, "manage_access");
        let create = CreateUserRequest { email: "ADMIN@localhost".into(), ..Default::default() };
        assert_denied(ann.access.create_user(create).await, "manage_access");

        let found: Vec<_> = denials(&mut admin).await.into_iter().map(|e| (e.entity_type, e.entity_key, e.entity_id)).collect();
        let admin_id = admin.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().user.unwrap().id;
        let expected = [
            ("feature_flag", "a", Some(flag.id.clone())),
            ("feature_flag", "new", None),
            ("user", "ann@example.com", Some(user_id)),
            ("api_token", &token_id, Some(token_id.clone())),
            ("user", "admin@localhost", Some(admin_id)),
        ];
        assert_eq!(found, expected.map(|(kind, key, id)| (kind.to_owned(), key.to_owned(), id)));
        // The filter by id finds denials too, for every type of object.
        let about = ListAuditLogsRequest { entity_id: Some(flag.id), ..Default::default() };
        let about = admin.audit.list_audit_logs(about).await.unwrap().into_inner();
        assert_eq!((about.total, about.items[0].action_type.as_str()), (Some(2), "access_denied"));
    }

    async fn denials_of_one_caller_are_recorded_up_to_a_limit(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let mut ann = ann(&server, &[]).await;
        for _ in 0..20 {
            assert_denied(ann.toggle.toggle_feature_flag(toggle("a")).await, "toggle_feature_flags");
        }
        // The limit is per user, across their tokens.
        let secret = admin.new_user("bob@example.com", &[]).await;
        let mut bob = server.client(Some(&secret)).await;
        assert_denied(bob.toggle.toggle_feature_flag(toggle("a")).await, "toggle_feature_flags");
        let recorded = denials(&mut admin).await;
        // Twenty denials take seconds. The limit is per minute, and at most one minute ends meanwhile.
        let of_ann = recorded.iter().filter(|e| e.user_email == "ann@example.com").count();
        assert!((5..=10).contains(&of_ann), "{of_ann}");
        assert_eq!(recorded.iter().filter(|e| e.user_email == "bob@example.com").count(), 1);
    }

    async fn denied_read_or_anonymous_change_is_not_recorded(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let mut ann = ann(&server, &[]).await;
        assert_denied(ann.toggle.list_feature_flags(ListFeatureFlagsRequest::default()).await, "view_feature_flags");
        assert_denied(ann.access.list_users(ListUsersRequest::default()).await, "manage_access");
        let mut unknown = server.client(Some("nobody-knows-this-token-at-all-here")).await;
        unknown.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err();
        assert_eq!(denials(&mut admin).await, []);
    }

    async fn denied_long_request_is_recorded_without_its_object(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let mut ann = ann(&server, &[]).await;
        let long = ToggleFeatureFlagRequest { reason: "x".repeat(20_000), ..toggle("a") };
        assert_denied(ann.toggle.toggle_feature_flag(long).await, "toggle_feature_flags");
        // Longer than the size limit of a message. The missing permission is still the reported error.
        let huge = ToggleFeatureFlagRequest { reason: "x".repeat(5_000_000), ..toggle("a") };
        assert_denied(ann.toggle.toggle_feature_flag(huge).await, "toggle_feature_flags");
        let recorded: Vec<_> = denials(&mut admin).await.into_iter().map(|e| (e.entity_key, e.entity_id)).collect();
        assert_eq!(recorded, [(String::new(), None), (String::new(), None)]);
    }

    async fn granting_unheld_permission_is_recorded(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let mut ann = ann(&server, &["manage_access"]).await;
        let id = ann.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().user.unwrap().id;
        let more = vec!["manage_access".to_owned(), "toggle_feature_flags".to_owned()];
        let more = UpdateUserRequest { id: id.clone(), permissions: more, ..Default::default() };
        assert_denied(ann.access.update_user(more).await, "toggle_feature_flags");
        let entry = denials(&mut admin).await.pop().unwrap();
        assert_eq!((entry.entity_id(), &*entry.user_email), (&*id, "ann@example.com"));
    }

    async fn retry_is_replayed_after_permission_is_lost(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let mut ann = ann(&server, &["toggle_feature_flags"]).await;
        let request = ToggleFeatureFlagRequest { request_id: Some("once".into()), ..toggle("a") };
        let first = ann.toggle.toggle_feature_flag(request.clone()).await.unwrap().into_inner();
        let id = ann.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().user.unwrap().id;
        admin.access.update_user(UpdateUserRequest { id, ..Default::default() }).await.unwrap();

        let again = ann.toggle.toggle_feature_flag(request).await.unwrap();

        assert_eq!(again.metadata().get("x-request-replayed").unwrap(), "true");
        assert_eq!(again.into_inner(), first);
        assert_eq!(denials(&mut admin).await, []);
        // A reused request id, a new one, and an invalid request are denied like a request without an id.
        let reused = ToggleFeatureFlagRequest { request_id: Some("once".into()), reason: "other".into(), ..toggle("a") };
        assert_denied(ann.toggle.toggle_feature_flag(reused).await, "toggle_feature_flags");
        let other = ToggleFeatureFlagRequest { request_id: Some("twice".into()), ..toggle("a") };
        assert_denied(ann.toggle.toggle_feature_flag(other).await, "toggle_feature_flags");
        let invalid = ToggleFeatureFlagRequest { request_id: Some("thrice".into()), ..toggle("not a key") };
        assert_denied(ann.toggle.toggle_feature_flag(invalid).await, "toggle_feature_flags");
        assert_eq!(denials(&mut admin).await.len(), 3);
        assert_eq!(admin.get("a").await, first.feature_flag.unwrap());
    }

    async fn denied_change_is_recorded_when_caller_disconnects(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let secret = admin.new_user("ann@example.com", &[]).await;
        let channel = channel(&server).await;
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        with_timeout("the connection", grpc.ready()).await.unwrap();
        // Only the header of a request; the body never arrives.
        let mut request = tonic::Request::new(futures::stream::pending::<()>());
        request.metadata_mut().insert("authorization", format!("Bearer {secret}").parse().unwrap());
        let path = PathAndQuery::from_static("/toggled.v1.ToggleService/ToggleFeatureFlag");
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let mut call = Box::pin(grpc.streaming::<_, (), (), _>(request, path, codec));
        // Start the call without waiting for it. The answer to a later call on the same connection shows that it arrived.
        assert!(tokio::time::timeout(Duration::ZERO, &mut call).await.is_err());
        HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
        assert!(tokio::time::timeout(Duration::ZERO, &mut call).await.is_err());
        drop(call);
        with_timeout("the denial to be recorded", async { while denials(&mut admin).await.is_empty() {} }).await;
        assert_eq!(denials(&mut admin).await[0].entity_key, "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn next_entry_counts_denials_that_were_not_recorded() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    let mut ann = ann(&server, &[]).await;
    // Calls are denied even while denials cannot be recorded.
    let mut connection = SqliteConnection::connect(&database.url).await.unwrap();
    let sabotage = "CREATE TRIGGER sabotage BEFORE INSERT ON audit_logs WHEN NEW.action_type = 'access_denied'
        BEGIN SELECT RAISE(ABORT, 'sabotage'); END";
    connection.execute(sabotage).await.unwrap();
    for _ in 0..2 {
        assert_denied(ann.toggle.toggle_feature_flag(toggle("a")).await, "toggle_feature_flags");
    }
    connection.execute("DROP TRIGGER sabotage").await.unwrap();
    assert_denied(ann.toggle.toggle_feature_flag(toggle("a")).await, "toggle_feature_flags");
    let recorded: Vec<_> = denials(&mut admin).await.into_iter().map(|e| e.new_value.unwrap()).collect();
    let count = |suppressed: u32| format!(r#"{{"permission":"toggle_feature_flags","suppressed":{suppressed}}}"#);
    assert_eq!(recorded, [count(2), count(0)]);
}
