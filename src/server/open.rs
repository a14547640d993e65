//! Opens the database at start: migrates it, verifies its log and loads its state. Until then no call can be authenticated, since
//! users and tokens are in it.

use std::time::Instant;

use tokio::time::sleep;

use super::{CheckpointSettings, RETRY_INTERVAL, Server, ServerError, checkpoints};
use crate::auth::AnonymousReads;
use crate::auth::secret::Secret;
use crate::auth::ticket::{KEY_BYTES, TicketKey};
use crate::bootstrap::{BootstrapError, TokenLocation, create_default_environment, create_first_administrator};
use crate::committer::Proposals;
use crate::domain::access::{Directory, Permission, Scope};
use crate::domain::error::Error;
use crate::domain::state::State;
use crate::mirror::Mirror;
use crate::store::{Store, StoreError};
use crate::verify::{self, DatabaseError, Stop, verify_at_start};

/// The name in the database of the key of tickets.
const TICKET_KEY_NAME: &str = "event_tickets";

impl Server {
    /// Migrates the schema, verifies the log and loads the state. Retries while the database is unavailable or
    /// cannot be used.
    pub(super) async fn open(&self) -> Result<(), ServerError> {
        let mut logged = String::new();
        loop {
            let problem = match self.try_open().await {
                Err(ServerError::Store(StoreError::Unavailable(problem) | StoreError::Unusable(problem))) => {
                    problem.to_string()
                }
                Err(ServerError::Store(problem @ (StoreError::Damaged(_) | StoreError::Corrupt { .. }))) => {
                    let advice = advice_on_damage(&self.store.describe());
                    return Err(ServerError::Damaged { problem, advice });
                }
                Err(ServerError::NotIntact { fault, database }) => {
                    // A write-ahead log that belongs to another file can leave rows without their entries.
                    let advice = advice_on_damage(&database);
                    tracing::warn!(advice, "the audit log is not intact");
                    return Err(ServerError::NotIntact { fault, database });
                }
                opened => return opened,
            };
            // Logged whenever it changes: often the first problem is a refused connection, and another follows.
            if problem != logged {
                tracing::warn!(%problem, database = self.store.describe(), "waiting for the database");
                logged = problem;
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    async fn try_open(&self) -> Result<(), ServerError> {
        let store = &*self.store;
        store.migrate_up().await?;
        self.verify_log().await?;
        if let Some(key) = &self.checkpoints.key {
            let log_id = store.head().await?.log_id;
            checkpoints::store_key(store, key, log_id, &*self.clock).await?;
        }
        // Before the state, without which no call is answered.
        let key = read_ticket_key(store).await?;
        self.ticket_key.get_or_init(|| key);
        self.mirror.follow(store).await?;
        for warning in store.warnings().await? {
            tracing::warn!("{warning}");
        }
        Ok(())
    }

    /// Verifies the log; starts again if another server trims it meanwhile.
    async fn verify_log(&self) -> Result<(), ServerError> {
        let started = Instant::now();
        let CheckpointSettings { key, verify_all, .. } = &self.checkpoints;
        let scope = if *verify_all { verify::Scope::All } else { verify::Scope::Recent };
        loop {
            match verify_at_start(&*self.store, key.as_deref(), scope).await {
                Ok(verified) if scope == verify::Scope::All => {
                    let (first, last) = (verified.after + 1, verified.last);
                    tracing::info!(first, last, took = ?started.elapsed(), "whole log verified");
                    return Ok(());
                }
                Ok(_) => return Ok(()),
                Err(Stop::Fault(fault)) => {
                    return Err(ServerError::NotIntact { fault, database: self.store.describe() });
                }
                Err(Stop::Error(DatabaseError::Store(error))) => return Err(error.into()),
                Err(Stop::Error(DatabaseError::TrimmedMeanwhile)) => {}
            }
        }
    }
}

/// The key of tickets for streams of events, which all servers on a database share. The first one of them makes it.
async fn read_ticket_key(store: &dyn Store) -> Result<TicketKey, ServerError> {
    let secret = match store.server_key(TICKET_KEY_NAME).await? {
        Some(secret) => secret,
        None => {
            let mut secret = [0; KEY_BYTES];
            getrandom::fill(&mut secret).map_err(BootstrapError::from)?;
            store.add_server_key(TICKET_KEY_NAME, secret).await?
        }
    };
    Ok(TicketKey::new(&secret))
}

/// What an operator can do about a damaged database.
fn advice_on_damage(database: &str) -> String {
    match database.strip_prefix("sqlite://") {
        Some(file) => format!(
            "keep a copy of {file}, {file}-wal and {file}-shm; if {file} was restored or replaced, move {file}-wal and {file}-shm away, \
             since they belong to the file before it; otherwise restore a backup; then start again"
        ),
        None => format!("restore a backup of {database}, then start again"),
    }
}

/// Creates the environment `default` if there is no environment, and the first administrator if no user has ever held
/// `manage_access`. Retries while the database is unavailable.
pub(super) async fn bootstrap(
    mirror: &Mirror,
    proposals: &Proposals,
    chosen_token: Option<&Secret>,
    store: &dyn Store,
) -> Result<Option<TokenLocation>, ServerError> {
    let has_environment = |state: &State| state.environment_count() > 0;
    let has_administrator = |state: &State| {
        state.users(None).any(|user| user.permissions.covers(Permission::ManageAccess, Scope::Everywhere))
    };
    let folder = store.folder().unwrap_or_default();
    let create = async || {
        if !mirror.read(has_environment).unwrap_or(true) {
            create_default_environment(proposals).await?;
        }
        if mirror.read(has_administrator).unwrap_or(true) {
            return Ok(None);
        }
        create_first_administrator(proposals, chosen_token, &folder).await
    };
    let mut is_logged = false;
    loop {
        match create().await {
            Err(BootstrapError::Change(problem @ Error::DatabaseUnavailable)) => {
                if !std::mem::replace(&mut is_logged, true) {
                    tracing::warn!(%problem, database = store.describe(), "waiting for the database to create the first administrator");
                }
                sleep(RETRY_INTERVAL).await;
            }
            done => return Ok(done?),
        }
    }
}

/// Logs the environments that the settings open to anonymous callers and that do not exist: perhaps a typing error.
pub(super) fn warn_of_unknown_environments(reads: &AnonymousReads, mirror: &Mirror) {
    for environment in reads.permissions.environments() {
        if mirror.read(|state| state.has_environment(environment)) == Some(false) {
            tracing::warn!(
                %environment,
                "--anonymous-flagd-environments names an environment that does not exist; anonymous callers find no flags there"
            );
        }
    }
}
