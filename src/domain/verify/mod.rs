//! Whether a log is what it says: every entry's hash recomputed from the entry and from the hash before it, what others
//! know of the log compared with it on the way, and what was done to it told where something does not fit.

mod diagnose;
mod problem;
mod replay;
mod run;
mod verifier;

use uuid::Uuid;

use super::audit::Entry;
use super::hash::chain;
use super::{Hash, Revision};

pub use problem::{Fault, Problem, Witness};
pub use replay::Replay;
pub use run::Run;
pub use verifier::{Mark, Start, Verified, Verifier};

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

/// A hash of 64 hexadecimal digits.
pub fn unhex(text: &str) -> Option<Hash> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    (text.len() == 64).then_some(hash)
}
