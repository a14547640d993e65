//! How long a command waits for a server: as long as its limits demand, a little for one that starts, and no longer than a
//! while for one that is gone.

use std::fs;
use std::net::TcpListener;

use tempfile::TempDir;
use toggled::api::pb::*;

use super::import::{file, flags};
use super::{Shell, server};
use crate::support::tcp_proxy::{Route, TcpProxy};
use crate::support::{Backend, Database, Server, with_timeout};

/// More than the server lets through at once, each created and turned on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_comes_to_its_end_however_slow_it_is_let_through() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start_with(&database, &[("TOGGLED_MAX_CHANGES_PER_SECOND", "200")]).await;
    let folder = TempDir::new().unwrap();
    let shell = Shell::new(server.address);
    let lines = |status| (0..1_500).map(|n| format!("flag-{n:04},{status}\n")).collect::<String>();
    let path = file(&folder, format!("key,status\n{}", lines("off")));
    let (code, out, told) = shell.run(&["flag", "import", &path]).await;
    assert!(code == 0 && out.ends_with("\n1500 changes made\n"), "{told}");
    // Batches now, of which the first needs all that is let through after a rest.
    let path = file(&folder, format!("key,status\n{}", lines("on")));
    let (code, out, told) = shell.run(&["flag", "import", &path]).await;
    assert!(code == 0 && out.ends_with("\n1500 changes made\n"), "{told}");
    assert!(told.lines().count() == 1 && told.contains("lets no more changes through for now"), "{told}");
    let there = flags(&mut server.admin().await).await;
    assert!(there.len() == 1_500 && there.values().all(|(_, _, on, _)| *on));
}

/// A log that does not fit into what a network holds.
async fn long_log(server: &Server) {
    let mut admin = server.admin().await;
    let keys: Vec<_> = (0..1_000).map(|n| format!("flag-{n}")).collect();
    for key in &keys {
        admin.create(key).await;
    }
    let item = |key: &String| BatchSetItem {
        flag: Some(batch_set_item::Flag::Key(key.clone())),
        status: FeatureFlagStatus::Enabled.into(),
        expected_revision: None,
    };
    let items = keys.iter().map(item).collect();
    let request = BatchSetFeatureFlagsRequest { items, reason: "r".repeat(1_000), ..Default::default() };
    admin.toggle.batch_set_feature_flags(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_whose_server_is_gone_ends_and_is_completed_later() {
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
        while fs::metadata(&path).map_or(0, |there| there.len()) == 0 {
            tokio::task::yield_now().await;
        }
    };
    with_timeout("the file to grow", begun).await;
    proxy.set(Route::Reject);
    for command in [running, tail] {
        let (code, _, told) = command.ended().await;
        assert!(code == 6 && told.last().unwrap().contains(&proxy.address.to_string()), "{told:?}");
    }
    assert!(fs::metadata(&path).unwrap().len() < whole.len() as u64, "it was cut");
    proxy.set(Route::Forward(server.address));
    let (code, _, told) = shell.run(&export).await;
    assert_eq!((code, told), (0, summary));
    assert!(fs::read_to_string(&path).unwrap() == whole, "not a line is missing, doubled or different");
}

/// A connection over which nothing comes, and nobody says that it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_gives_no_answer_whatever_it_speaks() {
    let (server, _database) = server().await;
    let proxy = TcpProxy::new(Route::DropReplies(server.address)).await;
    let told = Shell::anonymous(proxy.address).fails(&["health", "--timeout", "59s"], 6).await;
    assert!(told.contains("no answer from http://") && !told.contains("TLS") && !told.contains("59s"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_just_starting_is_waited_for() {
    let (server, _database) = server().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    drop(taken);
    let mut me = Shell::new(address).with("TOGGLED_LOG", "off").start(&["whoami", "--output", "json"]);
    // Nothing tells that it was refused once: it is most of the time, and never fails.
    tokio::task::yield_now().await;
    let _way = TcpProxy::at(address, Route::Forward(server.address)).await;
    assert_eq!(me.object().await["user"]["email"], "admin@localhost");
}
