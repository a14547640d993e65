//! A local token issuer. It implements only OpenID Connect's key document (JWKS), served over HTTPS.
#![allow(dead_code, reason = "the unit tests share this file, and each side uses a part")]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::signing::{Key, jwks};

/// The `aud` claim of its tokens.
pub const AUDIENCE: &str = "toggled";

/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 22;

/// A running issuer, stopped on drop.
pub struct Issuer {
    name: String,
    keys_url: String,
    site: Arc<Site>,
    acceptor: TlsAcceptor,
    accepting: Mutex<Option<JoinHandle<()>>>,
    ca: String,
    ca_file: String,
    _folder: TempDir,
}

struct Site {
    address: SocketAddr,
    keys: Mutex<Vec<Key>>,
    /// How many requests for the keys were served.
    key_requests: watch::Sender<usize>,
}

impl Issuer {
    /// Starts an issuer with one key. It has a loopback address of its own, so that its port stays free while it is stopped.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.3:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (acceptor, ca) = certificates();
        let folder = TempDir::new().unwrap();
        let ca_file = folder.path().join("ca.pem");
        fs::write(&ca_file, &ca).unwrap();
        let site = Site { address, keys: Mutex::new(vec![Key::p256("first")]), key_requests: watch::Sender::new(0) };
        let issuer = Self {
            name: format!("https://{address}"),
            keys_url: format!("https://{address}/keys"),
            site: Arc::new(site),
            acceptor,
            accepting: Mutex::default(),
            ca,
            ca_file: ca_file.to_str().unwrap().to_owned(),
            _folder: folder,
        };
        issuer.serve(listener);
        issuer
    }

    /// Stops the issuer and frees its port.
    pub async fn stop(&self) {
        let accepting = self.accepting.lock().unwrap().take().expect("the issuer is running");
        accepting.abort();
        // The port is free once the task has ended.
        let _ = accepting.await;
    }

    /// Starts a stopped issuer again, at the same address.
    pub async fn restart(&self) {
        self.serve(TcpListener::bind(self.site.address).await.unwrap());
    }

    fn serve(&self, listener: TcpListener) {
        let accepting = tokio::spawn(accept(listener, self.acceptor.clone(), Arc::clone(&self.site)));
        assert!(self.accepting.lock().unwrap().replace(accepting).is_none(), "the issuer is already running");
    }

    /// Replaces the keys. New tokens are signed with the first.
    pub fn rotate(&self, keys: Vec<Key>) {
        *self.site.keys.lock().unwrap() = keys;
    }

    /// The key document (JWKS).
    pub fn keys(&self) -> Value {
        self.site.keys()
    }

    /// A signed token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.site.keys.lock().unwrap()[0].token(claims)
    }

    /// The claims of a valid token for a user with these permissions. It expires after five minutes.
    pub fn claims(&self, email: &str, permissions: &[&str]) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        json!({
            "iss": self.name, "aud": AUDIENCE, "sub": format!("subject of {email}"), "iat": now, "exp": now + 300,
            "email": email, "email_verified": true, "permissions": permissions,
        })
    }

    /// How many requests for the keys were served.
    pub fn key_requests(&self) -> usize {
        *self.site.key_requests.borrow()
    }

    /// Waits until at least this many requests for the keys were served.
    pub async fn wait_for_key_requests(&self, count: usize) {
        self.site.key_requests.subscribe().wait_for(|served| *served >= count).await.unwrap();
    }

    /// The `iss` claim of its tokens.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL of a path on the issuer's site.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.name)
    }

    /// The CA of its certificate, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca
    }

    /// The CA in a file, for `SSL_CERT_FILE`.
    pub fn ca_file(&self) -> PathBuf {
        (&self.ca_file).into()
    }

    /// The environment of a server that trusts this issuer.
    pub fn settings(&self) -> Vec<(&str, &str)> {
        vec![
            ("TOGGLED_OIDC_ISSUER", &self.name),
            ("TOGGLED_OIDC_AUDIENCE", AUDIENCE),
            ("TOGGLED_OIDC_JWKS", &self.keys_url),
            ("SSL_CERT_FILE", &self.ca_file),
        ]
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.lock().unwrap().take() {
            accepting.abort();
        }
    }
}

/// A new CA, and a TLS acceptor with a certificate from it.
fn certificates() -> (TlsAcceptor, String) {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.distinguished_name.push(DnType::CommonName, "the root of the tests");
    let root_key = KeyPair::generate().unwrap();
    let pem = root.self_signed(&root_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.3".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &rcgen::Issuer::new(root, root_key)).unwrap();
    let secret = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], secret).unwrap();
    (TlsAcceptor::from(Arc::new(config)), pem)
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, site: Arc<Site>) {
    let mut answering = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, site) = (acceptor.clone(), Arc::clone(&site));
        answering.spawn(async move {
            let mut first = [0];
            stream.peek(&mut first).await?;
            // Plain HTTP is served on the same port, for tests of clients that must not use it.
            if first == [TLS_HANDSHAKE] {
                // A client that does not trust the certificate closes the connection.
                site.answer(BufStream::new(acceptor.accept(stream).await?)).await
            } else {
                site.answer(BufStream::new(stream)).await
            }
        });
    }
}

impl Site {
    fn keys(&self) -> Value {
        jwks(&*self.keys.lock().unwrap())
    }

    /// Answers one request, and closes the connection.
    async fn answer(&self, mut stream: BufStream<impl AsyncRead + AsyncWrite + Unpin>) -> std::io::Result<()> {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let mut rest = String::new();
        while stream.read_line(&mut rest).await? > 2 {
            rest.clear();
        }
        let (status, body) = match line.split(' ').nth(1).unwrap_or_default() {
            "/keys" => {
                self.key_requests.send_modify(|served| *served += 1);
                ("200 OK".to_owned(), self.keys().to_string())
            }
            "/moved" => ("302 Found\r\nlocation: /keys".to_owned(), String::new()),
            "/moved-to-http" => (format!("302 Found\r\nlocation: http://{}/keys", self.address), String::new()),
            "/round-and-round" => ("302 Found\r\nlocation: /round-and-round".to_owned(), String::new()),
            "/endless" => return write_endlessly(stream).await,
            _ => ("404 Not Found".to_owned(), String::new()),
        };
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await?;
        stream.flush().await?;
        stream.shutdown().await
    }
}

/// Sends a response until the client closes the connection.
async fn write_endlessly(mut stream: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await?;
    loop {
        stream.write_all(&[b' '; 65_536]).await?;
    }
}
