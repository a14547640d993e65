//! TLS of the server: certificate, key and client CA are read from files, and reloaded when the files change.

mod certificate;
mod files;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use files::{FileDigests, PemFiles};

pub use certificate::ClientCertificate;
pub use files::{TlsError, TlsFileError, TlsFiles, read_certificates, read_private_key};

/// How often the files are read to detect changes. Contents are compared, so no way of replacing a file goes unnoticed:
/// neither a rename nor a swapped symbolic link, which is how Kubernetes does it.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// How much of what is sent TLS keeps while the client does not read: one record. rustls would keep four.
const TLS_BUFFER: usize = 16 << 10;

/// A TLS connection of a client.
pub type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

/// The server's side of TLS.
pub struct ServerTls {
    files: TlsFiles,
    current: watch::Sender<LoadedConfig>,
}

/// The configuration for new connections, and the digests of the files that it was made from.
struct LoadedConfig {
    digests: FileDigests,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub async fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let pem = PemFiles::read(&files).await?;
        let loaded = LoadedConfig { digests: pem.digests(), config: Arc::new(pem.server_config(&files)?) };
        Ok(Self { files, current: watch::Sender::new(loaded) })
    }

    /// Performs the handshake with a client. Returns the client's certificate if the server requires one.
    ///
    /// # Errors
    /// When the handshake fails or the client's certificate cannot be read.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream, Option<ClientCertificate>)> {
        let config = Arc::clone(&self.current.borrow().config);
        let mut stream = TlsAcceptor::from(config).accept(stream).await?;
        stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = leaf.map(|leaf| ClientCertificate::read(leaf)).transpose()?;
        Ok((stream, certificate))
    }

    /// Reloads the files when they change, forever. New connections use the new files. While the new files cannot be used, the
    /// last usable ones stay in use.
    pub async fn reload_on_change(&self) {
        let mut last_problem = None;
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            match self.check_files(&mut last_problem).await {
                Some(Ok(())) => tracing::info!("TLS files reloaded"),
                Some(Err(error)) => tracing::warn!(error, "TLS files not reloaded, previous files stay in use"),
                None => {}
            }
        }
    }

    /// Checks the files once and returns what to log. The same problem as `last_problem` is not returned again.
    async fn check_files(&self, last_problem: &mut Option<String>) -> Option<Result<(), String>> {
        match self.reload().await {
            Ok(changed) => {
                *last_problem = None;
                changed.then_some(Ok(()))
            }
            Err(error) => {
                let problem = error.to_string();
                let before = last_problem.replace(problem.clone());
                (before.as_ref() != Some(&problem)).then_some(Err(problem))
            }
        }
    }

    /// Reloads the files if they have changed. Returns whether they have.
    async fn reload(&self) -> Result<bool, TlsError> {
        let pem = PemFiles::read(&self.files).await?;
        let digests = pem.digests();
        if digests == self.current.borrow().digests {
            return Ok(false);
        }
        let config = Arc::new(pem.server_config(&self.files)?);
        self.current.send_replace(LoadedConfig { digests, config });
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A self-signed certificate and its key, in PEM.
    fn pair() -> (String, String) {
        let generated = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (generated.cert.pem(), generated.signing_key.serialize_pem())
    }

    #[tokio::test]
    async fn problem_is_reported_once_per_occurrence() {
        let folder = TempDir::new().unwrap();
        let [certificate, key] = ["certificate", "key"].map(|name| folder.path().join(name));
        let ((first, first_key), (second, second_key)) = (pair(), pair());
        std::fs::write(&certificate, &first).unwrap();
        std::fs::write(&key, &first_key).unwrap();
        let files = TlsFiles { certificate: certificate.clone(), key: key.clone(), client_ca: None };
        let tls = ServerTls::load(files).await.unwrap();
        let mut last_problem = None;
        assert_eq!(tls.check_files(&mut last_problem).await, None, "unchanged files");

        for _ in 0..2 {
            std::fs::write(&certificate, &second).unwrap();
            let problem = tls.check_files(&mut last_problem).await.unwrap().unwrap_err();
            assert!(problem.contains("is not the key of"), "{problem}");
            assert_eq!(tls.check_files(&mut last_problem).await, None, "the same problem");
            std::fs::write(&certificate, &second[..200]).unwrap();
            let problem = tls.check_files(&mut last_problem).await.unwrap().unwrap_err();
            assert!(problem.contains("cut short"), "{problem}");
            std::fs::write(&certificate, &first).unwrap();
            assert_eq!(tls.check_files(&mut last_problem).await, None, "the original files");
        }
        std::fs::write(&certificate, &second).unwrap();
        std::fs::write(&key, &second_key).unwrap();
        assert_eq!(tls.check_files(&mut last_problem).await, Some(Ok(())));
        assert_eq!(tls.check_files(&mut last_problem).await, None);
    }

    #[tokio::test]
    async fn error_does_not_quote_the_key() {
        let folder = TempDir::new().unwrap();
        let [certificate, key] = ["certificate", "key"].map(|name| folder.path().join(name));
        std::fs::write(&certificate, pair().0).unwrap();
        for secret in ["-----BEGIN my secret\n", "-----BEGIN PRIVATE KEY-----\nmy secret\n-----END PRIVATE KEY-----\n"]
        {
            std::fs::write(&key, secret).unwrap();
            let files = TlsFiles { certificate: certificate.clone(), key: key.clone(), client_ca: None };
            let problem = ServerTls::load(files).await.map(drop).unwrap_err().to_string();
            assert!(problem.starts_with(&key.display().to_string()) && !problem.contains("secret"), "{problem}");
        }
    }
}
