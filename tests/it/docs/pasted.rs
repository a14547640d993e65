//! Pages whose commands are pasted into bash, beside a server.

use std::path::Path;

use tempfile::TempDir;
use tokio::process::Command;

use super::read;
use crate::support::{Backend, Database, Server, TOKEN, with_timeout};

/// The commands of a page: its blocks for the shell. Those for grpcurl are pasted by tests/clients, where it is installed.
fn commands(page: &str) -> String {
    let text = read(page);
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```"));
    blocks.map(|(block, _)| block).filter(|block| !block.contains("grpcurl")).collect()
}

/// Runs a page's commands in a folder with the administrator's token, and returns what they print. Any failure ends them.
async fn paste(page: &str, server: &Server) -> String {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("toggled-admin.token"), TOKEN).unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_toggled")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &commands(page)]).current_dir(folder.path()).kill_on_drop(true);
    bash.env("PATH", path).env("TOGGLED_ADDR", server.address.to_string());
    let done = with_timeout(page, bash.output()).await.unwrap();
    let [out, error] = [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(done.status.success(), "{page}: {out}{error}");
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_about_environments_and_imports_can_be_pasted() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let out = paste("docs/environments.md", &server).await;
    let ends: Vec<_> = ["equal\n", "refused\n", "they differ\n"].iter().map(|end| out.find(end)).collect();
    assert!(ends.iter().all(Option::is_some) && ends.is_sorted(), "{out}");
    // There are several environments now.
    let out = paste("docs/import-export.md", &server).await;
    assert!(out.contains("2 changes made"), "{out}");
}
