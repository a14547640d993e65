//! Retries: a repeated request changes the state once and always gets the same answer.

use prost::Message;
use toggled::api::pb::*;
use tonic::{Code, Response};

use crate::support::{Database, Server, on_both_databases, reason_of, toggle};

fn toggle_with_id(key: &str, id: &str) -> ToggleFeatureFlagRequest {
    ToggleFeatureFlagRequest { request_id: Some(id.into()), reason: "once".into(), ..toggle(key) }
}

fn is_replay<T>(response: &Response<T>) -> bool {
    response.metadata().get("x-request-replayed").is_some_and(|value| value == "true")
}

on_both_databases! {
    async fn concurrent_retries_flip_once_with_equal_answers(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;

        let calls = (0..50).map(|_| {
            let mut client = admin.clone();
            async move { client.toggle.toggle_feature_flag(toggle_with_id("a", "retry")).await.unwrap() }
        });
        let answers = futures::future::join_all(calls).await;

        assert_eq!(answers.iter().filter(|answer| !is_replay(answer)).count(), 1, "answers that are not replays");
        let bytes: Vec<_> = answers.iter().map(|answer| answer.get_ref().encode_to_vec()).collect();
        assert!(bytes.iter().all(|b| *b == bytes[0]));
        assert_eq!(admin.get("a").await.status(), FeatureFlagStatus::Enabled);
        let later = admin.toggle.toggle_feature_flag(toggle_with_id("a", "retry")).await.unwrap();
        assert!(is_replay(&later));
        assert_eq!(later.get_ref().encode_to_vec(), bytes[0]);
        assert_eq!(admin.log().await.iter().filter(|e| e.request_id() == "retry").count(), 1);
    }

    async fn reused_request_id_is_refused(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        admin.create("b").await;
        admin.toggle.toggle_feature_flag(toggle_with_id("a", "id")).await.unwrap();
        let other_reason = ToggleFeatureFlagRequest { reason: "twice".into(), ..toggle_with_id("a", "id") };
        for other in [toggle_with_id("b", "id"), other_reason] {
            let error = admin.toggle.toggle_feature_flag(other).await.unwrap_err();
            assert_eq!((error.code(), reason_of(&error).as_str()), (Code::FailedPrecondition, "REQUEST_ID_REUSED"));
        }
        let other_method = EnableFeatureFlagRequest {
            flag: Some(enable_feature_flag_request::Flag::Key("a".into())),
            reason: "once".into(),
            request_id: Some("id".into()),
            ..Default::default()
        };
        let error = admin.toggle.enable_feature_flag(other_method).await.unwrap_err();
        assert_eq!(reason_of(&error), "REQUEST_ID_REUSED");
    }

    /// The first answer is repeated, even if the same call would fail now.
    async fn retry_is_replayed_after_later_changes(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let flag = admin.create("a").await;
        let request = ToggleFeatureFlagRequest { expected_revision: Some(flag.revision), ..toggle_with_id("a", "id") };
        let first = admin.toggle.toggle_feature_flag(request.clone()).await.unwrap();
        admin.flip("a").await;
        let archive = ArchiveFeatureFlagRequest {
            flag: Some(archive_feature_flag_request::Flag::Key("a".into())),
            ..Default::default()
        };
        admin.toggle.archive_feature_flag(archive).await.unwrap();
        let again = admin.toggle.toggle_feature_flag(request).await.unwrap();
        assert!(is_replay(&again));
        assert_eq!(again.get_ref(), first.get_ref());
    }

    async fn no_op_is_replayed_but_failure_is_not(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let off = DisableFeatureFlagRequest {
            flag: Some(disable_feature_flag_request::Flag::Key("a".into())),
            request_id: Some("noop".into()),
            ..Default::default()
        };
        let first = admin.toggle.disable_feature_flag(off.clone()).await.unwrap();
        assert!(!is_replay(&first) && first.get_ref().audit_log.is_none());
        admin.flip("a").await;
        let again = admin.toggle.disable_feature_flag(off).await.unwrap();
        assert!(is_replay(&again), "the retry was not replayed");
        assert_eq!(again.get_ref(), first.get_ref());

        assert_eq!(admin.toggle.toggle_feature_flag(toggle_with_id("later", "x")).await.unwrap_err().code(), Code::NotFound);
        admin.create("later").await;
        assert!(!is_replay(&admin.toggle.toggle_feature_flag(toggle_with_id("later", "x")).await.unwrap()));
    }

    async fn request_id_survives_restart_and_is_per_user(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let ann = admin.new_user("ann@example.com", &["toggle_feature_flags"]).await;
        let first = admin.toggle.toggle_feature_flag(toggle_with_id("a", "same")).await.unwrap();
        server.terminate().await;
        let server = Server::start(&database).await;
        let again = server.admin().await.toggle.toggle_feature_flag(toggle_with_id("a", "same")).await.unwrap();
        assert!(is_replay(&again));
        assert_eq!(again.get_ref(), first.get_ref());
        let hers = server.client(Some(&ann)).await.toggle.toggle_feature_flag(toggle_with_id("a", "same")).await.unwrap();
        assert!(!is_replay(&hers));
    }

    async fn replayed_token_creation_lacks_the_secret(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let user = CreateUserRequest { email: "ann@example.com".into(), ..Default::default() };
        let user = admin.access.create_user(user).await.unwrap().into_inner().user.unwrap();
        let request = CreateTokenRequest {
            user_id: user.id,
            name: "laptop".into(),
            request_id: Some("token".into()),
            ..Default::default()
        };
        let first = admin.access.create_token(request.clone()).await.unwrap().into_inner();
        let again = admin.access.create_token(request).await.unwrap();
        assert!(is_replay(&again) && first.secret.starts_with("toggled_"));
        assert_eq!(*again.get_ref(), CreateTokenResponse { secret: String::new(), ..first });
    }
}
