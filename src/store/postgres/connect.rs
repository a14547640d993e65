//! The URL of a PostgreSQL database, and connections to it.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection};

use super::error::read;
use crate::store::StoreError;

/// The operator decides which of several hosts is the primary. A server that picked one itself could pick one that has been
/// voted out.
const ONE_HOST: &str = "names several hosts; name one address that leads to the primary, wherever it moves: a name, a \
                        virtual address, or a proxy";

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Plans are made for the values at hand. Random reads cost little more than sequential ones where the log is in memory or
/// on an SSD. With the default cost, made for hard disks, PostgreSQL would walk the log instead of using a filter's index
/// for a page of frequent entries, and all of the log for a user who left long ago.
const READ_SETTINGS: [(&str, &str); 2] = [("plan_cache_mode", "force_custom_plan"), ("random_page_cost", "1.1")];

/// Parses a URL.
///
/// # Errors
/// A line for an operator, when the URL cannot be used.
pub(super) fn parse(url: &str) -> Result<PgConnectOptions, String> {
    // sqlx would report several hosts as a wrong port.
    if authority(url).contains(',') {
        return Err(ONE_HOST.to_owned());
    }
    let options = PgConnectOptions::from_str(url)
        .map_err(|e| e.to_string())?
        .application_name("toggled")
        // Keeps the notice that a table exists already out of the log of every start.
        .options([("client_min_messages", "warning")])
        // A slow statement would be logged with its whole text at every call.
        .disable_statement_logging();
    if options.get_host().contains(',') {
        return Err(ONE_HOST.to_owned());
    }
    Ok(options)
}

/// The part of a URL that names hosts and ports.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    // A password may contain a comma.
    authority.rsplit('@').next().unwrap_or_default()
}

/// Options for connections that read the log.
pub(super) fn for_reading(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().options(READ_SETTINGS)
}

/// A pool of connections that read the log. It connects at the first use.
pub(super) fn pool(options: &PgConnectOptions, max_connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(CONNECT_TIMEOUT)
        .connect_lazy_with(for_reading(options))
}

/// Opens a connection outside the pools.
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options)).await {
        Ok(connected) => connected.map_err(read),
        Err(_) => Err(StoreError::Unavailable("no connection in time".into())),
    }
}
