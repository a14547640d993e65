//! `flag copy`, and imports and exports of several environments.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::environments::create_environments;
use super::import::{file, fixture};
use super::{Shell, assert_output, server};
use crate::support::Client;

/// The state of each flag of an environment: status, name, description, whether it is archived.
type Flags = BTreeMap<String, (String, String, String, bool)>;

async fn flags(shell: &Shell, environment: &str) -> Flags {
    let flags = shell.objects(&["flag", "list", "--archived", "-e", environment]).await;
    let text = |flag: &Value, field: &str| flag[field].as_str().unwrap().to_owned();
    let state = |flag: &Value| {
        (text(flag, "status"), text(flag, "name"), text(flag, "description"), flag.get("archived_at").is_some())
    };
    flags.iter().map(|flag| (text(flag, "key"), state(flag))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_makes_target_like_source() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    create_environments(&shell).await;
    for key in ["archived-here", "archived-there", "on", "texts", "twin"] {
        shell.succeeds(&["flag", "create", key, "--enabled", "--description", "of staging", "-e", "staging"]).await;
    }
    shell.succeeds(&["flag", "archive", "archived-here", "-e", "staging"]).await;
    for key in ["archived-there", "on", "only-there"] {
        shell.succeeds(&["flag", "create", key, "--description", "of staging", "-e", "production"]).await;
    }
    shell.succeeds(&["flag", "create", "texts", "--name", "Other", "--enabled", "-e", "production"]).await;
    shell.succeeds(&["flag", "archive", "archived-there", "-e", "production"]).await;
    let before = flags(&shell, "production").await;
    let copy = ["flag", "copy", "--yes", "--from", "staging", "--to", "production"];
    let with = |more: &[&'static str]| [&copy[..], more].concat();

    let refused = shell
        .transcript(&[
            &with(&["nope"]),
            &["flag", "copy", "--yes", "--from", "staging", "--to", "staging"],
            &["flag", "copy", "--yes", "--from", "staging", "--to", "nowhere"],
            &["flag", "copy", "--yes", "--from", "staging"],
            &with(&["--dry-run"]),
        ])
        .await;
    assert_output!("flag_copy", refused);
    assert_eq!(flags(&shell, "production").await, before, "a dry run changes nothing");
    shell.succeeds(&with(&["on"])).await;
    let one = flags(&shell, "production").await;
    assert_eq!((one["on"].0.as_str(), one.len()), ("enabled", before.len()), "only the named flag");
    let objects = shell.objects(&with(&["--reason", "tested"])).await;
    assert_eq!(objects.last().unwrap(), &json!({"changed": 2}));
    let (source, target) = (flags(&shell, "staging").await, flags(&shell, "production").await);
    for key in ["on", "texts", "twin"] {
        assert_eq!(source[key], target[key], "{key}");
    }
    assert!(!target.contains_key("archived-here") && target["archived-there"] == before["archived-there"]);
    assert_eq!(target["only-there"], before["only-there"]);
    assert_eq!(source["archived-here"].0, "enabled");
    assert!(shell.succeeds(&copy).await.ends_with("nothing to do\n"));
    let log = server.admin().await.log().await;
    let copied: Vec<_> = log.iter().filter(|entry| entry.reason() == "tested").collect();
    assert!(copied.len() == 2 && copied.iter().all(|entry| entry.environment() == "production"), "{copied:?}");
}

/// More flags than fit into a pipe: while its preview is not read, a command has compared the flags and changed none.
const FLAGS: usize = 2_500;

/// How many calls created flags: each has an idempotency key of its own.
async fn creating_calls(admin: &mut Client) -> usize {
    let log = admin.log().await;
    let created = log.iter().filter(|entry| entry.action_type == "flag_created");
    created.map(|entry| entry.request_id().to_owned()).collect::<BTreeSet<_>>().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flag_changed_after_preview_is_not_overwritten() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    create_environments(&shell).await;
    let folder = TempDir::new().unwrap();
    let lines = |status: &str| {
        let lines = (0..FLAGS).map(|n| format!("flag-{n:04},{status}\n"));
        format!("key,status\n{}", lines.collect::<String>())
    };
    shell.succeeds(&["flag", "import", "--yes", &file(&folder, lines("on")), "-e", "staging"]).await;
    assert_eq!(creating_calls(&mut admin).await, FLAGS.div_ceil(1_000), "as few calls as can be");
    shell.succeeds(&["flag", "import", "--yes", &file(&folder, lines("off")), "-e", "production"]).await;
    let copy = ["flag", "copy", "--yes", "--from", "staging", "--to", "production"];
    let mut running = shell.start(&copy);
    assert!(running.line().await.starts_with("CHANGE"));
    shell.succeeds(&["flag", "update", "flag-1500", "--name", "Changed meanwhile", "-e", "production"]).await;
    let (code, _, errors) = running.wait().await;
    assert_eq!((code, errors.len()), (5, 1), "{errors:?}");
    assert!(errors[0].contains("(1000 of 2500 changes were made; repeat the command"), "{errors:?}");
    let flag = shell.object(&["flag", "get", "flag-1500", "-e", "production"]).await;
    assert_eq!((&flag["name"], &flag["status"]), (&json!("Changed meanwhile"), &json!("disabled")));
    assert!(shell.succeeds(&copy).await.ends_with("1501 changes made\n"));
}

/// A call has at most 4 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_with_long_texts_are_created_in_several_calls() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let folder = TempDir::new().unwrap();
    let lines = (0..1_000).map(|n| format!("flag-{n:04},{}\n", "\u{1f6a9}".repeat(2_000)));
    let path = file(&folder, format!("key,description\n{}", lines.collect::<String>()));
    let objects = shell.objects(&["flag", "import", "--yes", &path]).await;
    assert_eq!(objects.last().unwrap(), &json!({"changed": 1_000}));
    assert_eq!(creating_calls(&mut server.admin().await).await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_of_all_environments_is_the_same_after_import() {
    let (full, _database) = server().await;
    let shell = Shell::new(full.address);
    create_environments(&shell).await;
    for (key, environment) in [("a", "default"), ("a", "staging"), ("b", "staging"), ("a", "production")] {
        shell.succeeds(&["flag", "create", key, "--name", environment, "-e", environment]).await;
    }
    shell.succeeds(&["flag", "enable", "a", "-e", "staging"]).await;
    shell.succeeds(&["flag", "archive", "b", "-e", "staging"]).await;
    let folder = TempDir::new().unwrap();
    for format in ["ndjson", "csv"] {
        let path = folder.path().join(format).display().to_string();
        let export = ["flag", "export", "-e", "-", "--archived", "--format", format, "--output-file", &path];
        let (code, _, error) = shell.run(&export).await;
        assert!(code == 0 && error.starts_with("4 flags at revision "), "{error}");
        assert!(shell.succeeds(&["flag", "import", "--yes", &path]).await.ends_with("nothing to do\n"), "{format}");

        let (empty, _database) = server().await;
        let new = Shell::new(empty.address);
        let (code, out, error) = new.run(&["flag", "import", "--yes", &path]).await;
        assert_eq!((code, out.as_str()), (3, ""));
        assert!(
            error.contains("no environments production, staging, or you hold no permission there; create them")
                && error.ends_with("\ntoggled environment create production\ntoggled environment create staging\n"),
            "{error}"
        );
        assert!(
            new.fails(&["flag", "import", "--yes", &path, "-e", "default", "--from-environment", "x"], 2)
                .await
                .contains("the file has")
        );
        create_environments(&new).await;
        new.succeeds(&["flag", "import", "--yes", &path]).await;
        for environment in ["default", "staging", "production"] {
            assert_eq!(flags(&new, environment).await, flags(&shell, environment).await, "{format} {environment}");
        }
        // One environment of the file, into itself or into another.
        let staging = new.objects(&["flag", "import", "--yes", &path, "-e", "staging"]).await;
        assert_eq!(staging[staging.len() - 2]["summary"]["unchanged"], 2, "{staging:?}");
        let moved =
            ["flag", "import", "--yes", &path, "--from-environment", "staging", "-e", "production", "--dry-run"];
        let moved = new.objects(&moved).await;
        assert!(
            moved
                .iter()
                .any(|line| line["change"] == "create" && line["key"] == "b" && line["environment"] == "production"),
            "{moved:?}"
        );
    }
    let (_, one, _) = shell.run(&["flag", "export", "-e", "staging"]).await;
    assert_eq!(one.lines().count(), 1);
    let path = file(&folder, one);
    shell.succeeds(&["flag", "import", "--yes", &path, "--from-environment", "staging", "-e", "production"]).await;
    assert_eq!(
        flags(&shell, "production").await["a"].0,
        "enabled",
        "a file of one environment goes into the named one"
    );
    assert!(shell.fails(&["flag", "export", "-e", "-", "--format", "flagd"], 2).await.contains("one environment"));
    assert!(
        shell
            .fails(&["flag", "import", "--yes", &file(&folder, "key\na\n"), "-e", "-"], 2)
            .await
            .contains("--environment")
    );
    let twice = file(&folder, "key,environment\na,\na,default\n");
    assert!(shell.fails(&["flag", "import", "--yes", &twice, "-e", "default"], 2).await.contains("twice"));
}

/// A flip without a reason would be refused after other changes are made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flips_without_required_reason_change_nothing() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    shell.succeeds(&["environment", "create", "staging"]).await;
    shell.succeeds(&["environment", "create", "production", "--require-reason"]).await;
    for environment in ["staging", "production"] {
        shell.succeeds(&["flag", "create", "old", "-e", environment]).await;
    }
    shell.succeeds(&["flag", "enable", "old", "-e", "staging"]).await;
    shell.succeeds(&["flag", "create", "new", "--enabled", "-e", "staging"]).await;
    let before = flags(&shell, "production").await;
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "key,status\nnew,on\nold,on\n");
    let copy = ["flag", "copy", "--yes", "--from", "staging", "--to", "production"];
    let import = ["flag", "import", "--yes", &path, "-e", "production"];
    for command in [&copy[..], &import] {
        for more in [&[][..], &["--dry-run"]] {
            let (code, out, error) = shell.run(&[command, more].concat()).await;
            let (expected_code, expected) = match more.is_empty() {
                true => (2, "toggled: production requires a reason: add --reason TEXT; nothing was changed\n"),
                false => (0, "production requires a reason: add --reason TEXT\n"),
            };
            assert_eq!((code, error.as_str()), (expected_code, expected), "{command:?} {more:?}: {out}");
            assert!(out.contains("1 to create, 1 to enable"), "the preview shows the flips: {out}");
        }
    }
    assert_eq!(flags(&shell, "production").await, before);
    let (code, _, error) = shell.run(&[&copy[..], &["new"]].concat()).await;
    assert!(code == 2 && error.contains("requires a reason"), "it begins enabled: {error}");
    shell.succeeds(&["flag", "create", "off", "-e", "staging"]).await;
    assert!(shell.succeeds(&[&copy[..], &["off"]].concat()).await.ends_with("1 change made\n"), "no reader sees it");
    assert!(shell.succeeds(&[&import[..], &["--reason", "tested"]].concat()).await.ends_with("2 changes made\n"));
    let staging = ["flag", "copy", "--yes", "--from", "production", "--to", "staging"];
    shell.succeeds(&["flag", "disable", "old", "-e", "production", "--reason", "x"]).await;
    assert!(shell.succeeds(&staging).await.ends_with("1 change made\n"), "staging needs no reason");
}

/// After a refusal that a repetition would meet again, the error does not advise one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denied_copy_does_not_advise_to_repeat() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    create_environments(&shell).await;
    shell.succeeds(&["flag", "create", "a", "-e", "staging"]).await;
    let ann = server.admin().await.new_user("ann@example.com", &["view_feature_flags"]).await;
    let (code, _, error) = Shell::of(server.address, &ann)
        .run(&["flag", "copy", "--yes", "--from", "staging", "--to", "production"])
        .await;
    assert_eq!(code, 4, "{error}");
    assert!(error.contains("(0 of 1 changes were made)") && !error.contains("repeat"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_says_which_environments_it_leaves_out() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    shell.succeeds(&["flag", "create", "a"]).await;
    let note = async |arguments: &[&str]| {
        let (code, _, note) = shell.run(arguments).await;
        assert_eq!(code, 0, "{note}");
        note
    };
    assert!(note(&["flag", "export"]).await.starts_with("1 flag at revision "));
    create_environments(&shell).await;
    let left_out = note(&["flag", "export"]).await;
    assert!(left_out.starts_with("1 flag of default at revision "), "{left_out}");
    assert!(left_out.ends_with("; 2 other environments are not exported: -e - exports all\n"), "{left_out}");
    for named in ["default", "-"] {
        assert!(!note(&["flag", "export", "-e", named]).await.contains("other"), "{named}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unleash_export_is_imported_whole() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let path = fixture("unleash-state.json");
    let transcript = shell
        .transcript(&[
            &["flag", "import", "--yes", &path],
            &["environment", "create", "development"],
            &["environment", "create", "production"],
            &["flag", "import", "--yes", &path],
            &["flag", "list", "-e", "-", "--archived"],
        ])
        .await;
    assert_output!("import_unleash_whole", transcript);
    assert!(shell.succeeds(&["flag", "import", "--yes", &path]).await.ends_with("nothing to do\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_nobody_can_confirm_are_refused() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    shell.succeeds(&["environment", "create", "staging"]).await;
    shell.succeeds(&["flag", "create", "a", "-e", "default"]).await;
    let folder = TempDir::new().unwrap();
    let path = file(&folder, "key\nb\n");
    for command in
        [&["flag", "import", &path, "-e", "staging"][..], &["flag", "copy", "--from", "default", "--to", "staging"]]
    {
        let (code, _, error) = shell.run(command).await;
        assert!(code == 2 && error.contains("add --yes to make them; nothing was changed"), "{error}");
        shell.succeeds(&[command, &["--dry-run"]].concat()).await;
        assert!(flags(&shell, "staging").await.is_empty());
    }
    for command in [
        &["flag", "import", &path, "-e", "staging", "--yes"][..],
        &["flag", "copy", "--from", "default", "--to", "staging", "--yes"],
    ] {
        shell.succeeds(command).await;
        // Without a change there is nothing to confirm.
        shell.succeeds(&command[..command.len() - 1]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_leaves_archived_flags_and_environments_as_they_are() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    shell.succeeds(&["environment", "create", "staging"]).await;
    for environment in ["default", "staging"] {
        shell.succeeds(&["flag", "create", "a", "--name", environment, "-e", environment]).await;
    }
    shell.succeeds(&["flag", "archive", "a", "-e", "staging"]).await;
    let before = flags(&shell, "staging").await;
    let copy = ["flag", "copy", "--yes", "--from", "default", "--to", "staging"];
    let shown = shell.succeeds(&copy).await;
    assert!(shown.contains("archived in staging; unarchive it first"), "{shown}");
    assert_eq!(flags(&shell, "staging").await, before);
    shell.succeeds(&["environment", "archive", "staging"]).await;
    shell.succeeds(&["flag", "create", "b", "-e", "default"]).await;
    for more in [&[][..], &["--dry-run"]] {
        let (code, _, error) = shell.run(&[&copy[..], more].concat()).await;
        assert!(
            code == 5 && error.contains("staging is archived: run toggled environment unarchive staging first"),
            "{error}"
        );
    }
}
