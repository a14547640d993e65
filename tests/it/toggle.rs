//! Flipping, managing and reading flags through the API.

use toggled::api::pb::*;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{Client, Database, Server, archive, on_both_databases, reason_of, toggle};

async fn start(backend: crate::support::Backend) -> (Database, Server, Client) {
    let database = Database::new(backend).await;
    let server = Server::start(&database).await;
    let admin = server.admin().await;
    (database, server, admin)
}

fn by_key(key: &str) -> Option<get_feature_flag_request::Flag> {
    Some(get_feature_flag_request::Flag::Key(key.into()))
}

fn enable(key: &str) -> EnableFeatureFlagRequest {
    EnableFeatureFlagRequest { flag: Some(enable_feature_flag_request::Flag::Key(key.into())), ..Default::default() }
}

fn item(key: &str, status: FeatureFlagStatus) -> BatchSetItem {
    let flag = Some(batch_set_item::Flag::Key(key.into()));
    BatchSetItem { flag, status: status.into(), ..Default::default() }
}

on_both_databases! {
    /// The main use case: create a flag, flip it with a reason, and find the caller in the log.
    async fn flip_is_logged_with_caller_and_reason(backend: Backend) {
        let (_database, _server, mut admin) = start(backend).await;
        let flag = admin.create("checkout").await;
        assert_eq!(flag.status(), FeatureFlagStatus::Disabled);

        let request = ToggleFeatureFlagRequest { reason: "Integration test".into(), ..toggle("checkout") };
        let flipped = admin.toggle.toggle_feature_flag(request).await.unwrap().into_inner();

        assert_eq!(flipped.feature_flag.unwrap().status(), FeatureFlagStatus::Enabled);
        let listed = ListAuditLogsRequest { entity_id: Some(flag.id.clone()), ..Default::default() };
        let listed = admin.audit.list_audit_logs(listed).await.unwrap().into_inner();
        assert_eq!(listed.total, Some(2));
        let entry = &listed.items[0];
        assert_eq!(*entry, flipped.audit_log.unwrap(), "the answer differs from the logged entry");
        assert_eq!(entry.entity_id.as_deref(), Some(flag.id.as_str()));
        assert_eq!(entry.reason.as_deref(), Some("Integration test"));
        assert_eq!((entry.user_email.as_str(), entry.action_type.as_str()), ("admin@localhost", "toggle_enabled"));
        assert_eq!(entry.method, "toggled.v1.ToggleService/ToggleFeatureFlag");
        assert!(entry.peer.as_deref().unwrap().starts_with("127.0.0.1:"));
        assert!(entry.user_agent.as_deref().unwrap().starts_with("tests"));
    }

    async fn enabling_enabled_flag_writes_nothing(backend: Backend) {
        let (_database, _server, mut admin) = start(backend).await;
        admin.create("a").await;
        let first = admin.toggle.enable_feature_flag(enable("a")).await.unwrap().into_inner();
        let again = admin.toggle.enable_feature_flag(enable("a")).await.unwrap().into_inner();
        assert!(first.audit_log.is_some() && again.audit_log.is_none());
        assert_eq!((first.feature_flag, first.revision), (again.feature_flag, again.revision));
        let request = DisableFeatureFlagRequest {
            flag: Some(disable_feature_flag_request::Flag::Key("a".into())),
            ..Default::default()
        };
        let off = admin.toggle.disable_feature_flag(request).await.unwrap().into_inner();
        assert_eq!(off.audit_log.unwrap().action_type, "toggle_disabled");
    }

    async fn flip_requires_the_expected_revision(backend: Backend) {
        let (_database, _server, mut admin) = start(backend).await;
        let flag = admin.create("a").await;
        let expecting = |revision| ToggleFeatureFlagRequest { expected_revision: Some(revision), ..toggle("a") };
        let error = admin.toggle.toggle_feature_flag(expecting(99)).await.unwrap_err();
        assert_eq!((error.code(), reason_of(&error).as_str()), (Code::Aborted, "REVISION_MISMATCH"));
        let info = error.get_details_error_info().unwrap();
        assert_eq!(info.metadata["current_revision"], flag.revision.to_string());
        admin.toggle.toggle_feature_flag(expecting(flag.revision)).await.unwrap();
    }

    async fn validate_only_returns_result_and_writes_nothing(backend: Backend) {
        let (_database, _server, mut admin) = start(backend).await;
        admin.create("a").await;
        let before = admin.log().await;
        let dry = ToggleFeatureFlagRequest { validate_only: true, request_id: Some("r".into()), ..toggle("a") };
        let answer = admin.toggle.toggle_feature_flag(dry.clone()).await.unwrap().into_inner();
        assert_eq!(answer.feature_flag.unwrap().status(), FeatureFlagStatus::Enabled);
        assert!(answer.audit_log.is_none());
        assert_eq!(answer.revision, before.last().unwrap().revision);
        assert_eq!(admin.log().await, before);
        assert_eq!(admin.get("a").await.status(), FeatureFlagStatus::Disabled);
        // The request id was not stored, so the real request can use it.
        let real = ToggleFeatureFlagRequest { validate_only: false, ..dry };
        admin.toggle.toggle_feature_flag(real).await.unwrap();
    }

    async fn archived_flag_keeps_its_key_and_cannot_be_flipped(backend: Backend) {
        let (_database, _server, mut admin) = start(backend).await;
        admin.create("a").await;
        let archived = admin.toggle.archive_feature_flag(archive("a")).await.unwrap().into_inner();
        assert!(archived.feature_flag.unwrap().archived_at.is_some());
        assert!(admin.toggle.archive_feature_flag(archive("a")).await.unwrap().into_inner().audit_log.is_none());
        let error = admin.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err();
        assert_eq!((error.code(), reason_of(&error).as_str()), (Code::FailedPrecondition, "FLAG_ARCHIVED"));
        assert!(error.get_details_precondition_failure().is_some());
        let again = CreateFeatureFlagRequest { key: "a".into(), name: "A".into(), ..Default::default() };
        let error = admin.toggle.create_feature_flag(again).await.unwrap_err();
        assert_eq!((error.code(), reason_of(&error).as_str()), (Code::AlreadyExists, "KEY_TAKEN"));

        let list = ListFeatureFlagsRequest::default();
        assert!(admin.toggle.list_feature_flags(list.clone()).await.unwrap().into_inner().feature_flags.is_empty());
        let list = ListFeatureFlagsRequest { include_archived: true, ..list };
        assert_eq!(admin.toggle.list_feature_flags(list).await.unwrap().into_inner().feature_flags.len(), 1);

        let back = UnarchiveFeatureFlagRequest {
            flag: Some(unarchive_feature_flag_request::Flag::Key("a".into())),
            ..Default::default()
        };
        admin.toggle.unarchive_feature_flag(back).await.unwrap();
        admin.flip("a").await;
    }

    async fn batch_is_all_or_nothing(backend: Backend) {
        let (_database, _server, mut admin) = start(backend).await;
        admin.create("a").await;
        admin.create("b").await;
        let on = FeatureFlagStatus::Enabled;
        let batch = |items| BatchSetFeatureFlagsRequest { items, reason: "all".into(), ..Default::default() };
        let error = admin.toggle.batch_set_feature_flags(batch(vec![item("a", on), item("no", on)])).await.unwrap_err();
        assert_eq!((error.code(), reason_of(&error).as_str()), (Code::NotFound, "FLAG_NOT_FOUND"));
        assert_eq!(admin.get("a").await.status(), FeatureFlagStatus::Disabled);
        let twice = admin.toggle.batch_set_feature_flags(batch(vec![item("a", on), item("a", on)])).await.unwrap_err();
        assert_eq!(twice.get_details_bad_request().unwrap().field_violations[0].field, "items[1].flag");
        let none = admin.toggle.batch_set_feature_flags(batch(vec![])).await.unwrap_err();
        assert_eq!(none.code(), Code::InvalidArgument);

        let items = vec![item("b", on), item("a", FeatureFlagStatus::Disabled)];
        let answer = admin.toggle.batch_set_feature_flags(batch(items)).await.unwrap().into_inner();
        assert_eq!(answer.results.iter().map(|r| (r.key.as_str(), r.changed)).collect::<Vec<_>>(), [("b", true), ("a", false)]);
        let id = answer.results[0].audit_log_id.clone().unwrap();
        let entry = admin.audit.get_audit_log(GetAuditLogRequest { id }).await.unwrap().into_inner().audit_log.unwrap();
        assert_eq!((entry.reason.as_deref(), entry.entity_key.as_str()), (Some("all"), "b"));
        assert_eq!(entry.method, "toggled.v1.ToggleService/BatchSetFeatureFlags");
    }

    async fn batch_sets_a_thousand_flags(backend: Backend) {
        let (_database, _server, mut admin) = start(backend).await;
        let names: Vec<String> = (0..1_000).map(|n| format!("flag-{n:04}")).collect();
        let creations = names.iter().map(|name| {
            let mut admin = admin.clone();
            async move { admin.create(name).await }
        });
        futures::future::join_all(creations).await;
        let items = names.iter().map(|name| item(name, FeatureFlagStatus::Enabled)).collect();
        let batch = BatchSetFeatureFlagsRequest { items, ..Default::default() };
        let answer = admin.toggle.batch_set_feature_flags(batch).await.unwrap().into_inner();
        assert!(answer.results.iter().all(|r| r.changed));
        let mut seen = Vec::new();
        let mut page_token = String::new();
        loop {
            let list = ListFeatureFlagsRequest {
                page_size: 300,
                page_token,
                status: FeatureFlagStatus::Enabled.into(),
                min_revision: Some(answer.revision),
                ..Default::default()
            };
            let page = admin.toggle.list_feature_flags(list).await.unwrap().into_inner();
            seen.extend(page.feature_flags.into_iter().map(|flag| flag.key));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(seen, names, "flags are not listed once each in order of their keys");
    }

    async fn update_changes_only_fields_in_the_mask(backend: Backend) {
        let (_database, _server, mut admin) = start(backend).await;
        admin.create("a").await;
        let update = |name: &str, description: &str, paths: &[&str]| UpdateFeatureFlagRequest {
            flag: Some(update_feature_flag_request::Flag::Key("a".into())),
            name: name.into(),
            description: description.into(),
            update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|p| (*p).to_owned()).collect() }),
            ..Default::default()
        };
        let changed = admin.toggle.update_feature_flag(update("New", "ignored", &["name"])).await.unwrap().into_inner();
        let entry = changed.audit_log.unwrap();
        assert_eq!(entry.action_type, "flag_updated");
        assert!(entry.old_value().contains("\"name\":\"Flag a\"") && entry.new_value().contains("\"name\":\"New\""));
        let flag = admin.get("a").await;
        assert_eq!((flag.name.as_str(), flag.description.as_str()), ("New", ""));
        admin.toggle.update_feature_flag(update("", "What for", &[])).await.unwrap();
        let flag = admin.get("a").await;
        assert_eq!((flag.name.as_str(), flag.description.as_str()), ("New", "What for"));
        let error = admin.toggle.update_feature_flag(update("x", "", &["status"])).await.unwrap_err();
        assert_eq!(error.get_details_bad_request().unwrap().field_violations[0].field, "update_mask.paths[0]");
        let same = admin.toggle.update_feature_flag(update("New", "", &["name"])).await.unwrap().into_inner();
        assert!(same.audit_log.is_none());
    }

    async fn all_violations_are_reported_together(backend: Backend) {
        let (_database, _server, mut admin) = start(backend).await;
        let request = CreateFeatureFlagRequest {
            key: "'; DROP TABLE audit_logs; --".into(),
            name: String::new(),
            description: "d".repeat(2_001),
            status: 9,
            reason: "r".repeat(2_001),
            request_id: Some(String::new()),
            ..Default::default()
        };
        let error = admin.toggle.create_feature_flag(request).await.unwrap_err();
        assert_eq!((error.code(), reason_of(&error).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
        let violations = error.get_details_bad_request().unwrap().field_violations;
        let mut fields: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["description", "key", "name", "reason", "request_id", "status"]);
        let without_flag = admin.toggle.toggle_feature_flag(ToggleFeatureFlagRequest::default()).await.unwrap_err();
        assert_eq!(without_flag.get_details_bad_request().unwrap().field_violations[0].field, "flag");
    }

    async fn unknown_flag_is_named_in_the_error(backend: Backend) {
        let (_database, _server, mut admin) = start(backend).await;
        let error = admin.toggle.toggle_feature_flag(toggle("nope")).await.unwrap_err();
        assert_eq!((error.code(), reason_of(&error).as_str()), (Code::NotFound, "FLAG_NOT_FOUND"));
        let resource = error.get_details_resource_info().unwrap();
        assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), ("feature_flag", "nope"));
        let get = GetFeatureFlagRequest { flag: by_key("nope"), ..Default::default() };
        assert_eq!(admin.toggle.get_feature_flag(get).await.unwrap_err().code(), Code::NotFound);
    }

    async fn read_honors_min_revision(backend: Backend) {
        let (_database, _server, mut admin) = start(backend).await;
        let flag = admin.create("a").await;
        let get = |revision| GetFeatureFlagRequest {
            flag: by_key("a"),
            min_revision: Some(revision),
            ..Default::default()
        };
        let read = admin.toggle.get_feature_flag(get(flag.revision)).await.unwrap().into_inner();
        assert_eq!(read.feature_flag.unwrap(), flag);
        let error = admin.toggle.get_feature_flag(get(99)).await.unwrap_err();
        assert_eq!((error.code(), reason_of(&error).as_str()), (Code::OutOfRange, "CURSOR_IN_FUTURE"));
        assert_eq!(error.get_details_error_info().unwrap().metadata["head_revision"], flag.revision.to_string());
    }

    async fn pages_of_flags_honor_filters(backend: Backend) {
        let (_database, _server, mut admin) = start(backend).await;
        for key in ["app.b", "app.a", "other", "App.c", "app.c"] {
            admin.create(key).await;
        }
        admin.flip("app.c").await;
        let list = ListFeatureFlagsRequest { key_prefix: "app.".into(), page_size: 2, ..Default::default() };
        let first = admin.toggle.list_feature_flags(list.clone()).await.unwrap().into_inner();
        assert_eq!(first.feature_flags.iter().map(|f| f.key.as_str()).collect::<Vec<_>>(), ["app.a", "app.b"]);
        let next = ListFeatureFlagsRequest { page_token: first.next_page_token.clone(), ..list.clone() };
        let second = admin.toggle.list_feature_flags(next).await.unwrap().into_inner();
        assert_eq!(second.feature_flags.iter().map(|f| f.key.as_str()).collect::<Vec<_>>(), ["app.c"]);
        assert_eq!(second.next_page_token, "");
        let off = FeatureFlagStatus::Disabled.into();
        let filtered = ListFeatureFlagsRequest { status: off, page_size: 0, ..list.clone() };
        assert_eq!(admin.toggle.list_feature_flags(filtered).await.unwrap().into_inner().feature_flags.len(), 2);
        for bad in [
            ListFeatureFlagsRequest { page_token: "garbage".into(), ..list.clone() },
            ListFeatureFlagsRequest { page_token: first.next_page_token, key_prefix: "o".into(), ..list.clone() },
            ListFeatureFlagsRequest { page_size: 1_001, ..list.clone() },
            ListFeatureFlagsRequest { page_size: -1, ..list },
        ] {
            assert_eq!(admin.toggle.list_feature_flags(bad).await.unwrap_err().code(), Code::InvalidArgument);
        }
    }
}

