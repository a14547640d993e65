//! What comes out of [`advance`](super::advance): what to append, and what to tell the callers.

use std::sync::Arc;

use uuid::Uuid;

use crate::domain::Revision;
use crate::domain::access::{Token, User};
use crate::domain::audit::Entry;
use crate::domain::error::Error;
use crate::domain::flag::Flag;
use crate::domain::state::{Delta, Head};
use crate::domain::text::RequestId;
use crate::domain::time::Timestamp;

/// What came of a proposal that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The object after the change.
    pub object: Object,
    /// The entry that was written: `None` where nothing changed, with `validate_only`, and for a batch.
    pub entry: Option<Arc<Entry>>,
    /// The end of the log after the change.
    pub revision: Revision,
}

/// What a change was made to, as it is after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A flag.
    Flag(Arc<Flag>),
    /// Several flags.
    Batch(Vec<BatchResult>),
    /// A user.
    User(Arc<User>),
    /// A token.
    Token(Arc<Token>),
    /// The log, whose oldest revision that is kept is this.
    Log(Revision),
    /// Nothing: a refusal was recorded.
    Nothing,
}

impl Object {
    /// Whether it is a batch that changed something: a batch has an entry for each flag, and none of its own.
    pub(super) fn changed_in_batch(&self) -> bool {
        matches!(self, Self::Batch(results) if results.iter().any(|result| result.changed))
    }
}

/// What became of one flag of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchResult {
    /// The flag after the batch.
    pub flag: Arc<Flag>,
    /// The entry that was written for it.
    pub entry_id: Option<Uuid>,
    /// Whether the batch changed it.
    pub changed: bool,
}

/// How a proposal was decided.
#[derive(Debug, Clone)]
pub enum Decision {
    /// Accepted.
    Accepted(Answer),
    /// A retry of a request that stands earlier in the same batch, with the answer to that.
    Replayed(Vec<u8>),
    /// Refused.
    Rejected(Error),
}

/// An answer kept under its request's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRequest {
    /// Whose request.
    pub user_id: Uuid,
    /// Their name for it.
    pub request_id: RequestId,
    /// What it was.
    pub digest: [u8; 32],
    /// The encoded answer.
    pub response: Vec<u8>,
    /// How long it is kept at the least.
    pub expires_at: Timestamp,
}

/// What has to be appended for a batch, and what to tell its callers once it is.
#[derive(Debug, Clone)]
pub struct Step {
    /// The end of the log that all this was decided at. Nothing of it may be written anywhere else.
    pub base: Head,
    /// The end of the log after it.
    pub head: Head,
    /// The new entries, in order.
    pub entries: Vec<Arc<Entry>>,
    /// The objects that changed, each once, as they are at `head`.
    pub delta: Delta,
    /// How many of the flags, users and tokens of `delta`, from the end of each list, are new.
    pub created: Created,
    /// Answers to keep.
    pub requests: Vec<StoredRequest>,
    /// One decision a proposal, in order.
    pub decisions: Vec<Decision>,
}

impl Step {
    /// Whether nothing has to be written.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.requests.is_empty()
    }
}

/// How many objects of each kind are new; in a [`Delta`] they stand last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Created {
    /// New flags.
    pub flags: usize,
    /// New users.
    pub users: usize,
    /// New tokens.
    pub tokens: usize,
}
