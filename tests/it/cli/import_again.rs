//! `flag import` that does not come to its end: what is done stays, and a repeat does the rest.

use tempfile::TempDir;
use toggled::api::pb::WatchFeatureFlagsRequest;

use super::import::{file, flags};
use super::{Running, Shell, server};
use crate::support::{Server, with_timeout};

/// More flags than fit into a batch, and more to say of them than fits into a pipe: whoever does not read what an import
/// says holds it up after it has compared, and before it changes anything.
const MANY: usize = 2_500;

fn many(status: &str) -> String {
    let lines = (0..MANY).map(|n| format!("flag-{n:04},{status}\n"));
    format!("key,status\n{}", lines.collect::<String>())
}

/// An import that has compared, and waits for somebody to read on.
async fn held_up(server: &Server, path: &str) -> Running {
    let mut import = Shell::new(server.address).start(&["flag", "import", path]);
    assert!(import.line().await.starts_with("CHANGE"));
    import
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_meanwhile_is_a_conflict_and_a_repeat_completes() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    let folder = TempDir::new().unwrap();
    let path = file(&folder, many("off"));
    let import = held_up(&server, &path).await;
    admin.create("flag-0200").await;
    let (code, _, told) = import.ended().await;
    // 16 at once: those before it, and those that were under way with it.
    assert_eq!((code, told.len()), (5, 1), "{told:?}");
    assert!(told[0].contains("flag-0200: ") && told[0].contains("exists already"), "{told:?}");
    assert!(told[0].ends_with("(207 of 2500 changes are made; the same import again makes the others)"), "{told:?}");
    assert!(shell.says(&["flag", "import", &path]).await.ends_with("\n2292 changes made\n"));

    let path = file(&folder, many("on"));
    let import = held_up(&server, &path).await;
    admin.flip("flag-1500").await;
    let (code, _, told) = import.ended().await;
    assert_eq!((code, told.len()), (5, 1), "{told:?}");
    assert!(told[0].ends_with("(1000 of 2500 changes are made; the same import again makes the others)"), "{told:?}");
    assert!(shell.says(&["flag", "import", &path]).await.ends_with("\n1499 changes made\n"));
    let there = flags(&mut admin).await;
    assert!(there.len() == MANY && there.values().all(|(_, _, on, _)| *on));
    assert!(shell.says(&["flag", "import", &path]).await.ends_with("nothing to do\n"));
    assert_eq!(admin.log().await.len(), 2 + 2 * MANY, "each flag was created once and turned on once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_killed_is_completed_by_a_repeat() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    let folder = TempDir::new().unwrap();
    let path = file(&folder, many("on"));
    let mut watch = admin.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await.unwrap().into_inner();
    let mut import = held_up(&server, &path).await;
    let mut line = String::new();
    while !line.contains("to create") {
        line = import.line().await;
    }
    while with_timeout("a flag", watch.message()).await.unwrap().unwrap().feature_flags.is_empty() {}
    import.signal("-KILL").await;
    assert!(import.killed().await);
    let told = shell.objects(&["flag", "import", &path]).await;
    let (summary, there) = (&told[told.len() - 2]["summary"], flags(&mut admin).await.len());
    assert!(
        (1..MANY as u64).contains(&summary["unchanged"].as_u64().unwrap()),
        "it was killed in the middle: {summary}"
    );
    assert_eq!((there, admin.log().await.len()), (MANY, 2 + MANY), "each was created once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_lost_in_an_import_is_told() {
    let (server, _database) = server().await;
    let folder = TempDir::new().unwrap();
    let import = held_up(&server, &file(&folder, many("on"))).await;
    drop(server);
    let (code, _, told) = import.ended().await;
    assert_eq!((code, told.len()), (6, 1), "{told:?}");
    assert!(told[0].contains("(0 of 2500 changes are made"), "{told:?}");
}
