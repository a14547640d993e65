//! The last flip of a flag: callers who may see the flag see why it has its status.

use serde_json::{Value, json};
use toggled::api::pb::*;
use uuid::Uuid;

use crate::cli::Shell;
use crate::support::web::{Web, post};
use crate::support::{Client, Database, Server, archive, on_both_databases, toggle, with_timeout};

/// What the answer to a change says: the last flip of its entry.
fn of_entry(entry: &AuditLog) -> Option<LastFlip> {
    Some(LastFlip {
        revision: entry.revision,
        time: entry.timestamp,
        by: entry.user_email.clone(),
        reason: entry.reason.clone(),
        audit_log_id: entry.id.clone(),
    })
}

async fn newest(admin: &mut Client) -> Option<LastFlip> {
    of_entry(admin.log().await.last().unwrap())
}

async fn as_of(client: &mut Client, revision: i64) -> FeatureFlag {
    let request =
        ListFeatureFlagsRequest { as_of_revision: Some(revision), include_archived: true, ..Default::default() };
    client.toggle.list_feature_flags(request).await.unwrap().into_inner().feature_flags.remove(0)
}

/// Flips the flag `a`, which is off, in every way. Returns the revision and the last flip after each change.
async fn flip_in_every_way(admin: &mut Client) -> Vec<(i64, Option<LastFlip>)> {
    let mut history = Vec::new();
    let because = |text: &str| text.to_owned();

    let toggled =
        admin.toggle.toggle_feature_flag(ToggleFeatureFlagRequest { reason: because("toggle"), ..toggle("a") });
    let answer = toggled.await.unwrap().into_inner();
    history.push((answer.revision, answer.feature_flag.unwrap().last_flip));
    assert_eq!(history[0].1, of_entry(&answer.audit_log.unwrap()));

    let flag = Some(disable_feature_flag_request::Flag::Key("a".into()));
    let disable = DisableFeatureFlagRequest { flag, ..Default::default() };
    let answer = admin.toggle.disable_feature_flag(disable).await.unwrap().into_inner();
    let last_flip = answer.feature_flag.unwrap().last_flip;
    assert_eq!(
        (&last_flip, last_flip.as_ref().unwrap().reason.as_ref()),
        (&of_entry(&answer.audit_log.unwrap()), None)
    );
    history.push((answer.revision, last_flip));

    let flag = Some(enable_feature_flag_request::Flag::Key("a".into()));
    let enable = EnableFeatureFlagRequest { flag, reason: because("enable"), ..Default::default() };
    let answer = admin.toggle.enable_feature_flag(enable).await.unwrap().into_inner();
    history.push((answer.revision, of_entry(&answer.audit_log.unwrap())));

    let audit_log_id = history[2].1.clone().unwrap().audit_log_id;
    let revert = RevertFeatureFlagRequest { audit_log_id, reason: because("revert"), ..Default::default() };
    let answer = admin.toggle.revert_feature_flag(revert).await.unwrap().into_inner();
    history.push((answer.revision, of_entry(&answer.audit_log.unwrap())));

    let flag = Some(batch_set_item::Flag::Key("a".into()));
    let item = BatchSetItem { flag, status: FeatureFlagStatus::Enabled.into(), ..Default::default() };
    let batch = BatchSetFeatureFlagsRequest { items: vec![item], reason: because("batch"), ..Default::default() };
    let answer = admin.toggle.batch_set_feature_flags(batch).await.unwrap().into_inner();
    let last_flip = newest(admin).await;
    assert_eq!(answer.results[0].audit_log_id, last_flip.as_ref().map(|flip| flip.audit_log_id.clone()));
    history.push((answer.revision, last_flip));
    history
}

/// Changes that are no flips: none of them changes the last flip.
async fn edit(admin: &mut Client) -> i64 {
    let update = UpdateFeatureFlagRequest {
        flag: Some(update_feature_flag_request::Flag::Key("a".into())),
        name: "Another".into(),
        update_mask: Some(prost_types::FieldMask { paths: vec!["name".into()] }),
        ..Default::default()
    };
    admin.toggle.update_feature_flag(update).await.unwrap();
    admin.toggle.archive_feature_flag(archive("a")).await.unwrap();
    let flag = Some(unarchive_feature_flag_request::Flag::Key("a".into()));
    let unarchive = UnarchiveFeatureFlagRequest { flag, reason: "no flip".into(), ..Default::default() };
    admin.toggle.unarchive_feature_flag(unarchive).await.unwrap().into_inner().revision
}

