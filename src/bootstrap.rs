//! The first start: a database in which nobody manages access gets its first administrator.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::auth;
use crate::auth::secret::Secret;
use crate::committer::Proposals;
use crate::domain::advance::{Actor, Command, Origin, Proposal};
use crate::domain::error::Error;
use crate::domain::text::{Email, Malformed, Name};

/// The first administrator.
pub const ADMINISTRATOR: &str = "admin@localhost";

/// As whom the first start stands in the log.
const ACTOR: &str = "bootstrap@localhost";

/// What the file is called that a fresh token is written to.
pub const TOKEN_FILE: &str = "toggled-admin.token";

/// Where the first administrator finds their token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPlace {
    /// In this file.
    File(PathBuf),
    /// In the setting that they gave.
    Setting,
}

/// Why there is no first administrator.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The token cannot be left where they would find it.
    #[error("cannot write {path}: {problem}", path = .0.display(), problem = .1)]
    File(PathBuf, io::Error),
    /// The change was not made.
    #[error("{0}")]
    Refused(#[from] Error),
    /// The database was lost in the middle.
    #[error("it is not known whether the administrator was created; if so, the token is in {path}", path = .0.display())]
    Unknown(PathBuf),
    /// The operating system has no randomness to give.
    #[error("no randomness for a token: {0}")]
    Random(#[from] getrandom::Error),
}

/// Creates the first administrator, with their own token or a fresh one in a file in `folder`. `None` if another server
/// was quicker.
///
/// # Errors
/// Why there is none, or that it is not known whether there is; then the file with the token stays.
pub async fn bootstrap(
    proposals: &Proposals,
    own: Option<&Secret>,
    folder: &Path,
) -> Result<Option<TokenPlace>, BootstrapError> {
    if let Some(secret) = own {
        return Ok(created(proposals, secret).await?.then_some(TokenPlace::Setting));
    }
    let secret = Secret::generate()?;
    // First the file, then the user: a crash in between leaves a file that opens nothing. The other way round it would
    // leave a user whose token nobody has.
    let file = write(folder, &secret)?;
    match created(proposals, &secret).await {
        Ok(true) => Ok(Some(TokenPlace::File(named(file, folder)))),
        Err(Error::CommitOutcomeUnknown) => Err(BootstrapError::Unknown(file)),
        refused => {
            // It opens nothing, and is nobody's but ours.
            let _ = fs::remove_file(&file);
            refused.map(|_| None).map_err(BootstrapError::from)
        }
    }
}

/// Whether the administrator was created by us.
async fn created(proposals: &Proposals, secret: &Secret) -> Result<bool, Error> {
    let proposal = proposal(secret).map_err(Error::internal)?;
    match proposals.propose(proposal, None).await {
        Ok(_) => Ok(true),
        Err(Error::EmailTaken(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn proposal(secret: &Secret) -> Result<Proposal, Malformed> {
    let command = Command::CreateAdministrator {
        email: Email::parse(ADMINISTRATOR)?,
        token_name: Name::parse("bootstrap")?,
        secret_hash: auth::hash(secret.reveal().as_bytes()),
    };
    let origin = Origin { method: "toggled serve".into(), peer: None, user_agent: None };
    Ok(Proposal::unnamed(Actor::Service { name: ACTOR.into() }, command, origin))
}

/// Writes the secret to a new file that only its owner may read.
fn write(folder: &Path, secret: &Secret) -> Result<PathBuf, BootstrapError> {
    let name = format!("toggled-admin.{}.token", uuid::Uuid::now_v7().simple());
    let path = std::path::absolute(folder.join(&name)).unwrap_or_else(|_| folder.join(&name));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        writeln!(file, "{}", secret.reveal())?;
        file.sync_all()
    };
    write().map_err(|error| BootstrapError::File(path.clone(), error))?;
    Ok(path)
}

/// Gives the file its usual name, unless another database's token has it: that one is not ours to replace.
fn named(file: PathBuf, folder: &Path) -> PathBuf {
    let usual = file.parent().unwrap_or(folder).join(TOKEN_FILE);
    match fs::hard_link(&file, &usual) {
        Ok(()) => {
            let _ = fs::remove_file(&file);
            usual
        }
        Err(_) => file,
    }
}
