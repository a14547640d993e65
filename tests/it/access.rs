//! AccessService: users and tokens. Lost permissions and revoked tokens take effect at once.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use toggled::api::pb::*;
use tonic::{Code, Status, Streaming};

use crate::support::{
    BOOTSTRAP_ENTRIES, Client, Database, Server, TOKEN, on_both_databases, read_until_error, reason_of, secret_forms,
    toggle, with_timeout,
};

/// The caller's user, and the id of the token in use.
async fn me(client: &mut Client) -> (User, String) {
    let me = client.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
    (me.user.unwrap(), me.token_id)
}

fn update(id: &str, permissions: &[&str]) -> UpdateUserRequest {
    let permissions = permissions.iter().map(|p| (*p).to_owned()).collect();
    UpdateUserRequest { id: id.into(), permissions, ..Default::default() }
}

fn revoke(id: &str) -> RevokeTokenRequest {
    RevokeTokenRequest { id: id.into(), ..Default::default() }
}

fn deactivate(id: &str) -> DeactivateUserRequest {
    DeactivateUserRequest { id: id.into(), ..Default::default() }
}

async fn new_token(
    admin: &mut Client,
    user_id: &str,
    expires_at: Option<std::time::SystemTime>,
) -> CreateTokenResponse {
    let expires_at = expires_at.map(Into::into);
    let request =
        CreateTokenRequest { user_id: user_id.into(), name: "another".into(), expires_at, ..Default::default() };
    admin.access.create_token(request).await.unwrap().into_inner()
}

async fn tokens_of(admin: &mut Client, user_id: &str) -> Vec<ApiToken> {
    let request = ListTokensRequest { user_id: user_id.into(), ..Default::default() };
    admin.access.list_tokens(request).await.unwrap().into_inner().tokens
}

fn denied(status: &Status) -> (Code, String) {
    (status.code(), reason_of(status))
}

/// Opens a stream of the log. A stream that is `without_entries` has a filter that matches nothing.
async fn open_stream(client: &mut Client, without_entries: bool) -> Streaming<StreamAuditLogsResponse> {
    let action_type = without_entries.then(|| "log_trimmed".to_owned());
    let request = StreamAuditLogsRequest { follow: true, action_type, ..Default::default() };
    let mut stream = client.audit.stream_audit_logs(request).await.unwrap().into_inner();
    // The stream is open once its first message has arrived.
    with_timeout("the first message", stream.message()).await.unwrap().unwrap();
    stream
}

/// Makes a change, and checks that a stream of the whole log delivers it.
async fn assert_continues(stream: &mut Streaming<StreamAuditLogsResponse>, admin: &mut Client, key: &str) {
    admin.create(key).await;
    with_timeout("the new entry on the stream", async {
        while !stream.message().await.unwrap().unwrap().items.iter().any(|entry| entry.entity_key == key) {}
    })
    .await;
}

