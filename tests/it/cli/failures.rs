//! Exit statuses, and changes whose answer is lost on the way.

use std::os::unix::process::ExitStatusExt;

use super::{Shell, server};
use crate::support::tcp_proxy::{Route, TcpProxy};
use crate::support::{Database, Server, invoke, on_both_databases, with_timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_exit_status_tells_what_kind_of_failure_it_was() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    let ann = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
    admin.create("a").await;
    admin.create("old").await;
    admin.archive("old").await;
    let (shell, as_ann) = (Shell::new(server.address), Shell::of(server.address, &ann));
    for (shell, arguments, code, told) in [
        (&shell, &["flag", "create", "a b", "--name", ""][..], 2, "key must be 1 to 128"),
        (&shell, &["flag", "create", "b", "--name", ""], 2, "name must be"),
        (&shell, &["flag", "create"], 2, "<KEY>"),
        (&shell, &["flag", "frobnicate", "a"], 2, "frobnicate"),
        (&shell, &["flag"], 2, "command is missing"),
        (&shell, &["flag", "get"], 2, "KEY"),
        (&shell, &["flag", "get", "a", "--id", "00000000-0000-0000-0000-000000000000"], 2, "--id"),
        (&shell, &["flag", "get", "a", "--output", "xml"], 2, "xml"),
        (&shell, &["flag", "update", "a"], 2, "--name <NAME>|--description <TEXT>"),
        (&shell, &["flag", "get"], 2, "; see toggled flag get --help"),
        (&shell, &["flag", "nope", "get"], 2, "; see toggled flag --help"),
        (&shell, &["--nope"], 2, "; see toggled serve --help"),
        (&shell, &["flag", "toggle", "a", "--expected-revision", "0"], 2, "expected_revision"),
        (&shell, &["flag", "get", "nope"], 3, "nope"),
        (&shell, &["flag", "get", "--id", "00000000-0000-0000-0000-000000000000"], 3, "not found"),
        (&as_ann, &["flag", "toggle", "a"], 4, "toggle_feature_flags required"),
        (&as_ann, &["flag", "create", "b"], 4, "manage_feature_flags required"),
        (&shell, &["flag", "create", "a"], 5, "exists already"),
        (&shell, &["flag", "toggle", "a", "--expected-revision", "1"], 5, "revision"),
        (&shell, &["flag", "toggle", "old"], 5, "archived"),
        (&shell, &["health", "--service", "nope"], 3, "service"),
    ] {
        let line = shell.fails(arguments, code).await;
        assert!(line.starts_with("toggled: ") && line.contains(told), "{arguments:?}: {line}");
    }
    let both = shell.fails(&["flag", "create", "a b", "--name", ""], 2).await;
    assert!(both.contains("key must be") && both.contains("; name must be"), "every fault is told: {both}");
}

on_both_databases! {
    /// The answer to a flip is lost, and the server with it: asked for again, it was done once.
    async fn a_flip_whose_answer_is_lost_happens_once(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let proxy = TcpProxy::new(Route::DropReplies(server.address)).await;
        let flip = tokio::spawn({
            let address = proxy.address;
            async move { Shell::new(address).object(&["flag", "toggle", "a", "--reason", "once"]).await }
        });
        with_timeout("the flip to arrive", async { while admin.get("a").await.revision == 3 { tokio::task::yield_now().await; } }).await;
        drop(server);
        let server = Server::start(&database).await;
        proxy.set(Route::Forward(server.address));
        let answer = flip.await.unwrap();
        let mut admin = server.admin().await;
        let log = admin.log().await;
        assert_eq!(log.len(), 4, "one flip");
        assert_eq!((log[3].action_type.as_str(), log[3].reason()), ("toggle_enabled", "once"));
        assert_eq!(answer["audit_log"]["id"], log[3].id);
        assert_eq!((answer["feature_flag"]["status"].as_str(), admin.get("a").await.revision), (Some("enabled"), 4));
    }
}

