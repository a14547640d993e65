//! The audit log of one environment: what a caller reads who may read it only there.

use sha2::{Digest, Sha256};
use toggled::api::pb::*;
use toggled::domain::advance::Command;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::store::world::{World, create_environment, email, name, service};
use crate::support::{
    Client, Database, Server, TOKEN, on_both_databases, read_until_error, reason_of, toggle, with_timeout,
};

/// Starts a server that has the environments `default`, `production` and `staging`.
pub async fn start(backend: crate::support::Backend) -> (Server, Database) {
    let mut world = World::empty(backend).await;
    let administrator = Command::CreateAdministrator {
        email: email("admin@localhost"),
        token_name: name("bootstrap"),
        secret_hash: Sha256::digest(TOKEN).into(),
    };
    let environments = ["default", "production", "staging"].map(create_environment);
    let commands = [administrator].into_iter().chain(environments).map(service);
    world.commit(&commands.collect::<Vec<_>>()).await;
    let database = world.database;
    (Server::start(&database).await, database)
}

/// Creates a flag with this key in each environment, and flips it there some times.
pub async fn write_history(admin: &mut Client) {
    for (environment, flips) in [("default", 1), ("production", 2), ("staging", 3)] {
        let request = CreateFeatureFlagRequest {
            environment: Some(environment.into()),
            key: "a".into(),
            name: "Flag a".into(),
            ..Default::default()
        };
        admin.toggle.create_feature_flag(request).await.unwrap();
        for _ in 0..flips {
            flip(admin, environment).await.unwrap();
        }
    }
}

async fn flip(client: &mut Client, environment: &str) -> Result<i64, Status> {
    let request = ToggleFeatureFlagRequest { environment: Some(environment.into()), ..toggle("a") };
    client.toggle.toggle_feature_flag(request).await.map(|answer| answer.into_inner().revision)
}

async fn reader(server: &Server, address: &str, permissions: &[&str]) -> Client {
    let secret = server.admin().await.new_user(address, permissions).await;
    server.client(Some(&secret)).await
}

fn list_in(environment: &str) -> ListAuditLogsRequest {
    ListAuditLogsRequest { environment: Some(environment.into()), ..Default::default() }
}

fn stream_in(environment: &str) -> StreamAuditLogsRequest {
    StreamAuditLogsRequest { environment: Some(environment.into()), ..Default::default() }
}

async fn list(client: &mut Client, request: ListAuditLogsRequest) -> Result<ListAuditLogsResponse, Status> {
    client.audit.list_audit_logs(request).await.map(tonic::Response::into_inner)
}

/// All that a stream without `follow` sends: its entries, and the last cursor.
async fn stream(
    client: &mut Client,
    request: StreamAuditLogsRequest,
) -> Result<(Vec<AuditLog>, StreamAuditLogsResponse), Status> {
    let mut stream = client.audit.stream_audit_logs(request).await?.into_inner();
    let (mut entries, mut last) = (Vec::new(), StreamAuditLogsResponse::default());
    while let Some(mut part) = with_timeout("the next part", stream.message()).await? {
        entries.append(&mut part.items);
        last = part;
    }
    Ok((entries, last))
}

/// What an error says, with the name that the request gave left out.
fn refusal(status: &Status, name: &str) -> (Code, String, String) {
    let details = format!("{:?}", status.get_error_details());
    (status.code(), status.message().replace(name, "NAME"), details.replace(name, "NAME"))
}

/// The error of a list, which must be that of a stream too.
async fn refused(client: &mut Client, environment: Option<&str>) -> Status {
    let environment = environment.map(str::to_owned);
    let list_request = ListAuditLogsRequest { environment: environment.clone(), ..Default::default() };
    let listed = list(client, list_request).await.unwrap_err();
    let stream_request = StreamAuditLogsRequest { environment, ..Default::default() };
    let streamed = stream(client, stream_request).await.unwrap_err();
    assert_eq!(refusal(&listed, ""), refusal(&streamed, ""));
    listed
}

