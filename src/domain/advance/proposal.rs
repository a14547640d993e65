//! What goes into [`advance`](super::advance): who wants what, and why.

use std::sync::Arc;

use uuid::Uuid;

use super::step::Answer;
use crate::domain::access::{Account, Credential, Permission, Permissions, SecretHash};
use crate::domain::audit::{EntityType, Entry};
use crate::domain::flag::Status;
use crate::domain::state::FlagRef;
use crate::domain::text::{Description, Email, FlagKey, Name, Reason, RequestId};
use crate::domain::time::Timestamp;
use crate::domain::{Hash, Revision};

/// Who proposes. Whether they may is decided against the state that the change is decided on, not against the one
/// that the call was let in by: a server that lags cannot let a revoked token change anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A caller, and the permission that the method demands.
    Caller {
        /// What they have shown.
        credential: Credential,
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

impl Proposal {
    /// One that nobody has named, so that no answer to it is kept, and for which no reason is given.
    pub fn unnamed(actor: Actor, command: Command, origin: Origin) -> Self {
        let encode = |_: &Answer| Vec::new();
        Self { actor, command, reason: None, request: None, validate_only: false, origin, encode }
    }
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
    /// Set a flag's status back to what it was before an entry.
    Revert(Revert),
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
        /// Who they are to the single sign-on.
        account: Option<Account>,
        /// What they may do.
        permissions: Permissions,
    },
    /// Set what a user may do.
    UpdateUser {
        /// Whom.
        id: Uuid,
        /// Who they are to the single sign-on from now on; `None` leaves that as it is.
        account: Option<Account>,
        /// All that they may do from now on.
        permissions: Permissions,
        /// Let them in again if they were shut out.
        reactivate: bool,
        /// Only if they are at this revision.
        expected_revision: Option<Revision>,
    },
    /// Shut a user out.
    DeactivateUser {
        /// Whom.
        id: Uuid,
        /// Only if they are at this revision.
        expected_revision: Option<Revision>,
    },
    /// Create a token for a user.
    CreateToken(NewToken),
    /// End a token.
    RevokeToken {
        /// Which.
        id: Uuid,
        /// Only if it is at this revision.
        expected_revision: Option<Revision>,
    },
    /// Create the first user, who may do everything, with a token: both or neither.
    CreateAdministrator {
        /// Their address.
        email: Email,
        /// What people call their token.
        token_name: Name,
        /// What its secret hashes to.
        secret_hash: SecretHash,
    },
    /// Remove the oldest part of the log.
    TrimLog(TrimLog),
    /// Record that a change was refused. Takes no permission: the actor lacks the one that it names.
    RecordDenial(Denial),
}

impl Command {
    /// How many changes it is: a batch is as many as it has items.
    pub fn weight(&self) -> usize {
        match self {
            Self::BatchSet(items) => items.len(),
            _ => 1,
        }
    }

    /// The entry whose change it takes back.
    pub fn reverts(&self) -> Option<Uuid> {
        match self {
            Self::Revert(revert) => Some(revert.id),
            _ => None,
        }
    }
}

/// A change that was refused for want of a permission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// What was lacking.
    pub permission: Permission,
    /// What the refused call named, as far as that could be told.
    pub subject: Option<ObjectRef>,
    /// How many refusals of the same caller were not recorded since the last that was.
    pub suppressed: u64,
}

/// The object that a refused call named. It may not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectRef {
    /// A flag by its key.
    Key(FlagKey),
    /// A user by their address.
    Email(Email),
    /// A flag, a user or a token by its id.
    Id(Uuid),
}

impl From<FlagRef> for ObjectRef {
    fn from(flag: FlagRef) -> Self {
        match flag {
            FlagRef::Id(id) => Self::Id(id),
            FlagRef::Key(key) => Self::Key(key),
        }
    }
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

/// Remove the oldest part of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrimLog {
    /// Up to and including this revision.
    pub through: Revision,
    /// The hash of the entry there, as the caller has kept it.
    pub hash: Hash,
    /// The hash of the entry there, as the log has it; `None` where the log had no such entry when it was looked for.
    pub there: Option<Hash>,
    /// Which log it was looked for in, at the latest: see [`State::log`](crate::domain::state::State::log).
    pub generation: u64,
}

/// Take back a flip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revert {
    /// The id of the entry that tells of it.
    pub id: Uuid,
    /// That entry, which never changes; `None` if there is none.
    pub entry: Option<Box<Entry>>,
    /// Which log it was looked for in, at the latest: see [`State::log`](crate::domain::state::State::log).
    pub generation: u64,
    /// Only if the flag is at this revision.
    pub expected_revision: Option<Revision>,
}

impl Revert {
    /// The flag that the entry is about.
    pub fn flag(&self) -> Option<FlagRef> {
        let entry = self.entry.as_ref().filter(|entry| entry.entity_type == EntityType::FeatureFlag)?;
        entry.entity_id.map(FlagRef::Id)
    }

    /// What the flag was before, if the entry tells of a flip.
    pub fn status(&self) -> Option<Status> {
        let entry = self.entry.as_ref().filter(|entry| entry.action.is_flip())?;
        entry.old_value.as_deref().and_then(Status::parse)
    }
}
