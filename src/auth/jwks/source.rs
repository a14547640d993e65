//! Reads the issuer's keys from a file or a URL.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Url};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::JwksError;

/// Maximum size of the document, in bytes.
const MAX_DOCUMENT_BYTES: usize = 1 << 20;

/// The most redirects that a fetch follows. Each must lead to another https URL.
const MAX_REDIRECTS: usize = 3;

/// The most concurrent reads of a file. A read that hangs keeps its thread until the file system answers. With a limit of
/// one, a single hanging read would block reads of the file that replaced it.
pub(super) const MAX_FILE_READS: usize = 8;

/// The location of the issuer's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file.
    File(PathBuf),
    /// An https URL.
    Url(Url),
}

impl KeySource {
    /// Parses a path or an https URL. Plain http is not enough: an attacker who can replace the keys in transit can
    /// impersonate every user.
    ///
    /// # Errors
    /// The rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const RULE: &str = "must be the path of a file or an https:// URL without user and password";
        if text.is_empty() {
            return Err(RULE);
        }
        if !text.contains("://") {
            return Ok(Self::File(text.into()));
        }
        let url = Url::parse(text).map_err(|_| RULE)?;
        let valid = url.username().is_empty() && url.password().is_none() && url.has_host();
        if url.scheme() == "https" && valid { Ok(Self::Url(url)) } else { Err(RULE) }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

/// Reads the document from its source.
pub(super) enum KeyReader {
    File(PathBuf, Arc<Semaphore>),
    Url(Url, Client),
}

impl KeyReader {
    /// The HTTP client trusts the root certificates of the system, or those in `SSL_CERT_FILE`.
    pub fn new(source: KeySource) -> Result<Self, JwksError> {
        Self::with_client(source, http_client())
    }

    pub fn with_client(source: KeySource, client: ClientBuilder) -> Result<Self, JwksError> {
        Ok(match source {
            KeySource::File(path) => Self::File(path, Arc::new(Semaphore::new(MAX_FILE_READS))),
            KeySource::Url(url) => Self::Url(url, client.build().map_err(JwksError::Client)?),
        })
    }

    /// Reads the document. The caller sets the time limit.
    pub async fn read(&self) -> Result<Vec<u8>, JwksError> {
        let document = match self {
            Self::File(path, permits) => read_file(path.clone(), permits).await?,
            Self::Url(url, client) => fetch(client, url.clone()).await?,
        };
        if document.len() > MAX_DOCUMENT_BYTES { Err(JwksError::TooLarge) } else { Ok(document) }
    }
}

/// The HTTP client that fetches keys.
pub(super) fn http_client() -> ClientBuilder {
    // Fails only if a provider is installed already, and any provider will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .https_only(true)
        .redirect(Policy::limited(MAX_REDIRECTS))
        .user_agent(concat!("toggled/", env!("CARGO_PKG_VERSION")))
}

/// Reads a file up to the size limit. Without the limit, an endless file would block a thread forever.
async fn read_file(path: PathBuf, permits: &Arc<Semaphore>) -> Result<Vec<u8>, JwksError> {
    fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
        let mut document = Vec::new();
        File::open(path)?.take(MAX_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut document)?;
        Ok(document)
    }
    let permit = Arc::clone(permits).acquire_owned().await;
    let read = spawn_blocking(move || {
        let _permit = permit;
        read_limited(&path)
    });
    read.await.map_err(io::Error::from).flatten().map_err(JwksError::File)
}

async fn fetch(client: &Client, url: Url) -> Result<Vec<u8>, JwksError> {
    let failed = |error: reqwest::Error| JwksError::Fetch(error.without_url());
    let mut response = client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
    let mut document = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        document.extend_from_slice(&chunk);
        if document.len() > MAX_DOCUMENT_BYTES {
            break;
        }
    }
    Ok(document)
}

/// The messages of an error and all its sources. The message of a `reqwest` error alone does not name the cause.
pub(super) fn causes(error: &(dyn Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::issuer::Issuer;

    fn reader(issuer: &Issuer, path: &str) -> KeyReader {
        let root = reqwest::Certificate::from_pem(issuer.ca_pem().as_bytes()).unwrap();
        let source = KeySource::parse(&issuer.url(path)).unwrap();
        KeyReader::with_client(source, http_client().tls_certs_only([root]).no_proxy()).unwrap()
    }

    #[test]
    fn source_must_be_path_or_https_url() {
        assert_eq!(KeySource::parse("/etc/keys.json"), Ok(KeySource::File("/etc/keys.json".into())));
        assert_eq!(KeySource::parse("keys.json"), Ok(KeySource::File("keys.json".into())));
        assert!(matches!(KeySource::parse("HTTPS://id.example.com/keys"), Ok(KeySource::Url(_))));
        let bad = [
            "",
            "http://id.example.com/keys",
            "HTTP://x/",
            "file:///etc/keys.json",
            "https://",
            "https://u:p@x/",
            "https://u@x/",
        ];
        for bad in bad {
            assert!(KeySource::parse(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn keys_are_fetched_only_with_trusted_certificate() {
        let issuer = Issuer::start().await;
        let document = reader(&issuer, "/keys").read().await.unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&document).unwrap(), issuer.keys());

        let untrusted = Issuer::start().await;
        let root = reqwest::Certificate::from_pem(untrusted.ca_pem().as_bytes()).unwrap();
        let source = KeySource::parse(&issuer.url("/keys")).unwrap();
        let error = KeyReader::with_client(source, http_client().tls_certs_only([root]).no_proxy())
            .unwrap()
            .read()
            .await
            .unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
    }

    #[tokio::test]
    async fn redirect_is_followed_to_https_only() {
        let issuer = Issuer::start().await;
        assert_eq!(reader(&issuer, "/moved").read().await.unwrap(), issuer.keys().to_string().into_bytes());
        assert!(matches!(reader(&issuer, "/moved-to-http").read().await, Err(JwksError::Fetch(_))));
        assert_eq!(issuer.key_requests(), 1);
        assert!(matches!(reader(&issuer, "/round-and-round").read().await, Err(JwksError::Fetch(_))));
    }

    #[tokio::test]
    async fn endless_or_failed_response_is_an_error() {
        let issuer = Issuer::start().await;
        assert!(matches!(reader(&issuer, "/endless").read().await, Err(JwksError::TooLarge)));
        let missing = reader(&issuer, "/nowhere").read().await.unwrap_err();
        assert!(matches!(missing, JwksError::Fetch(_)) && missing.to_string().contains("404"), "{missing}");
    }
}
