//! Fixtures shared by the tests: real databases, real server processes, and clients with tokens.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "two test binaries share this module, and each uses a part"
)]

mod client;
mod embedded;
pub mod events;
pub mod h2_client;
pub mod hostile;
pub mod http;
pub mod http2_frames;
pub mod issuer;
mod memory_limit;
pub mod methods;
pub mod pgbouncer;
mod postgres;
pub mod postgres_proxy;
pub mod raw_codec;
mod server;
pub mod signing;
pub mod tcp_proxy;
pub mod tls;
pub mod web;

use std::future::Future;
use std::time::Duration;

use tempfile::TempDir;

pub use client::{Client, archive, read_until_error, reason_of, secret_forms, toggle};
pub use embedded::{EmbeddedServer, defaults};
pub use issuer::Issuer;
pub use memory_limit::MemoryLimit;
pub use postgres::{Cluster, LockedHead, alter_system, free_port};
pub use server::{BOOTSTRAP_ENTRIES, CHECKPOINT_KEY, Log, Server, TOKEN, checkpoint_key, invoke, program};

/// How long a test waits for any one thing before it fails.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Polls so rare that changes can arrive only by notification.
pub const RARE_POLLS: [(&str, &str); 2] = [("TOGGLED_POLL_INTERVAL", "1h"), ("TOGGLED_MAX_STALENESS", "2h")];

/// The database that a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Sqlite,
    Postgres,
}

/// A database. SQLite files are deleted on drop, PostgreSQL databases with the shared cluster.
pub struct Database {
    pub url: String,
    pub backend: Backend,
    _folder: Option<TempDir>,
}

impl Database {
    /// Creates an empty database.
    pub async fn new(backend: Backend) -> Self {
        match backend {
            Backend::Postgres => Self { url: postgres::new_database().await, backend, _folder: None },
            Backend::Sqlite => {
                let folder = TempDir::new().unwrap();
                let url = format!("sqlite://{}/toggled.db", folder.path().display());
                Self { url, backend, _folder: Some(folder) }
            }
        }
    }

    /// A database that is created and deleted elsewhere.
    pub fn from_url(url: &str, backend: Backend) -> Self {
        Self { url: url.to_owned(), backend, _folder: None }
    }

    /// Waits until exactly `count` servers listen for change notifications.
    pub async fn wait_for_listeners(&self, count: i64) {
        postgres::wait_for_connections(&self.url, "query ILIKE 'LISTEN%'", count).await;
    }

    /// Locks the head of a PostgreSQL log, so that nothing can be appended.
    pub async fn lock_head(&self) -> LockedHead {
        LockedHead::lock(&self.url).await
    }

    /// Terminates all server connections to a PostgreSQL database.
    pub async fn end_connections(&self) {
        postgres::end_connections(&self.url).await;
    }

    /// Copies a PostgreSQL database, once it has no connections.
    pub async fn copy(&self) -> Self {
        Self { url: postgres::copy(&self.url).await, backend: self.backend, _folder: None }
    }

    /// Replaces a PostgreSQL database with a copy, once it has no connections.
    pub async fn replace_with(&self, copy: &Self) {
        postgres::replace(&self.url, &copy.url).await;
    }
}

/// Waits for a future; fails the test after [`TIMEOUT`]. `what` completes "timed out waiting for".
pub async fn with_timeout<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(TIMEOUT, future).await {
        Ok(value) => value,
        Err(_) => panic!("timed out after {TIMEOUT:?} waiting for {what}"),
    }
}

/// A request with a deadline of two seconds.
pub fn with_deadline<T>(request: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(request);
    request.set_timeout(Duration::from_secs(2));
    request
}

/// Defines each test twice, on SQLite and on PostgreSQL.
macro_rules! on_both_databases {
    ($($(#[$meta:meta])* async fn $name:ident($backend:ident: Backend) $body:block)*) => {
        $($(#[$meta])*
        mod $name {
            #[allow(unused_imports, reason = "not every test uses all imports of its file")]
            use super::*;
            use $crate::support::Backend;

            async fn run($backend: Backend) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                run(Backend::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                run(Backend::Postgres).await;
            }
        })*
    };
}
pub(crate) use on_both_databases;
