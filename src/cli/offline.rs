//! Changes made directly in the database, for example after the last token was lost. Servers may be running. Access to
//! the database is the authorization; the log names the actor `cli@HOST`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Failure;
use crate::committer::{ChangeStart, Committer, Proposals, Reply};
use crate::config;
use crate::domain::access::{Directory, User};
use crate::domain::advance::{Actor, Answer, Command, Origin, Proposal};
use crate::domain::error::Error;
use crate::domain::state::State;
use crate::domain::text::{Email, Reason};
use crate::mirror::Mirror;
use crate::store::{self, Store};
use crate::telemetry;
use crate::visible::visible;

/// Options for the database, and for logging.
#[derive(Debug, Args)]
pub(super) struct DatabaseTarget {
    #[command(flatten)]
    _config: config::ConfigPath,
    #[command(flatten)]
    pub(super) database: config::DatabaseOptions,
    #[command(flatten)]
    logging: config::LogOptions,
}

impl DatabaseTarget {
    /// Opens the database. A missing SQLite file is created.
    pub(super) fn open(&self) -> Result<Arc<dyn Store>, Failure> {
        telemetry::logs::start(&self.logging.log);
        store::open(&self.database.database_url).map_err(super::invalid_database_url)
    }

    /// Opens an existing database. A missing one is an error: the setting is most likely wrong.
    pub(super) fn open_existing(&self) -> Result<Arc<dyn Store>, Failure> {
        telemetry::logs::start(&self.logging.log);
        let store = store::open_existing(&self.database.database_url).map_err(super::invalid_database_url)?;
        check_exists(&*store, "--database-url (TOGGLED_DATABASE_URL)")?;
        Ok(store)
    }
}

/// Checks that the database of a setting exists.
pub(super) fn check_exists(store: &dyn Store, setting: &str) -> Result<(), Failure> {
    let name = store.describe();
    if name.strip_prefix("sqlite://").is_some_and(|file| !Path::new(file).exists()) {
        return Err(Failure { code: super::EXIT_FAILURE, message: format!("{setting} {name}: no such file") });
    }
    Ok(())
}

/// Checks that no migration is pending. Offline commands do not migrate, since an older server may be using the database.
pub(super) async fn check_migrated(store: &dyn Store) -> Result<(), Failure> {
    if store.migrations().await?.iter().any(|migration| !migration.applied) {
        let message = format!("{}: a migration is pending; run toggled migrate up", store.describe());
        return Err(Failure { code: super::EXIT_FAILURE, message });
    }
    Ok(())
}

/// The option for the reason of a change.
#[derive(Debug, Args)]
pub(super) struct ReasonOption {
    /// The reason for the change, for the audit log
    #[arg(long, value_name = "TEXT", value_parser = Reason::parse)]
    reason: Option<Reason>,
}

/// Closes the database after `work`, whatever its outcome: a SQLite database is one file again afterwards.
pub(super) async fn close_after<T>(
    store: &dyn Store,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let outcome = work.await;
    store.close().await;
    outcome
}

/// A database that is open for changes, with a committer of its own.
pub(super) struct OfflineDatabase {
    pub store: Arc<dyn Store>,
    mirror: Arc<Mirror>,
    proposals: Proposals,
    stop: CancellationToken,
    committing: JoinHandle<()>,
}

impl OfflineDatabase {
    /// Opens the database, runs `work` on it, and closes it.
    pub async fn with<T>(
        target: &DatabaseTarget,
        work: impl AsyncFnOnce(&Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let store = target.open_existing()?;
        let opened = async {
            let database = Self::open(&store).await?;
            let outcome = work(&database).await;
            database.stop.cancel();
            database.committing.await?;
            outcome
        };
        close_after(&*store, opened).await
    }

    async fn open(store: &Arc<dyn Store>) -> Result<Self, Failure> {
        check_migrated(&**store).await?;
        // A command ends before its state can become stale.
        let mirror = Mirror::new(Duration::MAX);
        mirror.follow(&**store).await?;
        let (committer, proposals) = Committer::new(Arc::clone(&mirror), Arc::clone(store), store.clock(), 1);
        let stop = CancellationToken::new();
        let committing = tokio::spawn(committer.run(stop.clone()));
        Ok(Self { store: Arc::clone(store), mirror, proposals, stop, committing })
    }

    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Result<T, Failure> {
        Ok(self.mirror.read(read).ok_or(Error::DatabaseUnavailable)?)
    }

    /// Finds a user by e-mail address or id.
    pub fn user(&self, name: &str) -> Result<Arc<User>, Failure> {
        let found = self.read(|state| match Uuid::try_parse(name) {
            Ok(id) => state.user(id).cloned(),
            Err(_) => state.user_by_email(&Email::stored(&name.to_ascii_lowercase())).cloned(),
        })?;
        found.ok_or_else(|| Failure {
            code: super::EXIT_NOT_FOUND,
            message: format!("no user {name}; list them with toggled user list"),
        })
    }

    /// Makes a change. The log records `method`, the name of the command, as its method.
    pub async fn change(&self, method: &str, command: Command, reason: ReasonOption) -> Result<Answer, Failure> {
        let host = hostname::get().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let actor = Actor::Service { name: format!("cli@{}", visible(&host)).into() };
        let origin = Origin { method: method.into(), peer: None, user_agent: None };
        let proposal = Proposal { reason: reason.reason, ..Proposal::without_request_id(actor, command, origin) };
        match self.proposals.propose(proposal, ChangeStart::at_any_time()).await? {
            Reply::Answer(answer) => Ok(answer),
            Reply::Replayed(_) => Err(Error::internal("a change without a request_id was replayed").into()),
        }
    }
}
