//! TLS: the certificate, key and client CA are read from files, and read again when they change.

mod certificate;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{Error, RootCertStore, ServerConfig};

pub use certificate::ClientCertificate;

/// How often the files are looked at. Their contents are compared: neither a rename nor a swapped symbolic link, which
/// is how Kubernetes replaces them, can be missed.
const POLL: Duration = Duration::from_secs(1);

/// What a client may speak inside TLS, the best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A connection inside TLS.
pub type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

/// Where certificate and key are. All are PEM.
#[derive(Debug, Clone)]
pub struct Files {
    /// The server's certificate, and after it those that vouch for it.
    pub certificate: PathBuf,
    /// The key of the server's certificate.
    pub key: PathBuf,
    /// Who may vouch for clients. With it, a client without a certificate is refused.
    pub client_ca: Option<PathBuf>,
}

/// Why files cannot be used: a line that names the file and repeats nothing of what is in it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One file cannot be read, or is not what it should be.
    #[error("{}: {problem}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Each file is right, but they do not belong together.
    #[error("{} is not the key of the certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// The file of the key.
        key: PathBuf,
        /// The file of the certificate.
        certificate: PathBuf,
    },
}

impl TlsError {
    fn file(path: &Path, problem: impl fmt::Display) -> Self {
        Self::File { path: path.to_owned(), problem: problem.to_string() }
    }
}

/// The server's side of TLS, as the files have it.
pub struct Tls {
    files: Files,
    current: watch::Sender<Current>,
}

/// What new connections use, and what was in the files that it was made from.
struct Current {
    contents: Contents,
    config: Arc<ServerConfig>,
}

/// What is in the files, told apart by SHA-256, so that the key is not kept twice.
type Contents = [Option<[u8; 32]>; 3];

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When they cannot be used.
    pub async fn load(files: Files) -> Result<Self, TlsError> {
        let pem = Pem::read(&files).await?;
        let current = Current { contents: pem.contents(), config: Arc::new(pem.config(&files)?) };
        Ok(Self { files, current: watch::Sender::new(current) })
    }

    /// Takes up a connection; the client's certificate is there if one is demanded.
    ///
    /// # Errors
    /// When the client is not served.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream, Option<ClientCertificate>)> {
        let config = Arc::clone(&self.current.borrow().config);
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = leaf.map(|leaf| ClientCertificate::read(leaf)).transpose()?;
        Ok((stream, certificate))
    }

    /// Reads the files whenever they have changed, for as long as it is polled. New connections use the new ones; while
    /// those cannot be used, the old.
    pub async fn follow(&self) {
        let mut told = None;
        loop {
            tokio::time::sleep(POLL).await;
            match self.look(&mut told).await {
                Some(Ok(())) => tracing::info!("the TLS files have changed: new connections use the new ones"),
                Some(Err(problem)) => {
                    tracing::warn!(%problem, "the TLS files cannot be used as they are now: the old stay")
                }
                None => {}
            }
        }
    }

    /// What there is to tell after looking at the files once. A problem that has been `told` is not told again.
    async fn look(&self, told: &mut Option<String>) -> Option<Result<(), String>> {
        match self.reload().await {
            Ok(changed) => {
                *told = None;
                changed.then_some(Ok(()))
            }
            Err(problem) => {
                let problem = problem.to_string();
                let before = told.replace(problem.clone());
                (before.as_ref() != Some(&problem)).then_some(Err(problem))
            }
        }
    }

    /// Whether there was something new.
    async fn reload(&self) -> Result<bool, TlsError> {
        let pem = Pem::read(&self.files).await?;
        let contents = pem.contents();
        if contents == self.current.borrow().contents {
            return Ok(false);
        }
        let config = Arc::new(pem.config(&self.files)?);
        self.current.send_replace(Current { contents, config });
        Ok(true)
    }
}

