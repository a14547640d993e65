//! Permissions, tokens, and access without credentials.

use toggled::api::pb::*;
use tonic::Code;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::methods::{PERMISSIONS, call, channel};
use crate::support::{Database, Server, TOKEN, on_both_databases, reason_of, toggle};

on_both_databases! {
    async fn token_can_have_fewer_permissions_and_an_expiry(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let me = admin.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
        assert_eq!(me.permissions, PERMISSIONS);
        let user = me.user.unwrap();
        assert_eq!(user.email, "admin@localhost");
        let narrow = CreateTokenRequest {
            user_id: user.id.clone(),
            name: "reader".into(),
            permissions: vec!["view_feature_flags".into()],
            ..Default::default()
        };
        let secret = admin.access.create_token(narrow.clone()).await.unwrap().into_inner().secret;
        let mut reader = server.client(Some(&secret)).await;
        let me = reader.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
        assert_eq!(me.permissions, ["view_feature_flags"]);
        reader.get("a").await;
        let error = reader.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err();
        assert_eq!(error.message(), "Insufficient permissions: toggle_feature_flags required");

        let past = CreateTokenRequest { expires_at: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }), ..narrow };
        let error = admin.access.create_token(past).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }

    async fn unheld_permissions_cannot_be_granted(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let admin_id = admin.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().user.unwrap().id;
        let secret = admin.new_user("ann@example.com", &["manage_access"]).await;
        let mut ann = server.client(Some(&secret)).await;
        let more = CreateUserRequest {
            email: "x@example.com".into(),
            permissions: vec!["toggle_feature_flags".into()],
            ..Default::default()
        };
        assert_eq!(ann.access.create_user(more).await.unwrap_err().code(), Code::PermissionDenied);
        let for_admin = CreateTokenRequest { user_id: admin_id, name: "for-admin".into(), ..Default::default() };
        assert_eq!(ann.access.create_token(for_admin).await.unwrap_err().code(), Code::PermissionDenied);
        let duplicate = CreateUserRequest { email: "ANN@example.com".into(), ..Default::default() };
        assert_eq!(reason_of(&ann.access.create_user(duplicate).await.unwrap_err()), "EMAIL_TAKEN");
        let unknown_user = CreateTokenRequest { user_id: uuid::Uuid::nil().into(), name: "n".into(), ..Default::default() };
        assert_eq!(reason_of(&ann.access.create_token(unknown_user).await.unwrap_err()), "USER_NOT_FOUND");
    }

    /// SQL is rejected as an id or a key, and stored verbatim as a reason.
    async fn sql_in_fields_is_plain_text(backend: Backend) {
        const INJECTION: &str = "'; DROP TABLE audit_logs; --";
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        for flag in [
            toggle_feature_flag_request::Flag::Id(INJECTION.into()),
            toggle_feature_flag_request::Flag::Key(INJECTION.into()),
        ] {
            let request = ToggleFeatureFlagRequest { flag: Some(flag), ..Default::default() };
            let error = admin.toggle.toggle_feature_flag(request).await.unwrap_err();
            assert_eq!((error.code(), reason_of(&error).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
        }
        let request = ToggleFeatureFlagRequest { reason: INJECTION.into(), request_id: Some(INJECTION.into()), ..toggle("a") };
        admin.toggle.toggle_feature_flag(request).await.unwrap();
        let last = admin.log().await.pop().unwrap();
        assert_eq!((last.reason(), last.request_id()), (INJECTION, INJECTION));
    }

    async fn health_checks_need_no_token(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let channel = Endpoint::from_shared(format!("http://{}", server.address)).unwrap().connect().await.unwrap();
        let mut health = HealthClient::new(channel);
        for service in ["", "toggled.v1.ToggleService", "toggled.v1.AuditService", "toggled.v1.AccessService"] {
            let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
            assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
        }
        let unknown = health.check(HealthCheckRequest { service: "nope".into() }).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
    }

    async fn unknown_method_is_reported_only_to_known_callers(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let authorization: MetadataValue<_> = format!("Bearer {TOKEN}").parse().unwrap();
        let channel = channel(&server).await;
        for path in ["/toggled.v1.ToggleService/Nothing", "/nothing.Service/Method", "/"] {
            let error = call(&channel, path, Some(authorization.clone())).await.unwrap_err();
            assert_eq!((error.code(), reason_of(&error).as_str()), (Code::Unimplemented, "UNKNOWN_METHOD"));
            assert_eq!(call(&channel, path, None).await.unwrap_err().code(), Code::Unauthenticated);
        }
    }
}
