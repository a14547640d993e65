//! `toggled flag`, in both outputs.

use serde_json::json;

use super::{Shell, server};
use crate::support::{Database, Server, on_both_databases};

on_both_databases! {
    async fn a_flag_lives_its_life_at_the_command_line(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let shell = Shell::new(server.address);

        let created = shell.object(&["flag", "create", "checkout", "--name", "New checkout", "--reason", "a start"]).await;
        let flag = &created["feature_flag"];
        assert_eq!((&flag["key"], &flag["name"], &flag["status"], &flag["description"]), (&json!("checkout"), &json!("New checkout"), &json!("disabled"), &json!("")));
        assert_eq!(created["audit_log"]["reason"], "a start");
        assert_eq!(created["revision"], flag["revision"]);
        assert!(flag.get("archived_at").is_none(), "what is absent is left out");
        let id = flag["id"].as_str().unwrap();

        assert_eq!(shell.rows(&["flag", "toggle", "checkout", "--reason", "launch"]).await, [["checkout", "enabled", "yes", "4"]]);
        assert_eq!(shell.rows(&["flag", "toggle", "--id", id]).await, [["checkout", "disabled", "yes", "5"]]);
        assert_eq!(shell.rows(&["flag", "enable", "checkout"]).await, [["checkout", "enabled", "yes", "6"]]);
        assert_eq!(shell.rows(&["flag", "enable", "--id", id]).await, [["checkout", "enabled", "no", "6"]]);
        assert_eq!(shell.rows(&["flag", "disable", "checkout", "--expected-revision", "6"]).await, [["checkout", "disabled", "yes", "7"]]);
        let updated = shell.object(&["flag", "update", "checkout", "--description", "what it is for", "--reason", "words"]).await;
        assert_eq!((&updated["feature_flag"]["name"], &updated["feature_flag"]["description"]), (&json!("New checkout"), &json!("what it is for")));
        let updated = shell.object(&["flag", "update", "--id", id, "--name", "Checkout", "--description", ""]).await;
        assert_eq!((&updated["feature_flag"]["name"], &updated["feature_flag"]["description"]), (&json!("Checkout"), &json!("")));
        assert_eq!(shell.rows(&["flag", "archive", "checkout", "--reason", "done"]).await, [["checkout", "disabled, archived", "yes", "10"]]);
        let archived = shell.object(&["flag", "get", "checkout"]).await;
        assert!(archived["archived_at"].as_str().unwrap().ends_with('Z'), "{archived}");
        assert_eq!(shell.rows(&["flag", "unarchive", "checkout"]).await, [["checkout", "disabled", "yes", "11"]]);

        let shown = shell.says(&["flag", "get", "--id", id]).await;
        let mut lines = shown.lines();
        assert_eq!(lines.next().unwrap().split_whitespace().collect::<Vec<_>>(), ["KEY", "STATUS", "NAME", "REVISION", "CHANGED", "BY"]);
        assert!(lines.next().unwrap().ends_with("admin@localhost") && lines.next().is_none(), "{shown}");

        let log = server.admin().await.log().await;
        let reasons: Vec<_> = log.iter().filter_map(|entry| entry.reason.as_deref()).collect();
        assert_eq!(reasons, ["a start", "launch", "words", "done"]);
        let ours: Vec<_> = log.iter().filter(|entry| entry.entity_type == "feature_flag").collect();
        assert!(ours.iter().all(|entry| entry.user_agent().starts_with(concat!("toggled/", env!("CARGO_PKG_VERSION")))));
        let mut ids: Vec<_> = ours.iter().map(|entry| entry.request_id()).collect();
        ids.dedup();
        assert!(ids.len() == 9 && ids.iter().all(|id| id.len() == 36), "each change has a name of its own: {ids:?}");
    }

    async fn several_flags_are_set_together_or_not_at_all(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let shell = Shell::new(server.address);
        for key in ["a", "b", "c"] {
            shell.says(&["flag", "create", key]).await;
        }
        shell.says(&["flag", "create", "d", "--enabled"]).await;
        assert_eq!(shell.rows(&["flag", "enable", "d", "a", "b"]).await, [["d", "enabled", "no", "6"], ["a", "enabled", "yes", "7"], ["b", "enabled", "yes", "8"]]);
        let results = shell.objects(&["flag", "disable", "c", "a"]).await;
        assert_eq!((&results[0]["changed"], results[0].get("audit_log_id")), (&json!(false), None));
        assert_eq!((&results[1]["key"], &results[1]["status"], &results[1]["changed"]), (&json!("a"), &json!("disabled"), &json!(true)));
        assert!(results[1]["audit_log_id"].is_string());

        let before = server.admin().await.log().await;
        assert!(shell.fails(&["flag", "disable", "b", "nope"], 3).await.contains("nope"));
        assert!(shell.fails(&["flag", "disable", "b", "b"], 2).await.contains("the key b is given twice"));
        assert!(shell.fails(&["flag", "disable", "a", "b", "--expected-revision", "8"], 2).await.contains("--expected-revision"));
        assert_eq!(server.admin().await.log().await, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_changes_nothing() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    shell.says(&["flag", "create", "a"]).await;
    shell.says(&["flag", "create", "b"]).await;
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
    let both = shell.rows(&["flag", "enable", "a", "b", "--dry-run"]).await;
    assert_eq!(both.iter().map(|row| row[2].as_str()).collect::<Vec<_>>(), ["dry run", "dry run"]);
    assert_eq!(shell.rows(&["flag", "toggle", "a", "--dry-run"]).await[0][..3], ["a", "enabled", "dry run"]);
    assert!(shell.fails(&["flag", "toggle", "nope", "--dry-run"], 3).await.contains("nope"));
    assert_eq!(server.admin().await.log().await, before);
    let real = shell.object(&["flag", "toggle", "a"]).await;
    assert_eq!(real.get("dry_run"), None);
}

/// More than the thousand that fit a page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_has_all_pages_and_what_was_asked_for() {
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

    shell.says(&["flag", "enable", "flag-0007", "flag-0011"]).await;
    shell.says(&["flag", "archive", "flag-0012"]).await;
    assert_eq!(keys(shell.objects(&["flag", "list", "--status", "enabled"]).await), ["flag-0007", "flag-0011"]);
    assert_eq!(keys(shell.objects(&["flag", "list", "--prefix", "flag-001", "--status", "disabled"]).await).len(), 8);
    assert_eq!(keys(shell.objects(&["flag", "list", "--prefix", "flag-001", "--archived"]).await).len(), 10);
    assert_eq!(shell.says(&["flag", "list", "--prefix", "none"]).await.lines().count(), 1, "a head alone");
    assert_eq!(shell.objects(&["flag", "list", "--prefix", "none"]).await, Vec::<serde_json::Value>::new());
}

/// A name may hold anything but U+0000: a terminal must not obey it, and a script must have it as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_terminal_would_obey_does_not_reach_it() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let name = "red\u{1b}[31m two\nlines \u{9b}31m \u{202e}turned \u{7f}";
    shell.says(&["flag", "create", "a", "--name", name, "--reason", name]).await;
    for arguments in [&["flag", "list"][..], &["flag", "get", "a"], &["audit", "list", "--limit", "1"]] {
        let out = shell.says(arguments).await;
        assert_eq!(out.lines().count(), 2, "{out:?}");
        assert!(out.contains("red\u{fffd}[31m two\u{fffd}lines") && !out.contains('\u{202e}'), "{out:?}");
        let json = shell.says(&[arguments, &["--output", "json"]].concat()).await;
        assert!(!json.contains(['\u{9b}', '\u{7f}', '\u{202e}', '\u{1b}']), "{json:?}");
    }
    assert_eq!(shell.object(&["flag", "get", "a"]).await["name"], name);
    // An error repeats what was asked for.
    assert!(shell.fails(&["flag", "get", "nope\u{1b}[31m"], 2).await.contains("key"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_are_shown_as_they_were() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    shell.says(&["flag", "create", "a"]).await;
    let then = shell.objects(&["flag", "list"]).await;
    shell.says(&["flag", "create", "b", "--enabled"]).await;
    shell.says(&["flag", "enable", "a"]).await;
    let time = then[0]["updated_at"].as_str().unwrap();
    for as_of in ["3", time] {
        assert_eq!(shell.objects(&["flag", "list", "--as-of", as_of]).await, then);
        assert_eq!(shell.object(&["flag", "get", "a", "--as-of", as_of]).await, then[0]);
        assert!(shell.fails(&["flag", "get", "b", "--as-of", as_of], 3).await.contains('b'));
    }
    assert_eq!(shell.rows(&["flag", "list", "--as-of", "3"]).await[0][..2], ["a", "disabled"]);
    assert_eq!(shell.rows(&["flag", "list", "--as-of", "1h"]).await, Vec::<Vec<String>>::new());
    assert!(shell.fails(&["flag", "list", "--as-of", "99"], 2).await.contains("beyond the end of the log"));
    assert!(shell.fails(&["flag", "list", "--as-of", "9999-01-01"], 2).await.contains("must have passed"));
    let (code, _, told) = shell.run(&["flag", "get", "a", "--as-of", "once"]).await;
    assert!(code == 2 && told.contains("or a revision"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flip_is_taken_back() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let created = shell.object(&["flag", "create", "a"]).await;
    let flipped = shell.object(&["flag", "toggle", "a"]).await;
    let id = flipped["audit_log"]["id"].as_str().unwrap();
    assert_eq!(shell.rows(&["flag", "revert", id, "--dry-run"]).await, [["a", "disabled", "dry run", "5"]]);
    shell.fails(&["flag", "revert", id, "--expected-revision", "3"], 5).await;
    let reverted = shell.object(&["flag", "revert", id, "--reason", "it broke"]).await;
    assert_eq!(reverted["feature_flag"]["status"], "disabled");
    assert_eq!((&reverted["audit_log"]["reverts"], &reverted["audit_log"]["reason"]), (&json!(id), &json!("it broke")));
    assert_eq!(reverted["audit_log"]["request_id"].as_str().unwrap().len(), 36);
    assert_eq!(shell.rows(&["flag", "revert", id]).await, [["a", "disabled", "no", "5"]]);
    let created = created["audit_log"]["id"].as_str().unwrap();
    assert!(shell.fails(&["flag", "revert", created], 5).await.contains("only flips can be reverted"));
    let unknown = "00000000-0000-4000-8000-000000000000";
    assert!(shell.fails(&["flag", "revert", unknown], 3).await.contains(unknown));
}
