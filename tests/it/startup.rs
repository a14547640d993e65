//! Start and restart of the program, its settings, and the `migrate` command.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use tempfile::TempDir;
use toggled::api::pb::*;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{BOOTSTRAP_ENTRIES, Backend, Database, Server, invoke, on_both_databases, reason_of, toggle};

#[tokio::test]
async fn invalid_setting_prints_one_line_and_exits_with_2() {
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
    for (arguments, settings, name) in cases {
        let output = invoke(arguments, settings).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {settings:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(name) && !stderr.contains("panicked"), "{stderr}");
        assert!(!stderr.contains("too short"), "the error quotes the token: {stderr}");
        assert!(output.stdout.is_empty());
    }
}

#[tokio::test]
async fn help_and_version_succeed() {
    for arguments in [&["--help"][..], &["--version"], &["serve", "--help"], &["migrate", "--help"]] {
        let output =
            invoke(arguments, &[("TOGGLED_BOOTSTRAP_TOKEN", "a-token-that-help-must-not-show-to-anyone")]).await;
        assert!(output.status.success());
        assert!(!String::from_utf8(output.stdout).unwrap().contains("must-not-show"));
    }
}

#[tokio::test]
async fn address_in_use_prints_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = invoke(&["--listen", &address], &[]).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.lines().count() == 1 && stderr.contains(&address), "{stderr}");
}

#[tokio::test]
async fn unusable_database_prints_one_line() {
    let output =
        invoke(&[], &[("TOGGLED_DATABASE_URL", "sqlite:///proc/toggled.db"), ("TOGGLED_LISTEN", "127.0.0.1:0")]).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
}

/// After a `kill -9`, a backup is put in the place of the database, and the write-ahead log stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_of_another_file_is_named_at_the_start() {
    let database = Database::new(Backend::Sqlite).await;
    let file = database.url.strip_prefix("sqlite://").unwrap();
    let server = Server::start(&database).await;
    server.admin().await.create("a").await;
    assert!(server.terminate().await.success());
    let backup = std::fs::read(file).unwrap();
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    for number in 0..100 {
        let description = "d".repeat(2_000);
        let request =
            CreateFeatureFlagRequest { key: format!("f{number}"), name: "n".into(), description, ..Default::default() };
        admin.toggle.create_feature_flag(request).await.unwrap();
    }
    assert!(server.terminate().await.success());
    let server = Server::start(&database).await;
    server.admin().await.flip("a").await;
    server.kill().await;
    std::fs::write(file, backup).unwrap();

    let settings = [("TOGGLED_DATABASE_URL", &*database.url), ("TOGGLED_LISTEN", "127.0.0.1:0")];
    let output = invoke(&[], &settings).await;

    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    // How it is noticed depends on the pages that the log holds.
    assert!(stderr.contains("damaged") || stderr.contains("not intact"), "{stderr}");
    assert!(stderr.contains(&format!("move {file}-wal and {file}-shm away")), "{stderr}");
}

