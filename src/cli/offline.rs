//! Changes made on the database itself, beside any servers: for whoever has lost their token. Access to the database is
//! the authority, and the log says so: they are made by `cli@HOST`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Failure;
use crate::committer::{Committer, Proposals, Reply};
use crate::config;
use crate::domain::access::{Directory, Permission, Permissions, User};
use crate::domain::advance::{Actor, Answer, Command, Origin, Proposal};
use crate::domain::error::Error;
use crate::domain::state::State;
use crate::domain::text::{Email, Reason};
use crate::domain::time::SystemClock;
use crate::mirror::Mirror;
use crate::store::{self, Store};
use crate::telemetry;

/// Which database, and what is logged.
#[derive(Debug, Args)]
pub(super) struct Target {
    #[command(flatten)]
    _config: config::ConfigPath,
    #[command(flatten)]
    pub(super) database: config::Database,
    #[command(flatten)]
    logging: config::Logging,
}

impl Target {
    /// A SQLite file that is not there is made.
    pub(super) fn open(&self) -> Result<Arc<dyn Store>, Failure> {
        telemetry::logs::start(&self.logging.log);
        super::opened(store::open(&self.database.database_url))
    }

    /// One that is not there is none to ask: most likely another was meant.
    pub(super) fn open_existing(&self) -> Result<Arc<dyn Store>, Failure> {
        telemetry::logs::start(&self.logging.log);
        let store = super::opened(store::open_existing(&self.database.database_url))?;
        exists(&*store, "--database-url (TOGGLED_DATABASE_URL)")?;
        Ok(store)
    }
}

/// Whether there is a database; `setting` has named it.
pub(super) fn exists(store: &dyn Store, setting: &str) -> Result<(), Failure> {
    let name = store.describe();
    if name.strip_prefix("sqlite://").is_some_and(|file| !Path::new(file).exists()) {
        return Err(Failure { code: super::EXIT_FAILURE, line: format!("{setting} {name}: there is no such file") });
    }
    Ok(())
}

/// Whether the schema is the one that this program knows. It is brought up to date by whoever serves it: this may be a
/// newer program beside an older server.
pub(super) async fn is_migrated(store: &dyn Store) -> Result<(), Failure> {
    if store.migrations().await?.iter().any(|migration| !migration.applied) {
        let line = format!("{} lacks a migration: toggled migrate up, or toggled serve", store.describe());
        return Err(Failure { code: super::EXIT_FAILURE, line });
    }
    Ok(())
}

/// Why, for the audit log.
#[derive(Debug, Args)]
pub(super) struct Why {
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", value_parser = Reason::parse)]
    reason: Option<Reason>,
}

/// A database that is open for changes.
pub(super) struct Offline {
    pub store: Arc<dyn Store>,
    mirror: Arc<Mirror>,
    proposals: Proposals,
    stop: CancellationToken,
    committing: JoinHandle<()>,
}

impl Offline {
    pub async fn open(target: &Target) -> Result<Self, Failure> {
        let store = target.open_existing()?;
        is_migrated(&*store).await?;
        // A command is over before anybody could ask how fresh it is.
        let mirror = Mirror::new(Duration::MAX);
        mirror.follow(&*store).await?;
        let (committer, proposals) = Committer::new(Arc::clone(&mirror), Arc::clone(&store), Arc::new(SystemClock), 1);
        let stop = CancellationToken::new();
        let committing = tokio::spawn(committer.run(stop.clone()));
        Ok(Self { store, mirror, proposals, stop, committing })
    }

    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Result<T, Failure> {
        Ok(self.mirror.read(read).ok_or(Error::DatabaseUnavailable)?)
    }

    /// The user who is named by address or id.
    pub fn user(&self, named: &str) -> Result<Arc<User>, Failure> {
        let found = self.read(|state| match Uuid::try_parse(named) {
            Ok(id) => state.user(id).cloned(),
            Err(_) => state.user_by_email(&Email::parse(named).ok()?).cloned(),
        })?;
        found.ok_or_else(|| Failure { code: super::EXIT_NOT_FOUND, line: format!("there is no user {named}") })
    }

    /// Makes a change. `method` is what it is called in the log: the command that was typed.
    pub async fn change(&self, method: &str, command: Command, why: Why) -> Result<Answer, Failure> {
        let host = hostname::get().unwrap_or_default().to_string_lossy().to_lowercase();
        let actor = Actor::Service { name: format!("cli@{host}").into() };
        let origin = Origin { method: method.into(), peer: None, user_agent: None };
        let proposal = Proposal { reason: why.reason, ..Proposal::unnamed(actor, command, origin) };
        match self.proposals.propose(proposal, None).await? {
            Reply::Answer(answer) => Ok(answer),
            Reply::Replayed(_) => Err(Error::internal("a change without a request_id was replayed").into()),
        }
    }

    /// Lets go of the database.
    pub async fn close(self) -> Result<(), Failure> {
        self.stop.cancel();
        Ok(self.committing.await?)
    }
}

/// A permission by its name.
pub(super) fn permission(name: &str) -> Result<Permission, String> {
    Permission::parse(name).ok_or_else(|| format!("must be one of {}", Permissions::all().names().join(", ")))
}
