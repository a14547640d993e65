//! `flag import` that is interrupted: changes made so far stay, and a repeat makes the others.

use tempfile::TempDir;
use toggled::api::pb::*;

use super::import::{file, flags};
use super::{Running, Shell, server};
use crate::support::{BOOTSTRAP_ENTRIES, Backend, Database, Server, with_timeout};

/// More flags than a batch holds, with a preview that does not fit into a pipe: while its output is not read, an import
/// is blocked after it has compared the flags and before it changes any.
const FLAGS: usize = 2_500;

fn file_content(status: &str) -> String {
    let lines = (0..FLAGS).map(|n| format!("flag-{n:04},{status}\n"));
    format!("key,status\n{}", lines.collect::<String>())
}

/// An import that has compared the flags, and is blocked by its unread output.
async fn blocked_import(server: &Server, path: &str) -> Running {
    let mut import = Shell::new(server.address).start(&["flag", "import", "--yes", path]);
    assert!(import.line().await.starts_with("CHANGE"));
    import
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_change_is_conflict_and_repeat_completes() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    let folder = TempDir::new().unwrap();
    let path = file(&folder, file_content("off"));
    let import = blocked_import(&server, &path).await;
    admin.create("flag-1200").await;
    let (code, _, errors) = import.wait().await;
    // A call creates all of its flags or none.
    assert_eq!((code, errors.len()), (5, 1), "{errors:?}");
    assert!(errors[0].contains("flag-1200") && errors[0].contains("exists already"), "{errors:?}");
    assert!(
        errors[0].ends_with("(1000 of 2500 changes were made; repeat the command to make the others)"),
        "{errors:?}"
    );
    assert!(shell.succeeds(&["flag", "import", "--yes", &path]).await.ends_with("\n1499 changes made\n"));

    let path = file(&folder, file_content("on"));
    let import = blocked_import(&server, &path).await;
    admin.flip("flag-1500").await;
    let (code, _, errors) = import.wait().await;
    assert_eq!((code, errors.len()), (5, 1), "{errors:?}");
    assert!(
        errors[0].ends_with("(1000 of 2500 changes were made; repeat the command to make the others)"),
        "{errors:?}"
    );
    assert!(shell.succeeds(&["flag", "import", "--yes", &path]).await.ends_with("\n1499 changes made\n"));
    let on_server = flags(&mut admin).await;
    assert!(on_server.len() == FLAGS && on_server.values().all(|(_, _, on, _)| *on));
    assert!(shell.succeeds(&["flag", "import", "--yes", &path]).await.ends_with("nothing to do\n"));
    assert_eq!(admin.log().await.len(), BOOTSTRAP_ENTRIES + 2 * FLAGS, "each flag was created once and enabled once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_import_is_completed_by_repeat() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start_with(&database, &[("TOGGLED_MAX_CHANGES_PER_SECOND", "1")]).await;
    let mut admin = server.admin().await;
    // Leaves so much of the rate limit that one call passes and the next waits, so that the import can be killed between them.
    let unknown = |number: usize| BatchSetItem {
        flag: Some(batch_set_item::Flag::Key(format!("unknown-{number}"))),
        status: FeatureFlagStatus::Enabled.into(),
        ..Default::default()
    };
    let refused = BatchSetFeatureFlagsRequest { items: (0..850).map(unknown).collect(), ..Default::default() };
    admin.toggle.batch_set_feature_flags(refused).await.unwrap_err();
    let folder = TempDir::new().unwrap();
    let path = file(&folder, file_content("on"));
    let mut watch = admin.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await.unwrap().into_inner();
    let mut import = blocked_import(&server, &path).await;
    let mut line = String::new();
    while !line.contains("to create") {
        line = import.line().await;
    }
    while with_timeout("a flag", watch.message()).await.unwrap().unwrap().feature_flags.is_empty() {}
    import.signal("-KILL").await;
    assert!(import.was_killed().await);
    drop(server);
    let server = Server::start(&database).await;
    let (shell, mut admin) = (Shell::new(server.address), server.admin().await);
    let output = shell.objects(&["flag", "import", "--yes", &path]).await;
    let (summary, count) = (&output[output.len() - 2]["summary"], flags(&mut admin).await.len());
    assert!(
        (1..FLAGS as u64).contains(&summary["unchanged"].as_u64().unwrap()),
        "it was killed between two changes: {summary}"
    );
    assert_eq!((count, admin.log().await.len()), (FLAGS, BOOTSTRAP_ENTRIES + FLAGS), "each flag was created once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_server_ends_import_as_unavailable() {
    let (server, _database) = server().await;
    let folder = TempDir::new().unwrap();
    let import = blocked_import(&server, &file(&folder, file_content("on"))).await;
    drop(server);
    let (code, _, errors) = import.wait().await;
    assert_eq!((code, errors.len()), (6, 1), "{errors:?}");
    assert!(errors[0].contains("(0 of 2500 changes were made"), "{errors:?}");
}