/// If the entry cannot be written, neither is the flip, and the caller gets an error.
mod flip_fails_when_its_entry_cannot_be_written {
    use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

    use super::*;
    use crate::support::Backend;

    async fn check_flip_fails(server: &Server) {
        let mut admin = server.admin().await;
        let error = admin.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err();
        assert_eq!((error.code(), reason_of(&error).as_str()), (Code::Internal, "INTERNAL"));
        assert!(!format!("{error:?}").contains("sabotage"), "the error reveals internals: {error:?}");
        assert_eq!(admin.get("a").await.status(), FeatureFlagStatus::Disabled);
        // Other changes in the same batch succeed.
        let (bad, good) = (admin.clone(), admin.clone());
        let calls = (0..20).map(|n| {
            let mut client = if n % 2 == 0 { bad.clone() } else { good.clone() };
            async move { client.toggle.toggle_feature_flag(toggle(if n % 2 == 0 { "a" } else { "b" })).await }
        });
        for (n, result) in futures::future::join_all(calls).await.into_iter().enumerate() {
            assert_eq!(result.is_ok(), n % 2 == 1);
        }
        assert!(admin.log().await.iter().all(|e| e.entity_key != "a" || e.action_type == "flag_created"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        let (database, server, mut admin) = start(Backend::Sqlite).await;
        admin.create("a").await;
        admin.create("b").await;
        let mut connection = SqliteConnection::connect(&database.url).await.unwrap();
        let sabotage = "CREATE TRIGGER sabotage BEFORE INSERT ON audit_logs WHEN NEW.entity_key = 'a'
            BEGIN SELECT RAISE(ABORT, 'sabotage'); END";
        connection.execute(sabotage).await.unwrap();
        check_flip_fails(&server).await;
        let status: String = sqlx::query_scalar("SELECT status FROM feature_flags WHERE key = 'a'")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(status, "disabled");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres() {
        let (database, server, mut admin) = start(Backend::Postgres).await;
        admin.create("a").await;
        admin.create("b").await;
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        let sabotage = "CREATE FUNCTION sabotage() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'sabotage'; END $$;
            CREATE TRIGGER sabotage BEFORE INSERT ON audit_logs FOR EACH ROW WHEN (NEW.entity_key = 'a')
                EXECUTE FUNCTION sabotage()";
        connection.execute(sabotage).await.unwrap();
        check_flip_fails(&server).await;
        let status: String = sqlx::query_scalar("SELECT status FROM feature_flags WHERE key = 'a'")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(status, "disabled");
    }
}
