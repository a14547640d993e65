//! Settings: unknown variables, the configuration file, and which source overrides which.

use std::net::TcpListener;

use tempfile::TempDir;

use crate::support::{Backend, Database, Server, invoke};

/// A variable that no option reads, for a server, a command on the database and a client.
#[tokio::test]
async fn unknown_variable_is_refused_with_the_nearest() {
    for arguments in [&["serve"][..], &["migrate", "status"], &["whoami"]] {
        let output = invoke(arguments, &[("TOGGLED_LISTN", "127.0.0.1:0")]).await;
        let line = String::from_utf8(output.stderr).unwrap();
        let expected = "toggled: unknown environment variable TOGGLED_LISTN; did you mean TOGGLED_LISTEN?\n";
        assert_eq!((output.status.code(), line.as_str()), (Some(2), expected), "{arguments:?}");
        assert!(output.stdout.is_empty());
    }
    let help = invoke(&["serve", "--help"], &[("TOGGLED_LISTN", "127.0.0.1:0")]).await;
    assert!(help.status.success(), "help is always there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_of_kubernetes_are_ignored() {
    let database = Database::new(Backend::Sqlite).await;
    let injected = [
        ("TOGGLED_SERVICE_HOST", "10.0.0.1"),
        ("TOGGLED_SERVICE_PORT", "50051"),
        ("TOGGLED_SERVICE_PORT_GRPC", "50051"),
        ("TOGGLED_PORT", "tcp://10.0.0.1:50051"),
        ("TOGGLED_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
        ("TOGGLED_PORT_50051_TCP_ADDR", "10.0.0.1"),
    ];
    assert!(Server::start_with(&database, &injected).await.terminate().await.success());
}

/// Writes a configuration file.
fn config(folder: &TempDir, text: &str) -> String {
    let path = folder.path().join("toggled.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Arguments, environment, exit code and message.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a str);

/// A wrong value shows where it came from: each source is overridden by the next.
#[tokio::test]
async fn command_line_overrides_environment_overrides_file() {
    let folder = TempDir::new().unwrap();
    let path = config(&folder, "max-staleness = \"1s\"\npoll-interval = \"2s\"\n");
    // At the defaults, 10s and 250ms, it would start; each case leaves one source with the pair that is refused.
    let file = ("TOGGLED_CONFIG", path.as_str());
    let stale = "--max-staleness (TOGGLED_MAX_STALENESS) must be";
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = occupied.local_addr().unwrap().to_string();
    let started = "cannot listen on";
    let cases: [Case; 6] = [
        (&[], &[], 1, started),
        (&["--config", &path], &[], 2, stale),
        (&[], &[file], 2, stale),
        (&[], &[file, ("TOGGLED_POLL_INTERVAL", "500ms")], 1, started),
        (&["--poll-interval", "1s"], &[file, ("TOGGLED_POLL_INTERVAL", "500ms")], 2, stale),
        (&["--max-staleness", "5s"], &[file, ("TOGGLED_MAX_STALENESS", "2s")], 1, started),
    ];
    for (arguments, settings, status, expected) in cases {
        let settings = [settings, &[("TOGGLED_LISTEN", address.as_str())]].concat();
        let output = invoke(arguments, &settings).await;
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(status) && line.contains(expected), "{arguments:?} {settings:?}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_on_the_database_read_the_file_too() {
    let (folder, database) = (TempDir::new().unwrap(), Database::new(Backend::Sqlite).await);
    let path = config(&folder, &format!("database-url = \"{}\"\nlisten = \"127.0.0.1:0\"\n", database.url));
    let output = invoke(&["migrate", "up", "--config", &path], &[]).await;
    assert!(output.status.success(), "{output:?}");
    assert!(std::path::Path::new(database.url.strip_prefix("sqlite://").unwrap()).exists());
}

#[tokio::test]
async fn wrong_file_is_refused_by_file_line_and_key() {
    let folder = TempDir::new().unwrap();
    for (text, expected) in [
        ("# A comment.\nlistn = \"x\"\n", "toggled.toml:2: unknown key listn; did you mean listen?"),
        ("\n\nmax_queue = 7\n", "toggled.toml:3: unknown key max_queue; did you mean max-queue?"),
        ("max-queue = \"many\"\n", "toggled.toml:1: max-queue must be an integer"),
        ("log = \"info\"\nlisten = \"nowhere\"\n", "toggled.toml:2: invalid value 'nowhere' for '--listen <ADDRESS>'"),
        ("listen = \n", "toggled.toml:1: "),
    ] {
        let path = config(&folder, text);
        let output = invoke(&["serve", "--config", &path], &[]).await;
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{line}");
        assert!(line.contains(expected), "{line}");
    }
    // What no parser of a single value can find.
    for (text, expected) in [
        ("\nbootstrap-token = \"too short\"\n", "toggled.toml:2: --bootstrap-token (TOGGLED_BOOTSTRAP_TOKEN)"),
        ("max-staleness = \"10ms\"\n", "toggled.toml:1: --max-staleness (TOGGLED_MAX_STALENESS)"),
        ("database-url = \"mysql://u:too short@h/x\"\n", "toggled.toml:1: --database-url (TOGGLED_DATABASE_URL)"),
    ] {
        let path = config(&folder, text);
        let output = invoke(&["serve"], &[("TOGGLED_CONFIG", &path)]).await;
        let line = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && line.contains(expected), "{line}");
        assert!(!line.contains("too short"), "{line}");
    }
    let absent = folder.path().join("absent.toml").to_str().unwrap().to_owned();
    for path in [absent.as_str(), folder.path().to_str().unwrap()] {
        let output = invoke(&["serve", "--config", path], &[]).await;
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{line}");
        assert!(line.contains("--config (TOGGLED_CONFIG): cannot read") && line.contains(path), "{line}");
    }
}
