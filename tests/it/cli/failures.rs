//! Exit codes and error messages, and changes whose answer is lost.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;

use super::{Shell, assert_output, server};
use crate::support::tcp_proxy::{Route, TcpProxy};
use crate::support::{Database, Server, invoke, on_both_databases, with_timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_code_tells_kind_of_failure() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    let ann = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
    admin.create("a").await;
    admin.create("old").await;
    admin.archive("old").await;
    let (shell, as_ann) = (Shell::new(server.address), Shell::of(server.address, &ann));
    let commands: &[&[&str]] = &[
        &["flag", "create", "a b", "--name", ""],
        &["flag", "create", "b", "--name", ""],
        &["flag", "create"],
        &["flag", "frobnicate", "a"],
        &["flag"],
        &["flag", "get"],
        &["flag", "get", "a", "--id", "00000000-0000-0000-0000-000000000000"],
        &["flag", "get", "a", "--output", "xml"],
        &["flag", "update", "a"],
        &["flag", "nope", "get"],
        &["--nope"],
        &["flag", "toggle", "a", "--expected-revision", "0"],
        &["flag", "toggle", "a", "--expected-revision", "x"],
        &["audit", "list", "--limit", ""],
        &["serve", "--listen", "nowhere:1"],
        &["flag", "get", "nope"],
        &["flag", "get", "--id", "00000000-0000-0000-0000-000000000000"],
        &["flag", "create", "a"],
        &["flag", "toggle", "a", "--expected-revision", "1"],
        &["flag", "toggle", "old"],
        &["flag", "revert", "foo"],
        &["flag", "get", "--id", "xyz"],
        &["audit", "list", "--action", "foo"],
        &["audit", "list", "--entity-type", "foo"],
        &["audit", "verify", "--file", "/nowhere"],
        &["audit", "export", "--output-file", "/"],
        &["flag", "import", "--yes", "/nowhere"],
        &["health", "--service", "nope"],
    ];
    let mut outputs = shell.transcript(commands).await;
    outputs += &as_ann.transcript(&[&["flag", "toggle", "a"], &["flag", "create", "b"]]).await;
    assert_output!("exit_codes", outputs);
}

on_both_databases! {
    /// The answer to a flip is lost with the server. The command repeats the call, and the flip is made once.
    async fn flip_with_lost_answer_is_made_once(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let created = admin.create("a").await.revision;
        let proxy = TcpProxy::new(Route::DropReplies(server.address)).await;
        let flip = tokio::spawn({
            let address = proxy.address;
            async move { Shell::new(address).object(&["flag", "toggle", "a", "--reason", "once"]).await }
        });
        with_timeout("the flip to arrive", async { while admin.get("a").await.revision == created { tokio::task::yield_now().await; } }).await;
        drop(server);
        let server = Server::start(&database).await;
        proxy.set(Route::Forward(server.address));
        let answer = flip.await.unwrap();
        let mut admin = server.admin().await;
        let log = admin.log().await;
        let [.., creation, flip] = &log[..] else { panic!("two entries are missing: {log:?}") };
        assert_eq!((creation.revision, flip.revision), (created, created + 1), "one flip");
        assert_eq!((flip.action_type.as_str(), flip.reason()), ("toggle_enabled", "once"));
        assert_eq!(answer["audit_log"]["id"], flip.id);
        let flipped = (answer["feature_flag"]["status"].as_str(), admin.get("a").await.revision);
        assert_eq!(flipped, (Some("enabled"), flip.revision));
    }
}

/// The same with a running server, for every command that makes changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_with_lost_answer_is_made_once() {
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
        let (output, ()) = tokio::join!(shell.objects(arguments), with_timeout("the change to arrive", lost));
        let log = admin.log().await;
        let own: std::collections::HashSet<_> = log[before..].iter().map(|entry| entry.request_id()).collect();
        let changed = if arguments.len() == 4 && arguments[1] == "enable" { 2 } else { 1 };
        assert_eq!((log.len() - before, own.len()), (changed, 1), "{arguments:?}: {output:?}");
    }
}

/// A call without an answer is repeated a few times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_without_answers_is_unavailable() {
    let (server, _database) = server().await;
    let proxy = TcpProxy::new(Route::DropReplies(server.address)).await;
    let shell = Shell::new(proxy.address).with("TOGGLED_TIMEOUT", "100ms");
    let error = shell.fails(&["flag", "list"], 6).await;
    assert!(error.contains(&proxy.address.to_string()) && error.contains("100ms"), "{error}");
    proxy.set(Route::Reject);
    let error = shell.fails(&["flag", "list"], 6).await;
    assert!(error.contains(&proxy.address.to_string()), "{error}");
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [address.to_string(), "http://nowhere.invalid:1".to_owned()] {
        let error = Shell::anonymous(address).fails(&["flag", "list"], 6).await;
        assert!(
            error.trim_end().ends_with("; start the server, or pass its address with --addr (TOGGLED_ADDR)"),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_output_ends_endless_commands_as_success() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    for command in [&["flag", "watch"], &["audit", "tail"]] {
        let mut running = Shell::new(server.address).start(command);
        running.line().await;
        running.line().await;
        // Nothing happens meanwhile that it could print.
        let status = with_timeout("the command to end", running.close_output().wait()).await.unwrap();
        assert_eq!((status.code(), status.signal()), (Some(0), None));
    }
}

#[tokio::test]
async fn completion_scripts_are_valid() {
    let shell = Shell::anonymous("127.0.0.1:1");
    for (name, known) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef toggled"),
        ("fish", "complete -c toggled"),
        ("elvish", "toggled"),
        ("powershell", "toggled"),
    ] {
        let script = shell.succeeds(&["completions", name]).await;
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
async fn help_hides_values_of_variables() {
    let variables = [
        ("TOGGLED_TOKEN", "a-token-that-help-must-not-show-to-anyone"),
        ("TOGGLED_ADDR", "must-not-show.example:1"),
        ("TOGGLED_DATABASE_URL", "postgres://must-not-show@h/d"),
        ("TOGGLED_BOOTSTRAP_TOKEN", "a-token-that-help-must-not-show-to-anyone"),
    ];
    for arguments in [
        &["whoami", "--help"][..],
        &["flag", "toggle", "--help"],
        &["audit", "tail", "--help"],
        &["health", "-h"],
        &["serve", "--help"],
    ] {
        let output = invoke(arguments, &variables).await;
        assert!(output.status.success() && !String::from_utf8(output.stdout).unwrap().contains("must-not-show"));
    }
}

/// Commands that work directly on the database have the same exit codes.
#[tokio::test]
async fn missing_database_is_named_by_its_setting() {
    let run = async |url: &str| {
        let output = invoke(&["user", "list"], &[("TOGGLED_DATABASE_URL", url)]).await;
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = run("sqlite:///nowhere/toggled.db").await;
    assert_eq!((code, error.lines().count()), (2, 1), "{error}");
    assert!(error.contains("/nowhere:") && error.contains("TOGGLED_DATABASE_URL"), "{error}");
    let (code, error) = run("postgres://nobody@127.0.0.1:1/nothing").await;
    assert_eq!((code, error.lines().count()), (6, 1), "{error}");
}
