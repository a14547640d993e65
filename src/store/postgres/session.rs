//! The settings of a session. They are set after connecting, because PgBouncer refuses them in the startup message.
//!
//! Durability, isolation and the results of reads rest on them. So they are read back, and win over those of the role, the database, the
//! URL and the server's file, also when these change later.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use sqlx::postgres::PgConnection;

use super::error::classify;
use crate::store::StoreError;

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Queries, and small writes that are not part of the log.
    Querying,
    /// Appends to the log.
    Appending,
    /// Migrations.
    Migrating,
}

/// A commit waits until it is on the disk, and on that of a synchronous standby if there is one. Set unless the session has
/// another of [`DURABLE`] already.
const SYNCHRONOUS_COMMIT: &str = "on";

/// The settings of `synchronous_commit` with which a change survives the loss of any one machine, if there is a synchronous
/// standby: `remote_write` waits until the standby's operating system has the change, `remote_apply` until the standby shows it.
/// `off` loses acknowledged changes in a crash of PostgreSQL, `local` in a failover.
const DURABLE: [&str; 3] = [SYNCHRONOUS_COMMIT, "remote_write", "remote_apply"];

/// The settings that every session requires.
const REQUIRED_ALWAYS: [(&str, &str); 9] = [
    ("default_transaction_isolation", "read committed"),
    // `replica` would switch the triggers off that check every write.
    (REPLICATION_ROLE, "origin"),
    // A policy would hide rows without an error.
    ("row_security", "off"),
    // How texts are read: those of migrations, for example.
    ("standard_conforming_strings", "on"),
    ("bytea_output", "hex"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    // Keeps the notice that a table exists already out of the log of every start.
    ("client_min_messages", "warning"),
];

/// How long an append may wait for another replica's append, and how long a replica that vanished can keep the head locked.
/// The first is longer than an append usually takes.
const REQUIRED_FOR_APPENDS: [(&str, &str); 2] = [("lock_timeout", "5s"), ("idle_in_transaction_session_timeout", "5s")];

/// A migration may take long, and waits for other servers that migrate. After a timeout each start would fail again.
const REQUIRED_FOR_MIGRATIONS: [(&str, &str); 3] =
    [("statement_timeout", "0"), ("lock_timeout", "0"), ("idle_in_transaction_session_timeout", "0")];

/// Plans are made for the values at hand. Random reads cost little more than sequential ones where the log is in memory or on an SSD.
/// The default cost is made for hard disks. With it, PostgreSQL would walk the log instead of using a filter's index: much of it for a
/// page of frequent entries, and all of it for a user who left long ago.
const TUNED_FOR_QUERIES: [(&str, &str); 2] = [("plan_cache_mode", "force_custom_plan"), ("random_page_cost", "1.1")];

/// Keepalives end a dead connection soon. They read as 0 on a Unix socket.
const TUNED_FOR_APPENDS: [(&str, &str); 5] = [
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    // The statements are always the same, and their plans do not depend on the values.
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
];

/// How often the server looks whether the client of a running statement is still there. PostgreSQL 13 does not know the
/// setting, and not every system can look.
pub(super) const CLIENT_CHECK: (&str, &str) = ("client_connection_check_interval", "250ms");

/// Only a superuser may set it, so it is set only if it differs.
const REPLICATION_ROLE: &str = "session_replication_role";

const SEARCH_PATH: &str = "search_path";

const ENCODING: &str = "server_encoding";

/// The setting also wins over a later change of the server's file, which reaches open sessions.
const SET: &str = "SELECT set_config(name, CASE
        WHEN name = 'synchronous_commit' AND current_setting(name) = ANY ($3::text[]) THEN current_setting(name)
        WHEN name = 'search_path' THEN coalesce($4, current_setting(name))
        ELSE value
    END, false)
    FROM unnest($1::text[], $2::text[]) AS wanted (name, value)
    WHERE name <> 'session_replication_role' OR current_setting(name) <> value";

const READ: &str = "SELECT name, current_setting(name) FROM unnest($1::text[]) AS wanted (name)";

/// What sessions are set to.
#[derive(Debug, Clone, Default)]
pub(super) struct Session {
    /// The operator's settings, from the URL.
    url_settings: Arc<[(String, String)]>,
    /// The search path of the first session, for all later ones. If the role's changes, a server must not read one log and
    /// append to another.
    search_path: Arc<OnceLock<String>>,
}

impl Session {
    pub fn new(url_settings: Vec<(String, String)>) -> Self {
        Self { url_settings: url_settings.into(), search_path: Arc::default() }
    }

