//! Settings of the database: what cannot work ends the program, and what may be an outage is waited for.

use std::net::TcpListener;
use std::process::Output;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tempfile::TempDir;

use crate::support::{Backend, Database, Server, invoke};

/// Every command that opens a database, as far as it does not need one with a schema.
const COMMANDS: [&[&str]; 3] = [&["serve", "--listen", "127.0.0.1:0"], &["migrate", "status"], &["user", "list"]];

async fn run(arguments: &[&str], url: &str) -> (Option<i32>, String) {
    let Output { status, stderr, .. } =
        invoke(arguments, &[("TOGGLED_DATABASE_URL", url), ("TOGGLED_LOG", "debug")]).await;
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// Asserts that each command ends with 2 and a last line that contains `expected`, without any of the URL's secrets.
async fn assert_setting_is_refused(url: &str, expected: &str) {
    for arguments in COMMANDS {
        let (code, stderr) = run(arguments, url).await;
        let last = stderr.lines().last().unwrap_or_default();
        assert!(code == Some(2) && last.contains(expected), "{arguments:?} {url}: {code:?} {stderr}");
        assert!(!stderr.contains("hush"), "{arguments:?} {url}: {stderr}");
    }
}

/// A statement on the database `postgres` of the cluster that all tests share.
async fn administer(database: &Database, statement: &str) {
    let (server, _) = database.url.rsplit_once('/').unwrap();
    let mut admin = PgConnection::connect(&format!("{server}/postgres")).await.unwrap();
    admin.execute(AssertSqlSafe(statement)).await.unwrap();
}

fn name(database: &Database) -> &str {
    database.url.rsplit_once('/').unwrap().1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn url_that_cannot_work_exits_with_2() {
    let folder = TempDir::new().unwrap();
    let missing = format!("sqlite://{}/missing/toggled.db", folder.path().display());
    for (url, expected) in [
        ("postgres://ann:hush@127.0.0.1/flags?schema=hush", "schema"),
        ("postgres://ann@127.0.0.1/flags?passwd=hush", "passwd"),
        ("postgres://ann:hu#sh@127.0.0.1/flags", "%23"),
        ("postgres://127.0.0.1/flags?sslmode=verify-full&sslrootcert=/nowhere/ca.pem", "sslrootcert /nowhere/ca.pem"),
        (&missing, "/missing"),
    ] {
        assert_setting_is_refused(url, expected).await;
    }
}

/// The line names the file and the cause, and no checkpoint key is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_that_is_no_database_exits_with_2() {
    let folder = TempDir::new().unwrap();
    let text = folder.path().join("text.db");
    std::fs::write(&text, "not a database\n".repeat(100)).unwrap();
    for (path, expected) in [(&*text, "text.db is not a SQLite database"), (folder.path(), "which is a folder")] {
        assert_setting_is_refused(&format!("sqlite://{}", path.display()), expected).await;
    }
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["text.db"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_that_the_server_lacks_exits_with_2() {
    let database = Database::new(Backend::Postgres).await;
    let host = database.url.split(['@', '/']).nth(3).unwrap();
    let url = format!("{}?sslmode=require&password=hush", database.url);
    assert_setting_is_refused(&url, host).await;
    assert_setting_is_refused(&url, "TLS").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_that_is_not_utf8_exits_with_2() {
    let database = Database::new(Backend::Postgres).await;
    let other = name(&database).replace("test", "ascii");
    administer(
        &database,
        &format!("CREATE DATABASE {other} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"),
    )
    .await;
    let url = database.url.replace(name(&database), &other);
    assert_setting_is_refused(&url, "encoding is SQL_ASCII").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn option_that_postgresql_refuses_exits_with_2() {
    let database = Database::new(Backend::Postgres).await;
    for (option, expected) in [("serch_path=x", "serch_path"), ("work_mem=hush", "work_mem"), ("port=1", "port")] {
        assert_setting_is_refused(&format!("{}?options=-c%20{option}", database.url), expected).await;
    }
}

/// Nothing listens on the port, because this test has bound it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connection_is_named_and_retried() {
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let url = format!("postgres://ann:hush@{address}/flags");
    for arguments in [&["migrate", "status"], &["user", "list"]] {
        let (code, stderr) = run(arguments, &url).await;
        let last = stderr.lines().last().unwrap_or_default();
        assert_eq!(code, Some(6), "{stderr}");
        assert!(last.contains(&address) && last.contains("Connection refused") && !stderr.contains("hush"), "{stderr}");
    }
    let (server, mut log) = Server::launch_with_log(&url, &[]).await;
    log.wait_for_line("Connection refused").await;
    assert!(server.terminate().await.success());
    assert!(!log.rest().await.contains("hush"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ipv6_address_is_connected_to() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else { return };
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let url = format!("postgres://ann@[::1]:{port}/flags");
    let (output, accepted) =
        tokio::join!(run(&["migrate", "status"], &url), async { drop(listener.accept().await.unwrap()) });
    let () = accepted;
    assert!(output.1.contains(&format!("postgres://[::1]:{port}/flags")), "{}", output.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsafe_settings_are_warned_of_at_start() {
    let database = Database::new(Backend::Postgres).await;
    administer(&database, &format!("ALTER DATABASE {} SET synchronous_commit = off", name(&database))).await;
    // The tests' cluster runs without fsync.
    let (_server, mut log) = Server::launch_with_log(&database.url, &[]).await;
    log.wait_for_line("fsync = off").await;
    log.wait_for_line("synchronous_commit = off").await;
    let url = format!("{}?options=-c%20synchronous_commit%3Dlocal", database.url);
    let (_server, mut log) = Server::launch_with_log(&url, &[]).await;
    log.wait_for_line("the URL has synchronous_commit = local").await;
}

/// The schema's owner migrates. The server's role may create nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn role_without_create_reads_and_serves() {
    let database = Database::new(Backend::Postgres).await;
    let role = name(&database).replace("test", "role");
    let mut owner = PgConnection::connect(&database.url).await.unwrap();
    let prepare = format!("REVOKE CREATE ON SCHEMA public FROM PUBLIC; CREATE ROLE {role} LOGIN");
    owner.execute(AssertSqlSafe(prepare)).await.unwrap();
    let url = database.url.replace("postgres@", &format!("{role}@"));
    let status = invoke(&["migrate", "status"], &[("TOGGLED_DATABASE_URL", &url)]).await;
    assert!(status.status.success() && String::from_utf8_lossy(&status.stdout).contains("pending"), "{status:?}");
    let (code, stderr) = run(&["migrate", "up"], &url).await;
    let last = stderr.lines().last().unwrap_or_default();
    assert!(code == Some(1) && last.ends_with("permission denied for schema public"), "{stderr}");

    assert_eq!(run(&["migrate", "up"], &database.url).await.0, Some(0));
    let grant = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}");
    owner.execute(AssertSqlSafe(grant)).await.unwrap();
    for arguments in [&["migrate", "status"], &["user", "list"], &["migrate", "up"]] {
        let (code, stderr) = run(arguments, &url).await;
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    }
    let server = Server::start(&Database::from_url(&url, Backend::Postgres)).await;
    server.admin().await.create("a").await;
}