/// The files' bytes.
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Pem {
    async fn read(files: &Files) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read(&files.certificate).await?,
            key: read(&files.key).await?,
            client_ca: match &files.client_ca {
                Some(path) => Some(read(path).await?),
                None => None,
            },
        })
    }

    fn contents(&self) -> Contents {
        let files = [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()];
        files.map(|bytes| bytes.map(|bytes| Sha256::digest(bytes).into()))
    }

    fn config(&self, files: &Files) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates(&files.certificate, &self.certificate)?;
        let key = private_key(&files.key, &self.key)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::file(&files.certificate, e))?;
        let builder = match files.client_ca.as_deref().zip(self.client_ca.as_deref()) {
            Some((path, bytes)) => builder.with_client_cert_verifier(verifier(path, bytes, provider)?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            Error::InconsistentKeys(_) => {
                TlsError::Mismatch { key: files.key.clone(), certificate: files.certificate.clone() }
            }
            Error::InvalidCertificate(_) => TlsError::file(&files.certificate, error),
            error => TlsError::file(&files.key, error),
        })?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        if files.client_ca.is_some() {
            // A session that is taken up again does not look at the client's certificate again, which may have expired.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(config)
    }
}

/// Demands a certificate that one of these has issued.
fn verifier(path: &Path, bytes: &[u8], provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, bytes)? {
        roots.add(certificate).map_err(|e| TlsError::file(path, e))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    builder.build().map_err(|e| TlsError::file(path, e))
}

/// The certificates in a file, as they stand there (PEM), for a client of TLS.
///
/// # Errors
/// When there are none in it.
pub async fn certificates_in(path: &Path) -> Result<Vec<u8>, TlsError> {
    let bytes = read(path).await?;
    certificates(path, &bytes).map(|_| bytes)
}

/// The private key in a file, as it stands there (PEM), for a client of TLS.
///
/// # Errors
/// When there is none in it.
pub async fn key_in(path: &Path) -> Result<Vec<u8>, TlsError> {
    let bytes = read(path).await?;
    private_key(path, &bytes).map(|_| bytes)
}

async fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    tokio::fs::read(path).await.map_err(|e| TlsError::file(path, e))
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.and_then(|found| if found.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(found) });
    found.map_err(|e| not_pem(path, &e, "certificate"))
}

fn private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|e| not_pem(path, &e, "private key"))
}

/// The parser's own words would repeat what is in the file.
fn not_pem(path: &Path, error: &pem::Error, what: &str) -> TlsError {
    match error {
        pem::Error::NoItemsFound => TlsError::file(path, format!("no {what} in it (PEM)")),
        _ => TlsError::file(path, "not PEM, or cut short"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[tokio::test]
    async fn a_problem_is_told_once_and_again_when_it_comes_back() {
        let folder = TempDir::new().unwrap();
        let [certificate, key] = ["certificate", "key"].map(|name| folder.path().join(name));
        let ((first, first_key), (second, second_key)) = (pair(), pair());
        std::fs::write(&certificate, &first).unwrap();
        std::fs::write(&key, &first_key).unwrap();
        let files = Files { certificate: certificate.clone(), key: key.clone(), client_ca: None };
        let tls = Tls::load(files).await.unwrap();
        let mut told = None;
        assert_eq!(tls.look(&mut told).await, None, "nothing has changed");

        for _ in 0..2 {
            std::fs::write(&certificate, &second).unwrap();
            let problem = tls.look(&mut told).await.unwrap().unwrap_err();
            assert!(problem.contains("is not the key of"), "{problem}");
            assert_eq!(tls.look(&mut told).await, None, "the same again");
            std::fs::write(&certificate, &second[..200]).unwrap();
            let problem = tls.look(&mut told).await.unwrap().unwrap_err();
            assert!(problem.contains("cut short"), "{problem}");
            std::fs::write(&certificate, &first).unwrap();
            assert_eq!(tls.look(&mut told).await, None, "as it was");
        }
        std::fs::write(&certificate, &second).unwrap();
        std::fs::write(&key, &second_key).unwrap();
        assert_eq!(tls.look(&mut told).await, Some(Ok(())));
        assert_eq!(tls.look(&mut told).await, None);
    }

    #[tokio::test]
    async fn what_is_in_the_key_is_never_repeated() {
        let folder = TempDir::new().unwrap();
        let [certificate, key] = ["certificate", "key"].map(|name| folder.path().join(name));
        std::fs::write(&certificate, pair().0).unwrap();
        for secret in ["-----BEGIN my secret\n", "-----BEGIN PRIVATE KEY-----\nmy secret\n-----END PRIVATE KEY-----\n"]
        {
            std::fs::write(&key, secret).unwrap();
            let files = Files { certificate: certificate.clone(), key: key.clone(), client_ca: None };
            let problem = Tls::load(files).await.map(drop).unwrap_err().to_string();
            assert!(problem.starts_with(&key.display().to_string()) && !problem.contains("secret"), "{problem}");
        }
    }
}
