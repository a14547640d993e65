//! Users of the single sign-on: creation with the first change, assignment, and deactivation.

use serde_json::json;
use toggled::api::pb::*;
use tonic::Code;

use crate::support::{Database, Issuer, on_both_databases, read_until_error, reason_of, toggle, with_timeout};

use super::{start, who_am_i};

on_both_databases! {
    async fn first_change_creates_the_user(backend: Backend) {
        let (issuer, database) = (Issuer::start().await, Database::new(backend).await);
        let server = start(&issuer, &database, &[]).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let claims = issuer.claims("Sue@Example.com", &["toggle_feature_flags", "view_feature_flags", "fly"]);
        let token = issuer.token(&claims);

        let me = who_am_i(&server, &token).await.unwrap();
        let user = me.user.unwrap();
        assert_eq!((user.id.as_str(), user.email.as_str(), me.token_id.as_str()), ("", "sue@example.com", ""));
        assert_eq!((user.issuer(), user.subject()), (issuer.name(), "subject of Sue@Example.com"));
        assert_eq!(me.permissions, ["toggle_feature_flags", "view_feature_flags"]);
        let mut sue = server.client(Some(&token)).await;
        sue.get("a").await;
        let head = admin.log().await.len() as i64;

        let flipped = sue.flip("a").await;

        let log = admin.log().await;
        let [created, flip] = &log[head as usize..] else { panic!("not two new entries: {log:?}") };
        assert_eq!((created.action_type.as_str(), flip.action_type.as_str()), ("user_created", "toggle_enabled"));
        assert_eq!((created.revision, flip.revision, flipped.revision), (head + 1, head + 2, head + 2));
        for entry in [created, flip] {
            assert_eq!((entry.user_email.as_str(), entry.user_id.as_ref()), ("sue@example.com", created.entity_id.as_ref()));
            assert_eq!(entry.token_id, None);
        }
        assert!(created.new_value().contains(issuer.name()));
        // The user is created once: the next change adds one entry, and another token belongs to the same user.
        let mut again = server.client(Some(&issuer.token(&claims))).await;
        assert_eq!(again.flip("a").await.audit_log.unwrap().user_id, created.entity_id);
        assert_eq!(admin.log().await.len() as i64, head + 3);
        // Without the permission in the token, a change is denied and recorded for the user.
        let new = CreateFeatureFlagRequest { key: "b".into(), name: "B".into(), ..Default::default() };
        let refused = sue.toggle.create_feature_flag(new).await.unwrap_err();
        assert_eq!(refused.message(), "Insufficient permissions: manage_feature_flags required");
        let last = admin.log().await.pop().unwrap();
        assert_eq!((last.action_type.as_str(), last.user_id), ("access_denied", created.entity_id.clone()));

        // Deactivating the user rejects all tokens of the subject and ends its streams.
        let viewer = issuer.token(&issuer.claims("Sue@Example.com", &["view_audit_logs"]));
        let follow = StreamAuditLogsRequest { follow: true, ..Default::default() };
        let mut stream = server.client(Some(&viewer)).await.audit.stream_audit_logs(follow).await.unwrap().into_inner();
        let id = created.entity_id().to_owned();
        admin.access.deactivate_user(DeactivateUserRequest { id, ..Default::default() }).await.unwrap();
        for token in [&token, &viewer, &issuer.token(&claims)] {
            assert_eq!(who_am_i(&server, token).await.unwrap_err().code(), Code::Unauthenticated);
        }
        let ended = read_until_error(&mut stream).await;
        assert_eq!(ended.code(), Code::Unauthenticated);
    }

    async fn email_address_does_not_identify_the_user(backend: Backend) {
        let (issuer, database) = (Issuer::start().await, Database::new(backend).await);
        let server = start(&issuer, &database, &[]).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let head = admin.log().await.len();
        let mut claims = issuer.claims("admin@localhost", &["toggle_feature_flags"]);
        let error = server.client(Some(&issuer.token(&claims))).await.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err();
        assert_eq!((error.code(), reason_of(&error).as_str()), (Code::FailedPrecondition, "EMAIL_TAKEN"));
        assert_eq!(admin.log().await.len(), head);
        // The subject identifies the user: a new email address at the issuer creates no new user.
        claims["email"] = json!("sue@example.com");
        let first = server.client(Some(&issuer.token(&claims))).await.flip("a").await.audit_log.unwrap();
        claims["email"] = json!("susan@example.com");
        let second = server.client(Some(&issuer.token(&claims))).await.flip("a").await.audit_log.unwrap();
        assert_eq!((first.user_id, &*second.user_email), (second.user_id, "sue@example.com"));
    }

    async fn account_can_be_assigned_to_a_user(backend: Backend) {
        let (issuer, database) = (Issuer::start().await, Database::new(backend).await);
        let server = start(&issuer, &database, &[]).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        admin.new_user("sue@example.com", &["view_feature_flags"]).await;
        let users = admin.access.list_users(ListUsersRequest::default()).await.unwrap().into_inner().users;
        let sue = users.into_iter().find(|user| user.email == "sue@example.com").unwrap();
        let token = issuer.token(&issuer.claims("sue@example.com", &["toggle_feature_flags"]));
        let mut request = UpdateUserRequest {
            id: sue.id.clone(),
            permissions: sue.permissions.clone(),
            issuer: Some(issuer.name().to_owned()),
            ..Default::default()
        };
        let half = admin.access.update_user(request.clone()).await.unwrap_err();
        assert!(half.message().contains("subject"), "{half}");
        request.subject = Some("subject of sue@example.com".to_owned());
        let assigned = admin.access.update_user(request.clone()).await.unwrap().into_inner();
        assert_eq!(assigned.user.unwrap().subject(), "subject of sue@example.com");

        let flip = server.client(Some(&token)).await.flip("a").await.audit_log.unwrap();
        assert_eq!(flip.user_id(), sue.id);
        assert_eq!(who_am_i(&server, &token).await.unwrap().permissions, ["toggle_feature_flags"]);
        // An account without a user can be deactivated too: create a user for it first.
        let new = CreateUserRequest {
            email: "reader@example.com".into(),
            issuer: Some(issuer.name().to_owned()),
            subject: Some("subject of joe@example.com".to_owned()),
            ..Default::default()
        };
        let joe = issuer.token(&issuer.claims("joe@example.com", &["view_audit_logs"]));
        who_am_i(&server, &joe).await.unwrap();
        let id = admin.access.create_user(new.clone()).await.unwrap().into_inner().user.unwrap().id;
        let taken = CreateUserRequest { email: "other@example.com".into(), ..new };
        assert_eq!(reason_of(&admin.access.create_user(taken).await.unwrap_err()), "ACCOUNT_TAKEN");
        admin.access.deactivate_user(DeactivateUserRequest { id, ..Default::default() }).await.unwrap();
        assert_eq!(who_am_i(&server, &joe).await.unwrap_err().code(), Code::Unauthenticated);
        // Both survive a restart.
        assert!(server.terminate().await.success());
        let server = start(&issuer, &database, &[]).await;
        assert_eq!(who_am_i(&server, &token).await.unwrap().user.unwrap().id, sue.id);
        assert_eq!(who_am_i(&server, &joe).await.unwrap_err().code(), Code::Unauthenticated);
    }

    async fn manager_cannot_act_as_a_stronger_user(backend: Backend) {
        let (issuer, database) = (Issuer::start().await, Database::new(backend).await);
        let server = start(&issuer, &database, &[]).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let held = ["manage_access", "view_feature_flags"];
        let by_token = admin.new_user("clerk@example.com", &held).await;
        let olga = admin.new_user("olga@example.com", &["manage_access", "toggle_feature_flags"]).await;
        let olga = server.client(Some(&olga)).await.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().user.unwrap();
        let by_claims = issuer.token(&issuer.claims("sid@example.com", &held));
        for caller in [&by_token, &by_claims] {
            let mut clerk = server.client(Some(caller)).await;
            let link = UpdateUserRequest {
                id: olga.id.clone(),
                permissions: olga.permissions.clone(),
                issuer: Some(issuer.name().to_owned()),
                subject: Some("subject of mallory@example.com".to_owned()),
                ..Default::default()
            };
            let stripped = UpdateUserRequest { permissions: Vec::new(), ..link.clone() };
            let token = CreateTokenRequest { user_id: olga.id.clone(), name: "mine".into(), ..Default::default() };
            let narrow = CreateTokenRequest { permissions: vec!["view_feature_flags".into()], ..token.clone() };
            for refused in [
                clerk.access.update_user(link).await.map(drop),
                clerk.access.update_user(stripped).await.map(drop),
                clerk.access.create_token(token).await.map(drop),
                clerk.access.create_token(narrow).await.map(drop),
            ] {
                let refused = refused.unwrap_err();
                assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::PermissionDenied, "PERMISSION_DENIED"));
                assert_eq!(refused.message(), "Insufficient permissions: toggle_feature_flags required");
            }
        }
        // So the account is still a user of its own.
        let mallory = issuer.token(&issuer.claims("mallory@example.com", &["toggle_feature_flags"]));
        let flip = server.client(Some(&mallory)).await.flip("a").await.audit_log.unwrap();
        assert_eq!(flip.user_email, "mallory@example.com");
        assert_ne!(flip.user_id(), olga.id);
        let denied: Vec<_> = admin.log().await.into_iter().filter(|entry| entry.action_type == "access_denied").collect();
        assert_eq!(denied.len(), 8);
        assert!(denied.iter().all(|entry| entry.entity_id() == olga.id), "{denied:?}");
    }

    async fn denied_account_is_not_logged_as_another_user(backend: Backend) {
        let (issuer, database) = (Issuer::start().await, Database::new(backend).await);
        let server = start(&issuer, &database, &[]).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let token = issuer.token(&issuer.claims("admin@localhost", &[]));
        let refused = server.client(Some(&token)).await.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        let entry = admin.log().await.pop().unwrap();
        assert_eq!((&*entry.action_type, &*entry.user_email, entry.user_id.as_ref()), ("access_denied", "sign-on@localhost", None));
        assert!(entry.new_value().contains("subject of admin@localhost"), "{entry:?}");
    }

    async fn concurrent_first_changes_create_one_user(backend: Backend) {
        let (issuer, database) = (Issuer::start().await, Database::new(backend).await);
        let servers = [start(&issuer, &database, &[]).await, start(&issuer, &database, &[]).await];
        let mut admin = servers[0].admin().await;
        let flag = admin.create("a").await;
        let token = issuer.token(&issuer.claims("sue@example.com", &["toggle_feature_flags"]));
        let mut flips = tokio::task::JoinSet::new();
        for round in 0..16 {
            let mut client = servers[round % 2].client(Some(&token)).await;
            let request = ToggleFeatureFlagRequest { flag: Some(toggle_feature_flag_request::Flag::Id(flag.id.clone())), ..Default::default() };
            flips.spawn(async move { client.toggle.toggle_feature_flag(request).await.map(drop) });
        }
        let mut made = 0;
        while let Some(flip) = with_timeout("a flip", flips.join_next()).await {
            match flip.unwrap() {
                Ok(()) => made += 1,
                // The second server may not know the flag yet.
                Err(status) => assert_eq!(status.code(), Code::NotFound, "{status}"),
            }
        }
        let log = admin.log().await;
        let of_sue = |action: &str| log.iter().filter(|e| e.user_email == "sue@example.com" && e.action_type.starts_with(action)).count();
        assert!(made >= 8, "{made}");
        assert_eq!((of_sue("user_created"), of_sue("toggle_")), (1, made));
    }
}
