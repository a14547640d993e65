//! Whether a log is what it says: every entry's hash recomputed from the entry and from the hash before it.

use uuid::Uuid;

use super::audit::Entry;
use super::hash::chain;
use super::{Hash, Revision};

/// What is wrong with a log, and where it is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("revision {revision}: {problem}")]
pub struct Fault {
    /// The first revision that is not as it was written.
    pub revision: Revision,
    /// How it is not.
    pub problem: Problem,
}

/// What can be wrong with an entry, or with where one should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Its hash is not that of what it says and of the entry before it.
    #[error("altered: the hash of the entry is not that of what it says and of the entry before it")]
    Altered,
    /// It is not there, and later ones are.
    #[error("missing: the next entry is that of revision {next}")]
    Missing {
        /// The first that is there.
        next: Revision,
    },
    /// It comes after a later one, or a second time.
    #[error("reordered: the entry comes after that of revision {after}")]
    Reordered {
        /// What it comes after.
        after: Revision,
    },
}

/// How far a log has been verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    log_id: Uuid,
    revision: Revision,
    hash: Hash,
}

impl Chain {
    /// Begins behind the entry at `revision`, whose hash is known to be this: [`GENESIS`](super::hash::GENESIS) at 0.
    pub fn behind(log_id: Uuid, revision: Revision, hash: Hash) -> Self {
        Self { log_id, revision, hash }
    }

    /// Of which log.
    pub fn log_id(&self) -> Uuid {
        self.log_id
    }

    /// The last revision that was verified.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The hash there.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Verifies the next entry.
    ///
    /// # Errors
    /// What is wrong with it. The chain stays where it was.
    pub fn take(&mut self, entry: &Entry) -> Result<(), Fault> {
        let expected = self.revision + 1;
        let problem = if entry.revision > expected {
            Problem::Missing { next: entry.revision }
        } else if entry.revision < expected {
            return Err(Fault { revision: entry.revision, problem: Problem::Reordered { after: self.revision } });
        } else if chain(&self.hash, self.log_id, entry) != entry.hash {
            Problem::Altered
        } else {
            (self.revision, self.hash) = (entry.revision, entry.hash);
            return Ok(());
        };
        Err(Fault { revision: expected, problem })
    }
}
