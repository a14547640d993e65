//! What a change does: the one function that decides every change to flags, users and tokens.
//!
//! [`advance`] is pure. It takes the state at revision R and a batch of proposals, decides them in order, and says what
//! has to be appended, on condition that the log is still at R. A proposal that is rejected leaves the others of its
//! batch untouched; a proposal sees what the ones before it in the batch did.

mod access;
mod draft;
mod flags;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::Revision;
use super::access::{Permission, Permissions, SecretHash, Token, User};
use super::audit::Entry;
use super::error::Error;
use super::flag::{Flag, Status};
use super::state::{Delta, FlagRef, Head, State};
use super::text::{Description, Email, FlagKey, Name, Reason, RequestId};
use super::time::Timestamp;
use draft::Draft;

/// How long a stored answer is kept at the least: 24 hours.
pub const REQUEST_LIFETIME_SECONDS: i64 = 24 * 60 * 60;

/// Who proposes. Whether they may is decided against the state that the change is decided on, not against the one
/// that the call was let in by: a server that lags cannot let a revoked token change anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A caller with a token, and the permission that the method demands.
    Token {
        /// The token that they presented.
        token_id: Uuid,
        /// What they need to hold.
        permission: Permission,
    },
    /// The service itself, on its first start or from its offline command line. It may do everything.
    Service {
        /// The name that it appears under in the log.
        name: Arc<str>,
    },
}

/// Where a call came from, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// `toggled.v1.ToggleService/ToggleFeatureFlag`, for one.
    pub method: Arc<str>,
    /// Address and port.
    pub peer: Option<Arc<str>>,
    /// What the client calls itself.
    pub user_agent: Option<Arc<str>>,
}

/// What names a request, so that a retry of it can be told from a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// The caller's own name for it.
    pub id: RequestId,
    /// SHA-256 of the method and everything in the request but its id.
    pub digest: [u8; 32],
}

/// One change that a caller wants.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Who wants it.
    pub actor: Actor,
    /// What they want.
    pub command: Command,
    /// Why.
    pub reason: Option<Reason>,
    /// What names the request, if the caller named it.
    pub request: Option<RequestKey>,
    /// Decide, but write nothing.
    pub validate_only: bool,
    /// Where it came from.
    pub origin: Origin,
    /// How an answer is written down, to be stored under the request's name.
    pub encode: fn(&Answer) -> Vec<u8>,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Turn a flag the other way.
    Toggle {
        /// Which.
        flag: FlagRef,
        /// Only if it is at this revision.
        expected_revision: Option<Revision>,
    },
    /// Turn one flag on or off.
    SetStatus(SetStatus),
    /// Turn several flags on or off: all of them or none.
    BatchSet(Vec<SetStatus>),
    /// Create a flag.
    CreateFlag(NewFlag),
    /// Edit a flag. `None` leaves a part as it is.
    UpdateFlag {
        /// Which.
        flag: FlagRef,
        /// The new name.
        name: Option<Name>,
        /// The new description.
        description: Option<Description>,
        /// Only if it is at this revision.
        expected_revision: Option<Revision>,
    },
    /// Take a flag out of use or bring it back.
    SetArchived {
        /// Which.
        flag: FlagRef,
        /// Out of use, or in.
        archived: bool,
        /// Only if it is at this revision.
        expected_revision: Option<Revision>,
    },
    /// Create a user.
    CreateUser {
        /// Their address.
        email: Email,
        /// What they may do.
        permissions: Permissions,
    },
    /// Create a token for a user.
    CreateToken(NewToken),
    /// Create the first user, who may do everything, with a token: both or neither.
    CreateAdministrator {
        /// Their address.
        email: Email,
        /// What people call their token.
        token_name: Name,
        /// What its secret hashes to.
        secret_hash: SecretHash,
    },
}

/// The flag to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFlag {
    /// Its key.
    pub key: FlagKey,
    /// Its name.
    pub name: Name,
    /// Its description.
    pub description: Description,
    /// Whether it starts on.
    pub status: Status,
}

/// The token to create.
#[derive(Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Whose it is.
    pub user_id: Uuid,
    /// What people call it.
    pub name: Name,
    /// What it is narrowed to.
    pub permissions: Option<Permissions>,
    /// When it ceases to work.
    pub expires_at: Option<Timestamp>,
    /// What its secret hashes to.
    pub secret_hash: SecretHash,
}

