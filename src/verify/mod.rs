//! Whether a log is what it says: every entry's hash recomputed from the entry and from the hash before it, what others
//! know of the log compared with it on the way, and what was done to it told where something does not fit.

mod diagnose;
mod fault;
mod replay;
mod segment;
mod verifier;

use uuid::Uuid;

use crate::domain::audit::Entry;
use crate::domain::hash::chain;
use crate::domain::{Hash, Revision};

pub use fault::{Fault, Problem, Witness};
pub use replay::Replay;
pub use segment::Run;
pub use verifier::{Mark, Start, Verified, Verifier};

/// How far a log has been verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    log_id: Uuid,
    revision: Revision,
    hash: Hash,
}

impl Chain {
    /// Begins behind the entry at `revision`, whose hash is known to be this: [`GENESIS`](crate::domain::hash::GENESIS) at 0.
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
    /// What is wrong with it, as far as it tells by itself. The chain stays where it was.
    pub fn take(&mut self, entry: &Entry) -> Result<(), Fault> {
        let expected = self.revision + 1;
        let problem = if entry.revision > expected {
            Problem::Missing { next: entry.revision }
        } else if entry.revision < expected {
            return Err(Fault { revision: entry.revision, problem: Problem::Inserted });
        } else if !self.is_next(entry) {
            Problem::Altered
        } else {
            (self.revision, self.hash) = (entry.revision, entry.hash);
            return Ok(());
        };
        Err(Fault { revision: expected, problem })
    }

    /// Whether the hash of an entry is that of what it says and of the entry that the chain stands at. A text that is
    /// there and empty was never written: its hash would be that of one that is absent.
    fn is_next(&self, entry: &Entry) -> bool {
        let texts =
            [&entry.old_value, &entry.new_value, &entry.reason, &entry.request_id, &entry.peer, &entry.user_agent];
        chain(&self.hash, self.log_id, entry) == entry.hash
            && !texts.into_iter().any(|text| text.as_deref() == Some(""))
    }
}
