//! Environments: `toggled environment`, and how the commands on flags name them.

use serde_json::{Value, json};

use super::{Shell, assert_output, server};
use crate::support::{Client, Database, Server, on_both_databases};

/// Two more environments beside `default`.
pub async fn create_environments(shell: &Shell) {
    for key in ["staging", "production"] {
        shell.succeeds(&["environment", "create", key]).await;
    }
}

/// A caller with these permissions.
async fn caller(server: &Server, admin: &mut Client, email: &str, permissions: &[&str]) -> Shell {
    Shell::of(server.address, &admin.new_user(email, permissions).await)
}

fn keys(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(|object| object["key"].as_str().unwrap()).collect()
}

on_both_databases! {
    async fn environment_is_created_changed_and_archived(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let shell = Shell::new(server.address);
        let transcript = shell.transcript(&[
            &["environment", "create", "staging", "--name", "Staging", "--description", "before production", "--reason", "a start"],
            &["environment", "create", "staging"],
            &["environment", "create", "Staging"],
            &["environment", "create", "later", "--dry-run"],
            &["environment", "list"],
            &["environment", "update", "staging", "--require-reason", "--name", "The stage"],
            &["environment", "update", "staging", "--require-reason", "perhaps"],
            &["environment", "update", "staging"],
            &["environment", "update", "staging", "--name", "X", "--expected-revision", "1"],
            &["environment", "show", "staging"],
            &["environment", "show", "later"],
            &["flag", "create", "a", "-e", "staging"],
            &["flag", "toggle", "a", "-e", "staging"],
            &["flag", "toggle", "a", "-e", "staging", "--reason", "why not"],
            &["environment", "archive", "staging", "--reason", "over"],
            &["environment", "list"],
            &["environment", "list", "--archived"],
            &["flag", "toggle", "a", "-e", "staging", "--reason", "too late"],
            &["flag", "get", "a", "-e", "staging"],
            &["environment", "unarchive", "staging"],
            &["flag", "toggle", "a", "-e", "staging", "--reason", "back"],
        ]).await;
        assert_output!("environments", transcript);
        let shown = shell.object(&["environment", "show", "staging"]).await;
        assert_eq!((&shown["name"], &shown["description"], &shown["require_reason"]), (&json!("The stage"), &json!("before production"), &json!(true)));
        assert_eq!(shown.get("archived_at"), None);
        let changed = shell.object(&["environment", "update", "staging", "--description", "", "--reason", "shorter"]).await;
        assert_eq!((&changed["environment"]["description"], &changed["audit_log"]["reason"]), (&json!(""), &json!("shorter")));
        let id = ["environment", "update", "staging", "--name", "Once", "--request-id", "r1"];
        assert_eq!(shell.object(&id).await, shell.object(&id).await, "a repeat gets the same answer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_names_an_environment_if_there_are_several() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    shell.succeeds(&["flag", "create", "a"]).await;
    create_environments(&shell).await;
    for change in [
        &["flag", "create", "b"][..],
        &["flag", "toggle", "a"],
        &["flag", "enable", "a"],
        &["flag", "enable", "a", "b"],
        &["flag", "update", "a", "--name", "x"],
        &["flag", "archive", "a"],
    ] {
        let error = shell.fails(change, 2).await;
        assert!(
            error.contains("--environment (-e, TOGGLED_ENVIRONMENT) must name one of the environments")
                && error.contains("default, production, staging")
                && error.matches("must name").count() == 1,
            "{change:?}: {error}"
        );
    }
    let folder = tempfile::TempDir::new().unwrap();
    let file = super::import::file(&folder, "key\nb\n");
    let error = shell.fails(&["flag", "import", "--yes", &file], 2).await;
    assert!(error.contains("--environment (-e, TOGGLED_ENVIRONMENT): default, production, staging"), "{error}");

    assert_eq!(shell.object(&["flag", "get", "a"]).await["environment"], "default", "a read is about the default");
    shell.succeeds(&["flag", "create", "a", "-e", "staging"]).await;
    let staging = Shell::new(server.address).with("TOGGLED_ENVIRONMENT", "staging");
    let flipped = staging.object(&["flag", "toggle", "a"]).await;
    assert_eq!(flipped["feature_flag"]["environment"], "staging");
    assert_eq!(
        staging.object(&["flag", "get", "a", "-e", "default"]).await["status"],
        "disabled",
        "the option overrides"
    );
    assert_eq!(
        staging.objects(&["flag", "enable", "a", "--dry-run"]).await[0]["feature_flag"]["environment"],
        "staging"
    );
    staging.fails(&["flag", "get", "a", "-e", "production"], 3).await;
    let id = flipped["feature_flag"]["id"].as_str().unwrap();
    assert_eq!(shell.object(&["flag", "toggle", "--id", id]).await["feature_flag"]["environment"], "staging");
    assert!(
        shell.fails(&["flag", "toggle", "--id", id, "-e", "default"], 2).await.contains("must be that of the flag")
    );
}

/// A variable that was to be set, and is not, must not lead to another environment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_environment_is_refused() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address).with("TOGGLED_ENVIRONMENT", "");
    for command in
        [&["flag", "list"][..], &["flag", "toggle", "a"], &["flag", "watch"], &["flag", "export"], &["audit", "list"]]
    {
        let error = shell.fails(command, 2).await;
        assert!(error.contains("--environment"), "{command:?}: {error}");
        Shell::new(server.address).fails(&[command, &["-e", ""]].concat(), 2).await;
    }
    shell.succeeds(&["whoami"]).await;
    for command in
        [&["flag", "toggle", "a", "-e", "-"][..], &["flag", "get", "a", "-e", "-"], &["flag", "get", "a", "-e", "A"]]
    {
        Shell::new(server.address).fails(command, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caller_of_one_environment_sees_no_other() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    create_environments(&shell).await;
    for environment in ["staging", "production"] {
        shell.succeeds(&["flag", "create", "a", "-e", environment]).await;
    }
    shell.succeeds(&["flag", "create", "secret", "-e", "production"]).await;
    let permissions = ["view_feature_flags@staging", "toggle_feature_flags@staging", "manage_feature_flags@staging"];
    let ann = caller(&server, &mut admin, "ann@example.com", &permissions).await;
    assert_eq!(keys(&ann.objects(&["environment", "list"]).await), ["staging"]);
    assert_eq!(ann.object(&["flag", "toggle", "a"]).await["feature_flag"]["environment"], "staging");
    assert_eq!(keys(&ann.objects(&["flag", "list", "-e", "staging"]).await), ["a"]);
    ann.fails(&["flag", "list", "-e", "-"], 4).await;
    // What she may not see answers as what does not exist.
    for environment in ["production", "nowhere"] {
        for command in [
            &["flag", "list", "-e", environment][..],
            &["flag", "get", "secret", "-e", environment],
            &["flag", "toggle", "a", "-e", environment],
            &["flag", "diff", "-e", "staging", environment],
            &["flag", "copy", "--yes", "--from", "staging", "--to", environment],
            &["flag", "export", "-e", environment],
            &["environment", "show", environment],
        ] {
            let error = ann.fails(command, 3).await;
            assert!(!error.contains("secret") || command.contains(&"secret"), "{command:?}: {error}");
        }
    }
    let folder = tempfile::TempDir::new().unwrap();
    let file = super::import::file(&folder, "key,status\na,off\nb,on\n");
    assert_eq!(ann.objects(&["flag", "import", "--yes", &file]).await.pop().unwrap(), json!({"changed": 2}));
    let error = ann.run(&["flag", "import", "--yes", &file, "-e", "production"]).await;
    assert_eq!((error.0, error.1.as_str()), (3, ""), "{}", error.2);
    let elsewhere = shell.objects(&["flag", "list", "-e", "production"]).await;
    assert_eq!(keys(&elsewhere), ["a", "secret"]);
    assert!(elsewhere.iter().all(|flag| flag["status"] == "disabled"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_of_flag_in_several_environments_names_one() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    create_environments(&shell).await;
    for (key, environment) in [("a", "staging"), ("a", "production"), ("b", "production")] {
        shell.succeeds(&["flag", "create", key, "-e", environment]).await;
    }
    for all in [&[][..], &["-e", "-"]] {
        for command in [&["audit", "list", "--flag", "a"][..], &["audit", "tail", "--no-follow", "--flag", "a"]] {
            let error = shell.fails(&[command, all].concat(), 2).await;
            assert!(error.contains("several environments have a flag a: name one"), "{error}");
            assert!(error.trim_end().ends_with(": production, staging"), "{error}");
        }
        let rows = shell.rows(&[&["audit", "list", "--flag", "b"][..], all].concat()).await;
        assert_eq!(
            (rows.len(), rows[0][3..].to_vec()),
            (1, ["flag_created", "production", "b"].map(str::to_owned).to_vec())
        );
    }
    assert_eq!(shell.rows(&["audit", "list", "--flag", "a", "-e", "staging"]).await[0][4], "staging");
    // What a caller may not see does not count.
    let mut admin = server.admin().await;
    let permissions = ["view_feature_flags@staging", "view_audit_logs@staging"];
    let ann = caller(&server, &mut admin, "ann@example.com", &permissions).await;
    assert_eq!(ann.rows(&["audit", "list", "--flag", "a"]).await[0][4], "staging");
    assert!(!ann.fails(&["audit", "list", "--flag", "b"], 3).await.contains("production"));
    // An entry about no environment has an empty cell.
    let created = shell.rows(&["audit", "list", "--entity-type", "user", "--limit", "1"]).await;
    assert_eq!(created[0][3..], ["user_created", "ann@example.com"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn matrix_shows_each_key_in_each_environment() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    create_environments(&shell).await;
    for (key, environment) in [
        ("everywhere", "default"),
        ("everywhere", "staging"),
        ("everywhere", "production"),
        ("new", "staging"),
        ("half-gone", "staging"),
        ("half-gone", "production"),
        ("gone", "production"),
    ] {
        shell.succeeds(&["flag", "create", key, "-e", environment]).await;
    }
    shell.succeeds(&["flag", "enable", "everywhere", "new", "half-gone", "-e", "staging"]).await;
    shell.succeeds(&["flag", "archive", "half-gone", "-e", "staging"]).await;
    shell.succeeds(&["flag", "archive", "gone", "-e", "production"]).await;
    let matrix = shell
        .transcript(&[
            &["flag", "list", "-e", "-"],
            &["flag", "list", "-e", "-", "--archived"],
            &["flag", "list", "-e", "-", "--status", "enabled"],
            &["flag", "list", "-e", "-", "--prefix", "h"],
            &["flag", "list", "-e", "-", "--prefix", "none"],
        ])
        .await;
    assert_output!("flag_matrix", matrix);
    let rows = shell.objects(&["flag", "list", "-e", "-"]).await;
    assert_eq!(keys(&rows), ["everywhere", "half-gone", "new"]);
    let state = |row: &Value, environment: &str| {
        let state = row["environments"].as_object().unwrap()[environment].clone();
        (state["status"].as_str().map(str::to_owned), state["archived"].as_bool())
    };
    assert_eq!(state(&rows[1], "staging"), (Some("enabled".to_owned()), Some(true)));
    assert_eq!(state(&rows[1], "production"), (Some("disabled".to_owned()), Some(false)));
    assert_eq!(rows[1]["environments"]["default"], Value::Null);
    let before = shell.objects(&["flag", "list", "-e", "-", "--as-of", "1"]).await;
    assert!(before.is_empty(), "{before:?}");
}

/// A page holds a thousand flags.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn matrix_of_many_flags_reads_all_pages() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    create_environments(&shell).await;
    let folder = tempfile::TempDir::new().unwrap();
    let lines = (0..1_205).map(|n| format!("flag-{n:04}\n"));
    let file = super::import::file(&folder, format!("key\n{}", lines.collect::<String>()));
    for environment in ["default", "staging"] {
        shell.succeeds(&["flag", "import", "--yes", &file, "-e", environment]).await;
    }
    let rows = shell.objects(&["flag", "list", "-e", "-"]).await;
    assert_eq!(rows.len(), 1_205);
    assert!(rows.iter().all(
        |row| row["environments"]["staging"]["status"] == "disabled" && row["environments"]["production"].is_null()
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn diff_tells_what_differs_and_ends_like_diff() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    create_environments(&shell).await;
    for environment in ["staging", "production"] {
        for key in ["archived", "same", "status", "texts"] {
            shell.succeeds(&["flag", "create", key, "-e", environment]).await;
        }
    }
    assert_eq!(shell.succeeds(&["flag", "diff", "-e", "staging", "production"]).await, "no differences\n");
    assert_eq!(shell.succeeds(&["flag", "diff", "-e", "staging", "production", "--output", "json"]).await, "");
    shell.succeeds(&["flag", "enable", "status", "-e", "staging"]).await;
    shell
        .succeeds(&["flag", "update", "texts", "-e", "staging", "--name", "A \"text\"", "--description", "long"])
        .await;
    shell.succeeds(&["flag", "archive", "archived", "-e", "production"]).await;
    shell.succeeds(&["flag", "create", "only-here", "-e", "staging", "--enabled"]).await;
    shell.succeeds(&["flag", "create", "only-there", "-e", "production", "--enabled"]).await;
    shell.succeeds(&["flag", "archive", "only-there", "-e", "production"]).await;
    let diff = shell
        .transcript(&[
            &["flag", "diff", "-e", "staging", "production"],
            &["flag", "diff", "-e", "production", "staging", "status", "only-here"],
            &["flag", "diff", "-e", "staging", "production", "same"],
            &["flag", "diff", "-e", "staging", "production", "nope"],
            &["flag", "diff", "-e", "staging", "staging"],
            &["flag", "diff", "-e", "staging", "nowhere"],
            &["flag", "diff", "-e", "staging"],
            &["flag", "diff"],
        ])
        .await;
    assert_output!("flag_diff", diff);
    let (code, out, error) = shell.run(&["flag", "diff", "-e", "staging", "production", "--output", "json"]).await;
    assert_eq!((code, error.as_str()), (1, ""), "a difference is no error");
    let objects: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(keys(&objects), ["archived", "only-here", "only-there", "status", "texts"]);
    assert_eq!(objects[4]["differs"], json!(["name", "description"]));
    assert_eq!(objects[1]["environments"]["production"], Value::Null);
    assert_eq!(objects[1]["environments"]["staging"]["status"], "enabled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_shows_flags_of_its_environments() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    create_environments(&shell).await;
    for environment in ["staging", "production"] {
        shell.succeeds(&["flag", "create", "a", "-e", environment]).await;
    }
    let mut staging = shell.start(&["flag", "watch", "-e", "staging", "--output", "json"]);
    let mut all = shell.start(&["flag", "watch", "-e", "-", "--output", "json"]);
    assert_eq!(staging.object().await["environment"], "staging");
    let first = [all.object().await, all.object().await].map(|flag| flag["environment"].clone());
    assert!(first.contains(&json!("staging")) && first.contains(&json!("production")), "{first:?}");
    shell.succeeds(&["flag", "enable", "a", "-e", "production"]).await;
    shell.succeeds(&["flag", "enable", "a", "-e", "staging"]).await;
    let next = staging.object().await;
    assert_eq!((&next["environment"], &next["status"]), (&json!("staging"), &json!("enabled")));
    assert_eq!(all.object().await["environment"], "production");
    staging.interrupt().await;
    all.interrupt().await;
}