on_both_databases! {
    async fn new_filters_stay_within_the_environment(backend: Backend) {
        let (server, _database) = start(backend).await;
        let mut admin = server.admin().await;
        write_history(&mut admin).await;
        let mut auditor = reader(&server, "auditor@example.com", &["view_audit_logs@staging"]).await;
        let actions = ["toggle_enabled", "flag_created"].map(str::to_owned).to_vec();
        for filter in [
            ListAuditLogsRequest { entity_key: Some("a".into()), ..list_in("staging") },
            ListAuditLogsRequest { key_prefix: Some("a".into()), ..list_in("staging") },
            ListAuditLogsRequest { action_types: actions, ..list_in("staging") },
            ListAuditLogsRequest { without_reason: true, ..list_in("staging") },
        ] {
            let items = auditor.audit.list_audit_logs(filter.clone()).await.unwrap().into_inner().items;
            assert!(!items.is_empty() && items.iter().all(|entry| entry.environment() == "staging"), "{filter:?}");
            let elsewhere = ListAuditLogsRequest { environment: Some("-".into()), ..filter };
            let refused = auditor.audit.list_audit_logs(elsewhere).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied);
        }
        let users = ListAuditLogsRequest { key_prefix: Some("auditor@".into()), ..list_in("staging") };
        assert_eq!(auditor.audit.list_audit_logs(users).await.unwrap().into_inner().total, Some(0));
    }

    async fn scoped_reader_sees_one_environment(backend: Backend) {
        let (server, _database) = start(backend).await;
        let mut admin = server.admin().await;
        write_history(&mut admin).await;
        let mut ann = reader(&server, "ann@example.com", &["view_audit_logs@staging"]).await;
        let log = admin.log().await;
        let of = |environment: &str| -> Vec<AuditLog> {
            log.iter().filter(|entry| entry.environment.as_deref() == Some(environment)).cloned().collect()
        };
        let (staging, production) = (of("staging"), of("production"));
        assert_eq!((staging.len(), production.len()), (5, 4), "each with its creation, a flag's, and its flips");

        let newest: Vec<_> = staging.iter().rev().cloned().collect();
        let page = list(&mut ann, list_in("staging")).await.unwrap();
        assert_eq!((page.items, page.total), (newest.clone(), Some(5)));
        let (streamed, end) = stream(&mut ann, stream_in("staging")).await.unwrap();
        assert_eq!(streamed, staging);
        assert_eq!((end.through_revision, end.through_hash), (log.len() as i64, log.last().unwrap().hash.clone()));
        // Page by page, by token and by number.
        let mut page = list(&mut ann, ListAuditLogsRequest { limit: Some(2), ..list_in("staging") }).await.unwrap();
        let mut paged = page.items.clone();
        while !page.next_page_token.is_empty() {
            let next = ListAuditLogsRequest { limit: Some(2), page_token: page.next_page_token, ..list_in("staging") };
            page = list(&mut ann, next).await.unwrap();
            let by_number = ListAuditLogsRequest { limit: Some(2), page: Some(page.page), ..list_in("staging") };
            assert_eq!(list(&mut ann, by_number).await.unwrap().items, page.items);
            paged.extend(page.items.clone());
        }
        assert_eq!(paged, newest);
        // With every other filter.
        let flag_in = |entries: &[AuditLog]| entries.last().unwrap().entity_id.clone();
        let staging_id = staging[0].entity_id.clone();
        for (request, expected) in [
            (ListAuditLogsRequest { action_type: Some("toggle_enabled".into()), ..list_in("staging") }, 2),
            (ListAuditLogsRequest { user_email: Some("admin@localhost".into()), ..list_in("staging") }, 4),
            (ListAuditLogsRequest { entity_type: Some("environment".into()), ..list_in("staging") }, 1),
            (ListAuditLogsRequest { entity_type: Some("user".into()), ..list_in("staging") }, 0),
            (ListAuditLogsRequest { entity_id: flag_in(&staging), ..list_in("staging") }, 4),
            (ListAuditLogsRequest { entity_id: staging_id, ..list_in("staging") }, 1),
            (ListAuditLogsRequest { entity_id: flag_in(&production), ..list_in("staging") }, 0),
        ] {
            let found = list(&mut ann, request.clone()).await.unwrap();
            assert_eq!((found.total, found.items.len()), (Some(expected as i64), expected), "{request:?}");
        }
        // One by one: what is not theirs does not exist.
        let unknown = uuid::Uuid::now_v7().to_string();
        let get = |id: &str| GetAuditLogRequest { id: id.to_owned() };
        let missing = ann.audit.get_audit_log(get(&unknown)).await.unwrap_err();
        assert_eq!(reason_of(&missing), "AUDIT_LOG_NOT_FOUND");
        for entry in &log {
            let found = ann.audit.get_audit_log(get(&entry.id)).await;
            if entry.environment.as_deref() == Some("staging") {
                assert_eq!(found.unwrap().into_inner().audit_log.as_ref(), Some(entry));
            } else {
                assert_eq!(refusal(&found.unwrap_err(), &entry.id), refusal(&missing, &unknown));
            }
            assert_eq!(admin.audit.get_audit_log(get(&entry.id)).await.unwrap().into_inner().audit_log.as_ref(), Some(entry));
        }
    }

    async fn unknown_and_hidden_environments_answer_alike(backend: Backend) {
        let (server, _database) = start(backend).await;
        write_history(&mut server.admin().await).await;
        let permissions = ["view_audit_logs@staging", "view_feature_flags@default"];
        let mut ann = reader(&server, "ann@example.com", &permissions).await;

        let unnamed = refused(&mut ann, None).await;
        let violation = unnamed.get_details_bad_request().unwrap().field_violations.remove(0);
        assert_eq!((unnamed.code(), &*violation.field), (Code::InvalidArgument, "environment"));
        assert_eq!(violation.description, "must name one of the environments in which you may do this: staging");
        let all = refused(&mut ann, Some("-")).await;
        assert_eq!(all.message(), "Insufficient permissions: view_audit_logs required");
        let seen = refused(&mut ann, Some("default")).await;
        assert_eq!(seen.message(), "Insufficient permissions: view_audit_logs@default required");
        let (hidden, unknown) = (refused(&mut ann, Some("production")).await, refused(&mut ann, Some("nowhere")).await);
        assert_eq!(reason_of(&hidden), "ENVIRONMENT_NOT_FOUND");
        assert_eq!(refusal(&hidden, "production"), refusal(&unknown, "nowhere"));
        let malformed = refused(&mut ann, Some("No")).await;
        assert_eq!(malformed.get_details_bad_request().unwrap().field_violations[0].field, "environment");

        for status in [
            ann.audit.get_audit_checkpoint(GetAuditCheckpointRequest::default()).await.unwrap_err(),
            ann.audit.list_audit_checkpoints(ListAuditCheckpointsRequest::default()).await.unwrap_err(),
        ] {
            assert_eq!(status.message(), "Insufficient permissions: view_audit_logs required");
        }
        // Elsewhere than in the log the permission shows nothing.
        let mut bob = reader(&server, "bob@example.com", &["view_feature_flags"]).await;
        assert_eq!(refused(&mut bob, Some("staging")).await.code(), Code::PermissionDenied);
    }

    async fn reader_everywhere_sees_all_or_one(backend: Backend) {
        let (server, _database) = start(backend).await;
        let mut admin = server.admin().await;
        write_history(&mut admin).await;
        let all = admin.log().await.len();
        for (request, total) in [
            (ListAuditLogsRequest::default(), all),
            (list_in("-"), all),
            (list_in("default"), 3),
            (list_in("staging"), 5),
        ] {
            assert_eq!(list(&mut admin, request.clone()).await.unwrap().total, Some(total as i64), "{request:?}");
        }
        assert_eq!(stream(&mut admin, stream_in("-")).await.unwrap().0.len(), all);
        assert_eq!(reason_of(&refused(&mut admin, Some("nowhere")).await), "ENVIRONMENT_NOT_FOUND");
        // A token leads to the next page of the same environment.
        let page_token = list(&mut admin, ListAuditLogsRequest { limit: Some(2), ..list_in("staging") }).await.unwrap().next_page_token;
        for other in ["production", "-"] {
            let next = ListAuditLogsRequest { limit: Some(2), page_token: page_token.clone(), ..list_in(other) };
            let status = list(&mut admin, next).await.unwrap_err();
            assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "page_token");
        }
    }

    async fn stream_of_one_environment_resumes_and_ends_with_the_permission(backend: Backend) {
        let (server, _database) = start(backend).await;
        let mut admin = server.admin().await;
        write_history(&mut admin).await;
        let mut ann = reader(&server, "ann@example.com", &["view_audit_logs@staging"]).await;
        let mut all = reader(&server, "all@example.com", &["view_audit_logs"]).await;
        let after_revision = Some(admin.log().await.len() as i64);
        let follow = StreamAuditLogsRequest { follow: true, after_revision, ..stream_in("staging") };
        let mut following = ann.audit.stream_audit_logs(follow.clone()).await.unwrap().into_inner();
        let everything = StreamAuditLogsRequest { environment: None, ..follow.clone() };
        let mut everything = all.audit.stream_audit_logs(everything).await.unwrap().into_inner();

        let hidden = flip(&mut admin, "production").await.unwrap();
        let mut cursor = follow.clone();
        while cursor.after_revision < Some(hidden) {
            let part = with_timeout("the cursor to move on", following.message()).await.unwrap().unwrap();
            assert_eq!(part.items, [], "none of them is about staging");
            cursor.after_revision = Some(part.through_revision);
            cursor.after_hash = Some(part.through_hash);
            cursor.log_id = Some(part.log_id);
        }
        let mut seen = Vec::new();
        let mut expected = Vec::new();
        let mut resumed = ann.audit.stream_audit_logs(cursor).await.unwrap().into_inner();
        for _ in 0..3 {
            expected.push(flip(&mut admin, "staging").await.unwrap());
            flip(&mut admin, "production").await.unwrap();
        }
        while seen.len() < expected.len() {
            let part = with_timeout("the entries", resumed.message()).await.unwrap().unwrap();
            seen.extend(part.items.into_iter().map(|entry| entry.revision));
        }
        assert_eq!(seen, expected);

        // Another permission in its place ends the stream, and so does a narrower one.
        for (client, permission, lost) in [
            (&mut ann, "view_audit_logs@production", "view_audit_logs@staging"),
            (&mut all, "view_audit_logs@staging", "view_audit_logs"),
        ] {
            let id = client.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().user.unwrap().id;
            let request = UpdateUserRequest { id, permissions: vec![permission.into()], ..Default::default() };
            admin.access.update_user(request).await.unwrap();
            let stream = if lost == "view_audit_logs" { &mut everything } else { &mut resumed };
            let status = with_timeout("the end of the stream", read_until_error(stream)).await;
            assert_eq!(status.message(), format!("Insufficient permissions: {lost} required"));
        }
        let status = with_timeout("the end of the stream", read_until_error(&mut following)).await;
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(list(&mut ann, list_in("staging")).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(list(&mut all, list_in("staging")).await.unwrap().items.len(), 8);
    }

    async fn denials_are_shown_where_they_happened(backend: Backend) {
        let (server, _database) = start(backend).await;
        let mut admin = server.admin().await;
        write_history(&mut admin).await;
        // One holds the permission elsewhere, one nowhere.
        let elsewhere = ["toggle_feature_flags@production", "view_feature_flags@staging"];
        for (address, permissions) in [("elsewhere@example.com", &elsewhere[..]), ("nowhere@example.com", &elsewhere[1..])] {
            let status = flip(&mut reader(&server, address, permissions).await, "staging").await.unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied);
        }
        for (address, environment, shown) in [("ann@example.com", "staging", 2), ("bob@example.com", "production", 0)] {
            let mut client = reader(&server, address, &[&format!("view_audit_logs@{environment}")]).await;
            let denials = ListAuditLogsRequest { action_type: Some("access_denied".into()), ..list_in(environment) };
            let found = list(&mut client, denials).await.unwrap();
            assert_eq!((found.total, found.items.len()), (Some(shown as i64), shown), "{environment}");
            assert!(found.items.iter().all(|entry| entry.environment.as_deref() == Some(environment)));
        }
    }
}
