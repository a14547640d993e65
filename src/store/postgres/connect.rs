//! Connections to a PostgreSQL database.

use std::io;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection, Error};

use super::error::classify;
use super::session::{Purpose, Session};
use super::url;
use crate::store::StoreError;
use crate::store::error::Cause;

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens connections to one database.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    options: PgConnectOptions,
    session: Session,
}

impl Connector {
    /// For the database of a URL.
    ///
    /// # Errors
    /// A line for an operator, when the URL cannot be used.
    pub fn new(url: &str) -> Result<Self, String> {
        let url = url::parse(url)?;
        Ok(Self { options: url.options, session: Session::new(url.settings) })
    }

    /// The URL without user, password and parameters.
    pub fn describe(&self) -> String {
        let (host, port) = (self.options.get_host(), self.options.get_port());
        let database = self.options.get_database().unwrap_or_default();
        let folder = self.options.get_socket().map(|folder| folder.to_string_lossy());
        match folder.as_deref().or_else(|| host.starts_with('/').then_some(host)) {
            Some(folder) => format!("postgres:///{database}?host={folder}&port={port}"),
            None if host.contains(':') => format!("postgres://[{host}]:{port}/{database}"),
            None => format!("postgres://{host}:{port}/{database}"),
        }
    }

    /// The URL's `synchronous_commit`, if it loses changes. Sessions do not use it then.
    pub fn lossy_synchronous_commit(&self) -> Option<&str> {
        self.session.lossy_synchronous_commit()
    }

    /// A pool of connections. It connects at the first use.
    pub fn pool(&self, purpose: Purpose, max_connections: u32) -> PgPool {
        let session = self.session.clone();
        PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(CONNECT_TIMEOUT)
            .after_connect(move |connection, _| {
                let session = session.clone();
                Box::pin(async move {
                    session.prepare(connection, purpose).await.map_err(|error| Error::Configuration(error.into()))
                })
            })
            .connect_lazy_with(self.options.clone())
    }

    /// Opens a connection outside the pools. Unlike a pool, it reports a refused connection at once.
    pub async fn connect(&self, purpose: Purpose) -> Result<PgConnection, StoreError> {
        let connect = async {
            let connected = PgConnection::connect_with(&self.options).await;
            let mut connection = connected.map_err(|error| self.not_connected(error))?;
            self.session.prepare(&mut connection, purpose).await.map_err(|error| self.named(error))?;
            Ok(connection)
        };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect).await;
        connected.unwrap_or_else(|_| Err(StoreError::Unavailable("no connection in time".into())))
    }

    /// What a failed connection means.
    fn not_connected(&self, error: Error) -> StoreError {
        let cause = |error| Cause::named(&self.describe(), error);
        if format!("{error:?}").contains("CaUsedAsEndEntity") {
            let message = format!(
                "{}: the database server presents a CA certificate (often a self-signed one), which is refused; issue a server \
                 certificate (CA:FALSE), and name its CA in sslrootcert",
                self.describe()
            );
            return StoreError::Misconfigured(message.into());
        }
        match error {
            Error::Configuration(_) | Error::Tls(_) => StoreError::Misconfigured(cause(error)),
            Error::Io(ref problem) if is_untrusted(problem) => StoreError::Misconfigured(cause(error)),
            Error::Io(_) | Error::Protocol(_) => StoreError::Unavailable(cause(error)),
            error => classify(error),
        }
    }

    fn named(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Misconfigured(cause) => {
                StoreError::Misconfigured(format!("{}: {cause}", self.describe()).into())
            }
            error => error,
        }
    }
}

/// Whether the server's certificate is not the one that the settings demand. One that has expired is the server's problem,
/// and may be renewed while we wait.
fn is_untrusted(problem: &io::Error) -> bool {
    use rustls::{CertificateError, Error};
    let problem = problem.get_ref().and_then(|inner| inner.downcast_ref());
    match problem {
        Some(Error::InvalidCertificate(problem)) => !matches!(
            problem,
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        ),
        _ => false,
    }
}