/// A secret's hash does not belong in a log line.
impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("user_id", &self.user_id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// Turn a flag on or off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetStatus {
    /// Which.
    pub flag: FlagRef,
    /// What it is to be.
    pub status: Status,
    /// Only if it is at this revision.
    pub expected_revision: Option<Revision>,
}

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
pub enum Verdict {
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
    /// One verdict a proposal, in order.
    pub verdicts: Vec<Verdict>,
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

/// Decides `proposals`, in order, on `state`. `now` is the present and `new_id` makes ids.
pub fn advance<'a>(
    state: &State,
    proposals: impl IntoIterator<Item = &'a Proposal>,
    now: Timestamp,
    new_id: &mut dyn FnMut() -> Uuid,
) -> Step {
    let mut draft = Draft::new(state, now, new_id);
    let mut requests: Vec<StoredRequest> = Vec::new();
    let mut named: HashMap<(Uuid, RequestId), usize> = HashMap::new();
    let mut verdicts = Vec::new();
    for proposal in proposals {
        let key = proposal.request.as_ref().zip(draft.user_id(&proposal.actor));
        if let Some((request, user_id)) = key
            && let Some(&earlier) = named.get(&(user_id, request.id.clone()))
        {
            verdicts.push(replay(&draft, proposal, request, &requests[earlier]));
            continue;
        }
        let verdict = decide(&mut draft, proposal);
        if let (Ok(answer), Some((request, user_id)), false) = (&verdict, key, proposal.validate_only) {
            named.insert((user_id, request.id.clone()), requests.len());
            requests.push(StoredRequest {
                user_id,
                request_id: request.id.clone(),
                digest: request.digest,
                response: (proposal.encode)(answer),
                expires_at: now.plus_seconds(REQUEST_LIFETIME_SECONDS),
            });
        }
        verdicts.push(verdict.map_or_else(Verdict::Rejected, Verdict::Accepted));
    }
    draft.finish(requests, verdicts)
}

/// A request that was made before: its caller must still be who they are, and it must be the same request.
fn replay(draft: &Draft<'_>, proposal: &Proposal, request: &RequestKey, stored: &StoredRequest) -> Verdict {
    match draft.authenticate(&proposal.actor) {
        Err(error) => Verdict::Rejected(error),
        Ok(_) if stored.digest != request.digest => Verdict::Rejected(Error::RequestIdReused),
        Ok(_) => Verdict::Replayed(stored.response.clone()),
    }
}

/// Decides one proposal; what it does is in the draft afterwards, unless it is `validate_only`.
fn decide(draft: &mut Draft<'_>, proposal: &Proposal) -> Result<Answer, Error> {
    let granted = draft.authorize(&proposal.actor)?;
    if !proposal.validate_only {
        return execute(draft, proposal, granted);
    }
    let revision = draft.head().revision;
    let answer = draft.attempt(|scratch| execute(scratch, proposal, granted))?;
    let object = match answer.object {
        Object::Batch(results) => {
            Object::Batch(results.into_iter().map(|r| BatchResult { entry_id: None, ..r }).collect())
        }
        object => object,
    };
    Ok(Answer { object, entry: None, revision })
}

fn execute(draft: &mut Draft<'_>, proposal: &Proposal, granted: Permissions) -> Result<Answer, Error> {
    let (object, entry) = match &proposal.command {
        Command::Toggle { flag, expected_revision } => flags::toggle(draft, proposal, flag, *expected_revision)?,
        Command::SetStatus(item) => flags::set_status(draft, proposal, item)?,
        Command::BatchSet(items) => flags::batch_set(draft, proposal, items)?,
        Command::CreateFlag(new) => flags::create(draft, proposal, new)?,
        Command::UpdateFlag { flag, name, description, expected_revision } => {
            flags::update(draft, proposal, flag, name.as_ref(), description.as_ref(), *expected_revision)?
        }
        Command::SetArchived { flag, archived, expected_revision } => {
            flags::set_archived(draft, proposal, flag, *archived, *expected_revision)?
        }
        Command::CreateUser { email, permissions } => {
            access::create_user(draft, proposal, granted, email, *permissions)?
        }
        Command::CreateToken(new) => access::create_token(draft, proposal, granted, new)?,
        Command::CreateAdministrator { email, token_name, secret_hash } => {
            access::create_administrator(draft, proposal, granted, email, token_name, *secret_hash)?
        }
    };
    Ok(Answer { object, entry, revision: draft.head().revision })
}

/// What a command changed, and the entry it wrote.
type Outcome = (Object, Option<Arc<Entry>>);