on_both_databases! {
    async fn user_and_token_changes_are_logged(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let secret = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
        let mut ann = server.client(Some(&secret)).await;
        let (user, token_id) = me(&mut ann).await;

        let request = UpdateUserRequest { reason: "on call".into(), ..update(&user.id, &["toggle_feature_flags"]) };
        let updated = admin.access.update_user(request).await.unwrap().into_inner();
        let read = GetUserRequest { id: user.id.clone(), min_revision: Some(updated.revision) };
        let read = admin.access.get_user(read).await.unwrap().into_inner();
        assert_eq!((read.user, read.revision), (updated.user.clone(), updated.revision));
        let entry = updated.audit_log.unwrap();
        assert_eq!((&*entry.action_type, entry.reason(), entry.entity_id()), ("user_updated", "on call", &*user.id));
        assert!(entry.old_value().contains("view_feature_flags") && entry.new_value().contains("toggle_feature_flags"));
        let again = admin.access.update_user(update(&user.id, &["toggle_feature_flags"])).await.unwrap().into_inner();
        assert_eq!(again.audit_log, None);

        let revoked = admin.access.revoke_token(revoke(&token_id)).await.unwrap().into_inner();
        assert_eq!(revoked.audit_log.unwrap().action_type, "token_revoked");
        assert!(revoked.token.unwrap().revoked_at.is_some());
        assert!(tokens_of(&mut admin, &user.id).await[0].revoked_at.is_some());
        let gone = admin.access.deactivate_user(deactivate(&user.id)).await.unwrap().into_inner();
        assert_eq!(gone.audit_log.unwrap().action_type, "user_deactivated");
        let back = UpdateUserRequest { reactivate: true, ..update(&user.id, &["toggle_feature_flags"]) };
        assert_eq!(admin.access.update_user(back).await.unwrap().into_inner().user.unwrap().deactivated_at, None);

        // Each change has one revision, and no entry contains a secret.
        let log = admin.log().await;
        assert_eq!(log.iter().map(|e| e.revision).collect::<Vec<_>>(), (1..=log.len() as i64).collect::<Vec<_>>());
        let actions: Vec<_> = log[BOOTSTRAP_ENTRIES..].iter().map(|e| e.action_type.as_str()).collect();
        let expected = ["user_created", "token_created", "user_updated", "token_revoked", "user_deactivated", "user_updated"];
        assert_eq!(actions, expected);
        let text = format!("{log:?}");
        assert!(secret_forms(&secret).iter().chain(&secret_forms(TOKEN)).all(|form| !text.contains(form.as_str())), "{text}");
    }

    async fn permission_in_unknown_environment_is_refused(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let head = admin.log().await.len();
        let (me, _) = me(&mut admin).await;
        for (permissions, message) in [
            (vec!["toggle_feature_flags@nowhere"], "permissions must not name the unknown environment nowhere"),
            (
                vec!["view_feature_flags", "view_audit_logs@no", "view_audit_logs@where"],
                "permissions must not name the unknown environment no (and 1 more)",
            ),
            (vec!["toggle_feature_flags@No"], "permissions[0] must have the key of an environment after the '@', which must be 1"),
            (vec!["view_feature_flags", "manage_access@nowhere"], "permissions[1] must not name an environment, since manage_access"),
        ] {
            let permissions: Vec<_> = permissions.into_iter().map(str::to_owned).collect();
            let user = CreateUserRequest { email: "ann@example.com".into(), permissions: permissions.clone(), ..Default::default() };
            let token = CreateTokenRequest {
                user_id: me.id.clone(), name: "t".into(), permissions: permissions.clone(), ..Default::default()
            };
            for refused in [
                admin.access.create_user(user).await.unwrap_err(),
                admin.access.create_token(token).await.unwrap_err(),
                admin.access.update_user(UpdateUserRequest { id: me.id.clone(), permissions, ..Default::default() }).await.unwrap_err(),
            ] {
                let is_told = refused.message().starts_with(&format!("invalid request: {message}"));
                assert!(refused.code() == Code::InvalidArgument && is_told, "{refused}, not {message}");
            }
        }
        assert_eq!(admin.log().await.len(), head);
    }

    async fn user_and_token_lists_are_paged(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        for name in ["cid", "ann", "bob"] {
            admin.new_user(&format!("{name}@example.com"), &[]).await;
        }
        let mut request = ListUsersRequest { page_size: 3, ..Default::default() };
        let first = admin.access.list_users(request.clone()).await.unwrap().into_inner();
        let emails = |page: &ListUsersResponse| page.users.iter().map(|u| u.email.clone()).collect::<Vec<_>>();
        assert_eq!(emails(&first), ["admin@localhost", "ann@example.com", "bob@example.com"]);
        request.page_token = first.next_page_token;
        let second = admin.access.list_users(request.clone()).await.unwrap().into_inner();
        assert_eq!((emails(&second), &*second.next_page_token), (vec!["cid@example.com".to_owned()], ""));
        // Deactivated users are listed only on request. A page token is valid only for the same request.
        let (cid, bob) = (&second.users[0].id, &first.users[2].id);
        admin.access.deactivate_user(deactivate(cid)).await.unwrap();
        let all = ListUsersRequest { include_deactivated: true, ..Default::default() };
        assert_eq!(admin.access.list_users(ListUsersRequest::default()).await.unwrap().into_inner().users.len(), 3);
        assert_eq!(admin.access.list_users(all.clone()).await.unwrap().into_inner().users.len(), 4);
        let mixed = ListUsersRequest { page_token: request.page_token, ..all };
        assert_eq!(admin.access.list_users(mixed).await.unwrap_err().code(), Code::InvalidArgument);

        let made = [new_token(&mut admin, bob, None).await, new_token(&mut admin, bob, None).await];
        let mut request = ListTokensRequest { user_id: bob.clone(), page_size: 2, ..Default::default() };
        let page = admin.access.list_tokens(request.clone()).await.unwrap().into_inner();
        assert_eq!((page.tokens.len(), &*page.tokens[0].name, page.tokens.last()), (2, "test", made[0].token.as_ref()));
        request.page_token = page.next_page_token;
        let page = admin.access.list_tokens(request).await.unwrap().into_inner();
        assert_eq!((page.tokens.as_slice(), &*page.next_page_token), (&[made[1].token.clone().unwrap()][..], ""));
        let nobody = ListTokensRequest { user_id: uuid::Uuid::nil().to_string(), ..Default::default() };
        assert_eq!(reason_of(&admin.access.list_tokens(nobody).await.unwrap_err()), "USER_NOT_FOUND");
    }

    async fn removing_the_last_access_manager_is_refused(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let (user, token_id) = me(&mut admin).await;
        let refused = |status: Status| (status.code(), reason_of(&status));
        let failed = |reason: &str| (Code::FailedPrecondition, reason.to_owned());
        assert_eq!(refused(admin.access.revoke_token(revoke(&token_id)).await.unwrap_err()), failed("LAST_WAY_IN"));
        assert_eq!(refused(admin.access.deactivate_user(deactivate(&user.id)).await.unwrap_err()), failed("LAST_ACCESS_MANAGER"));
        assert_eq!(refused(admin.access.update_user(update(&user.id, &[])).await.unwrap_err()), failed("LAST_ACCESS_MANAGER"));
        let unknown = uuid::Uuid::nil().to_string();
        assert_eq!(reason_of(&admin.access.revoke_token(revoke(&unknown)).await.unwrap_err()), "TOKEN_NOT_FOUND");
        assert_eq!(reason_of(&admin.access.deactivate_user(deactivate(&unknown)).await.unwrap_err()), "USER_NOT_FOUND");

        // To rotate tokens, create the new one before the old one is revoked.
        let second = new_token(&mut admin, &user.id, None).await.secret;
        let mut renewed = server.client(Some(&second)).await;
        renewed.access.revoke_token(revoke(&token_id)).await.unwrap();
        assert_eq!(admin.access.who_am_i(WhoAmIRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
    }

    async fn revoked_token_fails_at_the_next_request(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let secret = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
        let mut ann = server.client(Some(&secret)).await;
        let (user, token_id) = me(&mut ann).await;
        let second = new_token(&mut admin, &user.id, None).await.secret;
        admin.access.revoke_token(revoke(&token_id)).await.unwrap();
        assert_eq!(ann.access.who_am_i(WhoAmIRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
        let mut ann = server.client(Some(&second)).await;
        me(&mut ann).await;
        admin.access.update_user(update(&user.id, &[])).await.unwrap();
        assert_eq!(
            ann.toggle.list_feature_flags(ListFeatureFlagsRequest::default()).await.unwrap_err().code(),
            Code::PermissionDenied
        );
        admin.access.deactivate_user(deactivate(&user.id)).await.unwrap();
        assert_eq!(ann.access.who_am_i(WhoAmIRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
    }

    async fn open_streams_end_when_their_access_is_lost(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let secret = admin.new_user("ann@example.com", &["view_audit_logs"]).await;
        let mut ann = server.client(Some(&secret)).await;
        let (user, token_id) = me(&mut ann).await;
        let mut untouched = open_stream(&mut admin, false).await;

        let mut narrowed = open_stream(&mut ann, true).await;
        admin.access.update_user(update(&user.id, &["view_feature_flags"])).await.unwrap();
        let status = read_until_error(&mut narrowed).await;
        assert_eq!(denied(&status), (Code::PermissionDenied, "PERMISSION_DENIED".to_owned()));
        assert_eq!(status.message(), "Insufficient permissions: view_audit_logs required");
        admin.access.update_user(update(&user.id, &["view_audit_logs"])).await.unwrap();

        let unauthenticated = (Code::Unauthenticated, "UNAUTHENTICATED".to_owned());
        let end = std::time::SystemTime::now() + Duration::from_secs(8);
        let expiring = new_token(&mut admin, &user.id, Some(end)).await.secret;
        let mut expiring = open_stream(&mut server.client(Some(&expiring)).await, true).await;

        let mut revoked = open_stream(&mut ann, true).await;
        let second = new_token(&mut admin, &user.id, None).await.secret;
        let mut kept = open_stream(&mut server.client(Some(&second)).await, false).await;
        admin.access.revoke_token(revoke(&token_id)).await.unwrap();
        assert_eq!(denied(&read_until_error(&mut revoked).await), unauthenticated);
        assert_continues(&mut kept, &mut admin, "after-the-revocation").await;

        assert_eq!(denied(&read_until_error(&mut expiring).await), unauthenticated);
        admin.access.deactivate_user(deactivate(&user.id)).await.unwrap();
        assert_eq!(denied(&read_until_error(&mut kept).await), unauthenticated);
        assert_continues(&mut untouched, &mut admin, "after-all").await;
    }

    async fn last_use_of_a_token_survives_a_restart(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let secret = admin.new_user("ann@example.com", &[]).await;
        let unused = admin.access.list_users(ListUsersRequest::default()).await.unwrap().into_inner().users;
        let id = unused.iter().find(|u| u.email == "ann@example.com").unwrap().id.clone();
        assert_eq!(tokens_of(&mut admin, &id).await[0].last_used_at, None);
        let (_, token_id) = me(&mut server.client(Some(&secret)).await).await;
        let revision = admin.log().await.len();
        let used = tokens_of(&mut admin, &id).await.remove(0);
        assert_eq!(used.id, token_id);
        assert!(used.last_used_at.unwrap().seconds > used.created_at.unwrap().seconds - 1);
        // The last use is written later, at shutdown at the latest. It does not change the log.
        assert!(server.terminate().await.success());
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        assert_eq!(tokens_of(&mut admin, &id).await[0].last_used_at, used.last_used_at);
        assert_eq!(admin.log().await.len(), revision);
    }
}

/// A token revoked on one replica fails on another: at once for changes, and soon for reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_token_cannot_change_on_another_replica() {
    let database = Database::new(crate::support::Backend::Postgres).await;
    let (first, second) = (Server::start(&database).await, Server::start(&database).await);
    let mut admin = first.admin().await;
    let created = admin.create("a").await.revision;
    for round in 0..20 {
        let secret =
            admin.new_user(&format!("u{round}@example.com"), &["toggle_feature_flags", "view_audit_logs"]).await;
        let (mut here, mut there) = (first.client(Some(&secret)).await, second.client(Some(&secret)).await);
        there.wait_until_authenticated().await;
        let (_, token_id) = me(&mut here).await;
        let mut stream = open_stream(&mut there, true).await;
        admin.access.revoke_token(revoke(&token_id)).await.unwrap();
        // A change makes the other replica read the log. In odd rounds it has to follow by itself.
        if round % 2 == 0 {
            let refused = there.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        }
        there.wait_until_unauthenticated().await;
        assert_eq!(read_until_error(&mut stream).await.code(), Code::Unauthenticated);
    }
    assert_eq!(admin.get("a").await.revision, created);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_token_is_rejected() {
    let database = Database::new(crate::support::Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.client(Some(TOKEN)).await;
    let (user, _) = me(&mut admin).await;
    let end = std::time::SystemTime::now() + Duration::from_secs(1);
    let secret = new_token(&mut admin, &user.id, Some(end)).await.secret;
    server.client(Some(&secret)).await.wait_until_unauthenticated().await;
    assert!(std::time::SystemTime::now() >= end);
}

/// Callers are authenticated from memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_work_without_the_database() {
    let database = Database::new(crate::support::Backend::Postgres).await;
    let server = Server::start_with(&database, &[("TOGGLED_MAX_STALENESS", "1h")]).await;
    let mut admin = server.admin().await;
    let flag = admin.create("a").await;
    let secret = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
    let (server_url, name) = database.url.rsplit_once('/').unwrap();
    let mut elsewhere = PgConnection::connect(&format!("{server_url}/postgres")).await.unwrap();
    for statement in [
        format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"),
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"),
    ] {
        elsewhere.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
    }

    let mut ann = server.client(Some(&secret)).await;
    assert_eq!(me(&mut ann).await.0.email, "ann@example.com");
    assert_eq!(ann.get("a").await, flag);
    let refused = ann.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let failed = admin.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err();
    assert_eq!((failed.code(), reason_of(&failed).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
    server.client(Some("a-token-that-nobody-has-ever-made")).await.wait_until_unauthenticated().await;
}
