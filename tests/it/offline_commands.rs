//! `toggled user` and `toggled token`: on the database itself, beside a running server.

use crate::support::{Backend, Database, Server, invoke, on_both_databases, secret_forms, toggle};

/// What it prints when it succeeds.
async fn toggled(url: &str, arguments: &[&str]) -> String {
    let output = invoke(arguments, &[("TOGGLED_DATABASE_URL", url)]).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {told}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// The one line that it complains with.
async fn complaint(url: &str, arguments: &[&str], status: i32) -> String {
    let output = invoke(arguments, &[("TOGGLED_DATABASE_URL", url)]).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), told.lines().count()), (Some(status), 1), "{arguments:?}: {told}");
    told
}

on_both_databases! {
    async fn whoever_has_the_database_lets_themselves_in_again(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let url = &database.url;

        let id = toggled(url, &["user", "create", "Ann@Example.com", "--permission", "toggle_feature_flags,view_audit_logs", "--reason", "locked out"]).await;
        let secret = toggled(url, &["token", "create", "ann@example.com", "--name", "laptop", "--expires-in", "90d"]).await;

        // The running server follows.
        let mut ann = server.client(Some(&secret)).await;
        let me = ann.wait_until_authenticated().await;
        assert_eq!(me.user.as_ref().unwrap().id, id);
        assert_eq!(me.permissions, ["toggle_feature_flags", "view_audit_logs"]);
        ann.toggle.toggle_feature_flag(toggle("a")).await.unwrap();

        let users = toggled(url, &["user", "list"]).await;
        assert!(users.starts_with("EMAIL") && users.contains("ann@example.com") && users.contains(&id), "{users}");
        let tokens = toggled(url, &["token", "list", "ann@example.com"]).await;
        assert!(tokens.contains(&me.token_id) && tokens.contains("works") && tokens.contains("laptop"), "{tokens}");
        assert_eq!(toggled(url, &["token", "list", &id]).await, tokens);
        assert_eq!(toggled(url, &["token", "list"]).await.lines().count(), 3);

        assert_eq!(toggled(url, &["token", "revoke", &me.token_id, "--reason", "lost"]).await, "revoked");
        ann.wait_until_unauthenticated().await;
        assert_eq!(toggled(url, &["token", "revoke", &me.token_id]).await, "it was revoked before");
        assert!(toggled(url, &["token", "list", &id]).await.contains("revoked"));

        let log = admin.log().await;
        let offline: Vec<_> = log.iter().filter(|e| e.user_email.starts_with("cli@")).collect();
        let told: Vec<_> = offline.iter().map(|e| (e.method.as_str(), e.action_type.as_str(), e.reason())).collect();
        assert_eq!(told, [
            ("toggled user create", "user_created", "locked out"),
            ("toggled token create", "token_created", ""),
            ("toggled token revoke", "token_revoked", "lost"),
        ]);
        assert!(offline.iter().all(|e| e.user_id.is_none() && e.token_id.is_none()));
        let text = format!("{log:?}");
        assert!(secret_forms(&secret).iter().all(|trace| !text.contains(trace.as_str())), "{text}");
    }

    async fn what_cannot_be_done_offline_is_told_in_one_line(backend: Backend) {
        let database = Database::new(backend).await;
        let url = &database.url;
        if backend == Backend::Postgres {
            let told = complaint(url, &["user", "list"], 1).await;
            assert!(told.contains("toggled migrate up"), "{told}");
        } else {
            // A path with a slip in it makes no new database.
            complaint(url, &["user", "list"], 1).await;
            assert!(!std::path::Path::new(url.strip_prefix("sqlite://").unwrap()).exists());
        }
        toggled(url, &["migrate", "up"]).await;
        toggled(url, &["user", "create", "ann@example.com"]).await;
        for (arguments, status, expected) in [
            (&["user", "create", "ANN@example.com"][..], 5, "exists already"),
            (&["token", "create", "bob@example.com", "--name", "x"], 3, "bob@example.com"),
            (&["token", "revoke", "00000000-0000-0000-0000-000000000000"], 3, "token not found"),
            (&["token", "revoke", "nonsense"], 2, "nonsense"),
            (&["user", "create", "nonsense"], 2, "name@host"),
            (&["user", "create", "bob@example.com", "--permission", "fly"], 2, "view_feature_flags"),
            (&["token", "create", "ann@example.com", "--name", "x", "--expires-in", "soon"], 2, "90d"),
        ] {
            let told = complaint(url, arguments, status).await;
            assert!(told.contains(expected), "{arguments:?}: {told}");
        }
    }
}

/// A database with users and nobody who manages access still gets its first administrator, and only once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_made_before_the_first_start_does_not_replace_the_administrator() {
    let database = Database::new(Backend::Sqlite).await;
    toggled(&database.url, &["migrate", "up"]).await;
    toggled(&database.url, &["user", "create", "ann@example.com", "--permission", "view_feature_flags"]).await;
    for _ in 0..2 {
        let server = Server::start(&database).await;
        assert_eq!(server.admin().await.log().await.len(), 3);
        assert!(server.terminate().await.success());
    }
}
