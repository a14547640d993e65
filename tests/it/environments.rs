//! EnvironmentService: changes, retries, limits, and who sees which environment.

mod flags;

use prost::Message;
use toggled::api::pb::*;
use tonic::{Code, Request, Status};

use crate::support::{BOOTSTRAP_ENTRIES, Client, Database, Server, on_both_databases, reason_of};

fn create(key: &str) -> CreateEnvironmentRequest {
    CreateEnvironmentRequest { key: key.into(), name: key.into(), ..Default::default() }
}

fn update(key: &str) -> UpdateEnvironmentRequest {
    let environment = Some(update_environment_request::Environment::Key(key.into()));
    UpdateEnvironmentRequest { environment, ..Default::default() }
}

fn archive(key: &str) -> ArchiveEnvironmentRequest {
    let environment = Some(archive_environment_request::Environment::Key(key.into()));
    ArchiveEnvironmentRequest { environment, ..Default::default() }
}

fn unarchive(key: &str) -> UnarchiveEnvironmentRequest {
    let environment = Some(unarchive_environment_request::Environment::Key(key.into()));
    UnarchiveEnvironmentRequest { environment, ..Default::default() }
}

fn by_key(key: &str) -> GetEnvironmentRequest {
    let environment = Some(get_environment_request::Environment::Key(key.into()));
    GetEnvironmentRequest { environment, ..Default::default() }
}

fn by_id(id: &str) -> GetEnvironmentRequest {
    let environment = Some(get_environment_request::Environment::Id(id.into()));
    GetEnvironmentRequest { environment, ..Default::default() }
}

async fn get(client: &mut Client, request: GetEnvironmentRequest) -> Result<Environment, Status> {
    client.environments.get_environment(request).await.map(|answer| answer.into_inner().environment.unwrap())
}

async fn keys(client: &mut Client, request: ListEnvironmentsRequest) -> Vec<String> {
    let page = client.environments.list_environments(request).await.unwrap().into_inner();
    page.environments.into_iter().map(|environment| environment.key).collect()
}

fn refused<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.unwrap_err();
    (status.code(), reason_of(&status))
}

