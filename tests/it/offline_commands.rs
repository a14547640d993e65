//! `toggled user` and `toggled token`, which work directly on the database, next to a running server.

use std::path::PathBuf;

use crate::support::{BOOTSTRAP_ENTRIES, Backend, Database, Server, invoke, on_both_databases, secret_forms, toggle};

/// Runs the program, which must succeed, and returns its standard output.
async fn toggled(url: &str, arguments: &[&str]) -> String {
    let output = invoke(arguments, &[("TOGGLED_DATABASE_URL", url)]).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Runs the program, which must fail with one line on standard error, and returns that line.
async fn error_line(url: &str, arguments: &[&str], status: i32) -> String {
    let output = invoke(arguments, &[("TOGGLED_DATABASE_URL", url)]).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(status), 1), "{arguments:?}: {stderr}");
    stderr
}

on_both_databases! {
    async fn offline_user_and_token_work_on_running_server(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let url = &database.url;

        let id = toggled(url, &["user", "create", "Ann@Example.com", "--permission", "toggle_feature_flags,view_audit_logs", "--reason", "locked out"]).await;
        let secret = toggled(url, &["token", "create", "ann@example.com", "--name", "laptop", "--environment", "default", "--expires-in", "90d"]).await;

        // The running server learns of the new user and token.
        let mut ann = server.client(Some(&secret)).await;
        let me = ann.wait_until_authenticated().await;
        assert_eq!(me.user.as_ref().unwrap().id, id);
        assert_eq!(me.permissions, ["toggle_feature_flags", "view_audit_logs"]);
        assert_eq!(me.environment(), "default");
        ann.toggle.toggle_feature_flag(toggle("a")).await.unwrap();

        let users = toggled(url, &["user", "list"]).await;
        assert!(users.starts_with("EMAIL") && users.contains("ann@example.com") && users.contains(&id), "{users}");
        let tokens = toggled(url, &["token", "list", "ann@example.com"]).await;
        assert!(tokens.contains(&me.token_id) && tokens.contains("active") && tokens.contains("laptop") && tokens.contains("default"), "{tokens}");
        assert_eq!(toggled(url, &["token", "list", &id]).await, tokens);
        assert_eq!(toggled(url, &["token", "list"]).await.lines().count(), 3);

        assert_eq!(toggled(url, &["token", "revoke", &me.token_id, "--reason", "lost"]).await, "revoked");
        ann.wait_until_unauthenticated().await;
        assert_eq!(toggled(url, &["token", "revoke", &me.token_id]).await, "already revoked");
        assert!(toggled(url, &["token", "list", &id]).await.contains("revoked"));

        let other = toggled(url, &["token", "create", &id, "--name", "phone"]).await;
        ann = server.client(Some(&other)).await;
        ann.wait_until_authenticated().await;
        assert_eq!(toggled(url, &["user", "deactivate", "ann@example.com", "--reason", "left"]).await, "deactivated");
        ann.wait_until_unauthenticated().await;
        assert_eq!(toggled(url, &["user", "deactivate", &id]).await, "already deactivated");
        error_line(url, &["user", "deactivate", "admin@localhost"], 5).await;

        let log = admin.log().await;
        let offline: Vec<_> = log.iter().filter(|e| e.user_email.starts_with("cli@")).collect();
        let actions: Vec<_> = offline.iter().map(|e| (e.method.as_str(), e.action_type.as_str(), e.reason())).collect();
        assert_eq!(actions, [
            ("toggled user create", "user_created", "locked out"),
            ("toggled token create", "token_created", ""),
            ("toggled token revoke", "token_revoked", "lost"),
            ("toggled token create", "token_created", ""),
            ("toggled user deactivate", "user_deactivated", "left"),
        ]);
        assert!(offline.iter().all(|e| e.user_id.is_none() && e.token_id.is_none()));
        let text = format!("{log:?}");
        assert!(secret_forms(&secret).iter().all(|trace| !text.contains(trace.as_str())), "{text}");
    }

    async fn failed_offline_command_prints_one_line(backend: Backend) {
        let database = Database::new(backend).await;
        let url = &database.url;
        if backend == Backend::Postgres {
            let stderr = error_line(url, &["user", "list"], 1).await;
            assert!(stderr.contains("toggled migrate up"), "{stderr}");
        } else {
            // A mistyped path does not create a database.
            error_line(url, &["user", "list"], 1).await;
            assert!(!std::path::Path::new(url.strip_prefix("sqlite://").unwrap()).exists());
        }
        toggled(url, &["migrate", "up"]).await;
        toggled(url, &["user", "create", "ann@example.com"]).await;
        for (arguments, status, expected) in [
            (&["user", "create", "ANN@example.com"][..], 5, "exists already"),
            (&["token", "create", "bob@example.com", "--name", "x"], 3, "bob@example.com"),
            (&["token", "revoke", "00000000-0000-0000-0000-000000000000"], 3, "token not found"),
            (&["token", "create", "ann@example.com", "--name", "x", "--environment", "nowhere"], 2, "environment must be one in which"),
            (&["token", "create", "ann@example.com", "--name", "x", "--environment", "No"], 2, "must be 1 to 64 of"),
            (&["token", "revoke", "nonsense"], 2, "must be a UUID"),
            (&["user", "deactivate", "bob@example.com"], 3, "toggled user list"),
            (&["user", "create", "nonsense"], 2, "name@host"),
            (&["user", "create", "\u{212a}im@example.com"], 2, "UTS #39"),
            (&["user", "create", "\u{430}dmin@localhost"], 2, "mix scripts"),
            (&["user", "create", "c1i@localhost"], 2, "service keeps"),
            (&["token", "create", "\u{430}nn\u{200b}@example.com", "--name", "x"], 3, r"\u{200b}"),
            (&["user", "create", "bob@example.com", "--permission", "fly"], 2, "view_feature_flags"),
            (&["token", "create", "ann@example.com", "--name", "x", "--expires-in", "soon"], 2, "90d"),
        ] {
            let stderr = error_line(url, arguments, status).await;
            assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
        }
    }
}

/// A database in which no user may manage access gets its first administrator, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_start_with_users_still_creates_administrator() {
    let database = Database::new(Backend::Sqlite).await;
    toggled(&database.url, &["migrate", "up"]).await;
    toggled(&database.url, &["user", "create", "ann@example.com", "--permission", "view_feature_flags"]).await;
    for _ in 0..2 {
        let server = Server::start(&database).await;
        assert_eq!(server.admin().await.log().await.len(), 1 + BOOTSTRAP_ENTRIES);
        assert!(server.terminate().await.success());
    }
}

/// Also a command that fails leaves the database in one file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offline_commands_close_sqlite_database() {
    let database = Database::new(Backend::Sqlite).await;
    let (url, file) = (&database.url, PathBuf::from(database.url.strip_prefix("sqlite://").unwrap()));
    for arguments in [
        &["migrate", "up"][..],
        &["migrate", "status"],
        &["user", "create", "ann@example.com"],
        &["user", "create", "ann@example.com"],
        &["user", "list"],
        &["token", "create", "ann@example.com", "--name", "x"],
        &["token", "create", "bob@example.com", "--name", "x"],
        &["token", "list"],
        &["audit", "verify", "--database", url],
        &["migrate", "down"],
    ] {
        invoke(arguments, &[("TOGGLED_DATABASE_URL", url)]).await;
        let names: Vec<_> =
            std::fs::read_dir(file.parent().unwrap()).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert_eq!(names, ["toggled.db"], "{arguments:?}");
    }
}
