//! Entries verified apart from what comes before them, so that several can do it side by side.

use uuid::Uuid;

use super::{Chain, Fault};
use crate::domain::Revision;
use crate::domain::audit::Entry;

/// Entries that follow one another: each has the hash of what it says and of the one before it, but for the first, of which
/// only [`Verifier`](super::Verifier) can know what it follows.
#[derive(Debug, Clone)]
pub struct Run {
    pub(super) first: Entry,
    pub(super) chain: Chain,
    /// Whether some entry in it tells where the log begins.
    pub(super) tells: bool,
}

impl Run {
    /// A run that begins with this entry of a log.
    pub fn new(log_id: Uuid, first: Entry) -> Self {
        let chain = Chain::behind(log_id, first.revision, first.hash);
        Self { tells: first.log_start().is_some(), first, chain }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// That it is not the next. The run stays what it was.
    pub fn take(&mut self, entry: &Entry) -> Result<(), Fault> {
        self.chain.take(entry)?;
        self.tells |= entry.log_start().is_some();
        Ok(())
    }

    /// Of which log it is.
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