    /// See [`Connector::lossy_synchronous_commit`](super::connect::Connector::lossy_synchronous_commit).
    pub fn lossy_synchronous_commit(&self) -> Option<&str> {
        let (_, value) = self.url_settings.iter().rev().find(|(name, _)| name == "synchronous_commit")?;
        (!DURABLE.contains(&value.as_str())).then_some(value)
    }

    /// Sets the settings of a new session, and reads them back.
    pub async fn prepare(&self, connection: &mut PgConnection, purpose: Purpose) -> Result<(), StoreError> {
        for (name, value) in &*self.url_settings {
            let set = sqlx::query("SELECT set_config($1, $2, false)").bind(name).bind(value).persistent(false);
            set.execute(&mut *connection).await.map_err(|error| set_error(error, &format!("{name} of the URL")))?;
        }
        let (required, performance) = (required_settings(purpose), performance_settings(purpose));
        let (names, values): (Vec<_>, Vec<_>) = required.iter().chain(performance).copied().unzip();
        let set = sqlx::query(SET).bind(names).bind(values).bind(&DURABLE[..]).bind(self.search_path.get());
        set.persistent(false).execute(&mut *connection).await.map_err(|error| set_error(error, "a setting"))?;
        if purpose == Purpose::Querying {
            let (name, value) = CLIENT_CHECK;
            let set = sqlx::query("SELECT set_config($1, $2, false)").bind(name).bind(value).persistent(false);
            match set.execute(&mut *connection).await {
                Err(error) if error.as_database_error().is_none() => return Err(classify(error)),
                _ => {}
            }
        }
        self.check(connection, &required).await
    }

    async fn check(&self, connection: &mut PgConnection, settings: &[(&str, &str)]) -> Result<(), StoreError> {
        let names: Vec<_> = settings.iter().map(|(name, _)| *name).chain([ENCODING]).collect();
        let found = sqlx::query_as::<_, (String, String)>(READ).bind(names).persistent(false);
        let found: HashMap<_, _> = found.fetch_all(connection).await.map_err(classify)?.into_iter().collect();
        let of = |name: &str| found.get(name).map_or("", String::as_str);
        if of(ENCODING) != "UTF8" {
            return Err(misconfigured(format!(
                "the database's encoding is {}, and must be UTF8; create it with CREATE DATABASE ... ENCODING 'UTF8' \
                 TEMPLATE template0",
                of(ENCODING)
            )));
        }
        for (name, wanted) in settings {
            let is_set = match *name {
                "synchronous_commit" => DURABLE.contains(&of(name)),
                SEARCH_PATH => of(name) == self.search_path.get_or_init(|| of(name).to_owned()),
                _ => of(name) == *wanted,
            };
            if !is_set {
                let first = self.search_path.get().map_or("", String::as_str);
                let wanted = if *name == SEARCH_PATH { first } else { wanted };
                return Err(misconfigured(format!(
                    "the session has {name} = {} although it was set to {wanted}; connect directly, or through a pooler \
                     in session mode",
                    of(name)
                )));
            }
        }
        Ok(())
    }
}

/// Settings that a session must have: they are read back.
fn required_settings(purpose: Purpose) -> Vec<(&'static str, &'static str)> {
    let own: &[_] = match purpose {
        Purpose::Querying => &[],
        Purpose::Appending => &REQUIRED_FOR_APPENDS,
        Purpose::Migrating => &REQUIRED_FOR_MIGRATIONS,
    };
    let always = [("synchronous_commit", SYNCHRONOUS_COMMIT), (SEARCH_PATH, "")];
    always.into_iter().chain(REQUIRED_ALWAYS).chain(own.iter().copied()).collect()
}

/// Settings that only make a session faster: they are not read back.
fn performance_settings(purpose: Purpose) -> &'static [(&'static str, &'static str)] {
    match purpose {
        Purpose::Querying => &TUNED_FOR_QUERIES,
        Purpose::Appending => &TUNED_FOR_APPENDS,
        Purpose::Migrating => &[],
    }
}

/// An error of setting `what`: unknown parameter (42704), invalid value (22023), cannot be changed (55P02), not allowed
/// (42501).
fn set_error(error: sqlx::Error, what: &str) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
    if !["42704", "22023", "55P02", "42501"].contains(&code.as_str()) {
        return classify(error);
    }
    // The message of an invalid value quotes it.
    let message = match error.as_database_error() {
        Some(error) if code != "22023" => error.message().to_owned(),
        _ => "the value is not valid".to_owned(),
    };
    misconfigured(format!("{what} cannot be set: {message}"))
}

fn misconfigured(message: String) -> StoreError {
    StoreError::Misconfigured(message.into())
}
