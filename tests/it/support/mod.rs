//! What tests stand on: real databases, real server processes, and clients with tokens.
#![allow(dead_code, unused_imports, unused_macros, reason = "two programs share this, and each needs its part of it")]

mod client;
pub mod http;
pub mod http2_frames;
pub mod issuer;
pub mod methods;
mod postgres;
pub mod postgres_proxy;
pub mod raw_codec;
mod server;
pub mod signing;
pub mod tcp_proxy;
pub mod tls;

use std::future::Future;
use std::time::Duration;

use tempfile::TempDir;

pub use client::{Client, archive, reason_of, toggle, traces, until_ended};
pub use issuer::Issuer;
pub use postgres::{Cluster, HeldHead, alter_system, free_port};
pub use server::{CHECKPOINT_KEY, Log, Server, TOKEN, invoke, program};

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Which database a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Sqlite,
    Postgres,
}

/// A new, empty database, gone with this value (PostgreSQL's with its cluster).
pub struct Database {
    pub url: String,
    pub backend: Backend,
    _folder: Option<TempDir>,
}

impl Database {
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
}

impl Database {
    /// One that somebody else keeps.
    pub fn at(url: &str, backend: Backend) -> Self {
        Self { url: url.to_owned(), backend, _folder: None }
    }

    /// Waits until so many servers listen to what others append.
    pub async fn until_listened_to(&self, by: i64) {
        postgres::until_connected(&self.url, "query ILIKE 'LISTEN%'", by).await;
    }

    /// Keeps everybody from appending to a PostgreSQL log.
    pub async fn hold_head(&self) -> HeldHead {
        HeldHead::hold(&self.url).await
    }

    /// Ends what servers have connected to a PostgreSQL database.
    pub async fn end_connections(&self) {
        postgres::end_connections(&self.url).await;
    }

    /// A copy of a PostgreSQL database that nobody is connected to.
    pub async fn copy(&self) -> Self {
        Self { url: postgres::copy(&self.url).await, backend: self.backend, _folder: None }
    }

    /// Puts a copy in the place of a PostgreSQL database that nobody is connected to.
    pub async fn replace_by(&self, copy: &Self) {
        postgres::replace(&self.url, &copy.url).await;
    }
}

/// Waits for something that may take a while, but not for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain: {what}"),
    }
}

/// The same test on every database.
macro_rules! on_both {
    ($($(#[$meta:meta])* async fn $name:ident($backend:ident: Backend) $body:block)*) => {
        $($(#[$meta])*
        mod $name {
            #[allow(unused_imports, reason = "not every test needs everything that its file imports")]
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
pub(crate) use on_both;
