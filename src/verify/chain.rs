//! The hash chain, entry by entry.

use uuid::Uuid;

use super::{Fault, Problem};
use crate::domain::audit::Entry;
use crate::domain::hash::entry_hash;
use crate::domain::{Hash, Revision};

/// The last verified entry of a log. [`Chain::push`] verifies the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    pub(super) log_id: Uuid,
    pub(super) revision: Revision,
    pub(super) hash: Hash,
}

impl Chain {
    /// Starts after the entry at `revision`, which has this hash. Revision 0 has the hash
    /// [`GENESIS`](crate::domain::hash::GENESIS).
    pub fn after(log_id: Uuid, revision: Revision, hash: Hash) -> Self {
        Self { log_id, revision, hash }
    }

    /// The log that the entries belong to; part of every hash.
    pub fn log_id(&self) -> Uuid {
        self.log_id
    }

    /// The revision of the last verified entry.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The hash of the last verified entry.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Verifies the next entry.
    ///
    /// # Errors
    /// The entry is not the next one. The chain stays as it was.
    pub fn push(&mut self, entry: &Entry) -> Result<(), Fault> {
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

    /// Whether the entry's hash covers its fields and the hash before it. An optional text is never stored empty: it would
    /// have the same hash as an absent one.
    fn is_next(&self, entry: &Entry) -> bool {
        let texts =
            [&entry.old_value, &entry.new_value, &entry.reason, &entry.request_id, &entry.peer, &entry.user_agent];
        entry_hash(&self.hash, self.log_id, entry) == entry.hash
            && !texts.into_iter().any(|text| text.as_deref() == Some(""))
    }
}
