//! What whoever sits at a terminal sees, and is asked.

use std::process::Stdio;

use tempfile::TempDir;
use toggled::api::pb::ToggleFeatureFlagRequest;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::import::{fed, file, flags};
use super::server;
use crate::support::{TOKEN, with_timeout};

/// The program at a terminal, where this is typed.
async fn typed(arguments: &str, address: impl ToString, input: &str) -> (bool, String) {
    typed_with(arguments, address, input, &[]).await
}

/// The same, with settings of its own.
async fn typed_with(arguments: &str, address: impl ToString, input: &str, settings: &[(&str, &str)]) -> (bool, String) {
    let mut command = tokio::process::Command::new("script");
    let program = format!("{} {arguments}", env!("CARGO_BIN_EXE_toggled"));
    command.args(["--quiet", "--return", "--command", &program, "/dev/null"]);
    command.env("TOGGLED_ADDR", address.to_string()).env("TOGGLED_TOKEN", TOKEN).env("TERM", "xterm");
    command.env_remove("NO_COLOR").envs(settings.iter().copied());
    command.kill_on_drop(true);
    let output = fed(command, input).await;
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sits_at_a_terminal_is_asked_first() {
    let (server, _database) = server().await;
    let folder = TempDir::new().unwrap();
    let import = format!("flag import {}", file(&folder, "key\na\n"));
    let mut admin = server.admin().await;
    for answer in ["n\n", "\n", "perhaps\n"] {
        let (done, told) = typed(&import, server.address, answer).await;
        assert!(
            !done && told.contains("Make these 1 changes? [y/N]") && told.contains("nothing was changed"),
            "{told}"
        );
        assert!(flags(&mut admin).await.is_empty());
    }
    let (done, told) = typed(&format!("{import} --dry-run"), server.address, "").await;
    assert!(done && !told.contains("[y/N]") && flags(&mut admin).await.is_empty(), "{told}");
    let (done, told) = typed(&import, server.address, "y\n").await;
    assert!(done && told.contains("1 changes made") && flags(&mut admin).await.len() == 1, "{told}");
    let (done, told) = typed(&import, server.address, "").await;
    assert!(done && !told.contains("[y/N]"), "there is nothing to ask: {told}");
    let import = format!("flag import --yes {}", file(&folder, "key,status\na,on\n"));
    let (done, told) = typed(&import, server.address, "").await;
    assert!(done && !told.contains("[y/N]") && told.contains("1 changes made"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_has_colours_unless_none_are_wanted() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    admin.flip("a").await;
    let (done, told) = typed("flag list", server.address, "").await;
    assert!(done && told.contains("\u{1b}[32menabled\u{1b}[0m") && told.contains("\u{1b}[1mKEY"), "{told:?}");
    let (done, told) = typed_with("flag list", server.address, "", &[("NO_COLOR", "1")]).await;
    assert!(done && told.contains("enabled") && !told.contains('\u{1b}'), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_watches_sees_how_far_it_is_and_no_commands_from_the_log() {
    let (server, database) = server().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let reason = "\u{1b}[31mred\u{9b}".to_owned();
    admin.toggle.toggle_feature_flag(ToggleFeatureFlagRequest { reason, ..crate::support::toggle("a") }).await.unwrap();
    let folder = TempDir::new().unwrap();
    let export = format!("audit export --output-file {}", folder.path().join("log").display());
    let (done, told) = typed(&export, server.address, "").await;
    assert!(done && told.contains("4/4 revisions") && told.contains("entries 4, revisions 1..4"), "{told}");
    let (url, path) = (&database.url, folder.path().join("log"));
    for (place, what) in [
        (String::new(), "revisions"),
        (format!("--database {url}"), "entries"),
        (format!("--file {}", path.display()), "entries"),
    ] {
        let (done, told) = typed(&format!("audit verify {place}"), server.address, "").await;
        let shown = told.rsplit_once(&format!("/4 {what}, ")).map(|(_, shown)| shown.split_once(" left"));
        assert!(done && told.contains("intact: entries 4"), "{place}: {told}");
        assert!(shown.flatten().is_some_and(|(shown, _)| shown.contains("/s, ")), "{place}: {told:?}");
    }
    for format in ["csv", "ndjson"] {
        let (done, told) = typed(&format!("audit export --format {format}"), server.address, "").await;
        assert!(done && told.contains("[31mred") && !told.contains(" revisions, 0/s"), "{told}");
        assert!(!told.contains("\u{1b}[31m") && !told.contains('\u{9b}'), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_for_people_where_one_reads_it() {
    let folder = TempDir::new().unwrap();
    let mut command = tokio::process::Command::new("script");
    command.args(["--quiet", "--command", env!("CARGO_BIN_EXE_toggled"), "/dev/null"]).current_dir(folder.path());
    command.env("TOGGLED_LISTEN", "127.0.0.1:0").env("TOGGLED_LOG", "info").env("TERM", "xterm");
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let told = with_timeout("a line of the log", async {
        loop {
            let line = lines.next_line().await.unwrap().unwrap();
            if line.contains("INFO") {
                return line;
            }
        }
    })
    .await;
    assert!(told.contains("toggled::") && !told.contains('{'), "{told}");
}
