//! Starting and stopping the program, its settings, and its `migrate` command.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use tempfile::TempDir;
use toggled::api::pb::*;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{Database, Server, invoke, on_both_databases, reason_of, toggle};

#[tokio::test]
async fn a_wrong_setting_is_one_clear_line_and_status_2() {
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
    let long = "x".repeat(32);
    let cases: [Case<'_>; 11] = [
        (&["--listen", "nowhere"], &[], "--listen"),
        (&["serve", "--listen", "nowhere"], &[], "--listen"),
        (&[], &[("TOGGLED_LISTEN", "1.2.3.4")], "--listen"),
        (&[], &[("TOGGLED_DATABASE_URL", "mysql://localhost/x")], "TOGGLED_DATABASE_URL"),
        (&[], &[("TOGGLED_DATABASE_URL", "sqlite::memory:")], "TOGGLED_DATABASE_URL"),
        (&[], &[("TOGGLED_DATABASE_URL", "postgres://localhost:not-a-port/x")], "TOGGLED_DATABASE_URL"),
        (&[], &[("TOGGLED_BOOTSTRAP_TOKEN", "too short")], "--bootstrap-token"),
        (&[], &[("TOGGLED_LOG", "toggled=loud")], "--log"),
        (&[], &[("TOGGLED_POLL_INTERVAL", "often")], "--poll-interval"),
        (&["--poll-interval", "6s"], &[], "--max-staleness"),
        (&["migrate", "sideways"], &[("TOGGLED_BOOTSTRAP_TOKEN", &long)], "sideways"),
    ];
    for (arguments, settings, named) in cases {
        let output = invoke(arguments, settings).await;
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {settings:?}: {told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains(named) && !told.contains("panicked"), "{told}");
        assert!(!told.contains("too short"), "a token is not repeated, not even a bad one: {told}");
        assert!(output.stdout.is_empty());
    }
}

#[tokio::test]
async fn help_and_version_are_no_errors() {
    for arguments in [&["--help"][..], &["--version"], &["serve", "--help"], &["migrate", "--help"]] {
        let output =
            invoke(arguments, &[("TOGGLED_BOOTSTRAP_TOKEN", "a-token-that-help-must-not-show-to-anyone")]).await;
        assert!(output.status.success());
        assert!(!String::from_utf8(output.stdout).unwrap().contains("must-not-show"));
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = invoke(&["--listen", &address], &[]).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told.lines().count() == 1 && told.contains(&address), "{told}");
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_one_clear_line() {
    let output = invoke(
        &[],
        &[("TOGGLED_DATABASE_URL", "sqlite:///nowhere/at/all/toggled.db"), ("TOGGLED_LISTEN", "127.0.0.1:0")],
    )
    .await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), told.lines().count()), (Some(1), 1), "{told}");
}

/// Without any setting: a fresh token, in a file that only its owner can read, and not in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_start_leaves_a_token_in_a_file() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite://{}/toggled.db", folder.path().display());
    let mut server = Server::launch_without_token(&url).await;
    server.ready().await;
    let path = folder.path().join("toggled-admin.token");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&path).unwrap().trim().to_owned();
    assert!(token.starts_with("toggled_"));
    let mut admin = server.client(Some(&token)).await;
    let me = admin.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((me.user.unwrap().email.as_str(), me.permissions.len()), ("admin@localhost", 6));
    let log = admin.log().await;
    assert_eq!(log.iter().map(|e| e.action_type.as_str()).collect::<Vec<_>>(), ["user_created", "token_created"]);
    assert!(log.iter().all(|e| e.user_email == "bootstrap@localhost" && e.user_id.is_none()));
    let told = server.terminate_with_output().await;
    assert!(told.contains(&path.display().to_string()) && !told.contains(&token), "{told}");
    assert_eq!(told.matches("  grpcurl ").count(), 3, "{told}");

    // The second start makes none, and the first one still works.
    std::fs::remove_file(&path).unwrap();
    let mut server = Server::launch_without_token(&url).await;
    server.ready().await;
    assert!(!path.exists());
    server.client(Some(&token)).await.access.who_am_i(WhoAmIRequest {}).await.unwrap();
    assert_eq!(server.terminate_with_output().await, "");

    // A new database beside it: the token file of the other is not replaced.
    std::fs::write(&path, "another's").unwrap();
    let mut server = Server::launch_without_token(&url.replace("toggled.db", "second.db")).await;
    server.ready().await;
    let told = server.terminate_with_output().await;
    let second = told.lines().find(|line| line.ends_with(".token")).unwrap().trim();
    assert!(std::fs::read_to_string(second).unwrap().starts_with("toggled_"), "{told}");
    assert_eq!(std::fs::metadata(second).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "another's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_setting_it_serves_a_file_in_the_current_folder() {
    let output = invoke(&["serve", "--help"], &[]).await;
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("[default: sqlite://toggled.db]") && help.contains("[default: 127.0.0.1:50051]"), "{help}");
}