/// Without settings, the server writes a new token to a file that only its owner can read. The log does not contain it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_start_writes_token_to_a_private_file() {
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
    assert_eq!((me.user.unwrap().email.as_str(), me.permissions.len()), ("admin@localhost", 7));
    let log = admin.log().await;
    assert_eq!(
        log.iter().map(|e| e.action_type.as_str()).collect::<Vec<_>>(),
        ["environment_created", "user_created", "token_created"]
    );
    assert!(log.iter().all(|e| e.user_email == "bootstrap@localhost" && e.user_id.is_none()));
    let stderr = server.terminate_with_output().await;
    assert!(stderr.contains(&path.display().to_string()) && !stderr.contains(&token), "{stderr}");
    assert_eq!(stderr.matches("\n  toggled ").count(), 3, "{stderr}");

    // The second start creates no token, and the first token is still valid.
    std::fs::remove_file(&path).unwrap();
    let mut server = Server::launch_without_token(&url).await;
    server.ready().await;
    assert!(!path.exists());
    server.client(Some(&token)).await.access.who_am_i(WhoAmIRequest {}).await.unwrap();
    assert_eq!(server.terminate_with_output().await, "");

    // A new database in the same directory does not replace the other database's token file.
    std::fs::write(&path, "another's").unwrap();
    let mut server = Server::launch_without_token(&url.replace("toggled.db", "second.db")).await;
    server.ready().await;
    let stderr = server.terminate_with_output().await;
    let second = stderr.lines().find(|line| line.ends_with(".token")).unwrap().trim();
    assert!(std::fs::read_to_string(second).unwrap().starts_with("toggled_"), "{stderr}");
    assert_eq!(std::fs::metadata(second).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "another's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn default_database_is_a_file_in_current_directory() {
    let output = invoke(&["serve", "--help"], &[]).await;
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("[default: sqlite://toggled.db]") && help.contains("[default: 127.0.0.1:50051]"), "{help}");
}

on_both_databases! {
    async fn state_survives_restart(backend: Backend) {
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

    async fn concurrent_first_starts_create_one_administrator(backend: Backend) {
        let database = Database::new(backend).await;
        let (first, second) = tokio::join!(Server::start(&database), Server::start(&database));
        for server in [&first, &second] {
            let log = server.admin().await.log().await;
            assert_eq!(log.iter().map(|e| e.action_type.as_str()).collect::<Vec<_>>(), ["environment_created", "user_created", "token_created"]);
        }
    }

    async fn migrate_down_requires_drop_log_to_remove_the_log(backend: Backend) {
        let database = Database::new(backend).await;
        let settings = [("TOGGLED_DATABASE_URL", database.url.as_str()), ("TOGGLED_LOG", "warn")];
        let stdout_of = |output: Output| {
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{stderr}");
            String::from_utf8(output.stdout).unwrap()
        };
        let status = invoke(&["migrate", "status"], &settings).await;
        match backend {
            Backend::Postgres => assert!(stdout_of(status).contains("pending")),
            // A missing file is an error, since the path is probably wrong.
            Backend::Sqlite => assert_eq!((status.status.code(), status.stdout.len()), (Some(1), 0)),
        }
        assert!(stdout_of(invoke(&["migrate", "up"], &settings).await).contains("applied"));
        assert!(stdout_of(invoke(&["migrate", "down"], &settings).await).contains("pending"));

        let server = Server::start(&database).await;
        server.admin().await.create("a").await;
        server.terminate().await;
        assert!(stdout_of(invoke(&["migrate", "status"], &settings).await).contains("applied"));
        let refused = invoke(&["migrate", "down"], &settings).await;
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8(refused.stderr).unwrap().contains("--drop-log"));
        assert!(stdout_of(invoke(&["migrate", "down", "--drop-log"], &settings).await).contains("pending"));
        let server = Server::start(&database).await;
        assert_eq!(server.admin().await.log().await.len(), BOOTSTRAP_ENTRIES, "entries of a new log");
    }
}

/// The server listens at once, reports that it is not serving, and serves once the database answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_not_serving_until_database_answers() {
    let database = Database::new(crate::support::Backend::Postgres).await;
    // A closed port, on which a relay to the database listens later.
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

/// The database answers, but writes wait for a lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_start_waits_until_database_is_writable() {
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
    assert_eq!(server.terminate().await.code(), Some(0), "the waiting server did not stop cleanly");
}

/// Its permissions may be intended, so that they are not changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_warns_of_public_sqlite_file() {
    let database = Database::new(Backend::Sqlite).await;
    let file = database.url.strip_prefix("sqlite://").unwrap();
    std::fs::write(file, "").unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (mut server, mut log) = Server::launch_with_log(&database.url, &[]).await;
    server.ready().await;
    log.wait_for_line("every user of this machine").await;
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o644);
}
