//! `toggled flag`, with tables and with JSON.

use serde_json::json;

use super::{Shell, assert_output, server};
use crate::support::{Database, Server, on_both_databases};

on_both_databases! {
    async fn flag_is_created_changed_and_archived(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let shell = Shell::new(server.address);

        let created = shell.object(&["flag", "create", "checkout", "--name", "New checkout", "--reason", "a start"]).await;
        let flag = &created["feature_flag"];
        assert_eq!((&flag["key"], &flag["name"], &flag["status"], &flag["description"]), (&json!("checkout"), &json!("New checkout"), &json!("disabled"), &json!("")));
        assert_eq!(created["audit_log"]["reason"], "a start");
        assert_eq!(created["revision"], flag["revision"]);
        assert!(flag.get("archived_at").is_none(), "absent values are omitted");
        let id = flag["id"].as_str().unwrap();

        let flips = shell.transcript(&[
            &["flag", "toggle", "checkout", "--reason", "launch"],
            &["flag", "toggle", "--id", id],
            &["flag", "enable", "checkout"],
            &["flag", "enable", "--id", id],
            &["flag", "disable", "checkout", "--expected-revision", "7"],
        ]).await;
        assert_output!("flag_flips", flips);
        let updated = shell.object(&["flag", "update", "checkout", "--description", "what it is for", "--reason", "words"]).await;
        assert_eq!((&updated["feature_flag"]["name"], &updated["feature_flag"]["description"]), (&json!("New checkout"), &json!("what it is for")));
        let updated = shell.object(&["flag", "update", "--id", id, "--name", "Checkout", "--description", ""]).await;
        assert_eq!((&updated["feature_flag"]["name"], &updated["feature_flag"]["description"]), (&json!("Checkout"), &json!("")));
        let archived = shell.transcript(&[
            &["flag", "archive", "checkout", "--reason", "done"],
            &["flag", "get", "checkout"],
            &["flag", "get", "checkout", "--output", "json"],
            &["flag", "unarchive", "checkout"],
            &["flag", "get", "--id", id],
        ]).await;
        assert_output!("flag_archived", archived);

        let log = server.admin().await.log().await;
        let reasons: Vec<_> = log.iter().filter_map(|entry| entry.reason.as_deref()).collect();
        assert_eq!(reasons, ["a start", "launch", "words", "done"]);
        let ours: Vec<_> = log.iter().filter(|entry| entry.entity_type == "feature_flag").collect();
        assert!(ours.iter().all(|entry| entry.user_agent().starts_with(concat!("toggled/", env!("CARGO_PKG_VERSION")))));
        let mut ids: Vec<_> = ours.iter().map(|entry| entry.request_id()).collect();
        ids.dedup();
        assert!(ids.len() == 9 && ids.iter().all(|id| id.len() == 36), "each change has its own idempotency key: {ids:?}");
    }

    async fn several_flags_are_set_all_or_none(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let shell = Shell::new(server.address);
        for key in ["a", "b", "c"] {
            shell.succeeds(&["flag", "create", key]).await;
        }
        shell.succeeds(&["flag", "create", "d", "--enabled"]).await;
        assert_output!("flags_enabled_together", shell.transcript(&[&["flag", "enable", "d", "a", "b"]]).await);
        let results = shell.objects(&["flag", "disable", "c", "a"]).await;
        assert_eq!((&results[0]["changed"], results[0].get("audit_log_id")), (&json!(false), None));
        assert_eq!((&results[1]["key"], &results[1]["status"], &results[1]["changed"]), (&json!("a"), &json!("disabled"), &json!(true)));
        assert!(results[1]["audit_log_id"].is_string());

        let before = server.admin().await.log().await;
        let refused = shell.transcript(&[
            &["flag", "disable", "b", "nope"],
            &["flag", "disable", "b", "b"],
            &["flag", "disable", "a", "b", "--expected-revision", "9"],
        ]).await;
        assert_output!("flags_disabled_together_refused", refused);
        assert_eq!(server.admin().await.log().await, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dry_run_changes_nothing() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    shell.succeeds(&["flag", "create", "a"]).await;
    shell.succeeds(&["flag", "create", "b"]).await;
    let before = server.admin().await.log().await;
    for command in [
        &["flag", "create", "c"][..],
        &["flag", "toggle", "a"],
        &["flag", "enable", "a"],
        &["flag", "enable", "a", "b"],
        &["flag", "update", "a", "--name", "x"],
        &["flag", "archive", "a"],
    ] {
        for object in shell.objects(&[command, &["--dry-run"]].concat()).await {
            assert_eq!(object["dry_run"], true, "{command:?}: {object}");
        }
    }
    let dry_runs = shell
        .transcript(&[
            &["flag", "enable", "a", "b", "--dry-run"],
            &["flag", "toggle", "a", "--dry-run"],
            &["flag", "toggle", "nope", "--dry-run"],
        ])
        .await;
    assert_output!("dry_runs", dry_runs);
    assert_eq!(server.admin().await.log().await, before);
    let real = shell.object(&["flag", "toggle", "a"]).await;
    assert_eq!(real.get("dry_run"), None);
}

/// A page holds a thousand flags.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_reads_all_pages_and_filters() {
    let (server, _database) = server().await;
    let admin = server.admin().await;
    let creating = (0..1_005).map(|n| {
        let mut admin = admin.clone();
        async move { admin.create(&format!("flag-{n:04}")).await }
    });
    futures::future::join_all(creating).await;
    let shell = Shell::new(server.address);
    let keys = |flags: Vec<serde_json::Value>| -> Vec<_> {
        flags.iter().map(|flag| flag["key"].as_str().unwrap().to_owned()).collect()
    };
    let all: Vec<_> = (0..1_005).map(|n| format!("flag-{n:04}")).collect();
    assert_eq!(keys(shell.objects(&["flag", "list"]).await), all);
    assert_eq!(shell.rows(&["flag", "list"]).await.len(), 1_005);

    shell.succeeds(&["flag", "enable", "flag-0007", "flag-0011"]).await;
    shell.succeeds(&["flag", "archive", "flag-0012"]).await;
    assert_eq!(keys(shell.objects(&["flag", "list", "--status", "enabled"]).await), ["flag-0007", "flag-0011"]);
    assert_eq!(keys(shell.objects(&["flag", "list", "--prefix", "flag-001", "--status", "disabled"]).await).len(), 8);
    assert_eq!(keys(shell.objects(&["flag", "list", "--prefix", "flag-001", "--archived"]).await).len(), 10);
    assert_eq!(shell.succeeds(&["flag", "list", "--prefix", "none"]).await.lines().count(), 1, "only the header");
    assert_eq!(shell.objects(&["flag", "list", "--prefix", "none"]).await, Vec::<serde_json::Value>::new());
}

/// A name may hold any character but U+0000. Tables must not let it control the terminal; JSON must keep it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_characters_do_not_reach_the_terminal() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let name = "red\u{1b}[31m two\nlines \u{9b}31m \u{202e}reversed \u{7f}";
    shell.succeeds(&["flag", "create", "a", "--name", name, "--reason", name]).await;
    for arguments in [&["flag", "list"][..], &["flag", "get", "a"], &["audit", "list", "--limit", "1"]] {
        let out = shell.succeeds(arguments).await;
        assert_eq!(out.lines().count(), 2, "{out:?}");
        assert!(out.contains(r"red\u{1b}[31m two\nlines \u{9b}31m \u{202e}reversed \u{7f}"), "{out:?}");
        let json = shell.succeeds(&[arguments, &["--output", "json"]].concat()).await;
        assert!(!json.contains(['\u{9b}', '\u{7f}', '\u{202e}', '\u{1b}']), "{json:?}");
    }
    assert_eq!(shell.object(&["flag", "get", "a"]).await["name"], name);
    // An error message repeats the key.
    assert!(shell.fails(&["flag", "get", "nope\u{1b}[31m"], 2).await.contains("key"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_of_shows_flags_of_the_past() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    shell.succeeds(&["flag", "create", "a"]).await;
    let past = shell.objects(&["flag", "list"]).await;
    shell.succeeds(&["flag", "create", "b", "--enabled"]).await;
    shell.succeeds(&["flag", "enable", "a"]).await;
    let time = past[0]["updated_at"].as_str().unwrap();
    for as_of in ["4", time] {
        assert_eq!(shell.objects(&["flag", "list", "--as-of", as_of]).await, past);
        assert_eq!(shell.object(&["flag", "get", "a", "--as-of", as_of]).await, past[0]);
        assert!(shell.fails(&["flag", "get", "b", "--as-of", as_of], 3).await.contains('b'));
    }
    assert_eq!(shell.rows(&["flag", "list", "--as-of", "4"]).await[0][..3], ["a", "default", "disabled"]);
    assert_eq!(shell.rows(&["flag", "list", "--as-of", "1h"]).await, Vec::<Vec<String>>::new());
    let refused = shell
        .transcript(&[
            &["flag", "list", "--as-of", "99"],
            &["flag", "list", "--as-of", "9999-01-01"],
            &["flag", "get", "a", "--as-of", "once"],
        ])
        .await;
    assert_output!("as_of_refused", refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flip_is_reverted() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let created = shell.object(&["flag", "create", "a"]).await;
    let flipped = shell.object(&["flag", "toggle", "a"]).await;
    let id = flipped["audit_log"]["id"].as_str().unwrap();
    assert_eq!(shell.rows(&["flag", "revert", id, "--dry-run"]).await, [["a", "default", "disabled", "dry run", "6"]]);
    shell.fails(&["flag", "revert", id, "--expected-revision", "4"], 5).await;
    let reverted = shell.object(&["flag", "revert", id, "--reason", "it broke"]).await;
    assert_eq!(reverted["feature_flag"]["status"], "disabled");
    assert_eq!((&reverted["audit_log"]["reverts"], &reverted["audit_log"]["reason"]), (&json!(id), &json!("it broke")));
    assert_eq!(reverted["audit_log"]["request_id"].as_str().unwrap().len(), 36);
    assert_eq!(shell.rows(&["flag", "revert", id]).await, [["a", "default", "disabled", "no", "6"]]);
    let created = created["audit_log"]["id"].as_str().unwrap();
    assert!(shell.fails(&["flag", "revert", created], 5).await.contains("only flips can be reverted"));
    let unknown = "00000000-0000-4000-8000-000000000000";
    assert!(shell.fails(&["flag", "revert", unknown], 3).await.contains(unknown));
}
