//! Where the issuer's keys are read from.

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

use super::KeysError;

/// The most that a document of keys may hold, in bytes.
const LIMIT: usize = 1 << 20;

/// How often the issuer may send us elsewhere; always to another https address.
const REDIRECTS: usize = 3;

/// How many readings of a file may hang at once. Each keeps a thread until its file system answers, and the threads are
/// needed elsewhere; one alone would be stuck for ever with a file that has been replaced since.
pub(super) const HANGING: usize = 8;

/// Where the issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// In a file.
    File(PathBuf),
    /// At an https address.
    Url(Url),
}

impl KeySource {
    /// A path or an https URL. Whoever can change the keys on their way can be anybody, so nothing less will do.
    ///
    /// # Errors
    /// The rule that it breaks, for a person.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const RULE: &str = "must be the path of a file or an https:// URL without user and password";
        if text.is_empty() {
            return Err(RULE);
        }
        if !text.contains("://") {
            return Ok(Self::File(text.into()));
        }
        let url = Url::parse(text).map_err(|_| RULE)?;
        let plain = url.username().is_empty() && url.password().is_none() && url.has_host();
        if url.scheme() == "https" && plain { Ok(Self::Url(url)) } else { Err(RULE) }
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

/// A source and what reads it.
pub(super) enum Reader {
    File(PathBuf, Arc<Semaphore>),
    Url(Url, Client),
}

impl Reader {
    /// The roots that the client trusts are the system's, or those in `SSL_CERT_FILE`.
    pub fn new(source: KeySource) -> Result<Self, KeysError> {
        Self::with(source, client())
    }

    pub fn with(source: KeySource, client: ClientBuilder) -> Result<Self, KeysError> {
        Ok(match source {
            KeySource::File(path) => Self::File(path, Arc::new(Semaphore::new(HANGING))),
            KeySource::Url(url) => Self::Url(url, client.build().map_err(|e| KeysError::Client(causes(&e)))?),
        })
    }

    /// The document as it is now. How long that may take is for the caller to say.
    pub async fn read(&self) -> Result<Vec<u8>, KeysError> {
        let document = match self {
            Self::File(path, places) => read_file(path.clone(), places).await?,
            Self::Url(url, client) => fetch(client, url.clone()).await?,
        };
        if document.len() > LIMIT { Err(KeysError::TooLarge) } else { Ok(document) }
    }
}

/// The client that fetches keys.
pub(super) fn client() -> ClientBuilder {
    // It fails only where there is a provider already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .https_only(true)
        .redirect(Policy::limited(REDIRECTS))
        .user_agent(concat!("toggled/", env!("CARGO_PKG_VERSION")))
}

/// What is in a file. One that has no end is not read to it: nobody can stop the thread that does.
async fn read_file(path: PathBuf, places: &Arc<Semaphore>) -> Result<Vec<u8>, KeysError> {
    fn limited(path: &Path) -> io::Result<Vec<u8>> {
        let mut document = Vec::new();
        File::open(path)?.take(LIMIT as u64 + 1).read_to_end(&mut document)?;
        Ok(document)
    }
    let place = Arc::clone(places).acquire_owned().await;
    let reading = spawn_blocking(move || {
        let _place = place;
        limited(&path)
    });
    reading.await.map_err(io::Error::from).flatten().map_err(|e| KeysError::Unreadable(e.to_string()))
}

async fn fetch(client: &Client, url: Url) -> Result<Vec<u8>, KeysError> {
    let unreadable = |error: reqwest::Error| KeysError::Unreadable(causes(&error.without_url()));
    let mut answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(unreadable)?;
    let mut document = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(unreadable)? {
        document.extend_from_slice(&part);
        if document.len() > LIMIT {
            break;
        }
    }
    Ok(document)
}

/// An error and what led to it: reqwest's own words are only that something went wrong.
fn causes(error: &(dyn Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::issuer::Issuer;

    fn reader(issuer: &Issuer, path: &str) -> Reader {
        let root = reqwest::Certificate::from_pem(issuer.ca_pem().as_bytes()).unwrap();
        let source = KeySource::parse(&issuer.url(path)).unwrap();
        Reader::with(source, client().tls_certs_only([root]).no_proxy()).unwrap()
    }

    #[test]
    fn a_source_is_a_path_or_an_https_url_and_nothing_else() {
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
    async fn keys_are_fetched_over_https_from_an_issuer_with_a_trusted_certificate() {
        let issuer = Issuer::start().await;
        let document = reader(&issuer, "/keys").read().await.unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&document).unwrap(), issuer.keys());

        let stranger = Issuer::start().await;
        let root = reqwest::Certificate::from_pem(stranger.ca_pem().as_bytes()).unwrap();
        let source = KeySource::parse(&issuer.url("/keys")).unwrap();
        let error = Reader::with(source, client().tls_certs_only([root]).no_proxy()).unwrap().read().await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
    }

    #[tokio::test]
    async fn a_redirect_is_followed_to_https_alone() {
        let issuer = Issuer::start().await;
        assert_eq!(reader(&issuer, "/moved").read().await, Ok(issuer.keys().to_string().into_bytes()));
        assert!(matches!(reader(&issuer, "/moved-to-http").read().await, Err(KeysError::Unreadable(_))));
        assert_eq!(issuer.key_requests(), 1);
        assert!(matches!(reader(&issuer, "/round-and-round").read().await, Err(KeysError::Unreadable(_))));
    }

    #[tokio::test]
    async fn an_answer_without_end_or_without_success_is_no_document() {
        let issuer = Issuer::start().await;
        assert_eq!(reader(&issuer, "/endless").read().await, Err(KeysError::TooLarge));
        assert!(
            matches!(reader(&issuer, "/nowhere").read().await, Err(KeysError::Unreadable(why)) if why.contains("404"))
        );
    }
}
