//! Reads the PEM files of TLS and builds the server's configuration from them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

/// The application protocols that the server offers inside TLS, in order of preference.
const APPLICATION_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The paths of the server's TLS files, all in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The server's certificate, followed by its intermediate certificates.
    pub certificate: PathBuf,
    /// The private key of the server's certificate.
    pub key: PathBuf,
    /// The CA certificates that may issue client certificates. If set, clients must present such a certificate.
    pub client_ca: Option<PathBuf>,
}

/// Why TLS files cannot be used. The messages name the file and never quote its contents.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One file cannot be read or has the wrong contents.
    #[error("{}: {source}", path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with the file.
        source: TlsFileError,
    },
    /// The files are valid, but the key does not belong to the certificate.
    #[error("{} is not the key of the certificate in {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The path of the key.
        key: PathBuf,
        /// The path of the certificate.
        certificate: PathBuf,
    },
}

/// What is wrong with a TLS file.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// The file cannot be read.
    #[error("cannot be read: {0}; check the path and the file's permissions")]
    Read(#[from] io::Error),
    /// The file contains no item of this kind.
    #[error("no {0} in it (PEM)")]
    Missing(&'static str),
    /// The file is not valid PEM. The parser's own error is dropped: it would quote the file.
    #[error("not PEM, or cut short")]
    NotPem,
    /// TLS does not accept the certificate or key.
    #[error("{0}")]
    Rejected(#[from] rustls::Error),
    /// The client CA cannot be used.
    #[error("{0}")]
    ClientCa(#[from] VerifierBuilderError),
}

impl TlsError {
    fn file(path: &Path, source: impl Into<TlsFileError>) -> Self {
        Self::File { path: path.to_owned(), source: source.into() }
    }
}

/// SHA-256 of each file, which tells whether a file has changed without keeping a second copy of the key.
pub(super) type FileDigests = [Option<[u8; 32]>; 3];

/// The contents of the files.
pub(super) struct PemFiles {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl PemFiles {
    pub async fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read(&files.certificate).await?,
            key: read(&files.key).await?,
            client_ca: match &files.client_ca {
                Some(path) => Some(read(path).await?),
                None => None,
            },
        })
    }

    pub fn digests(&self) -> FileDigests {
        let files = [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()];
        files.map(|bytes| bytes.map(|bytes| Sha256::digest(bytes).into()))
    }

    pub fn server_config(&self, files: &TlsFiles) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let chain = parse_certificates(&files.certificate, &self.certificate)?;
        let key = parse_private_key(&files.key, &self.key)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::file(&files.certificate, e))?;
        let builder = match files.client_ca.as_deref().zip(self.client_ca.as_deref()) {
            Some((path, bytes)) => builder.with_client_cert_verifier(client_verifier(path, bytes, provider)?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::KeyMismatch { key: files.key.clone(), certificate: files.certificate.clone() }
            }
            rustls::Error::InvalidCertificate(_) => TlsError::file(&files.certificate, error),
            error => TlsError::file(&files.key, error),
        })?;
        config.alpn_protocols = APPLICATION_PROTOCOLS.map(<[u8]>::to_vec).into();
        if files.client_ca.is_some() {
            // A resumed session skips the check of the client's certificate, which may have expired since.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(config)
    }
}

/// Requires a client certificate that one of the CAs in this file has issued.
fn client_verifier(
    path: &Path,
    bytes: &[u8],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in parse_certificates(path, bytes)? {
        roots.add(certificate).map_err(|e| TlsError::file(path, e))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    builder.build().map_err(|e| TlsError::file(path, e))
}

/// Reads a file of certificates for a TLS client. Returns the file's contents in PEM.
///
/// # Errors
/// When the file contains no certificate.
pub async fn read_certificates(path: &Path) -> Result<Vec<u8>, TlsError> {
    let bytes = read(path).await?;
    parse_certificates(path, &bytes).map(|_| bytes)
}

/// Reads a file with a private key for a TLS client. Returns the file's contents in PEM.
///
/// # Errors
/// When the file contains no private key.
pub async fn read_private_key(path: &Path) -> Result<Vec<u8>, TlsError> {
    let bytes = read(path).await?;
    parse_private_key(path, &bytes).map(|_| bytes)
}

async fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    tokio::fs::read(path).await.map_err(|e| TlsError::file(path, e))
}

fn parse_certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.and_then(|found| if found.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(found) });
    found.map_err(|e| TlsError::file(path, pem_problem(&e, "certificate")))
}

fn parse_private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|e| TlsError::file(path, pem_problem(&e, "private key")))
}

fn pem_problem(error: &pem::Error, expected: &'static str) -> TlsFileError {
    match error {
        pem::Error::NoItemsFound => TlsFileError::Missing(expected),
        _ => TlsFileError::NotPem,
    }
}
