//! The output of [`advance`](super::advance): what to append, and how to answer the callers.

use std::sync::Arc;

use uuid::Uuid;

use crate::domain::Revision;
use crate::domain::access::{Token, User};
use crate::domain::audit::Entry;
use crate::domain::environment::Environment;
use crate::domain::error::Error;
use crate::domain::flag::Flag;
use crate::domain::state::{Delta, Head};
use crate::domain::text::RequestId;
use crate::domain::time::Timestamp;

/// The answer to an accepted proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The object after the change.
    pub object: Object,
    /// The new entry. `None` if nothing changed, with `validate_only`, and for a batch, whose results name their
    /// entries.
    pub entry: Option<Arc<Entry>>,
    /// The head revision after the change.
    pub revision: Revision,
}

/// The object of a change, after the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A flag.
    Flag(Arc<Flag>),
    /// Several flags.
    Batch(Vec<BatchResult>),
    /// An environment.
    Environment(Arc<Environment>),
    /// A user.
    User(Arc<User>),
    /// A token.
    Token(Arc<Token>),
    /// The audit log, with the oldest revision that it keeps.
    Log(Revision),
    /// None: a refused change was recorded.
    Nothing,
}

impl Object {
    /// Whether this is the result of a BatchSet that changed a flag. Each changed flag has an entry, and the BatchSet has none.
    pub(super) fn changed_any_flag(&self) -> bool {
        matches!(self, Self::Batch(results) if results.iter().any(|result| result.changed))
    }
}

/// The result for one flag of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchResult {
    /// The flag after the batch.
    pub flag: Arc<Flag>,
    /// The id of the flag's new entry.
    pub entry_id: Option<Uuid>,
    /// Whether the batch changed the flag.
    pub changed: bool,
}

/// The decision on a proposal.
#[derive(Debug, Clone)]
pub enum Decision {
    /// Accepted.
    Accepted(Answer),
    /// A retry of a request earlier in the same batch, with the answer to that request.
    Replayed(Vec<u8>),
    /// Rejected.
    Rejected(Error),
}

/// The stored answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRequest {
    /// The user who made the request.
    pub user_id: Uuid,
    /// The user's `request_id`.
    pub request_id: RequestId,
    /// Identifies the request's method and content.
    pub digest: [u8; 32],
    /// The encoded answer.
    pub response: Vec<u8>,
    /// The answer is kept at least until then.
    pub expires_at: Timestamp,
}

/// The user who makes a proposal's request, as of the proposal's position in the batch. An earlier proposal may have created
/// that user, or linked the caller's account to it. So the state before or after the batch may show another user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestOwner {
    /// The user.
    pub user_id: Uuid,
    /// Whether the caller was this user before the batch.
    pub is_known_at_base: bool,
}

/// What to append for a batch, and how to answer its callers afterwards.
#[derive(Debug, Clone)]
pub struct Step {
    /// The head at which the batch was decided. The step may be appended only there.
    pub base: Head,
    /// The head after the step.
    pub head: Head,
    /// The new entries, in order.
    pub entries: Vec<Arc<Entry>>,
    /// The changed objects, each once, as of `head`.
    pub delta: Delta,
    /// How many objects at the end of each list of `delta` are new.
    pub created: Created,
    /// The answers to store.
    pub requests: Vec<StoredRequest>,
    /// For each proposal, in order, the user who makes its request; `None` if the actor is not a user.
    pub owners: Vec<Option<RequestOwner>>,
    /// One decision for each proposal, in order.
    pub decisions: Vec<Decision>,
}

impl Step {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.requests.is_empty()
    }

    /// The time that must not be closed yet for the step to be appended: that of its first entry. A step without entries has
    /// no such time, so this is the latest one there is, which is never closed.
    pub fn first_timestamp(&self) -> Timestamp {
        self.entries.first().map_or(Timestamp::MAX, |entry| entry.timestamp)
    }
}

/// The number of new objects of each type. They are last in a [`Delta`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Created {
    /// New flags.
    pub flags: usize,
    /// New environments.
    pub environments: usize,
    /// New users.
    pub users: usize,
    /// New tokens.
    pub tokens: usize,
}
