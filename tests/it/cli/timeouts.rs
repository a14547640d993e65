//! How long a command waits for a server: as long as the server's limits demand, briefly for one that is starting, and up
//! to a bound for one that is lost.

use std::fs;
use std::net::TcpListener;

use tempfile::TempDir;
use toggled::api::pb::*;

use super::import::{file, flags};
use super::{Shell, server};
use crate::support::tcp_proxy::{Route, TcpProxy};
use crate::support::{Backend, Database, Server, with_timeout};
use crate::telemetry::MonitoredServer;

/// More changes than the rate limit allows at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limited_import_completes() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start_with(&database, &[("TOGGLED_MAX_CHANGES_PER_SECOND", "200")]).await;
    let folder = TempDir::new().unwrap();
    let shell = Shell::new(server.address);
    let lines = |status| (0..1_500).map(|n| format!("flag-{n:04},{status}\n")).collect::<String>();
    let path = file(&folder, format!("key,status\n{}", lines("off")));
    let (code, out, error) = shell.run(&["flag", "import", "--yes", &path]).await;
    assert!(code == 0 && out.ends_with("\n1500 changes made\n"), "{error}");
    // Now the changes come in batches. The first needs everything that the limit allows after a pause.
    let path = file(&folder, format!("key,status\n{}", lines("on")));
    let (code, out, error) = shell.run(&["flag", "import", "--yes", &path]).await;
    assert!(code == 0 && out.ends_with("\n1500 changes made\n"), "{error}");
    assert!(error.lines().count() == 1 && error.contains("the server limits the rate of changes"), "{error}");
    let on_server = flags(&mut server.admin().await).await;
    assert!(on_server.len() == 1_500 && on_server.values().all(|(_, _, on, _)| *on));
}

/// A log that is larger than the buffers of a connection.
async fn long_log(server: &Server) {
    let mut admin = server.admin().await;
    let keys: Vec<_> = (0..1_000).map(|n| format!("flag-{n}")).collect();
    for key in &keys {
        admin.create(key).await;
    }
    let item = |key: &String| BatchSetItem {
        flag: Some(batch_set_item::Flag::Key(key.clone())),
        status: FeatureFlagStatus::Enabled.into(),
        ..Default::default()
    };
    let items = keys.iter().map(item).collect();
    let request = BatchSetFeatureFlagsRequest { items, reason: "r".repeat(1_000), ..Default::default() };
    admin.toggle.batch_set_feature_flags(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_with_lost_server_is_completed_by_repeat() {
    let (server, _database) = server().await;
    long_log(&server).await;
    let (_, whole, summary) = Shell::new(server.address).run(&["audit", "export"]).await;
    let proxy = TcpProxy::new(Route::LimitReplies(server.address, 1_000_000)).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    let export = ["audit", "export", "--output-file", path.to_str().unwrap()];
    let shell = Shell::new(proxy.address);
    let running = shell.start(&export);
    let mut tail = shell.start(&["audit", "tail", "--after", "0", "--no-follow"]);
    tail.line().await;
    let begun = async {
        while fs::metadata(&path).map_or(0, |metadata| metadata.len()) == 0 {
            tokio::task::yield_now().await;
        }
    };
    with_timeout("the file to grow", begun).await;
    proxy.set(Route::Reject);
    for command in [running, tail] {
        let (code, _, errors) = command.wait().await;
        assert!(code == 6 && errors.last().unwrap().contains(&proxy.address.to_string()), "{errors:?}");
    }
    assert!(fs::metadata(&path).unwrap().len() < whole.len() as u64, "the export was interrupted");
    proxy.set(Route::Forward(server.address));
    let (code, _, note) = shell.run(&export).await;
    assert_eq!((code, note), (0, summary));
    assert!(fs::read_to_string(&path).unwrap() == whole, "no line is missing, duplicated or different");
}

/// A connection that stays open, but carries nothing from the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_server_is_unresponsive_not_a_tls_error() {
    let (server, _database) = server().await;
    let proxy = TcpProxy::new(Route::DropReplies(server.address)).await;
    let error = Shell::anonymous(proxy.address).fails(&["health", "--timeout", "59s"], 6).await;
    assert!(error.contains("no answer from http://") && !error.contains("TLS") && !error.contains("59s"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_server_is_waited_for() {
    let (server, _database) = server().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    drop(taken);
    let mut me = Shell::new(address).with("TOGGLED_LOG", "off").start(&["whoami", "--output", "json"]);
    // The test cannot see whether the first connection was refused. It is most of the time, and the test passes anyway.
    tokio::task::yield_now().await;
    let _way = TcpProxy::at(address, Route::Forward(server.address)).await;
    assert_eq!(me.object().await["user"]["email"], "admin@localhost");
}

/// The flip is being written when the first attempt ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_after_its_deadline_is_made_once() {
    let database = Database::new(Backend::Postgres).await;
    let monitored = MonitoredServer::start(&database, &[]).await;
    let mut admin = monitored.server.admin().await;
    admin.create("a").await;
    let shell = Shell::new(monitored.server.address);
    let held = database.lock_head().await;
    let toggle = shell.start(&["flag", "toggle", "a", "--timeout", "300ms"]);
    monitored.until_refused("DEADLINE_DURING_CHANGE").await;
    drop(held);
    let (code, _, errors) = toggle.wait().await;
    assert_eq!(code, 0, "{errors:?}");
    assert_eq!(admin.get("a").await.status(), FeatureFlagStatus::Enabled);
    assert_eq!(admin.log().await.iter().filter(|entry| entry.action_type.starts_with("toggle_")).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_outcome_is_learnt_with_the_request_id() {
    let database = Database::new(Backend::Postgres).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let shell = Shell::new(server.address);
    let held = database.lock_head().await;
    let toggle = ["flag", "toggle", "a", "--timeout", "50ms"];
    let error = shell.fails(&toggle, 6).await;
    let (_, id) =
        error.trim_end().rsplit_once("repeat the command with --request-id ").unwrap_or_else(|| panic!("{error}"));
    drop(held);
    let repeated = [&toggle[..3], &["--request-id", id]].concat();
    for _ in 0..2 {
        let (code, _, error) = shell.run(&repeated).await;
        assert_eq!(code, 0, "{error}");
    }
    assert_eq!(admin.get("a").await.status(), FeatureFlagStatus::Enabled);
}
