//! Certificates, and a client that speaks TLS. It is not tonic's own: the server's build would then have more of tonic
//! in it than the one that is shipped.

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

use super::{Client, TOKEN, soon};

/// Somebody who issues certificates.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
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

    /// For a server on this machine.
    pub fn server(&self) -> Identity {
        self.issue(CertificateParams::new(vec!["localhost".to_owned()]).unwrap())
    }

    /// For a client.
    pub fn client(&self, uri: &str) -> Identity {
        self.client_until(&[uri], None)
    }

    /// For a client with these names, until some time.
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

/// A folder of files that a server reads, replaced all at once as Kubernetes does: `live` is a symbolic link to a folder.
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

    pub fn path(&self, name: &str) -> String {
        self.path_buf(&format!("live/{name}")).into_os_string().into_string().unwrap()
    }

    fn path_buf(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts other files in their place, all at once.
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

    /// Puts another file in the place of one.
    pub fn replace(&self, name: &str, text: &str) {
        fs::write(self.path_buf("next.pem"), text).unwrap();
        fs::rename(self.path_buf("next.pem"), self.path(name)).unwrap();
    }
}

/// A connection to a server on this machine whose certificate `ca` has issued.
pub async fn connect(
    address: SocketAddr,
    ca: &Ca,
    identity: Option<&Identity>,
) -> std::io::Result<TlsStream<TcpStream>> {
    connect_by(&connector(ca, identity), address).await
}

/// The same, by a connector that remembers earlier sessions.
pub async fn connect_by(connector: &TlsConnector, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    soon("a TLS connection", connector.connect("localhost".try_into().unwrap(), stream)).await
}

/// Makes connections to servers whose certificate `ca` has issued.
pub fn connector(ca: &Ca, identity: Option<&Identity>) -> TlsConnector {
    TlsConnector::from(Arc::new(config(ca, identity)))
}

/// A connection of a client that names these protocols.
pub async fn connect_speaking(
    address: SocketAddr,
    ca: &Ca,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut config = config(ca, None);
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    connect_by(&TlsConnector::from(Arc::new(config)), address).await
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

/// A client on one TLS connection. Not by `Endpoint::connect`, which would connect again.
pub async fn client(
    address: SocketAddr,
    ca: &Ca,
    identity: Option<&Identity>,
    token: Option<&str>,
) -> std::io::Result<Client> {
    let mut stream = Some(connect(address, ca, identity).await?);
    let connector = service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| std::io::Error::other("the connection is gone"));
        std::future::ready(stream.map(TokioIo::new))
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = soon("a channel", endpoint.connect_with_connector(connector)).await.map_err(std::io::Error::other)?;
    Ok(Client::on(channel, token))
}

/// The certificate that a server shows to who connects now.
pub async fn shown(address: SocketAddr, ca: &Ca) -> Option<CertificateDer<'static>> {
    let stream = connect(address, ca, None).await.ok()?;
    stream.get_ref().1.peer_certificates()?.first().cloned()
}

/// The same, as it was issued.
pub fn leaf(identity: &Identity) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(identity.certificate.as_bytes()).ok()
}
