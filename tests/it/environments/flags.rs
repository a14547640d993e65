//! Flags of several environments: the same key is another flag in each, and a caller finds only what is in theirs.

use std::collections::BTreeSet;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, Value};
use toggled::api::pb::*;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::support::methods::{call_with, channel, methods};
use crate::support::{Backend, Client, Database, Server, on_both_databases, read_until_error, reason_of, with_timeout};

fn named(environment: &str) -> Option<String> {
    Some(environment.to_owned())
}

fn new_flag(environment: &str, key: &str) -> BatchCreateItem {
    let (key, name) = (key.to_owned(), format!("{key} of {environment}"));
    BatchCreateItem { key, name, environment: named(environment), ..Default::default() }
}

/// Creates a disabled flag in each of these environments.
async fn create_in(admin: &mut Client, environments: &[&str], key: &str) -> Vec<FeatureFlag> {
    let items = environments.iter().map(|environment| new_flag(environment, key)).collect();
    let request = BatchCreateFeatureFlagsRequest { items, ..Default::default() };
    admin.toggle.batch_create_feature_flags(request).await.unwrap();
    let mut flags = Vec::new();
    for environment in environments {
        flags.push(get(admin, named(environment), key).await.unwrap());
    }
    flags
}

/// A server with the environments `default`, `production` and `staging`, each with a flag `a`.
async fn three(backend: Backend) -> (Database, Server, Client, Vec<FeatureFlag>) {
    let database = Database::new(backend).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    for key in ["production", "staging"] {
        admin.new_environment(key).await;
    }
    let flags = create_in(&mut admin, &["default", "production", "staging"], "a").await;
    (database, server, admin, flags)
}

fn toggle_in(environment: Option<String>, key: &str) -> ToggleFeatureFlagRequest {
    ToggleFeatureFlagRequest { environment, ..crate::support::toggle(key) }
}

async fn get(client: &mut Client, environment: Option<String>, key: &str) -> Result<FeatureFlag, Status> {
    let flag = Some(get_feature_flag_request::Flag::Key(key.to_owned()));
    let request = GetFeatureFlagRequest { flag, environment, ..Default::default() };
    client.toggle.get_feature_flag(request).await.map(|answer| answer.into_inner().feature_flag.unwrap())
}

async fn list(client: &mut Client, environment: Option<String>) -> Result<Vec<(String, String)>, Status> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let environment = environment.clone();
        let request = ListFeatureFlagsRequest { environment, page_size: 2, page_token, ..Default::default() };
        let page = client.toggle.list_feature_flags(request).await?.into_inner();
        found.extend(page.feature_flags.into_iter().map(|flag| (flag.environment, flag.key)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(environment, key)| ((*environment).to_owned(), (*key).to_owned())).collect()
}

type WatchStream = Streaming<WatchFeatureFlagsResponse>;

async fn watch(client: &mut Client, environment: Option<String>, after: Option<i64>) -> Result<WatchStream, Status> {
    let request = WatchFeatureFlagsRequest { environment, after_revision: after, ..Default::default() };
    client.toggle.watch_feature_flags(request).await.map(tonic::Response::into_inner)
}

async fn next(stream: &mut WatchStream) -> WatchFeatureFlagsResponse {
    with_timeout("a message", stream.message()).await.unwrap().unwrap()
}

fn ids(message: &WatchFeatureFlagsResponse) -> Vec<&str> {
    message.feature_flags.iter().map(|flag| flag.id.as_str()).collect()
}

/// Code, reason, message and violations, with the environment's key replaced: what may differ between an environment that is hidden and one
/// that does not exist.
fn told(status: &Status, environment: &str) -> String {
    let details: Vec<_> = status.get_details_bad_request().into_iter().flat_map(|bad| bad.field_violations).collect();
    let resource = status.get_details_resource_info();
    let metadata = status.get_details_error_info().map(|info| info.metadata);
    let text =
        format!("{:?} {} {} {details:?} {resource:?} {metadata:?}", status.code(), reason_of(status), status.message());
    text.replace(environment, "ENVIRONMENT")
}

