//! The first start: a database without users gets its first administrator.

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
    /// The operating system has no randomness to give.
    #[error("no randomness for a token: {0}")]
    Random(#[from] getrandom::Error),
}

impl From<Malformed> for BootstrapError {
    fn from(rule: Malformed) -> Self {
        Self::Refused(Error::Internal(rule.to_string()))
    }
}

/// Creates the first administrator, with their own token or a fresh one in a file in `folder`. `None` if another server
/// was quicker.
///
/// # Errors
/// Why there is none. The database is then as it was, and the next start tries again.
pub async fn bootstrap(
    proposals: &Proposals,
    own: Option<&Secret>,
    folder: &Path,
) -> Result<Option<TokenPlace>, BootstrapError> {
    let (secret, place) = match own {
        Some(secret) => (secret.clone(), TokenPlace::Setting),
        None => {
            let secret = Secret::generate()?;
            // First the file, then the user: a crash in between leaves a file that opens nothing, and the next start
            // replaces it. The other way round it would leave a user whose token nobody has.
            let path = write(folder, &secret)?;
            (secret, TokenPlace::File(path))
        }
    };
    match (proposals.propose(proposal(&secret)?, None).await, &place) {
        (Ok(_), _) => Ok(Some(place)),
        (Err(error), place) => {
            if let TokenPlace::File(path) = place {
                // It opens nothing: better no file than one that misleads.
                let _ = fs::remove_file(path);
            }
            if matches!(error, Error::EmailTaken(_)) { Ok(None) } else { Err(error.into()) }
        }
    }
}

fn proposal(secret: &Secret) -> Result<Proposal, Malformed> {
    Ok(Proposal {
        actor: Actor::Service { name: ACTOR.into() },
        command: Command::CreateAdministrator {
            email: Email::parse(ADMINISTRATOR)?,
            token_name: Name::parse("bootstrap")?,
            secret_hash: auth::hash(secret.reveal().as_bytes()),
        },
        reason: None,
        request: None,
        validate_only: false,
        origin: Origin { method: "toggled serve".into(), peer: None, user_agent: None },
        encode: |_| Vec::new(),
    })
}

/// Writes the secret to a file that only its owner may read; replaces one that is there.
fn write(folder: &Path, secret: &Secret) -> Result<PathBuf, BootstrapError> {
    let path = std::path::absolute(folder.join(TOKEN_FILE)).unwrap_or_else(|_| folder.join(TOKEN_FILE));
    let write = || {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        writeln!(file, "{}", secret.reveal())?;
        file.sync_all()
    };
    write().map_err(|error| BootstrapError::File(path.clone(), error))?;
    Ok(path)
}
