//! Output and questions on a terminal.

use std::process::Stdio;

use tempfile::TempDir;
use toggled::api::pb::ToggleFeatureFlagRequest;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::import::{file, flags, output_with_input};
use super::server;
use crate::support::{TOKEN, with_timeout};

/// Runs the program on a terminal where `input` is typed: whether it succeeds, and what the terminal shows.
async fn on_terminal(arguments: &str, address: impl ToString, input: &str) -> (bool, String) {
    on_terminal_with(arguments, address, input, &[]).await
}

/// The same, with environment variables.
pub async fn on_terminal_with(
    arguments: &str,
    address: impl ToString,
    input: &str,
    settings: &[(&str, &str)],
) -> (bool, String) {
    let mut command = tokio::process::Command::new("script");
    let program = format!("{} {arguments}", env!("CARGO_BIN_EXE_toggled"));
    command.args(["--quiet", "--return", "--command", &program, "/dev/null"]);
    command.env("TOGGLED_ADDR", address.to_string()).env("TOGGLED_TOKEN", TOKEN).env("TERM", "xterm");
    command.env_remove("NO_COLOR").envs(settings.iter().copied());
    command.kill_on_drop(true);
    let output = output_with_input(command, input).await;
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn import_asks_for_confirmation_on_terminal() {
    let (server, _database) = server().await;
    let folder = TempDir::new().unwrap();
    let import = format!("flag import {}", file(&folder, "key\na\n"));
    let mut admin = server.admin().await;
    for answer in ["n\n", "\n", "perhaps\n"] {
        let (succeeded, shown) = on_terminal(&import, server.address, answer).await;
        assert!(
            !succeeded && shown.contains("Make this change in default? [y/N]") && shown.contains("nothing was changed"),
            "{shown}"
        );
        assert!(flags(&mut admin).await.is_empty());
    }
    let (succeeded, shown) = on_terminal(&format!("{import} --dry-run"), server.address, "").await;
    assert!(succeeded && !shown.contains("[y/N]") && flags(&mut admin).await.is_empty(), "{shown}");
    let (succeeded, shown) = on_terminal(&import, server.address, "y\n").await;
    assert!(succeeded && shown.contains("1 change made") && flags(&mut admin).await.len() == 1, "{shown}");
    let (succeeded, shown) = on_terminal(&import, server.address, "").await;
    assert!(succeeded && !shown.contains("[y/N]"), "without changes there is no question: {shown}");
    let folder = TempDir::new().unwrap();
    let import = format!("flag import {}", file(&folder, "key\nb\nc\n"));
    let (succeeded, shown) = on_terminal(&import, server.address, "n\n").await;
    assert!(!succeeded && shown.contains("Make these 2 changes in default? [y/N]"), "{shown}");
    let import = format!("flag import --yes {}", file(&folder, "key,status\na,on\n"));
    let (succeeded, shown) = on_terminal(&import, server.address, "").await;
    assert!(succeeded && !shown.contains("[y/N]") && shown.contains("1 change made"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminal_has_colors_unless_no_color_is_set() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    admin.flip("a").await;
    let (succeeded, shown) = on_terminal("flag list", server.address, "").await;
    assert!(succeeded && shown.contains("\u{1b}[32menabled\u{1b}[0m") && shown.contains("\u{1b}[1mKEY"), "{shown:?}");
    let (succeeded, shown) = on_terminal_with("flag list", server.address, "", &[("NO_COLOR", "1")]).await;
    assert!(succeeded && shown.contains("enabled") && !shown.contains('\u{1b}'), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminal_shows_progress_and_sanitized_text() {
    let (server, database) = server().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let reason = "\u{1b}[31mred\u{9b}".to_owned();
    admin.toggle.toggle_feature_flag(ToggleFeatureFlagRequest { reason, ..crate::support::toggle("a") }).await.unwrap();
    let folder = TempDir::new().unwrap();
    let export = format!("audit export --output-file {}", folder.path().join("log").display());
    let (succeeded, shown) = on_terminal(&export, server.address, "").await;
    assert!(succeeded && shown.contains("5/5 revisions") && shown.contains("entries 5, revisions 1..5"), "{shown}");
    let (url, path) = (&database.url, folder.path().join("log"));
    for (place, what) in [
        (String::new(), "revisions"),
        (format!("--database {url}"), "entries"),
        (format!("--file {}", path.display()), "entries"),
    ] {
        let (succeeded, shown) = on_terminal(&format!("audit verify {place}"), server.address, "").await;
        let rest = shown.rsplit_once(&format!("/5 {what}, ")).map(|(_, rest)| rest.split_once(" left"));
        assert!(succeeded && shown.contains("intact: entries 5"), "{place}: {shown}");
        assert!(rest.flatten().is_some_and(|(rest, _)| rest.contains("/s, ")), "{place}: {shown:?}");
    }
    for format in ["csv", "ndjson"] {
        let (succeeded, shown) = on_terminal(&format!("audit export --format {format}"), server.address, "").await;
        assert!(succeeded && shown.contains("[31mred") && !shown.contains(" revisions, 0/s"), "{shown}");
        assert!(!shown.contains("\u{1b}[31m") && !shown.contains('\u{9b}'), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_on_terminal_is_plain_text() {
    let folder = TempDir::new().unwrap();
    let mut command = tokio::process::Command::new("script");
    command.args(["--quiet", "--command", env!("CARGO_BIN_EXE_toggled"), "/dev/null"]).current_dir(folder.path());
    command.env("TOGGLED_LISTEN", "127.0.0.1:0").env("TOGGLED_LOG", "info").env("TERM", "xterm");
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let shown = with_timeout("a line of the log", async {
        loop {
            let line = lines.next_line().await.unwrap().unwrap();
            if line.contains("INFO") {
                return line;
            }
        }
    })
    .await;
    assert!(shown.contains("toggled::") && !shown.contains('{'), "{shown}");
}