on_both_databases! {
    async fn what_was_written_is_there_after_a_restart(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let flipped = admin.flip("a").await.feature_flag;
        let log = admin.log().await;
        assert!(server.terminate().await.success());
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        assert_eq!(Some(admin.get("a").await), flipped);
        assert_eq!(admin.log().await, log);
    }

    async fn two_first_starts_at_once_make_one_administrator(backend: Backend) {
        let database = Database::new(backend).await;
        let (first, second) = tokio::join!(Server::start(&database), Server::start(&database));
        for server in [&first, &second] {
            let log = server.admin().await.log().await;
            assert_eq!(log.iter().map(|e| e.action_type.as_str()).collect::<Vec<_>>(), ["user_created", "token_created"]);
        }
    }

    async fn the_schema_goes_up_and_down_and_a_log_is_not_dropped_by_accident(backend: Backend) {
        let database = Database::new(backend).await;
        let settings = [("TOGGLED_DATABASE_URL", database.url.as_str()), ("TOGGLED_LOG", "warn")];
        let said = |output: Output| {
            let told = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{told}");
            String::from_utf8(output.stdout).unwrap()
        };
        let asked = invoke(&["migrate", "status"], &settings).await;
        match backend {
            Backend::Postgres => assert!(said(asked).contains("pending")),
            // Most likely another file was meant.
            Backend::Sqlite => assert_eq!((asked.status.code(), asked.stdout.len()), (Some(1), 0)),
        }
        assert!(said(invoke(&["migrate", "up"], &settings).await).contains("applied"));
        assert!(said(invoke(&["migrate", "down"], &settings).await).contains("pending"));

        let server = Server::start(&database).await;
        server.admin().await.create("a").await;
        server.terminate().await;
        assert!(said(invoke(&["migrate", "status"], &settings).await).contains("applied"));
        let refused = invoke(&["migrate", "down"], &settings).await;
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8(refused.stderr).unwrap().contains("--drop-log"));
        assert!(said(invoke(&["migrate", "down", "--drop-log"], &settings).await).contains("pending"));
        let server = Server::start(&database).await;
        assert_eq!(server.admin().await.log().await.len(), 2, "a new log");
    }
}

/// It listens at once, says that it does not serve, and serves when the database is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_says_no_until_the_database_answers() {
    let database = Database::new(crate::support::Backend::Postgres).await;
    // Nobody listens here yet; then a relay to the real database does.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let real = database.url.split(['@', '/']).nth(3).unwrap().to_owned();
    let url = database.url.replace(&real, &closed.to_string());
    let mut server = Server::launch(&url, &[]).await;
    assert_eq!(server.health().await, ServingStatus::NotServing);
    let error = server.admin().await.toggle.toggle_feature_flag(toggle("a")).await.unwrap_err();
    assert_eq!((error.code(), reason_of(&error).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));

    let relay = tokio::net::TcpListener::bind(closed).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = relay.accept().await.unwrap();
            let real = real.clone();
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(real).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    server.ready().await;
    assert_eq!(server.health().await, ServingStatus::Serving);
    server.admin().await.create("a").await;
}

/// The database is there, and nothing can be written to it yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_waits_until_the_administrator_can_be_written() {
    let database = Database::new(crate::support::Backend::Postgres).await;
    assert!(invoke(&["migrate", "up"], &[("TOGGLED_DATABASE_URL", &database.url)]).await.status.success());
    let held = database.lock_head().await;
    let (mut server, mut log) = Server::launch_with_log(&database.url, &[]).await;
    log.wait_for_line("waiting for the database to create the first administrator").await;
    drop(held);
    server.ready().await;
    server.admin().await.create("a").await;

    let database = Database::new(crate::support::Backend::Postgres).await;
    assert!(invoke(&["migrate", "up"], &[("TOGGLED_DATABASE_URL", &database.url)]).await.status.success());
    let _held = database.lock_head().await;
    let (server, mut log) = Server::launch_with_log(&database.url, &[]).await;
    log.wait_for_line("waiting for the database to create the first administrator").await;
    assert_eq!(server.terminate().await.code(), Some(0), "it can be stopped meanwhile");
}
