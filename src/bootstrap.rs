//! Creates what a new database needs: the environment `default`, and the first administrator if no user has ever had the permission
//! `manage_access`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::auth;
use crate::auth::secret::Secret;
use crate::committer::{ChangeStart, Proposals};
use crate::domain::advance::{Actor, Command, NewEnvironment, Origin, Proposal};
use crate::domain::error::Error;
use crate::domain::text::{BOOTSTRAP_ACTOR, Description, Email, EnvironmentKey, FIRST_ADMINISTRATOR, Malformed, Name};

/// The name of the file that a generated token is written to.
pub const TOKEN_FILE: &str = "toggled-admin.token";

/// Where the operator finds the first administrator's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenLocation {
    /// A file.
    File(PathBuf),
    /// The setting in which the operator chose the token.
    Setting,
}

/// Why the environment or the administrator was not created.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The file for the token cannot be written.
    #[error(
        "cannot write the administrator's token to {}: {source}; start in a folder that you may write to, or set \
         TOGGLED_BOOTSTRAP_TOKEN", path.display()
    )]
    TokenFile {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The change failed.
    #[error("{0}")]
    Change(#[from] Error),
    /// The database failed during the commit.
    #[error("it is unknown whether the administrator was created; start again: if that start creates none, use the token in {}", .0.display())]
    OutcomeUnknown(PathBuf),
    /// The operating system provides no randomness.
    #[error("no randomness for a token: {0}")]
    Random(#[from] getrandom::Error),
}

/// Creates the environment `default`, unless another server created it first.
///
/// # Errors
/// When it was not created.
pub async fn create_default_environment(proposals: &Proposals) -> Result<(), BootstrapError> {
    let proposal = default_environment().map_err(Error::internal)?;
    match proposals.propose(proposal, ChangeStart::at_any_time()).await {
        Ok(_) | Err(Error::EnvironmentKeyTaken(_)) => Ok(()),
        // The next try finds it, if it was created.
        Err(Error::CommitOutcomeUnknown) => Err(Error::DatabaseUnavailable.into()),
        Err(error) => Err(error.into()),
    }
}

fn default_environment() -> Result<Proposal, Malformed> {
    Ok(proposal(Command::CreateEnvironment(NewEnvironment {
        key: EnvironmentKey::default_environment().clone(),
        name: Name::parse("Default")?,
        description: Description::parse("")?,
        require_reason: false,
    })))
}

/// Creates the first administrator with the token that the operator chose, or with a generated token in a file in `folder`.
/// Returns `None` if another server created the administrator first.
///
/// # Errors
/// When the administrator was not created. If that is unknown, the file with the token stays.
pub async fn create_first_administrator(
    proposals: &Proposals,
    chosen_token: Option<&Secret>,
    folder: &Path,
) -> Result<Option<TokenLocation>, BootstrapError> {
    if let Some(secret) = chosen_token {
        return Ok(create_administrator(proposals, secret).await?.then_some(TokenLocation::Setting));
    }
    let secret = Secret::generate()?;
    // The file comes first: a crash in between leaves a useless file. In the other order it would leave an administrator
    // whose token is lost.
    let file = write_token(folder, &secret)?;
    match create_administrator(proposals, &secret).await {
        Ok(true) => Ok(Some(TokenLocation::File(rename_token_file(file, folder)))),
        Err(Error::CommitOutcomeUnknown) => Err(BootstrapError::OutcomeUnknown(file)),
        not_created => {
            // The token in the file is not valid.
            let _ = fs::remove_file(&file);
            not_created.map(|_| None).map_err(BootstrapError::from)
        }
    }
}

/// Creates the administrator. Returns false if there is one already.
async fn create_administrator(proposals: &Proposals, secret: &Secret) -> Result<bool, Error> {
    let proposal = administrator(secret).map_err(Error::internal)?;
    match proposals.propose(proposal, ChangeStart::at_any_time()).await {
        Ok(_) => Ok(true),
        Err(Error::EmailTaken(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn administrator(secret: &Secret) -> Result<Proposal, Malformed> {
    Ok(proposal(Command::CreateAdministrator {
        email: Email::parse(FIRST_ADMINISTRATOR)?,
        token_name: Name::parse("bootstrap")?,
        secret_hash: auth::hash_secret(secret.reveal().as_bytes()),
    }))
}

fn proposal(command: Command) -> Proposal {
    let origin = Origin { method: "toggled serve".into(), peer: None, user_agent: None };
    Proposal::without_request_id(Actor::Service { name: BOOTSTRAP_ACTOR.into() }, command, origin)
}

/// Writes the secret to a new file that only its owner may read. The name is unique, so concurrent starts do not collide.
fn write_token(folder: &Path, secret: &Secret) -> Result<PathBuf, BootstrapError> {
    let name = format!("toggled-admin.{}.token", uuid::Uuid::now_v7().simple());
    let path = std::path::absolute(folder.join(&name)).unwrap_or_else(|_| folder.join(&name));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        writeln!(file, "{}", secret.reveal())?;
        file.sync_all()
    };
    write().map_err(|source| BootstrapError::TokenFile { path: path.clone(), source })?;
    Ok(path)
}

/// Renames the file to [`TOKEN_FILE`], unless that file exists: it may contain the token of another database.
fn rename_token_file(file: PathBuf, folder: &Path) -> PathBuf {
    let usual_path = file.parent().unwrap_or(folder).join(TOKEN_FILE);
    match fs::hard_link(&file, &usual_path) {
        Ok(()) => {
            let _ = fs::remove_file(&file);
            usual_path
        }
        Err(_) => file,
    }
}
