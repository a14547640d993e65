//! Endless commands: `flag watch` and `audit tail`, also across restarts of the server.

use super::{Running, Shell, server};
use crate::support::tcp_proxy::{Route, TcpProxy};
use crate::support::{BOOTSTRAP_ENTRIES, Database, Server, on_both_databases};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_shows_flags_and_then_changes() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    admin.create("b").await;
    // Its row is wider than the first one.
    admin.create("a-flag-with-a-long-key").await;
    let shell = Shell::new(server.address);
    let mut table = shell.start(&["flag", "watch"]);
    let mut json = shell.start(&["flag", "watch", "b", "c", "--output", "json"]);
    let header = table.line().await;
    assert_eq!(header.split_whitespace().collect::<Vec<_>>(), ["TIME", "KEY", "ENVIRONMENT", "STATUS", "BY"]);
    for key in ["a", "b", "a-flag-with-a-long-key"] {
        let row = table.line().await;
        assert_eq!(row.split_whitespace().skip(1).collect::<Vec<_>>(), [key, "default", "disabled", "admin@localhost"]);
        assert_eq!((row.find("disabled"), row.find("admin@")), (header.find("STATUS"), header.find("BY")), "{row}");
    }
    assert_eq!(json.object().await["key"], "b");
    admin.flip("a").await;
    assert_eq!(
        table.line().await.split_whitespace().skip(1).collect::<Vec<_>>(),
        ["a", "default", "enabled", "admin@localhost"]
    );
    admin.create("c").await;
    let seen = json.object().await;
    assert_eq!((seen["key"].as_str(), seen["status"].as_str()), (Some("c"), Some("disabled")));
    table.line().await;
    admin.archive("c").await;
    assert!(json.object().await["archived_at"].is_string());
    assert!(table.line().await.contains("disabled, archived"));
    assert_eq!(table.interrupt().await, Vec::<String>::new());
    assert_eq!(json.interrupt().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_only_skips_current_flags() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let shell = Shell::new(server.address).with("TOGGLED_OUTPUT", "json");
    let mut watch = shell.start(&["flag", "watch", "--changes-only"]);
    // The test cannot see when the watch has started, so it makes changes until one is shown.
    let seen = tokio::select! {
        seen = watch.object() => seen,
        () = async { loop { admin.flip("a").await; } } => unreachable!(),
    };
    assert!(seen["revision"].as_i64().unwrap() > 3, "{seen}");
    watch.interrupt().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_shows_last_and_then_new_entries() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    for _ in 0..12 {
        admin.flip("a").await;
    }
    let shell = Shell::new(server.address);
    let mut table = shell.start(&["audit", "tail"]);
    let mut json = shell.start(&["audit", "tail", "--lines", "1", "--flag", "a", "--output", "json"]);
    assert!(table.line().await.starts_with("TIME"));
    for revision in 7..=16 {
        assert_eq!(table.line().await.split_whitespace().nth(1), Some(revision.to_string().as_str()));
    }
    assert_eq!(json.object().await["revision"], 16);
    admin.create("b").await;
    admin.flip("a").await;
    assert_eq!(json.object().await["revision"], 18);
    assert_eq!([revision(&mut table).await, revision(&mut table).await], [17, 18]);
    table.interrupt().await;
    json.interrupt().await;
}

async fn revision(table: &mut Running) -> i64 {
    table.line().await.split_whitespace().nth(1).unwrap().parse().unwrap()
}

on_both_databases! {
    /// The server is killed twice: once without changes, and once with changes before the streams resume.
    async fn streams_resume_without_gaps_after_restart(backend: Backend) {
        let database = Database::new(backend).await;
        let mut server = Server::start(&database).await;
        let proxy = TcpProxy::new(Route::Forward(server.address)).await;
        let shell = Shell::new(proxy.address).with("TOGGLED_OUTPUT", "json");
        let mut admin = server.admin().await;
        admin.create("a").await;
        admin.create("b").await;
        let mut watch = shell.start(&["flag", "watch"]);
        let mut tail = shell.start(&["audit", "tail", "--lines", "2"]);
        for expected in [4, 5] {
            assert_eq!(watch.object().await["revision"], expected);
            assert_eq!(tail.object().await["revision"], expected);
        }
        let mut expected = 6;
        for changes in [0, 3] {
            drop(server);
            for stream in [&mut watch, &mut tail] {
                let error = stream.error_line().await;
                assert!(error.contains(&proxy.address.to_string()) && error.contains("resuming where it stopped"), "{error}");
            }
            proxy.set(Route::Reject);
            server = Server::start(&database).await;
            let mut admin = server.admin().await;
            for _ in 0..changes {
                admin.flip("a").await;
            }
            proxy.set(Route::Forward(server.address));
            for _ in 0..changes {
                assert_eq!(tail.object().await["revision"], expected);
                expected += 1;
            }
            if changes > 0 {
                assert_eq!(watch.object().await["revision"], expected - 1, "the flag is shown once, with its current status");
            }
            admin.flip("b").await;
            for stream in [&mut watch, &mut tail] {
                assert_eq!(stream.object().await["revision"], expected);
            }
            expected += 1;
        }
        assert_eq!(watch.interrupt().await, Vec::<String>::new());
        assert_eq!(tail.interrupt().await, Vec::<String>::new());
    }

    /// Another server, with another database, takes the address of a server that was stopped.
    async fn stream_is_not_resumed_on_another_log(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let proxy = TcpProxy::new(Route::Forward(server.address)).await;
        let shell = Shell::new(proxy.address).with("TOGGLED_OUTPUT", "json");
        server.admin().await.create("a").await;
        let mut watch = shell.start(&["flag", "watch"]);
        let mut tail = shell.start(&["audit", "tail"]);
        assert_eq!(watch.object().await["key"], "a");
        for _ in 0..=BOOTSTRAP_ENTRIES {
            tail.object().await;
        }
        assert!(server.terminate().await.success());
        let other = Database::new(backend).await;
        let server = Server::start(&other).await;
        server.admin().await.create("other").await;
        proxy.set(Route::Forward(server.address));
        for stream in [watch, tail] {
            let (code, out, errors) = stream.wait().await;
            assert_eq!((code, out), (5, Vec::new()), "{errors:?}");
            assert!(errors.last().unwrap().contains("log"), "{errors:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_ends_when_token_is_revoked() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    let ann = admin.new_user("ann@example.com", &["view_feature_flags", "view_audit_logs"]).await;
    admin.create("a").await;
    let shell = Shell::of(server.address, &ann);
    let mut watch = shell.start(&["flag", "watch"]);
    let mut tail = shell.start(&["audit", "tail"]);
    assert!(watch.line().await.starts_with("TIME") && tail.line().await.starts_with("TIME"));
    let ann = server.client(Some(&ann)).await.wait_until_authenticated().await;
    let revoke = toggled::api::pb::RevokeTokenRequest { id: ann.token_id, ..Default::default() };
    admin.access.revoke_token(revoke).await.unwrap();
    for stream in [watch, tail] {
        let (code, _, errors) = stream.wait().await;
        assert_eq!((code, errors.len()), (4, 1), "{errors:?}");
    }
}