fn failed(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

on_both_databases! {
    async fn environment_changes_are_logged(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let request = CreateEnvironmentRequest {
            description: "before production".into(), require_reason: true, reason: "release".into(), ..create("staging")
        };
        let created = admin.environments.create_environment(request).await.unwrap().into_inner();
        let (staging, entry) = (created.environment.unwrap(), created.audit_log.unwrap());
        assert_eq!((&*staging.key, &*staging.description, staging.require_reason), ("staging", "before production", true));
        assert_eq!((&*staging.updated_by, staging.revision, created.revision), ("admin@localhost", entry.revision, entry.revision));
        assert_eq!((&*entry.action_type, entry.reason(), entry.environment()), ("environment_created", "release", "staging"));

        let request = UpdateEnvironmentRequest { name: "Staging".into(), ..update("staging") };
        let updated = admin.environments.update_environment(request.clone()).await.unwrap().into_inner();
        assert_eq!(updated.environment.clone().unwrap().name, "Staging");
        assert!(updated.environment.clone().unwrap().require_reason, "a field outside of the mask was changed");
        let again = admin.environments.update_environment(request).await.unwrap().into_inner();
        assert_eq!((again.environment, again.audit_log), (updated.environment, None));
        let mask = prost_types::FieldMask { paths: vec!["require_reason".into(), "description".into()] };
        let request = UpdateEnvironmentRequest {
            name: "ignored".into(), reason: "too strict".into(), update_mask: Some(mask), ..update("staging")
        };
        let masked = admin.environments.update_environment(request).await.unwrap().into_inner().environment.unwrap();
        assert_eq!((&*masked.name, &*masked.description, masked.require_reason), ("Staging", "", false));

        let archived = admin.environments.archive_environment(archive("staging")).await.unwrap().into_inner();
        assert!(archived.environment.clone().unwrap().archived_at.is_some());
        let again = admin.environments.archive_environment(archive("staging")).await.unwrap().into_inner();
        assert_eq!((again.environment, again.audit_log), (archived.environment, None));
        let rename = UpdateEnvironmentRequest { name: "x".into(), ..update("staging") };
        let archived = failed(Code::FailedPrecondition, "ENVIRONMENT_ARCHIVED");
        assert_eq!(refused(admin.environments.update_environment(rename).await), archived);
        let active = admin.environments.unarchive_environment(unarchive("staging")).await.unwrap().into_inner();
        let read = GetEnvironmentRequest { min_revision: Some(active.revision), ..by_id(&staging.id) };
        let read = admin.environments.get_environment(read).await.unwrap().into_inner();
        assert_eq!((read.environment.unwrap(), read.revision), (active.environment.unwrap(), active.revision));

        let log = admin.log().await;
        let actions: Vec<_> = log[BOOTSTRAP_ENTRIES..].iter().map(|entry| entry.action_type.as_str()).collect();
        let expected = ["created", "updated", "updated", "archived", "unarchived"].map(|action| format!("environment_{action}"));
        assert_eq!(actions, expected);
        assert!(log[BOOTSTRAP_ENTRIES..].iter().all(|entry| entry.environment() == "staging" && entry.entity_id() == staging.id));
    }

    async fn invalid_change_of_environment_is_refused(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let head = admin.log().await.len();
        assert_eq!(refused(admin.environments.create_environment(create("default")).await), failed(Code::AlreadyExists, "KEY_TAKEN"));
        let unknown = failed(Code::NotFound, "ENVIRONMENT_NOT_FOUND");
        let rename = UpdateEnvironmentRequest { name: "x".into(), ..update("nowhere") };
        assert_eq!(refused(admin.environments.update_environment(rename).await), unknown);
        assert_eq!(refused(admin.environments.archive_environment(archive("nowhere")).await), unknown);
        assert_eq!(refused(admin.environments.unarchive_environment(unarchive("nowhere")).await), unknown);
        assert_eq!(refused(get(&mut admin, by_id(&uuid::Uuid::nil().to_string())).await), unknown);
        let stale = |revision| ArchiveEnvironmentRequest { expected_revision: Some(revision), ..archive("default") };
        let mismatch = failed(Code::Aborted, "REVISION_MISMATCH");
        assert_eq!(refused(admin.environments.archive_environment(stale(100)).await), mismatch);
        let future = GetEnvironmentRequest { min_revision: Some(1_000), ..by_key("default") };
        assert_eq!(refused(get(&mut admin, future).await), failed(Code::OutOfRange, "CURSOR_IN_FUTURE"));

        let mut messages = Vec::new();
        for key in ["", "-", "Staging", "stag ing", &"x".repeat(65)] {
            messages.push(admin.environments.create_environment(create(key)).await.unwrap_err());
        }
        let mask = prost_types::FieldMask { paths: vec!["key".into()] };
        let masked = UpdateEnvironmentRequest { update_mask: Some(mask), ..update("default") };
        for request in [update("default"), masked, UpdateEnvironmentRequest { name: "x".into(), ..Default::default() }] {
            messages.push(admin.environments.update_environment(request).await.unwrap_err());
        }
        messages.push(admin.environments.archive_environment(stale(0)).await.unwrap_err());
        messages.push(get(&mut admin, by_id("default")).await.unwrap_err());
        messages.push(get(&mut admin, GetEnvironmentRequest::default()).await.unwrap_err());
        assert!(messages.iter().all(|status| status.code() == Code::InvalidArgument), "{messages:?}");
        let texts: Vec<_> = messages.iter().map(Status::message).collect();
        assert!(texts[5].contains("unless name, description or require_reason is given"), "{texts:?}");
        assert!(texts[6].contains("must be 'name', 'description' or 'require_reason'"), "{texts:?}");
        assert!(texts[7].contains("environment must be named by id or by key"), "{texts:?}");
        assert_eq!(admin.log().await.len(), head);
    }

    async fn retry_of_environment_change_gets_first_answer(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let check = CreateEnvironmentRequest { validate_only: true, ..create("staging") };
        let checked = admin.environments.create_environment(check).await.unwrap().into_inner();
        assert_eq!((checked.audit_log, checked.environment.unwrap().key.as_str()), (None, "staging"));
        assert_eq!(refused(get(&mut admin, by_key("staging")).await).0, Code::NotFound);

        let once = |id: &str| Some(format!("{id} once"));
        let creation = CreateEnvironmentRequest { request_id: once("create"), ..create("staging") };
        let first = admin.environments.create_environment(creation.clone()).await.unwrap().into_inner();
        let revision = first.environment.as_ref().unwrap().revision;
        let archival = ArchiveEnvironmentRequest {
            request_id: once("archive"), expected_revision: Some(revision), ..archive("staging")
        };
        let archived = admin.environments.archive_environment(archival.clone()).await.unwrap().into_inner();
        let again = admin.environments.create_environment(creation.clone()).await.unwrap();
        assert_eq!(again.metadata().get("x-request-replayed").unwrap(), "true");
        assert_eq!(again.into_inner().encode_to_vec(), first.encode_to_vec());
        let again = admin.environments.archive_environment(archival).await.unwrap().into_inner();
        assert_eq!(again.encode_to_vec(), archived.encode_to_vec());
        let other = CreateEnvironmentRequest { name: "another".into(), ..creation };
        let reused = failed(Code::FailedPrecondition, "REQUEST_ID_REUSED");
        assert_eq!(refused(admin.environments.create_environment(other).await), reused);
        assert_eq!(admin.log().await.len(), BOOTSTRAP_ENTRIES + 2);
    }

    async fn caller_sees_environments_of_their_permissions(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let mut ids = std::collections::HashMap::new();
        for key in ["dev", "old", "production", "staging"] {
            ids.insert(key, admin.new_environment(key).await.id);
        }
        admin.environments.archive_environment(archive("old")).await.unwrap();
        let everything = ListEnvironmentsRequest { include_archived: true, ..Default::default() };
        let scoped = ["view_feature_flags@staging", "toggle_feature_flags@dev", "view_audit_logs@old"];
        for (name, held, active, all) in [
            ("nobody", &[][..], &[][..], &[][..]),
            ("one", &scoped[..1], &["staging"], &["staging"]),
            ("several", &scoped, &["dev", "staging"], &["dev", "old", "staging"]),
            ("all", &["view_feature_flags"], &["default", "dev", "production", "staging"], &["default", "dev", "old", "production", "staging"]),
        ] {
            let secret = admin.new_user(&format!("{name}@example.com"), held).await;
            let mut client = server.client(Some(&secret)).await;
            assert_eq!(keys(&mut client, ListEnvironmentsRequest::default()).await, active, "{name}");
            assert_eq!(keys(&mut client, everything.clone()).await, all, "{name}");
            for (key, id) in &ids {
                for request in [by_key(key), by_id(id)] {
                    let found = get(&mut client, request).await;
                    assert_eq!(found.is_ok(), all.contains(key), "{name} and {key}: {found:?}");
                }
            }
        }
        // What is hidden answers as what does not exist, but for the name that the caller gave.
        let secret = admin.new_user("ann@example.com", &scoped).await;
        let mut ann = server.client(Some(&secret)).await;
        let unknown_id = uuid::Uuid::nil().to_string();
        for (hidden, unknown) in [(by_key("production"), by_key("nowhere")), (by_id(&ids["production"]), by_id(&unknown_id))] {
            let named = |request: &GetEnvironmentRequest| match request.environment.clone().unwrap() {
                get_environment_request::Environment::Id(text) | get_environment_request::Environment::Key(text) => text,
            };
            let mut answers = Vec::new();
            for request in [&hidden, &unknown] {
                let status = get(&mut ann, request.clone()).await.unwrap_err();
                let details = String::from_utf8_lossy(status.details()).replace(&named(request), "NAME");
                answers.push((status.code(), status.message().replace(&named(request), "NAME"), details.len()));
            }
            assert_eq!(answers[0], answers[1]);
        }
        // A lost permission hides the environment at once.
        let id = ann.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().user.unwrap().id;
        let fewer = UpdateUserRequest { id, permissions: vec!["view_feature_flags@dev".into()], ..Default::default() };
        admin.access.update_user(fewer).await.unwrap();
        assert_eq!(keys(&mut ann, everything).await, ["dev"]);
    }

    async fn environment_list_is_paged(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        for key in ["b", "c", "a"] {
            admin.new_environment(key).await;
        }
        let mut request = ListEnvironmentsRequest { page_size: 3, ..Default::default() };
        let first = admin.environments.list_environments(request.clone()).await.unwrap().into_inner();
        assert_eq!(first.environments.iter().map(|one| one.key.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(first.revision, admin.log().await.last().unwrap().revision);
        request.page_token = first.next_page_token;
        let second = admin.environments.list_environments(request.clone()).await.unwrap().into_inner();
        assert_eq!((second.environments[0].key.as_str(), &*second.next_page_token), ("default", ""));
        for request in [
            ListEnvironmentsRequest { include_archived: true, ..request.clone() },
            ListEnvironmentsRequest { page_size: 1_001, ..Default::default() },
            ListEnvironmentsRequest { page_token: "x".into(), ..Default::default() },
            ListEnvironmentsRequest { min_revision: Some(-1), ..Default::default() },
        ] {
            assert_eq!(admin.environments.list_environments(request).await.unwrap_err().code(), Code::InvalidArgument);
        }
        // A page shows a caller only what they may see, and its token leads on to the rest.
        let secret = admin.new_user("ann@example.com", &["view_feature_flags@a", "view_feature_flags@c"]).await;
        let mut ann = server.client(Some(&secret)).await;
        let mut request = ListEnvironmentsRequest { page_size: 1, ..Default::default() };
        let first = ann.environments.list_environments(request.clone()).await.unwrap().into_inner();
        request.page_token = first.next_page_token;
        let second = ann.environments.list_environments(request).await.unwrap().into_inner();
        assert_eq!((&*first.environments[0].key, &*second.environments[0].key, &*second.next_page_token), ("a", "c", ""));
    }

    async fn number_of_environments_is_limited(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        // Together, so that they share batches.
        let creations = (1..1_000).map(|number| {
            let mut client = admin.clone();
            async move { client.environments.create_environment(create(&format!("e{number}"))).await.map(drop) }
        });
        for created in futures::future::join_all(creations).await {
            created.unwrap();
        }
        admin.environments.archive_environment(archive("e1")).await.unwrap();
        let full = failed(Code::FailedPrecondition, "ENVIRONMENT_LIMIT");
        assert_eq!(refused(admin.environments.create_environment(create("e1000")).await), full);
        let all = ListEnvironmentsRequest { page_size: 1_000, include_archived: true, ..Default::default() };
        assert_eq!(keys(&mut admin, all).await.len(), 1_000);
    }

    async fn denied_change_of_environment_names_it(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let staging = admin.new_environment("staging").await;
        let secret = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
        let mut ann = server.client(Some(&secret)).await;
        let id = Some(archive_environment_request::Environment::Id(staging.id.clone()));
        let denied = failed(Code::PermissionDenied, "PERMISSION_DENIED");
        assert_eq!(refused(ann.environments.archive_environment(archive("staging")).await), denied);
        let by_id = ArchiveEnvironmentRequest { environment: id, ..Default::default() };
        assert_eq!(refused(ann.environments.archive_environment(by_id).await), denied);
        assert_eq!(refused(ann.environments.create_environment(create("new")).await), denied);
        let log = admin.log().await;
        let recorded: Vec<_> = log.iter().rev().take(3).rev().map(|entry| {
            (entry.entity_type.as_str(), entry.entity_key.as_str(), entry.entity_id(), entry.environment())
        }).collect();
        assert_eq!(recorded, [
            ("environment", "staging", &*staging.id, "staging"),
            ("environment", "staging", &*staging.id, "staging"),
            ("environment", "new", "", ""),
        ]);
    }

    async fn token_has_environment_of_its_own(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.new_environment("staging").await;
        admin.new_environment("production").await;
        for environment in ["default", "staging", "production"] {
            admin.create_in(environment, "a").await;
        }
        admin.new_user("ann@example.com", &["view_feature_flags", "toggle_feature_flags"]).await;
        let users = admin.access.list_users(ListUsersRequest::default()).await.unwrap().into_inner().users;
        let ann = users.iter().find(|user| user.email == "ann@example.com").unwrap().id.clone();
        let new_token = |environment: Option<&str>| CreateTokenRequest {
            user_id: ann.clone(), name: "own".into(), environment: environment.map(str::to_owned), ..Default::default()
        };
        let created = admin.access.create_token(new_token(Some("staging"))).await.unwrap().into_inner();
        assert_eq!(created.token.as_ref().unwrap().environment(), "staging");
        let entry = created.audit_log.unwrap();
        assert!(entry.new_value().contains(r#""environment":"staging""#) && entry.environment.is_none(), "{entry:?}");
        let list = ListTokensRequest { user_id: ann.clone(), ..Default::default() };
        let listed = admin.access.list_tokens(list).await.unwrap().into_inner().tokens;
        assert_eq!(listed.iter().map(|token| token.environment.as_deref()).collect::<Vec<_>>(), [None, Some("staging")]);

        // Across a restart, so that the database keeps it.
        assert!(server.terminate().await.success());
        let server = Server::start(&database).await;
        let mut own = server.client(Some(&created.secret)).await;
        assert_eq!(own.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().environment(), "staging");
        assert_eq!(own.get("a").await.environment, "staging");
        let list = own.toggle.list_feature_flags(ListFeatureFlagsRequest::default()).await.unwrap().into_inner();
        assert_eq!(list.feature_flags.iter().map(|flag| flag.environment.as_str()).collect::<Vec<_>>(), ["staging"]);
        let once = ToggleFeatureFlagRequest { request_id: Some("once".into()), ..crate::support::toggle("a") };
        let flipped = own.toggle.toggle_feature_flag(once.clone()).await.unwrap().into_inner();
        assert_eq!(flipped.feature_flag.clone().unwrap().environment, "staging");
        // A request may name another environment.
        let elsewhere = ToggleFeatureFlagRequest { environment: Some("production".into()), ..crate::support::toggle("a") };
        let elsewhere = own.toggle.toggle_feature_flag(elsewhere).await.unwrap().into_inner();
        assert_eq!(elsewhere.feature_flag.unwrap().environment, "production");

        // A retry with another token of the user, which has none of its own, may name the environment, and must.
        let mut admin = server.admin().await;
        let other = admin.access.create_token(new_token(None)).await.unwrap().into_inner().secret;
        let mut other = server.client(Some(&other)).await;
        let named = ToggleFeatureFlagRequest { environment: Some("staging".into()), ..once.clone() };
        let replayed = other.toggle.toggle_feature_flag(named).await.unwrap();
        assert_eq!(replayed.metadata().get("x-request-replayed").unwrap(), "true");
        assert_eq!(replayed.into_inner(), flipped);
        let reused = failed(Code::FailedPrecondition, "REQUEST_ID_REUSED");
        assert_eq!(refused(other.toggle.toggle_feature_flag(once).await), reused);
    }

    async fn own_environment_without_permission_is_refused(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.new_environment("staging").await;
        admin.new_environment("production").await;
        let secret = admin.new_user("ann@example.com", &["manage_access", "view_feature_flags@staging"]).await;
        let mut ann = server.client(Some(&secret)).await;
        let user_id = ann.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().user.unwrap().id;
        let new_token = |environment: &str, permissions: &[&str]| CreateTokenRequest {
            user_id: user_id.clone(),
            name: "own".into(),
            environment: Some(environment.into()),
            permissions: permissions.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let view = ["view_feature_flags@staging"];
        let narrow = CreateTokenRequest { permissions: vec!["manage_access".into()], ..new_token("x", &[]) };
        let head = admin.log().await.len();
        let mut messages = Vec::new();
        for environment in ["production", "nowhere"] {
            messages.push(ann.access.create_token(new_token(environment, &view)).await.unwrap_err());
            messages.push(admin.access.create_token(new_token(environment, &view)).await.unwrap_err());
        }
        messages.push(ann.access.create_token(narrow).await.unwrap_err());
        let told = |status: &Status| (status.code(), status.message().to_owned());
        assert_eq!(messages[0].code(), Code::InvalidArgument);
        assert!(messages[0].message().contains("environment must be one in which the token holds a permission"), "{messages:?}");
        assert!(messages.iter().all(|status| told(status) == told(&messages[0])), "{messages:?}");
        let malformed = ann.access.create_token(new_token("No", &view)).await.unwrap_err();
        assert_eq!(malformed.code(), Code::InvalidArgument);
        assert_eq!(admin.log().await.len(), head);
        ann.access.create_token(new_token("staging", &view)).await.unwrap();
    }

    async fn own_environment_is_known_to_denials(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.new_environment("staging").await;
        let flag = admin.create_in("staging", "a").await;
        admin.create_in("default", "a").await;
        admin.new_user("ann@example.com", &["toggle_feature_flags", "manage_feature_flags"]).await;
        let users = admin.access.list_users(ListUsersRequest::default()).await.unwrap().into_inner().users;
        let id = users.iter().find(|user| user.email == "ann@example.com").unwrap().id.clone();
        let token = CreateTokenRequest {
            user_id: id.clone(), name: "own".into(), environment: Some("staging".into()), ..Default::default()
        };
        let secret = admin.access.create_token(token).await.unwrap().into_inner().secret;
        let mut ann = server.client(Some(&secret)).await;
        let once = |id: &str| Some(id.to_owned());
        let flip = ToggleFeatureFlagRequest { request_id: once("flip"), ..crate::support::toggle("a") };
        let item = BatchSetItem { flag: Some(batch_set_item::Flag::Key("a".into())), status: 1, ..Default::default() };
        let batch = BatchSetFeatureFlagsRequest { items: vec![item.clone()], request_id: once("batch"), ..Default::default() };
        let new = BatchCreateItem { key: "b".into(), name: "b".into(), ..Default::default() };
        let creation = BatchCreateFeatureFlagsRequest { items: vec![new], request_id: once("create"), ..Default::default() };
        let flipped = ann.toggle.toggle_feature_flag(flip.clone()).await.unwrap().into_inner();
        let set = ann.toggle.batch_set_feature_flags(batch.clone()).await.unwrap().into_inner();
        let created = ann.toggle.batch_create_feature_flags(creation.clone()).await.unwrap().into_inner();
        assert_eq!(created.results[0].environment, "staging");
        // Without any permission, and so refused before the committer.
        admin.access.update_user(UpdateUserRequest { id, ..Default::default() }).await.unwrap();
        let head = admin.log().await.len();
        let again = ann.toggle.toggle_feature_flag(flip).await.unwrap();
        assert_eq!(again.metadata().get("x-request-replayed").unwrap(), "true");
        assert_eq!(again.into_inner(), flipped);
        assert_eq!(ann.toggle.batch_set_feature_flags(batch).await.unwrap().into_inner(), set);
        assert_eq!(ann.toggle.batch_create_feature_flags(creation).await.unwrap().into_inner(), created);
        assert_eq!(admin.log().await.len(), head);

        // A refusal names the flag of the credential's environment, or of the one that the request names.
        let denied = failed(Code::PermissionDenied, "PERMISSION_DENIED");
        let elsewhere = |environment: &str| {
            Request::new(ToggleFeatureFlagRequest { environment: Some(environment.into()), ..crate::support::toggle("a") })
        };
        assert_eq!(refused(ann.toggle.toggle_feature_flag(crate::support::toggle("a")).await), denied);
        let one = BatchSetFeatureFlagsRequest { items: vec![item], ..Default::default() };
        assert_eq!(refused(ann.toggle.batch_set_feature_flags(one).await), denied);
        assert_eq!(refused(ann.toggle.toggle_feature_flag(elsewhere("default")).await), denied);
        assert_eq!(refused(ann.toggle.toggle_feature_flag(elsewhere("nowhere")).await), denied);
        let log = admin.log().await;
        let recorded: Vec<_> = log[head..].iter().map(|entry| (entry.entity_id() == flag.id, entry.environment())).collect();
        assert_eq!(recorded, [(true, "staging"), (true, "staging"), (false, "default"), (false, "")]);
    }
}
