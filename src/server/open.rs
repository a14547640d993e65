//! Opening the database. No call is authenticated before, since users and tokens are in it.

use tokio::time::sleep;

use super::{RETRY_INTERVAL, Server, ServerError, checkpoints, intact};
use crate::auth::secret::Secret;
use crate::bootstrap::{BootstrapError, TokenPlace, bootstrap};
use crate::committer::Proposals;
use crate::domain::access::Permission;
use crate::domain::error::Error;
use crate::domain::state::State;
use crate::mirror::Mirror;
use crate::store::{Store, StoreError};

impl Server {
    /// Migrates the schema, verifies the log and loads the state. Retries while the database is unavailable.
    pub(super) async fn open(&self) -> Result<(), ServerError> {
        let mut is_logged = false;
        loop {
            let problem = match self.try_open().await {
                Err(ServerError::Store(StoreError::Unavailable(problem))) => problem,
                opened => return opened,
            };
            if !std::mem::replace(&mut is_logged, true) {
                tracing::warn!(%problem, database = self.store.describe(), "waiting for the database");
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    async fn try_open(&self) -> Result<(), ServerError> {
        let store = &*self.store;
        store.migrate_up().await?;
        intact::verify(store, &self.proof).await?.map_err(|fault| {
            let database = store.describe();
            ServerError::NotIntact { fault, database }
        })?;
        if let Some(key) = &self.proof.key {
            let log_id = store.head().await?.log_id;
            checkpoints::make_known(store, key, log_id, &*self.clock).await?;
        }
        Ok(self.mirror.follow(store).await?)
    }
}

/// Creates the first administrator, if no user has ever held `manage_access`. Retries while the database is
/// unavailable.
pub(super) async fn create_first_administrator(
    mirror: &Mirror,
    proposals: &Proposals,
    own: Option<&Secret>,
    store: &dyn Store,
) -> Result<Option<TokenPlace>, ServerError> {
    let managed = |state: &State| state.users(None).any(|user| user.permissions.contains(Permission::ManageAccess));
    let folder = store.folder().unwrap_or_default();
    let mut is_logged = false;
    while !mirror.read(managed).unwrap_or(true) {
        match bootstrap(proposals, own, &folder).await {
            Err(BootstrapError::Refused(problem @ Error::DatabaseUnavailable)) => {
                if !std::mem::replace(&mut is_logged, true) {
                    tracing::warn!(%problem, database = store.describe(), "waiting for the database to create the first administrator");
                }
                sleep(RETRY_INTERVAL).await;
            }
            done => return Ok(done?),
        }
    }
    Ok(None)
}
