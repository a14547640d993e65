//! A segment of the log, verified without knowledge of what comes before it, so that threads can verify several at once.

use uuid::Uuid;

use super::{Chain, Fault};
use crate::domain::Revision;
use crate::domain::audit::Entry;

/// Consecutive entries, each with the right hash, except that nothing is known of the hash before the first.
/// [`Verifier::push_segment`](super::Verifier::push_segment) checks that the first entry follows.
#[derive(Debug, Clone)]
pub struct Segment {
    pub(super) first: Entry,
    pub(super) chain: Chain,
    /// Whether any of its entries is a `log_trimmed` entry.
    pub(super) has_log_start: bool,
}

impl Segment {
    /// A segment of one entry.
    pub fn new(log_id: Uuid, first: Entry) -> Self {
        let chain = Chain::after(log_id, first.revision, first.hash);
        Self { has_log_start: first.log_start().is_some(), first, chain }
    }

    /// Verifies the next entry and adds it.
    ///
    /// # Errors
    /// The entry is not the next one. The segment stays as it was.
    pub fn push(&mut self, entry: &Entry) -> Result<(), Fault> {
        self.chain.push(entry)?;
        self.has_log_start |= entry.log_start().is_some();
        Ok(())
    }

    /// The log that the entries belong to.
    pub fn log_id(&self) -> Uuid {
        self.chain.log_id()
    }

    /// The revision of its first entry.
    pub fn first(&self) -> Revision {
        self.first.revision
    }

    /// The revision of its last entry.
    pub fn last(&self) -> Revision {
        self.chain.revision()
    }
}