on_both_databases! {
    async fn viewer_sees_why_a_flag_is_as_it_is(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let secret = admin.new_user("viewer@example.com", &["view_feature_flags"]).await;
        let mut viewer = server.client(Some(&secret)).await;
        let on = CreateFeatureFlagRequest {
            key: "on".into(),
            name: "On".into(),
            status: FeatureFlagStatus::Enabled.into(),
            ..Default::default()
        };
        admin.toggle.create_feature_flag(on).await.unwrap();
        let created = admin.create("a").await.revision;
        assert_eq!([viewer.get("a").await.last_flip, viewer.get("on").await.last_flip], [None, None], "never flipped");
        let mut watch = viewer.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await.unwrap().into_inner();
        with_timeout("the flags", watch.message()).await.unwrap().unwrap();

        let mut history = flip_in_every_way(&mut admin).await;

        let last = history.last().unwrap().1.clone();
        assert_eq!(last.as_ref().map(|flip| (&*flip.by, flip.reason())), Some(("admin@localhost", "batch")));
        history.push((edit(&mut admin).await, last.clone()));
        let no_flip = EnableFeatureFlagRequest {
            flag: Some(enable_feature_flag_request::Flag::Key("a".into())),
            reason: "it is on".into(),
            ..Default::default()
        };
        let answer = admin.toggle.enable_feature_flag(no_flip).await.unwrap().into_inner();
        assert_eq!((answer.audit_log, answer.feature_flag.unwrap().last_flip), (None, last.clone()));

        assert_eq!(viewer.get("a").await.last_flip, last);
        let listed = viewer.toggle.list_feature_flags(ListFeatureFlagsRequest::default()).await.unwrap().into_inner();
        assert_eq!(listed.feature_flags.into_iter().map(|flag| flag.last_flip).collect::<Vec<_>>(), [last.clone(), None]);
        with_timeout("the last change in the watch", async {
            loop {
                let message = watch.message().await.unwrap().unwrap();
                if message.revision >= history.last().unwrap().0 {
                    assert_eq!(message.feature_flags.last().unwrap().last_flip, last);
                    return;
                }
            }
        })
        .await;
        // The past shows the last flip of then.
        assert_eq!(as_of(&mut viewer, created).await.last_flip, None);
        for (revision, last_flip) in &history {
            assert_eq!(as_of(&mut viewer, *revision).await.last_flip, *last_flip, "as of {revision}");
        }
    }

    async fn last_flip_survives_trim_and_restart(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        flip_in_every_way(&mut admin).await;
        let last = newest(&mut admin).await;
        let end = admin.log().await.pop().unwrap();
        let trim = TrimAuditLogsRequest { through_revision: end.revision, through_hash: end.hash, ..Default::default() };
        admin.audit.trim_audit_logs(trim).await.unwrap();
        assert_eq!(admin.get("a").await.last_flip, last);
        assert!(server.terminate().await.success());
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        assert_eq!(admin.get("a").await.last_flip, last);
        let edited = edit(&mut admin).await;
        assert_eq!((admin.get("a").await.last_flip, as_of(&mut admin, edited).await.last_flip), (last.clone(), last));
    }

    async fn json_and_command_line_show_last_flip(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let request = ToggleFeatureFlagRequest { reason: "it \u{2713} broke".into(), ..toggle("a") };
        let entry = admin.toggle.toggle_feature_flag(request).await.unwrap().into_inner().audit_log.unwrap();

        let [web, _] = Web::both(server.address);
        let path = "/toggled.v1.ToggleService/GetFeatureFlag";
        let answer = web.send(post(path, "application/json", Some(crate::support::TOKEN), r#"{"key":"a"}"#)).await;
        let answer: Value = serde_json::from_slice(answer.body()).unwrap();
        let flip = &answer["featureFlag"]["lastFlip"];
        assert_eq!((&flip["by"], &flip["reason"]), (&json!("admin@localhost"), &json!("it \u{2713} broke")));
        assert_eq!((&flip["auditLogId"], &flip["revision"]), (&json!(entry.id), &json!(entry.revision.to_string())));
        assert_eq!(flip["time"], answer["featureFlag"]["updatedAt"]);

        let output = Shell::new(server.address).succeeds(&["flag", "get", "a", "--output", "json"]).await;
        let flag: Value = serde_json::from_str(&output).unwrap();
        let expected = json!({
            "revision": entry.revision,
            "time": flag["updated_at"],
            "by": "admin@localhost",
            "reason": "it \u{2713} broke",
            "audit_log_id": entry.id,
        });
        assert_eq!(flag["last_flip"], expected);
        assert!(Uuid::try_parse(&entry.id).is_ok());
    }
}

/// Another replica reads the last flip from the database.
#[tokio::test]
async fn last_flip_reaches_other_replica() {
    let database = Database::new(crate::support::Backend::Postgres).await;
    let [first, second] = [Server::start(&database).await, Server::start(&database).await];
    let mut admin = first.admin().await;
    admin.create("a").await;
    let history = flip_in_every_way(&mut admin).await;
    let flag = Some(get_feature_flag_request::Flag::Key("a".into()));
    let request = GetFeatureFlagRequest {
        flag,
        min_revision: history.last().map(|(revision, _)| *revision),
        ..Default::default()
    };
    let found = second.admin().await.toggle.get_feature_flag(request).await.unwrap().into_inner();
    assert_eq!(found.feature_flag.unwrap().last_flip, history.last().unwrap().1);
}
