//! The server's address, the token, and TLS.

use std::net::TcpListener;

use super::{Shell, assert_output, server};
use crate::support::tcp_proxy::{Route, TcpProxy};
use crate::support::tls::{Ca, Files};
use crate::support::{Backend, Database, Server, TOKEN, with_timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoami_shows_user_and_permissions() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    let shell = Shell::new(server.address);
    let me = shell.object(&["whoami"]).await;
    assert_eq!(
        (me["user"]["email"].as_str(), me["permissions"].as_array().unwrap().len()),
        (Some("admin@localhost"), 7)
    );
    let row = &shell.rows(&["whoami"]).await[0];
    assert_eq!(row[0], "admin@localhost");
    assert_eq!(row[3], me["token_id"].as_str().unwrap());
    let ann = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
    let as_ann = Shell::of(format!("http://{}", server.address), &ann);
    assert_eq!(as_ann.rows(&["whoami"]).await[0][..2], ["ann@example.com", "view_feature_flags"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_is_read_from_setting_or_file() {
    let (server, database) = server().await;
    let folder = tempfile::TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let shell = Shell::anonymous(server.address);
    let good = file("good", &format!("{TOKEN}\n"));
    shell.succeeds(&["whoami", "--token", TOKEN]).await;
    shell.succeeds(&["whoami", "--token-file", &good]).await;
    Shell::anonymous(server.address).with("TOGGLED_TOKEN_FILE", &good).succeeds(&["whoami"]).await;

    let mut outputs = shell.transcript(&[&["whoami"], &["whoami", "--token", ""]]).await;
    let (bad, empty) = (file("bad", "not-the-one"), file("empty", " \n"));
    let binary = file("binary", "hidden\u{1}hidden");
    for arguments in [
        &["--token", "not-the-one"][..],
        &["--token-file", &bad],
        &["--token", "hidden\nhidden"],
        &["--token-file", &empty],
        &["--token-file", &binary],
        &["--token-file", "/nowhere/at/all"],
        &["--token", "hidden", "--token-file", &good],
    ] {
        let (_, out, error) = shell.run(&[&["whoami"], arguments].concat()).await;
        assert!(!(out + &error).contains("hidden") && !error.contains("not-the-one"), "{error}");
        outputs += &shell.transcript(&[&[&["whoami"], arguments].concat()[..]]).await;
    }
    outputs += &Shell::of(server.address, "not-the-one").transcript(&[&["whoami"]]).await;
    assert_output!("token_errors", outputs);
    drop(database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_override_environment_variables() {
    let (server, _database) = server().await;
    let folder = tempfile::TempDir::new().unwrap();
    let good = folder.path().join("good").display().to_string();
    std::fs::write(&good, TOKEN).unwrap();
    let wrong = Shell::of(server.address, "invalid");
    wrong.fails(&["whoami"], 4).await;
    wrong.succeeds(&["whoami", "--token-file", &good]).await;
    wrong.succeeds(&["whoami", "--token", TOKEN]).await;
    Shell::anonymous(server.address)
        .with("TOGGLED_TOKEN_FILE", "/nowhere")
        .succeeds(&["whoami", "--token", TOKEN])
        .await;
    // An empty variable is ignored.
    let empty = Shell::of(server.address, "").with("TOGGLED_OUTPUT", "").with("TOGGLED_TIMEOUT", "");
    let empty = empty.with("TOGGLED_CA_CERTIFICATE", "").with("TOGGLED_CLIENT_KEY", "");
    empty.succeeds(&["whoami", "--token-file", &good]).await;
    empty.with("TOGGLED_TOKEN_FILE", &good).succeeds(&["whoami"]).await;
    let missing = Shell::of(server.address, "").with("TOGGLED_TOKEN_FILE", "").fails(&["whoami"], 4).await;
    assert!(missing.contains("needs a token: pass --token"), "{missing}");
}

#[tokio::test]
async fn invalid_or_closed_address_is_reported() {
    for bad in ["nowhere", "ftp://localhost:1", "http://localhost:1/path", "localhost:port", ""] {
        let error = Shell::new("127.0.0.1:1").fails(&["whoami", "--addr", bad], 2).await;
        assert!(error.contains("--addr") && error.contains("http://HOST:PORT"), "{error}");
    }
    for bad in ["0s", "10", "2h", "-1s"] {
        assert!(
            Shell::new("127.0.0.1:1").with("TOGGLED_TIMEOUT", bad).fails(&["whoami"], 2).await.contains("--timeout")
        );
    }
    // The port was bound a moment ago and is closed now: it is unlikely that another process takes it during this test.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    drop(taken);
    for arguments in [&["whoami"][..], &["flag", "watch"], &["audit", "tail"], &["flag", "toggle", "a"], &["health"]] {
        let error = Shell::new(address).fails(arguments, 6).await;
        assert!(error.contains(&format!("cannot reach http://{address}")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_reports_serving_and_timeout() {
    let (server, _database) = server().await;
    let shell = Shell::anonymous(server.address);
    assert_eq!(shell.succeeds(&["health"]).await, "SERVING\n");
    assert_eq!(shell.succeeds(&["health", "--service", "toggled.v1.ToggleService"]).await, "SERVING\n");
    assert_eq!(shell.object(&["health"]).await["status"], "SERVING");
    let proxy = TcpProxy::new(Route::DropReplies(server.address)).await;
    let error =
        with_timeout("an answer", Shell::anonymous(proxy.address).fails(&["health", "--timeout", "50ms"], 6)).await;
    assert!(error.contains("50ms"), "{error}");
    drop(server);
}

/// A server without its database for longer than the maximal staleness is not serving. Its status names the reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_server_is_not_serving() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = crate::support::postgres_proxy::PostgresProxy::new(&database).await;
    let server = Server::start_with(&proxy.database, &[("TOGGLED_MAX_STALENESS", "1s")]).await;
    let shell = Shell::new(server.address);
    assert_eq!(shell.succeeds(&["health"]).await, "SERVING\n");
    proxy.set(crate::support::postgres_proxy::Link::Stalled);
    let (out, error) = with_timeout("the server to be unhealthy", async {
        loop {
            let (code, out, error) = shell.run(&["health"]).await;
            if code == 6 {
                return (out, error);
            }
        }
    })
    .await;
    assert_eq!((out.as_str(), error.lines().count()), ("NOT_SERVING\n", 1), "{error}");
    // Every attempt to make a change is refused at once.
    assert!(shell.fails(&["flag", "toggle", "a"], 6).await.contains("behind the log"));
}

/// A server with TLS, on a database of its own.
async fn tls_server(files: &Files) -> (Server, Database) {
    let database = Database::new(Backend::Sqlite).await;
    let (certificate, key) = (files.path("server.pem"), files.path("server.key"));
    let settings = [("TOGGLED_TLS_CERTIFICATE", certificate.as_str()), ("TOGGLED_TLS_KEY", key.as_str())];
    (Server::start_with(&database, &settings).await, database)
}

/// The server answers with an alert and closes the connection at once, so the client's next write may fail before it has read the alert.
/// The error is the same, at the first attempt: the change cannot have been made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_client_of_tls_server_gets_one_hint() {
    let files = Files::new(&Ca::new("the server's").server(), None);
    let (server, _database) = tls_server(&files).await;
    let shell = Shell::new(server.address);
    let expected = format!(
        "toggled: http://{} does not speak HTTP/2; if the server uses TLS, use https:// instead of http://\n",
        server.address
    );
    for arguments in [&["health"][..], &["flag", "toggle", "a"]].repeat(10) {
        assert_eq!(shell.fails(arguments, 6).await, expected, "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_work_over_tls() {
    let ca = Ca::new("the server's");
    let files = Files::new(&ca.server(), None);
    let (server, _database) = tls_server(&files).await;
    let (certificate, key) = (files.path("server.pem"), files.path("server.key"));
    let folder = tempfile::TempDir::new().unwrap();
    let roots = folder.path().join("ca.pem");
    std::fs::write(&roots, ca.pem()).unwrap();
    let address = format!("https://localhost:{}", server.address.port());
    let shell = Shell::new(&address).with("TOGGLED_CA_CERTIFICATE", roots.display());

    assert_eq!(shell.succeeds(&["health"]).await, "SERVING\n");
    shell.succeeds(&["flag", "create", "a"]).await;
    assert_eq!(shell.rows(&["flag", "toggle", "a"]).await, [["a", "default", "enabled", "yes", "5"]]);
    let mut watch = shell.start(&["flag", "watch"]);
    watch.line().await;
    assert!(watch.line().await.contains("enabled"));
    watch.interrupt().await;

    // A connection without TLS, one to a server with an unknown CA, and files that cannot be used.
    let plain = Shell::new(server.address);
    let mut outputs = plain.transcript(&[&["whoami"], &["flag", "watch"]]).await;
    let other = folder.path().join("other.pem");
    std::fs::write(&other, Ca::new("another's").pem()).unwrap();
    outputs += &Shell::new(&address).with("TOGGLED_CA_CERTIFICATE", other.display()).transcript(&[&["whoami"]]).await;
    outputs += &shell
        .transcript(&[
            &["whoami", "--ca-certificate", "/nowhere.pem"],
            &["whoami", "--ca-certificate", &key],
            &["whoami", "--client-certificate", &certificate],
            &["whoami", "--client-certificate", &certificate, "--client-key", &certificate],
            &["whoami", "--addr", "localhost:1"],
        ])
        .await;
    assert_output!("tls_errors", outputs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificate_is_sent_when_demanded() {
    let (ca, clients) = (Ca::new("the server's"), Ca::new("the clients'"));
    let files = Files::new(&ca.server(), Some(&clients));
    let database = Database::new(Backend::Sqlite).await;
    let settings = [
        ("TOGGLED_TLS_CERTIFICATE", files.path("server.pem")),
        ("TOGGLED_TLS_KEY", files.path("server.key")),
        ("TOGGLED_CLIENT_CA", files.path("clients.pem")),
        ("TOGGLED_CLIENT_CERTIFICATE_USER", "spiffe://example.com/me=admin@localhost".to_owned()),
    ];
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Server::start_with(&database, &settings).await;
    let folder = tempfile::TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let me = clients.client("spiffe://example.com/me");
    let roots = file("ca.pem", &ca.pem());
    let address = format!("https://localhost:{}", server.address.port());
    let without_certificate = Shell::anonymous(&address).with("TOGGLED_CA_CERTIFICATE", &roots);
    let certificate = file("client.pem", &me.certificate);
    let shell = Shell::anonymous(&address)
        .with("TOGGLED_CA_CERTIFICATE", &roots)
        .with("TOGGLED_CLIENT_CERTIFICATE", &certificate)
        .with("TOGGLED_CLIENT_KEY", file("client.key", &me.key));

    assert_eq!(shell.succeeds(&["health"]).await, "SERVING\n");
    let who = shell.object(&["whoami"]).await;
    assert_eq!((who["user"]["email"].as_str(), who.get("token_id")), (Some("admin@localhost"), None));
    for arguments in [&["health"][..], &["whoami"]] {
        let error = without_certificate.fails(arguments, 6).await;
        assert!(error.contains("--client-certificate"), "{error}");
    }
    let other = file("other.key", &clients.client("spiffe://example.com/other").key);
    let error = shell.fails(&["whoami", "--client-key", &other], 2).await;
    assert!(error.contains("--client-key"), "{error}");
}