/// The same while the server stays, for every command that changes something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_happens_twice() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    admin.create("b").await;
    for arguments in [
        &["flag", "create", "c"][..],
        &["flag", "toggle", "a"],
        &["flag", "enable", "b"],
        &["flag", "disable", "b"],
        &["flag", "enable", "b", "c"],
        &["flag", "update", "a", "--name", "A"],
        &["flag", "archive", "a"],
        &["flag", "unarchive", "a"],
    ] {
        let before = admin.log().await.len();
        let proxy = TcpProxy::new(Route::DropReplies(server.address)).await;
        let shell = Shell::new(proxy.address);
        let lost = async {
            while admin.log().await.len() == before {
                tokio::task::yield_now().await;
            }
            proxy.set(Route::Forward(server.address));
        };
        let (told, ()) = tokio::join!(shell.objects(arguments), with_timeout("the change to arrive", lost));
        let log = admin.log().await;
        let own: std::collections::HashSet<_> = log[before..].iter().map(|entry| entry.request_id()).collect();
        let changed = if arguments.len() == 4 && arguments[1] == "enable" { 2 } else { 1 };
        assert_eq!((log.len() - before, own.len()), (changed, 1), "{arguments:?}: {told:?}");
    }
}

/// A server that has no answer in time is asked again, a few times, and then it is unavailable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_answers_is_unavailable() {
    let (server, _database) = server().await;
    let proxy = TcpProxy::new(Route::DropReplies(server.address)).await;
    let shell = Shell::new(proxy.address).with("TOGGLED_TIMEOUT", "100ms");
    let told = shell.fails(&["flag", "list"], 6).await;
    assert!(told.contains(&proxy.address.to_string()) && told.contains("100ms"), "{told}");
    proxy.set(Route::Reject);
    let told = shell.fails(&["flag", "list"], 6).await;
    assert!(told.contains(&proxy.address.to_string()), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_who_reads_any_more_is_no_failure() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let mut watch = Shell::new(server.address).start(&["flag", "watch"]);
    watch.line().await;
    watch.line().await;
    let mut process = watch.stop_reading();
    let status = with_timeout("the command to end", async {
        loop {
            admin.flip("a").await;
            if let Some(status) = process.try_wait().unwrap() {
                return status;
            }
        }
    })
    .await;
    assert_eq!((status.code(), status.signal()), (Some(0), None));
}

#[tokio::test]
async fn what_completes_commands_is_accepted_by_the_shell() {
    let shell = Shell::anonymous("127.0.0.1:1");
    for (name, known) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef toggled"),
        ("fish", "complete -c toggled"),
        ("elvish", "toggled"),
        ("powershell", "toggled"),
    ] {
        let script = shell.says(&["completions", name]).await;
        assert!(script.contains(known) && script.contains("unarchive"), "{name}");
        if name == "bash" {
            let folder = tempfile::TempDir::new().unwrap();
            let file = folder.path().join("toggled.bash");
            std::fs::write(&file, script).unwrap();
            let checked = tokio::process::Command::new("bash").arg("-n").arg(&file).output().await.unwrap();
            assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
        }
    }
    assert!(shell.fails(&["completions", "tcsh"], 2).await.contains("tcsh"));
}

#[tokio::test]
async fn no_help_shows_what_is_set() {
    let secrets = [("TOGGLED_TOKEN", "a-token-that-help-must-not-show-to-anyone"), ("TOGGLED_TOKEN_FILE", "")];
    for arguments in
        [&["whoami", "--help"][..], &["flag", "toggle", "--help"], &["audit", "tail", "--help"], &["health", "-h"]]
    {
        let output = invoke(arguments, &secrets[..1]).await;
        assert!(output.status.success() && !String::from_utf8(output.stdout).unwrap().contains("must-not-show"));
    }
}

/// The commands that work on the database itself have the same statuses.
#[tokio::test]
async fn a_database_that_is_not_there_is_told_by_its_setting() {
    let run = async |url: &str| {
        let output = invoke(&["user", "list"], &[("TOGGLED_DATABASE_URL", url)]).await;
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, told) = run("sqlite:///nowhere/toggled.db").await;
    assert_eq!((code, told.lines().count()), (1, 1), "{told}");
    assert!(told.contains("/nowhere/toggled.db") && told.contains("TOGGLED_DATABASE_URL"), "{told}");
    let (code, told) = run("postgres://nobody@127.0.0.1:1/nothing").await;
    assert_eq!((code, told.lines().count()), (6, 1), "{told}");
}
