//! TLS: trusted clients, certificate reload without a restart, and misbehaving clients.

use std::io;
use std::time::Duration;

use toggled::api::pb::{WhoAmIRequest, WhoAmIResponse};
use toggled::config::{FixedLimits, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::rustls::HandshakeKind;
use tonic::transport::Endpoint;

use crate::support::tls::{
    Ca, Files, Identity, admin, connect, connect_with, connector, parse_certificate, served_certificate,
};
use crate::support::{Backend, Client, Database, EmbeddedServer, Log, Server, defaults, invoke, with_timeout};

/// A server with TLS.
struct TlsServer {
    server: Server,
    log: Log,
    files: Files,
    _database: Database,
}

async fn start(identity: &Identity, client_ca: Option<&Ca>) -> TlsServer {
    let files = Files::new(identity, client_ca);
    let database = Database::new(Backend::Sqlite).await;
    let [certificate, key, clients] = ["server.pem", "server.key", "clients.pem"].map(|name| files.path(name));
    let mut settings = vec![("TOGGLED_TLS_CERTIFICATE", certificate.as_str()), ("TOGGLED_TLS_KEY", key.as_str())];
    settings.extend(client_ca.map(|_| ("TOGGLED_CLIENT_CA", clients.as_str())));
    let (mut server, log) = Server::launch_with_log(&database.url, &settings).await;
    server.ready().await;
    TlsServer { server, log, files, _database: database }
}

async fn call(client: &mut Client) -> io::Result<WhoAmIResponse> {
    let answer = with_timeout("an answer", client.access.who_am_i(WhoAmIRequest {})).await;
    answer.map(tonic::Response::into_inner).map_err(io::Error::other)
}

/// Connects and makes a call. Under TLS 1.3 a client may learn only from the call that its certificate was rejected.
async fn connect_and_call(tls: &TlsServer, ca: &Ca, identity: Option<&Identity>) -> io::Result<WhoAmIResponse> {
    call(&mut admin(tls.server.address, ca, identity).await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_succeeds_with_trusted_server_certificate() {
    let (ca, other) = (Ca::new("ours"), Ca::new("another"));
    let tls = start(&ca.server(), None).await;
    let mut client = admin(tls.server.address, &ca, None).await.unwrap();
    client.create("a").await;
    let entry = client.log().await.pop().unwrap();
    assert!(entry.peer.unwrap().starts_with("127.0.0.1:"));

    let stream = connect(tls.server.address, &ca, None).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let refused = connect(tls.server.address, &other, None).await.unwrap_err();
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
    connect_and_call(&tls, &ca, None).await.unwrap();
    assert!(tls.server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_client_fails_and_others_are_served() {
    let ca = Ca::new("ours");
    let tls = start(&ca.server(), None).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", tls.server.address)).unwrap();
    // The client may fail when it connects or when it calls.
    if let Ok(channel) = with_timeout("a connection", endpoint.connect()).await {
        call(&mut Client::with_channel(channel, None)).await.unwrap_err();
    }
    connect_and_call(&tls, &ca, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_ca_admits_only_its_own_clients() {
    let (ca, clients) = (Ca::new("ours"), Ca::new("the clients'"));
    let tls = start(&ca.server(), Some(&clients)).await;
    connect_and_call(&tls, &ca, None).await.unwrap_err();
    connect_and_call(&tls, &ca, Some(&ca.client("spiffe://example.com/a"))).await.unwrap_err();
    connect_and_call(&tls, &ca, Some(&clients.client("spiffe://example.com/a"))).await.unwrap();
}

/// A resumed session would skip the check of the client's certificate, which may have expired since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_ca_disables_session_resumption() {
    let ca = Ca::new("ours");
    let (server, client) = (ca.server(), ca.client("spiffe://example.com/a"));
    for (client_ca, again) in [(None, HandshakeKind::Resumed), (Some(&ca), HandshakeKind::Full)] {
        let tls = start(&server, client_ca).await;
        let connector = connector(&ca, Some(&client));
        for kind in [HandshakeKind::Full, again] {
            let mut stream = connect_with(&connector, tls.server.address).await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind));
            // The session ticket arrives before the server's first byte, which follows the client's preface.
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
            with_timeout("the server's settings", stream.read_u8()).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_certificate_applies_to_new_connections() {
    let ca = Ca::new("ours");
    let [first, second, third] = [(); 3].map(|()| ca.server());
    let mut tls = start(&first, None).await;
    let address = tls.server.address;
    let mut before = admin(address, &ca, None).await.unwrap();
    assert_eq!(served_certificate(address, &ca).await, parse_certificate(&first));

    tls.files.swap(&second, None);
    tls.log.wait_for_line("TLS files reloaded").await;
    assert_eq!(served_certificate(address, &ca).await, parse_certificate(&second));

    // Rename one file after the other. The server may see the mismatch in between, and does not use it.
    tls.files.replace("server.pem", &third.certificate);
    tls.files.replace("server.key", &third.key);
    tls.log.wait_for_line("TLS files reloaded").await;
    assert_eq!(served_certificate(address, &ca).await, parse_certificate(&third));
    call(&mut before).await.unwrap();
    connect_and_call(&tls, &ca, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_client_ca_applies_to_new_connections() {
    let (ca, old, new) = (Ca::new("ours"), Ca::new("old"), Ca::new("new"));
    let (server, a, b) = (ca.server(), old.client("spiffe://example.com/a"), new.client("spiffe://example.com/b"));
    let mut tls = start(&server, Some(&old)).await;
    let mut before = admin(tls.server.address, &ca, Some(&a)).await.unwrap();
    tls.files.swap(&server, Some(&new));
    tls.log.wait_for_line("TLS files reloaded").await;
    connect_and_call(&tls, &ca, Some(&a)).await.unwrap_err();
    connect_and_call(&tls, &ca, Some(&b)).await.unwrap();
    call(&mut before).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_new_files_keep_old_certificate() {
    let ca = Ca::new("ours");
    let (first, second) = (ca.server(), ca.server());
    let mut tls = start(&first, None).await;
    let address = tls.server.address;

    tls.files.replace("server.pem", &second.certificate);
    tls.log.wait_for_line("is not the key of the certificate").await;
    assert_eq!(served_certificate(address, &ca).await, parse_certificate(&first));
    tls.files.replace("server.pem", &second.certificate[..second.certificate.len() / 2]);
    tls.log.wait_for_line("cut short").await;
    assert_eq!(served_certificate(address, &ca).await, parse_certificate(&first));
    std::fs::remove_file(tls.files.path("server.pem")).unwrap();
    tls.log.wait_for_line("No such file").await;
    assert_eq!(served_certificate(address, &ca).await, parse_certificate(&first));

    tls.files.swap(&second, None);
    tls.log.wait_for_line("TLS files reloaded").await;
    assert_eq!(served_certificate(address, &ca).await, parse_certificate(&second));
}

/// More silent connections than the limit on handshakes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_do_not_block_handshakes() {
    let ca = Ca::new("ours");
    let fixed = FixedLimits { max_handshakes: 4, handshake_timeout: Duration::from_secs(3_600), ..Default::default() };
    let (files, database) = (Files::new(&ca.server(), None), Database::new(Backend::Sqlite).await);
    let limits = Limits { fixed, ..defaults() };
    let server = EmbeddedServer::start_with(&database, limits, defaults(), Some(files.server())).await;
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    call(&mut admin(server.address, &ca, None).await.unwrap()).await.unwrap();
    // The server closed the oldest connection to make room.
    let mut nothing = Vec::new();
    with_timeout("the connection to be closed", silent[0].read_to_end(&mut nothing)).await.ok();
    assert_eq!(nothing, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_survives_exhausted_file_descriptors() {
    let database = Database::new(Backend::Sqlite).await;
    let (mut server, mut log) = Server::launch_with_log(&database.url, &[]).await;
    server.ready().await;
    server.admin().await.create("a").await;
    let limited = Command::new("prlimit").args(["--nofile=64", "--pid", &server.id().to_string()]).status();
    assert!(limited.await.unwrap().success());
    let mut many = Vec::new();
    for _ in 0..100 {
        many.push(TcpStream::connect(server.address).await.unwrap());
    }
    log.wait_for_line("accept failed").await;
    drop(many);
    assert_eq!(server.admin().await.get("a").await.key, "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_plaintext_requires_allow_plaintext() {
    let refused = [
        (&["--listen", "0.0.0.0:0"][..], &[][..]),
        (&["--listen", "[::]:0"], &[]),
        (&["--listen", "0.0.0.0:0"], &[("TOGGLED_ALLOW_PLAINTEXT", "false")]),
    ];
    for (arguments, settings) in refused {
        let stderr = error_line(arguments, settings).await;
        assert!(stderr.contains("--tls-certificate") && stderr.contains("--allow-plaintext"), "{stderr}");
    }
    let database = Database::new(Backend::Sqlite).await;
    let settings = [("TOGGLED_LISTEN", "0.0.0.0:0"), ("TOGGLED_ALLOW_PLAINTEXT", "true")];
    Server::launch(&database.url, &settings).await.ready().await;
}

#[tokio::test]
async fn unusable_files_print_one_line_and_exit_with_2() {
    let ca = Ca::new("ours");
    let (mine, other) = (ca.server(), ca.server());
    let files = Files::new(&mine, Some(&ca));
    let garbled = mine.certificate.replace("MI", "!!");
    let more = [("other.key", &other.key), ("garbled.pem", &garbled), ("empty.pem", &String::new())];
    for (name, text) in more {
        files.replace(name, text);
    }
    // Certificate, key and client CA, and the text that the error must contain.
    let cases = [
        (["server.pem", "other.key", ""], "other.key"),
        (["server.pem", "server.pem", ""], "server.pem"),
        (["server.key", "server.key", ""], "server.key"),
        (["nothing.pem", "server.key", ""], "nothing.pem"),
        (["garbled.pem", "server.key", ""], "garbled.pem"),
        (["server.pem", "empty.pem", ""], "empty.pem"),
        (["server.pem", "server.key", "empty.pem"], "empty.pem"),
        (["server.pem", "server.key", "garbled.pem"], "garbled.pem"),
        (["server.pem", "", ""], "--tls-key"),
        (["", "server.key", ""], "--tls-certificate"),
        (["", "", "clients.pem"], "--client-ca"),
    ];
    for (names, expected) in cases {
        let paths = names.map(|name| files.path(name));
        let given = ["--tls-certificate", "--tls-key", "--client-ca"].into_iter().zip(&paths).zip(names);
        let given = given.filter(|(_, name)| !name.is_empty()).flat_map(|((flag, path), _)| [flag, path]);
        let stderr = error_line(&given.collect::<Vec<_>>(), &[]).await;
        assert!(stderr.contains(expected), "{names:?}: {stderr}");
    }
}

/// Runs the program, which must fail, and returns its one line on standard error.
async fn error_line(arguments: &[&str], settings: &[(&str, &str)]) -> String {
    let output = invoke(arguments, settings).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(2), 1), "{arguments:?} {settings:?}: {stderr}");
    assert!(!stderr.contains("panicked") && output.stdout.is_empty(), "{stderr}");
    stderr
}
