//! Certificates, and a client that connects with TLS. It does not use tonic's TLS client: that needs a Cargo feature of
//! tonic which the shipped program is built without.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::Endpoint;
use tower::service_fn;

use super::{Client, TOKEN, with_timeout};

/// A certificate authority.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its private key, as PEM.
#[derive(Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server certificate for `localhost`.
    pub fn server(&self) -> Identity {
        self.issue(CertificateParams::new(vec!["localhost".to_owned()]).unwrap())
    }

    /// A client certificate with one URI name.
    pub fn client(&self, uri: &str) -> Identity {
        self.client_until(&[uri], None)
    }

    /// A client certificate with these URI names, valid until `end`.
    pub fn client_until(&self, uris: &[&str], end: Option<SystemTime>) -> Identity {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.not_after = end.map_or(params.not_after, Into::into);
        self.issue(params)
    }

    fn issue(&self, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        Identity { certificate: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// The certificate files of a server. They are replaced atomically, as Kubernetes does: `live` is a symbolic link to the
/// current folder.
pub struct Files {
    folder: TempDir,
    generation: u32,
}

impl Files {
    pub fn new(identity: &Identity, client_ca: Option<&Ca>) -> Self {
        let mut files = Self { folder: TempDir::new().unwrap(), generation: 0 };
        files.swap(identity, client_ca);
        files
    }

    /// The files of a server that demands no client certificates.
    pub fn server(&self) -> toggled::tls::TlsFiles {
        let [certificate, key] = ["server.pem", "server.key"].map(|name| self.path(name).into());
        toggled::tls::TlsFiles { certificate, key, client_ca: None }
    }

    pub fn path(&self, name: &str) -> String {
        self.path_buf(&format!("live/{name}")).into_os_string().into_string().unwrap()
    }

    fn path_buf(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces all files atomically.
    pub fn swap(&mut self, identity: &Identity, client_ca: Option<&Ca>) {
        self.generation += 1;
        let folder = self.path_buf(&self.generation.to_string());
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("server.pem"), &identity.certificate).unwrap();
        fs::write(folder.join("server.key"), &identity.key).unwrap();
        if let Some(ca) = client_ca {
            fs::write(folder.join("clients.pem"), ca.pem()).unwrap();
        }
        symlink(&folder, self.path_buf("next")).unwrap();
        fs::rename(self.path_buf("next"), self.path_buf("live")).unwrap();
    }

    /// Replaces a single file.
    pub fn replace(&self, name: &str, text: &str) {
        fs::write(self.path_buf("next.pem"), text).unwrap();
        fs::rename(self.path_buf("next.pem"), self.path(name)).unwrap();
    }
}

/// Connects to a local server whose certificate was issued by `ca`.
pub async fn connect(
    address: SocketAddr,
    ca: &Ca,
    identity: Option<&Identity>,
) -> std::io::Result<TlsStream<TcpStream>> {
    connect_with(&connector(ca, identity), address).await
}

/// Like [`connect`], with a connector that resumes earlier TLS sessions.
pub async fn connect_with(connector: &TlsConnector, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    with_timeout("a TLS connection", connector.connect("localhost".try_into().unwrap(), stream)).await
}

/// A connector to servers whose certificate was issued by `ca`.
pub fn connector(ca: &Ca, identity: Option<&Identity>) -> TlsConnector {
    TlsConnector::from(Arc::new(config(ca, identity)))
}

/// Like [`connect`], offering these protocols by ALPN.
pub async fn connect_with_alpn(
    address: SocketAddr,
    ca: &Ca,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = config(ca, None);
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    connect_with(&TlsConnector::from(Arc::new(config)), address).await
}

/// A connection over HTTP/1.1 with a client certificate.
pub async fn connect_http1(address: SocketAddr, ca: &Ca, identity: &Identity) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = config(ca, Some(identity));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    connect_with(&TlsConnector::from(Arc::new(config)), address).await
}

fn config(ca: &Ca, identity: Option<&Identity>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(Identity { certificate, key }) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// A client with the administrator's token, on one TLS connection.
pub async fn admin(address: SocketAddr, ca: &Ca, identity: Option<&Identity>) -> std::io::Result<Client> {
    client(address, ca, identity, Some(TOKEN)).await
}

/// A client on one TLS connection. `Endpoint::connect` would reconnect, so it is not used.
pub async fn client(
    address: SocketAddr,
    ca: &Ca,
    identity: Option<&Identity>,
    token: Option<&str>,
) -> std::io::Result<Client> {
    let mut stream = Some(connect(address, ca, identity).await?);
    let connector = service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| std::io::Error::other("the connection was closed"));
        std::future::ready(stream.map(TokioIo::new))
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel =
        with_timeout("a channel", endpoint.connect_with_connector(connector)).await.map_err(std::io::Error::other)?;
    Ok(Client::with_channel(channel, token))
}

/// The certificate that a server presents to a new connection.
pub async fn served_certificate(address: SocketAddr, ca: &Ca) -> Option<CertificateDer<'static>> {
    let stream = connect(address, ca, None).await.ok()?;
    stream.get_ref().1.peer_certificates()?.first().cloned()
}

/// The certificate of an identity, to compare with [`served_certificate`].
pub fn parse_certificate(identity: &Identity) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(identity.certificate.as_bytes()).ok()
}