on_both_databases! {
    async fn same_key_is_another_flag_in_each_environment(backend: Backend) {
        let (_database, _server, mut admin, flags) = three(backend).await;
        assert_eq!(flags.iter().map(|flag| &flag.id).collect::<BTreeSet<_>>().len(), 3);
        let flipped = admin.toggle.toggle_feature_flag(toggle_in(named("staging"), "a")).await.unwrap().into_inner();
        let (flag, entry) = (flipped.feature_flag.unwrap(), flipped.audit_log.unwrap());
        assert_eq!((&flag.environment, &flag.id), (&"staging".to_owned(), &flags[2].id));
        assert_eq!((entry.environment(), entry.entity_id()), ("staging", &*flag.id));
        for (environment, expected) in [("default", &flags[0]), ("production", &flags[1]), ("staging", &flag)] {
            assert_eq!(get(&mut admin, named(environment), "a").await.unwrap(), *expected);
        }
        assert_eq!(get(&mut admin, None, "a").await.unwrap(), flags[0], "a read is about default");
        // A flag that is created or archived in one environment is not in the others.
        create_in(&mut admin, &["staging"], "b").await;
        let archive = ArchiveFeatureFlagRequest { environment: named("default"), ..crate::support::archive("a") };
        admin.toggle.archive_feature_flag(archive).await.unwrap();
        assert_eq!(get(&mut admin, named("production"), "a").await.unwrap(), flags[1]);
        assert_eq!(get(&mut admin, named("production"), "b").await.unwrap_err().code(), Code::NotFound);
        assert_eq!(list(&mut admin, None).await.unwrap(), []);
        assert_eq!(list(&mut admin, named("staging")).await.unwrap(), pairs(&[("staging", "a"), ("staging", "b")]));
        let all = pairs(&[("production", "a"), ("staging", "a"), ("staging", "b")]);
        assert_eq!(list(&mut admin, named("-")).await.unwrap(), all);
    }

    /// Nobody flips production because a variable was unset.
    async fn change_without_environment_names_the_choices(backend: Backend) {
        let (_database, server, mut admin, flags) = three(backend).await;
        let refused = admin.toggle.toggle_feature_flag(toggle_in(None, "a")).await.unwrap_err();
        assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
        let violations = refused.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "environment");
        assert!(violations[0].description.ends_with(": default, production, staging"), "{}", violations[0].description);
        let empty = admin.toggle.toggle_feature_flag(toggle_in(Some(String::new()), "a")).await.unwrap_err();
        assert_eq!(empty.code(), Code::InvalidArgument, "an unset variable");
        let all = admin.toggle.toggle_feature_flag(toggle_in(named("-"), "a")).await.unwrap_err();
        assert_eq!(all.code(), Code::InvalidArgument, "only lists and watches are about all");
        // A caller who may change flags of one environment only need not name it.
        let secret = admin.new_user("ann@example.com", &["toggle_feature_flags@production"]).await;
        let mut ann = server.client(Some(&secret)).await;
        let flipped = ann.toggle.toggle_feature_flag(toggle_in(None, "a")).await.unwrap().into_inner();
        assert_eq!(flipped.feature_flag.unwrap().id, flags[1].id);
        // An id is enough for everybody.
        let by_id = ToggleFeatureFlagRequest {
            flag: Some(toggle_feature_flag_request::Flag::Id(flags[2].id.clone())),
            ..Default::default()
        };
        admin.toggle.toggle_feature_flag(by_id.clone()).await.unwrap();
        let elsewhere = ToggleFeatureFlagRequest { environment: named("production"), ..by_id.clone() };
        let refused = admin.toggle.toggle_feature_flag(elsewhere).await.unwrap_err();
        assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
        let hidden = ann.toggle.toggle_feature_flag(by_id).await.unwrap_err();
        assert_eq!((hidden.code(), reason_of(&hidden).as_str()), (Code::NotFound, "FLAG_NOT_FOUND"));
    }

    /// A second environment breaks no retry of a request that named none.
    async fn second_environment_breaks_no_retry(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let request = ToggleFeatureFlagRequest { request_id: Some("once".to_owned()), ..toggle_in(None, "a") };
        let first = admin.toggle.toggle_feature_flag(request.clone()).await.unwrap().into_inner();
        admin.new_environment("staging").await;
        assert_eq!(admin.toggle.toggle_feature_flag(request).await.unwrap().into_inner(), first);
        let other = ToggleFeatureFlagRequest { request_id: Some("once".to_owned()), ..toggle_in(named("default"), "a") };
        let refused = admin.toggle.toggle_feature_flag(other).await.unwrap_err();
        assert_eq!(reason_of(&refused), "REQUEST_ID_REUSED", "another environment was named");
    }

    async fn batches_span_environments_all_or_none(backend: Backend) {
        let (_database, server, mut admin, flags) = three(backend).await;
        let item = |environment: &str| BatchSetItem {
            flag: Some(batch_set_item::Flag::Key("a".to_owned())),
            status: FeatureFlagStatus::Enabled.into(),
            environment: named(environment),
            ..Default::default()
        };
        let set = |environments: &[&str]| BatchSetFeatureFlagsRequest {
            items: environments.iter().map(|environment| item(environment)).collect(),
            ..Default::default()
        };
        let secret = admin.new_user("ann@example.com", &["toggle_feature_flags@staging", "manage_feature_flags@staging"]);
        let mut ann = server.client(Some(&secret.await)).await;
        let refused = ann.toggle.batch_set_feature_flags(set(&["staging", "production"])).await.unwrap_err();
        assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::NotFound, "ENVIRONMENT_NOT_FOUND"));
        assert_eq!(get(&mut admin, named("staging"), "a").await.unwrap(), flags[2]);
        let results = admin.toggle.batch_set_feature_flags(set(&["staging", "production"])).await.unwrap().into_inner().results;
        let changed: Vec<_> = results.iter().map(|r| (r.environment.as_str(), r.id.as_str(), r.changed)).collect();
        assert_eq!(changed, [("staging", &*flags[2].id, true), ("production", &*flags[1].id, true)]);

        let create = |items: Vec<BatchCreateItem>| BatchCreateFeatureFlagsRequest {
            items,
            reason: "a new service".to_owned(),
            request_id: Some("create".to_owned()),
            ..Default::default()
        };
        let items = vec![new_flag("staging", "b"), new_flag("production", "b")];
        let refused = ann.toggle.batch_create_feature_flags(create(items.clone())).await.unwrap_err();
        assert_eq!(reason_of(&refused), "ENVIRONMENT_NOT_FOUND");
        let dry = BatchCreateFeatureFlagsRequest { validate_only: true, ..create(items.clone()) };
        let dry = admin.toggle.batch_create_feature_flags(dry).await.unwrap().into_inner();
        assert!(dry.results.iter().all(|result| result.audit_log_id.is_none()) && dry.results.len() == 2);
        assert_eq!(list(&mut admin, named("-")).await.unwrap().len(), 3, "nothing is left of either");
        let created = admin.toggle.batch_create_feature_flags(create(items.clone())).await.unwrap().into_inner();
        let entries: Vec<_> = admin.log().await.into_iter().rev().take(2).map(|entry| (entry.id, entry.reason)).collect();
        for (result, (id, reason)) in created.results.iter().rev().zip(entries) {
            assert_eq!((result.audit_log_id(), reason.as_deref()), (&*id, Some("a new service")));
        }
        assert_eq!(admin.toggle.batch_create_feature_flags(create(items)).await.unwrap().into_inner(), created);
        let bad = vec![new_flag("Staging", "x"), new_flag("staging", ""), new_flag("staging", "y"), new_flag("staging", "y")];
        let refused = admin.toggle.batch_create_feature_flags(create(bad)).await.unwrap_err();
        let fields: Vec<_> = refused.get_details_bad_request().unwrap().field_violations.into_iter().map(|v| v.field).collect();
        assert_eq!(fields, ["items[0].environment", "items[1].key", "items[3].key"]);
        for count in [0, 1_001] {
            let items = (0..count).map(|n| new_flag("staging", &format!("n{n}"))).collect();
            let refused = admin.toggle.batch_create_feature_flags(create(items)).await.unwrap_err();
            assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, "items");
        }
        let items = (0..1_000).map(|n| new_flag(["staging", "production"][n % 2], &format!("n{n}"))).collect();
        let many = BatchCreateFeatureFlagsRequest { items, ..Default::default() };
        assert_eq!(admin.toggle.batch_create_feature_flags(many).await.unwrap().into_inner().results.len(), 1_000);
    }

    async fn watch_sends_only_its_environment(backend: Backend) {
        let (_database, server, mut admin, flags) = three(backend).await;
        let secret = admin.new_user("ann@example.com", &["view_feature_flags@staging"]).await;
        let mut ann = server.client(Some(&secret)).await;
        let mut staging = watch(&mut ann, named("staging"), None).await.unwrap();
        let first = next(&mut staging).await;
        assert_eq!(ids(&first), [flags[2].id.as_str()]);
        let mut default = watch(&mut admin, None, None).await.unwrap();
        assert_eq!(ids(&next(&mut default).await), [flags[0].id.as_str()]);
        let mut all = watch(&mut admin, named("-"), None).await.unwrap();
        assert_eq!(next(&mut all).await.feature_flags, flags);
        for environment in ["production", "staging"] {
            admin.toggle.toggle_feature_flag(toggle_in(named(environment), "a")).await.unwrap();
        }
        // The change in production came first, and is not sent.
        assert_eq!(ids(&next(&mut staging).await), [flags[2].id.as_str()]);
        let (mut seen, both) = (Vec::new(), [flags[1].id.as_str(), &flags[2].id]);
        while seen.len() < both.len() {
            seen.extend(next(&mut all).await.feature_flags.into_iter().map(|flag| flag.id));
        }
        assert_eq!(seen, both);
        // It resumes where it was, though only other environments have changed.
        let last = admin.toggle.toggle_feature_flag(toggle_in(named("production"), "a")).await.unwrap().into_inner().revision;
        let mut resumed = watch(&mut ann, named("staging"), Some(first.revision)).await.unwrap();
        let message = next(&mut resumed).await;
        assert_eq!((ids(&message), message.revision), (vec![flags[2].id.as_str()], last));
        let mut resumed = watch(&mut ann, named("staging"), Some(last)).await.unwrap();
        assert_eq!(ids(&next(&mut resumed).await), Vec::<&str>::new());
        // Some keys, in one environment and in all.
        create_in(&mut admin, &["staging", "production"], "b").await;
        for (environment, expected) in [("staging", 1), ("-", 3)] {
            let request = WatchFeatureFlagsRequest {
                keys: vec!["b".to_owned(), "c".to_owned()],
                environment: named(environment),
                ..Default::default()
            };
            let mut some = admin.toggle.watch_feature_flags(request).await.unwrap().into_inner();
            assert_eq!(next(&mut some).await.feature_flags.len(), expected, "{environment}");
            let created = create_in(&mut admin, &["staging"], ["c", "d"][usize::from(environment == "-")]).await;
            if environment == "staging" {
                assert_eq!(next(&mut some).await.feature_flags, created);
            }
        }
    }

    async fn watch_ends_when_the_right_in_its_environment_is_taken_away(backend: Backend) {
        let (_database, server, mut admin, _) = three(backend).await;
        let everywhere = admin.new_user("eve@example.com", &["view_feature_flags"]).await;
        let scoped = ["view_feature_flags@staging", "view_feature_flags@production"];
        let both = admin.new_user("ann@example.com", &scoped).await;
        let mut eve = server.client(Some(&everywhere)).await;
        let mut ann = server.client(Some(&both)).await;
        let mut streams = vec![
            (watch(&mut eve, named("-"), None).await.unwrap(), "view_feature_flags"),
            (watch(&mut eve, named("production"), None).await.unwrap(), "view_feature_flags@production"),
            (watch(&mut ann, named("production"), None).await.unwrap(), "view_feature_flags@production"),
        ];
        let mut kept = [watch(&mut eve, named("staging"), None).await.unwrap(), watch(&mut ann, named("staging"), None).await.unwrap()];
        for client in [&mut eve, &mut ann] {
            let id = client.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().user.unwrap().id;
            let permissions = vec!["view_feature_flags@staging".to_owned()];
            admin.access.update_user(UpdateUserRequest { id, permissions, ..Default::default() }).await.unwrap();
        }
        for (stream, missing) in &mut streams {
            let ended = read_until_error(stream).await;
            assert_eq!((ended.code(), reason_of(&ended).as_str()), (Code::PermissionDenied, "PERMISSION_DENIED"));
            assert_eq!(ended.message(), format!("Insufficient permissions: {missing} required"));
        }
        let flipped = admin.toggle.toggle_feature_flag(toggle_in(named("staging"), "a")).await.unwrap().into_inner();
        for stream in &mut kept {
            while next(stream).await.revision < flipped.revision {}
        }
    }

    /// What a caller may not see is answered exactly as what does not exist: by every method with an environment.
    async fn hidden_environment_answers_as_an_unknown_one(backend: Backend) {
        let (_database, server, mut admin, flags) = three(backend).await;
        let channel = channel(&server).await;
        let everything = ["manage_feature_flags", "toggle_feature_flags", "view_audit_logs", "view_feature_flags"];
        let scoped: Vec<_> = everything.iter().map(|permission| format!("{permission}@staging")).collect();
        let scoped: Vec<_> = scoped.iter().map(String::as_str).collect();
        let secret = admin.new_user("ann@example.com", &scoped).await;
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
        let mut refused = 0;
        for method in methods() {
            let (service, name) = method.path[1..].split_once('/').unwrap();
            let service = pool.get_service_by_name(service).unwrap();
            let input = service.methods().find(|method| method.name() == name).unwrap().input();
            let mut answers = Vec::new();
            for environment in ["production", "nowhere"] {
                let Some(request) = about(DynamicMessage::new(input.clone()), environment) else { continue };
                let status = call_with(&channel, &method.path, &secret, request.encode_to_vec()).await.unwrap_err();
                answers.push(told(&status, environment));
            }
            if let [hidden, unknown] = &answers[..] {
                assert_eq!(hidden, unknown, "{}", method.path);
                refused += usize::from(hidden.starts_with("NotFound ENVIRONMENT_NOT_FOUND"));
            }
        }
        assert!(refused >= 11, "{refused}");
        // By id: as a flag that does not exist.
        let mut ann = server.client(Some(&secret)).await;
        let mut answers = Vec::new();
        for id in [flags[1].id.clone(), "0198c0de-0000-7000-8000-000000000000".to_owned()] {
            let flag = Some(get_feature_flag_request::Flag::Id(id.clone()));
            let request = GetFeatureFlagRequest { flag, ..Default::default() };
            let refused = ann.toggle.get_feature_flag(request).await.unwrap_err();
            answers.push(told(&refused, &id));
        }
        assert_eq!(answers[0], answers[1]);
        assert!(answers[0].starts_with("NotFound FLAG_NOT_FOUND"), "{}", answers[0]);
        // All environments, and none where the caller has none of their own.
        for refused in [list(&mut ann, named("-")).await.unwrap_err(), watch(&mut ann, named("-"), None).await.map(drop).unwrap_err()] {
            assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "Insufficient permissions: view_feature_flags required"));
        }
        let refused = list(&mut ann, None).await.unwrap_err();
        let violations = refused.get_details_bad_request().unwrap().field_violations;
        assert!(violations[0].description.ends_with(": staging"), "{violations:?}");
        // A permission that is held elsewhere is missing here.
        let secret = admin.new_user("bob@example.com", &["view_feature_flags@staging", "toggle_feature_flags@production"]).await;
        let mut bob = server.client(Some(&secret)).await;
        let refused = list(&mut bob, named("production")).await.unwrap_err();
        assert_eq!(refused.message(), "Insufficient permissions: view_feature_flags@production required");
        let refused = bob.toggle.toggle_feature_flag(toggle_in(named("staging"), "a")).await.unwrap_err();
        assert_eq!(refused.message(), "Insufficient permissions: toggle_feature_flags@staging required");
    }

    /// Pages of one environment hold nothing of others, at present and in the past.
    async fn pages_of_the_past_are_of_one_environment(backend: Backend) {
        let (_database, _server, mut admin, flags) = three(backend).await;
        let then = admin.log().await.last().unwrap().revision;
        create_in(&mut admin, &["staging", "production"], "b").await;
        admin.toggle.toggle_feature_flag(toggle_in(named("staging"), "a")).await.unwrap();
        for (environment, expected) in [("staging", &flags[2..]), ("-", &flags[..])] {
            let (mut found, mut page_token) = (Vec::new(), String::new());
            loop {
                let request = ListFeatureFlagsRequest {
                    as_of_revision: Some(then),
                    environment: named(environment),
                    page_size: 1,
                    page_token,
                    ..Default::default()
                };
                let page = admin.toggle.list_feature_flags(request).await.unwrap().into_inner();
                found.extend(page.feature_flags);
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            assert_eq!(found, expected, "{environment}");
        }
        // A page token belongs to the list that it came from.
        let request = |environment: &str, page_token| ListFeatureFlagsRequest { environment: named(environment), page_size: 1, page_token, ..Default::default() };
        let page = admin.toggle.list_feature_flags(request("production", String::new())).await.unwrap().into_inner();
        let refused = admin.toggle.list_feature_flags(request("staging", page.next_page_token)).await.unwrap_err();
        assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, "page_token");
    }

    /// A token with a list knows nothing of environments that are not on it.
    async fn narrowed_token_does_not_learn_of_its_users_other_environments(backend: Backend) {
        let (_database, server, mut admin, _) = three(backend).await;
        let held = ["toggle_feature_flags@production", "view_feature_flags@production", "view_feature_flags@staging"];
        let secret = admin.new_user("ann@example.com", &held).await;
        let mut ann = server.client(Some(&secret)).await;
        let me = ann.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().user.unwrap();
        assert_eq!(me.permissions, held);
        let permissions = vec!["view_feature_flags@staging".to_owned()];
        let token = CreateTokenRequest { user_id: me.id, name: "ci".into(), permissions, ..Default::default() };
        let secret = admin.access.create_token(token).await.unwrap().into_inner().secret;
        let me = server.client(Some(&secret)).await.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
        assert_eq!(me.permissions, ["view_feature_flags@staging"]);
        assert_eq!(me.user.unwrap().permissions, ["view_feature_flags@staging"]);
    }

    async fn flip_needs_more_than_a_blank_reason_where_one_is_required(backend: Backend) {
        let (_database, _server, mut admin, _) = three(backend).await;
        let update = UpdateEnvironmentRequest {
            environment: Some(update_environment_request::Environment::Key("production".into())),
            require_reason: true,
            ..Default::default()
        };
        admin.environments.update_environment(update).await.unwrap();
        let flip = |reason: &str| ToggleFeatureFlagRequest { reason: reason.into(), ..toggle_in(named("production"), "a") };
        for reason in ["", " ", "\t\n", "\u{200b}", "\u{feff}\u{ad}", "\u{2800}", "\u{3164}", "\u{115f}", "\u{3000}"] {
            let refused = admin.toggle.toggle_feature_flag(flip(reason)).await.unwrap_err();
            let violations = refused.get_details_bad_request().unwrap().field_violations;
            assert_eq!(violations[0].field, "reason", "{reason:?}");
        }
        admin.toggle.toggle_feature_flag(flip("an outage")).await.unwrap();
        admin.toggle.toggle_feature_flag(toggle_in(named("staging"), "a")).await.unwrap();
    }

    async fn every_change_of_what_readers_get_needs_a_reason_where_one_is_required(backend: Backend) {
        let (_database, _server, mut admin, _) = three(backend).await;
        let update = |require_reason, reason: &str| UpdateEnvironmentRequest {
            environment: Some(update_environment_request::Environment::Key("production".into())),
            require_reason,
            reason: reason.into(),
            update_mask: Some(prost_types::FieldMask { paths: vec!["require_reason".into()] }),
            ..Default::default()
        };
        admin.environments.update_environment(update(true, "")).await.unwrap();
        let create = |key: &str, status: FeatureFlagStatus, reason: &str| CreateFeatureFlagRequest {
            key: key.into(),
            name: key.into(),
            status: status.into(),
            environment: Some("production".into()),
            reason: reason.into(),
            ..Default::default()
        };
        let archive = |key: &str, reason: &str| ArchiveFeatureFlagRequest {
            flag: Some(archive_feature_flag_request::Flag::Key(key.into())),
            environment: Some("production".into()),
            reason: reason.into(),
            ..Default::default()
        };
        let unarchive = |key: &str, reason: &str| UnarchiveFeatureFlagRequest {
            flag: Some(unarchive_feature_flag_request::Flag::Key(key.into())),
            environment: Some("production".into()),
            reason: reason.into(),
            ..Default::default()
        };
        let (on, off) = (FeatureFlagStatus::Enabled, FeatureFlagStatus::Disabled);
        let batch = |reason: &str| BatchCreateFeatureFlagsRequest {
            items: vec![BatchCreateItem { status: on.into(), ..new_flag("production", "batched") }],
            reason: reason.into(),
            ..Default::default()
        };
        let is_refused = |status: tonic::Status| {
            let violations = status.get_details_bad_request().unwrap().field_violations;
            assert_eq!(violations[0].field, "reason", "{status:?}");
        };
        is_refused(admin.toggle.create_feature_flag(create("on", on, "")).await.unwrap_err());
        is_refused(admin.toggle.batch_create_feature_flags(batch("")).await.unwrap_err());
        admin.toggle.create_feature_flag(create("on", on, "why")).await.unwrap();
        admin.toggle.batch_create_feature_flags(batch("why")).await.unwrap();
        is_refused(admin.toggle.archive_feature_flag(archive("on", "")).await.unwrap_err());
        admin.toggle.archive_feature_flag(archive("on", "why")).await.unwrap();
        is_refused(admin.toggle.unarchive_feature_flag(unarchive("on", "")).await.unwrap_err());
        admin.toggle.unarchive_feature_flag(unarchive("on", "why")).await.unwrap();
        // Readers of a disabled flag get the same before and after.
        admin.toggle.create_feature_flag(create("off", off, "")).await.unwrap();
        admin.toggle.archive_feature_flag(archive("off", "")).await.unwrap();
        admin.toggle.unarchive_feature_flag(unarchive("off", "")).await.unwrap();
        is_refused(admin.environments.update_environment(update(false, "")).await.unwrap_err());
        admin.environments.update_environment(update(false, "why")).await.unwrap();
    }

    async fn revert_may_name_the_environment_of_the_flag_alone(backend: Backend) {
        let (_database, _server, mut admin, _) = three(backend).await;
        admin.toggle.toggle_feature_flag(toggle_in(named("production"), "a")).await.unwrap();
        let flip = admin.log().await.pop().unwrap();
        let revert = |environment: &str| RevertFeatureFlagRequest {
            audit_log_id: flip.id.clone(),
            environment: Some(environment.into()),
            ..Default::default()
        };
        let refused = admin.toggle.revert_feature_flag(revert("staging")).await.unwrap_err();
        let violations = refused.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].description, "must be that of the flag, production, or absent");
        let missing = admin.toggle.revert_feature_flag(revert("nowhere")).await.unwrap_err();
        assert_eq!(missing.code(), Code::NotFound);
        admin.toggle.revert_feature_flag(revert("production")).await.unwrap();
    }

    async fn refused_batch_is_recorded_in_the_environment_of_all_its_items(backend: Backend) {
        let (_database, server, mut admin, _) = three(backend).await;
        let secret = admin.new_user("ann@example.com", &["view_feature_flags@staging"]).await;
        let mut ann = server.client(Some(&secret)).await;
        for (environments, expected) in [(["staging", "staging"], "staging"), (["staging", "production"], "")] {
            let items = ["b", "c"].iter().zip(environments).map(|(key, environment)| new_flag(environment, key)).collect();
            let request = BatchCreateFeatureFlagsRequest { items, ..Default::default() };
            let refused = ann.toggle.batch_create_feature_flags(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied);
            let last = admin.log().await.pop().unwrap();
            assert_eq!((last.action_type.as_str(), last.environment()), ("access_denied", expected));
        }
    }

    /// A user with thousands of permissions makes long entries, and long texts of errors.
    async fn thousands_of_permissions_fit_into_answers(backend: Backend) {
        let (_database, _server, mut admin, _) = three(backend).await;
        let keys: Vec<_> = (0..900).map(|n| format!("{n:03}-{}", "k".repeat(60))).collect();
        for key in &keys {
            admin.new_environment(key).await;
        }
        let permissions: Vec<_> = ["manage_feature_flags", "toggle_feature_flags", "view_audit_logs", "view_feature_flags"]
            .iter()
            .flat_map(|permission| keys.iter().map(move |key| format!("{permission}@{key}")))
            .collect();
        let new = CreateUserRequest { email: "ann@example.com".into(), permissions: permissions.clone(), ..Default::default() };
        let id = admin.access.create_user(new).await.unwrap().into_inner().user.unwrap().id;
        let refused = admin.access.update_user(UpdateUserRequest { id: id.clone(), reactivate: true, ..Default::default() }).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().len() < 4_000 && refused.message().contains("and 3580 more"), "{}", refused.message());
        for n in 0..16 {
            let permissions = permissions[n % 2..].to_vec();
            admin.access.update_user(UpdateUserRequest { id: id.clone(), permissions, ..Default::default() }).await.unwrap();
        }
        let (mut revisions, mut page_token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let request = ListAuditLogsRequest { entity_type: Some("user".into()), limit: Some(100), page_token, ..Default::default() };
            let page = admin.audit.list_audit_logs(request).await.unwrap().into_inner();
            assert!(page.encoded_len() < 4 << 20 && !page.items.is_empty());
            revisions.extend(page.items.iter().map(|entry| entry.revision));
            (page_token, pages) = (page.next_page_token, pages + 1);
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!((revisions.len(), revisions.is_sorted_by(|a, b| a > b)), (17, true));
        assert!(pages > 1, "{pages}");
    }
}

/// The request, about an environment; `None` if its message names none.
fn about(mut message: DynamicMessage, environment: &str) -> Option<DynamicMessage> {
    let descriptor = message.descriptor();
    if let Some(field) = descriptor.get_field_by_name("items").filter(|field| field.is_list()) {
        let item = about(DynamicMessage::new(field.kind().as_message()?.clone()), environment)?;
        message.set_field(&field, Value::List(vec![Value::Message(item)]));
        return Some(message);
    }
    let field = descriptor.get_field_by_name("environment")?;
    message.set_field(&field, Value::String(environment.to_owned()));
    for (name, value) in [("key", "a"), ("name", "A")] {
        if let Some(field) = descriptor.get_field_by_name(name) {
            message.set_field(&field, Value::String(value.to_owned()));
        }
    }
    if let Some(field) = descriptor.get_field_by_name("status").filter(|_| descriptor.name() == "BatchSetItem") {
        message.set_field(&field, Value::EnumNumber(FeatureFlagStatus::Enabled.into()));
    }
    Some(message)
}
