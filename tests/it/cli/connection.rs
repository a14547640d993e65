//! Where the server is, who calls, and what protects the way.

use std::net::TcpListener;

use super::{Shell, server};
use crate::support::tcp_proxy::{Route, TcpProxy};
use crate::support::tls::{Ca, Files};
use crate::support::{Backend, Database, Server, TOKEN, with_timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_am_i() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    let shell = Shell::new(server.address);
    let me = shell.object(&["whoami"]).await;
    assert_eq!(
        (me["user"]["email"].as_str(), me["permissions"].as_array().unwrap().len()),
        (Some("admin@localhost"), 6)
    );
    let row = &shell.rows(&["whoami"]).await[0];
    assert_eq!(row[0], "admin@localhost");
    assert_eq!(row[3], me["token_id"].as_str().unwrap());
    let ann = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
    let as_ann = Shell::of(format!("http://{}", server.address), &ann);
    assert_eq!(as_ann.rows(&["whoami"]).await[0][..2], ["ann@example.com", "view_feature_flags"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_comes_from_a_setting_or_a_file() {
    let (server, database) = server().await;
    let folder = tempfile::TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let shell = Shell::anonymous(server.address);
    let good = file("good", &format!("{TOKEN}\n"));
    shell.says(&["whoami", "--token", TOKEN]).await;
    shell.says(&["whoami", "--token-file", &good]).await;
    Shell::anonymous(server.address).with("TOGGLED_TOKEN_FILE", &good).says(&["whoami"]).await;

    let missing = "--token (TOGGLED_TOKEN) or --token-file (TOGGLED_TOKEN_FILE)";
    assert!(shell.fails(&["whoami"], 4).await.contains(missing));
    assert!(shell.fails(&["whoami", "--token", ""], 4).await.contains(missing));
    let told = shell.fails(&["whoami", "--token", "not-the-one"], 4).await;
    assert!(told.contains("the token of --token: it is unknown") && !told.contains("not-the-one"), "{told}");
    let bad = file("bad", "not-the-one");
    let told = shell.fails(&["whoami", "--token-file", &bad], 4).await;
    assert!(told.contains(&format!("the token of --token-file {bad}: it is unknown")), "{told}");
    let told = Shell::of(server.address, "not-the-one").fails(&["whoami"], 4).await;
    assert!(told.contains("the token of TOGGLED_TOKEN: it is unknown"), "{told}");
    for (arguments, named) in [
        (&["--token", "hidden\nhidden"][..], "--token holds"),
        (&["--token-file", &file("empty", " \n")], "empty"),
        (&["--token-file", &file("binary", "hidden\u{1}hidden")], "--token-file"),
        (&["--token-file", "/nowhere/at/all"], "/nowhere/at/all"),
        (&["--token", "hidden", "--token-file", &good], "--token-file"),
    ] {
        let told = shell.fails(&[&["whoami"], arguments].concat(), 2).await;
        assert!(told.contains(named) && !told.contains("hidden"), "{told}");
    }
    drop(database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_typed_counts_and_not_what_the_environment_says() {
    let (server, _database) = server().await;
    let folder = tempfile::TempDir::new().unwrap();
    let good = folder.path().join("good").display().to_string();
    std::fs::write(&good, TOKEN).unwrap();
    let wrong = Shell::of(server.address, "of-no-use");
    wrong.fails(&["whoami"], 4).await;
    wrong.says(&["whoami", "--token-file", &good]).await;
    wrong.says(&["whoami", "--token", TOKEN]).await;
    Shell::anonymous(server.address).with("TOGGLED_TOKEN_FILE", "/nowhere").says(&["whoami", "--token", TOKEN]).await;
    // What is empty is not set.
    let empty = Shell::of(server.address, "").with("TOGGLED_OUTPUT", "").with("TOGGLED_TIMEOUT", "");
    let empty = empty.with("TOGGLED_CA_CERTIFICATE", "").with("TOGGLED_CLIENT_KEY", "");
    empty.says(&["whoami", "--token-file", &good]).await;
    empty.with("TOGGLED_TOKEN_FILE", &good).says(&["whoami"]).await;
    let missing = Shell::of(server.address, "").with("TOGGLED_TOKEN_FILE", "").fails(&["whoami"], 4).await;
    assert!(missing.contains("wants to know who you are"), "{missing}");
}

#[tokio::test]
async fn a_wrong_address_is_told_as_such() {
    for bad in ["nowhere", "ftp://localhost:1", "http://localhost:1/path", "localhost:port", ""] {
        let told = Shell::new("127.0.0.1:1").fails(&["whoami", "--addr", bad], 2).await;
        assert!(told.contains("--addr") && told.contains("http://HOST:PORT"), "{told}");
    }
    for bad in ["0s", "10", "2h", "-1s"] {
        assert!(
            Shell::new("127.0.0.1:1").with("TOGGLED_TIMEOUT", bad).fails(&["whoami"], 2).await.contains("--timeout")
        );
    }
    // Bound and not listening any more: nobody else takes it while this test runs, as far as can be.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    drop(taken);
    for arguments in [&["whoami"][..], &["flag", "watch"], &["audit", "tail"], &["flag", "toggle", "a"], &["health"]] {
        let told = Shell::new(address).fails(arguments, 6).await;
        assert!(told.contains(&format!("cannot reach http://{address}")), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_tells_whether_a_server_serves() {
    let (server, _database) = server().await;
    let shell = Shell::anonymous(server.address);
    assert_eq!(shell.says(&["health"]).await, "SERVING\n");
    assert_eq!(shell.says(&["health", "--service", "toggled.v1.ToggleService"]).await, "SERVING\n");
    assert_eq!(shell.object(&["health"]).await["status"], "SERVING");
    let proxy = TcpProxy::new(Route::DropReplies(server.address)).await;
    let told =
        with_timeout("an answer", Shell::anonymous(proxy.address).fails(&["health", "--timeout", "50ms"], 6)).await;
    assert!(told.contains("50ms"), "{told}");
    drop(server);
}

/// A server that is cut off from its database for longer than it may be says so, and why it is not served is in the status.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_not_serve_is_not_healthy() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = crate::support::postgres_proxy::PostgresProxy::new(&database).await;
    let server = Server::start_with(&proxy.database, &[("TOGGLED_MAX_STALENESS", "1s")]).await;
    let shell = Shell::new(server.address);
    assert_eq!(shell.says(&["health"]).await, "SERVING\n");
    proxy.set(crate::support::postgres_proxy::Link::Stalled);
    let (out, told) = with_timeout("the server to be unhealthy", async {
        loop {
            let (code, out, told) = shell.run(&["health"]).await;
            if code == 6 {
                return (out, told);
            }
        }
    })
    .await;
    assert_eq!((out.as_str(), told.lines().count()), ("NOT_SERVING\n", 1), "{told}");
    // A change is refused at once each time, for as long as it is asked for again.
    assert!(shell.fails(&["flag", "toggle", "a"], 6).await.contains("behind the log"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_protects_the_way() {
    let ca = Ca::new("the server's");
    let files = Files::new(&ca.server(), None);
    let database = Database::new(Backend::Sqlite).await;
    let (certificate, key) = (files.path("server.pem"), files.path("server.key"));
    let server =
        Server::start_with(&database, &[("TOGGLED_TLS_CERTIFICATE", &certificate), ("TOGGLED_TLS_KEY", &key)]).await;
    let folder = tempfile::TempDir::new().unwrap();
    let roots = folder.path().join("ca.pem");
    std::fs::write(&roots, ca.pem()).unwrap();
    let address = format!("https://localhost:{}", server.address.port());
    let shell = Shell::new(&address).with("TOGGLED_CA_CERTIFICATE", roots.display());

    assert_eq!(shell.says(&["health"]).await, "SERVING\n");
    shell.says(&["flag", "create", "a"]).await;
    assert_eq!(shell.rows(&["flag", "toggle", "a"]).await, [["a", "enabled", "yes", "4"]]);
    let mut watch = shell.start(&["flag", "watch"]);
    watch.line().await;
    assert!(watch.line().await.contains("enabled"));
    watch.interrupt().await;

    // A plain connection to it, one to who is not trusted, and files that are of no use.
    let told = Shell::new(server.address).fails(&["whoami"], 6).await;
    assert!(told.contains("https:// instead of http://"), "{told}");
    let told = Shell::new(server.address).fails(&["flag", "watch"], 6).await;
    assert!(told.contains("https:// instead of http://"), "{told}");
    let other = folder.path().join("other.pem");
    std::fs::write(&other, Ca::new("another's").pem()).unwrap();
    let told = Shell::new(&address).with("TOGGLED_CA_CERTIFICATE", other.display()).fails(&["whoami"], 6).await;
    assert!(told.contains("--ca-certificate"), "{told}");
    for (arguments, named) in [
        (&["--ca-certificate", "/nowhere.pem"][..], "/nowhere.pem"),
        (&["--ca-certificate", &key], "no certificate in it"),
        (&["--client-certificate", &certificate], "--client-key"),
        (&["--client-certificate", &certificate, "--client-key", &certificate], "no private key"),
        (&["--addr", "localhost:1"], "TOGGLED_CA_CERTIFICATE"),
    ] {
        let told = shell.fails(&[&["whoami"], arguments].concat(), 2).await;
        assert!(told.contains(named), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_demands_a_certificate_gets_one() {
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
    let stranger = Shell::anonymous(&address).with("TOGGLED_CA_CERTIFICATE", &roots);
    let certificate = file("client.pem", &me.certificate);
    let shell = Shell::anonymous(&address)
        .with("TOGGLED_CA_CERTIFICATE", &roots)
        .with("TOGGLED_CLIENT_CERTIFICATE", &certificate)
        .with("TOGGLED_CLIENT_KEY", file("client.key", &me.key));

    assert_eq!(shell.says(&["health"]).await, "SERVING\n");
    let who = shell.object(&["whoami"]).await;
    assert_eq!((who["user"]["email"].as_str(), who.get("token_id")), (Some("admin@localhost"), None));
    for arguments in [&["health"][..], &["whoami"]] {
        let told = stranger.fails(arguments, 6).await;
        assert!(told.contains("--client-certificate"), "{told}");
    }
    let other = file("other.key", &clients.client("spiffe://example.com/other").key);
    let told = shell.fails(&["whoami", "--client-key", &other], 2).await;
    assert!(told.contains("--client-key"), "{told}");
}
