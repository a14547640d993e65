//! Opening the database: nobody is let in before, since who may come in is in what is read.

use tokio::time::sleep;

use super::{RETRY, Server, ServerError, checkpoints, intact};
use crate::auth::secret::Secret;
use crate::bootstrap::{BootstrapError, TokenPlace, bootstrap};
use crate::committer::Proposals;
use crate::domain::access::Permission;
use crate::domain::error::Error;
use crate::domain::state::State;
use crate::mirror::Mirror;
use crate::store::{Store, StoreError};

impl Server {
    /// Brings the schema up to date, sees that the log is whole, and reader everything; tries on while the database does
    /// not answer.
    pub(super) async fn open(&self) -> Result<(), ServerError> {
        let mut told = false;
        loop {
            let problem = match self.try_open().await {
                Err(ServerError::Store(StoreError::Unavailable(problem))) => problem,
                opened => return opened,
            };
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(%problem, database = self.store.describe(), "waiting for the database");
            }
            sleep(RETRY).await;
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

/// A database in which nobody has ever held `manage_access` gets its first administrator; tries on while the database does
/// not answer.
pub(super) async fn first_start(
    mirror: &Mirror,
    proposals: &Proposals,
    own: Option<&Secret>,
    store: &dyn Store,
) -> Result<Option<TokenPlace>, ServerError> {
    let managed = |state: &State| state.users(None).any(|user| user.permissions.contains(Permission::ManageAccess));
    let folder = store.folder().unwrap_or_default();
    let mut told = false;
    while !mirror.read(managed).unwrap_or(true) {
        match bootstrap(proposals, own, &folder).await {
            Err(BootstrapError::Refused(problem @ Error::DatabaseUnavailable)) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%problem, database = store.describe(), "waiting to write the first administrator");
                }
                sleep(RETRY).await;
            }
            done => return Ok(done?),
        }
    }
    Ok(None)
}
