//! The input of [`advance`](super::advance): proposed changes.

use std::sync::Arc;

use uuid::Uuid;

use super::step::Answer;
use crate::domain::access::{Account, Credential, Permission, Permissions, ScopedPermission, SecretHash};
use crate::domain::audit::{EntityType, Entry};
use crate::domain::flag::Status;
use crate::domain::state::{EnvironmentRef, FlagRef};
use crate::domain::text::{Description, Email, EnvironmentKey, FlagKey, Name, Reason, RequestId};
use crate::domain::time::Timestamp;
use crate::domain::{Hash, Revision};

/// Who proposes a change. Permissions are checked at the revision at which the change is decided, not at the one at
/// which the call was accepted: a revoked token cannot change anything through a replica that lags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A caller, and the permission that the method requires.
    Caller {
        /// The caller's credential.
        credential: Credential,
        /// The required permission.
        permission: Permission,
    },
    /// The service itself, at its first start or by its offline commands. It has every permission.
    Service {
        /// The actor's name in the audit log.
        name: Arc<str>,
    },
}

/// Where a call came from, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// For example `toggled.v1.ToggleService/ToggleFeatureFlag`.
    pub method: Arc<str>,
    /// The peer's address and port.
    pub peer: Option<Arc<str>>,
    /// The client's `user-agent`.
    pub user_agent: Option<Arc<str>>,
}

/// Identifies a request, so that retries of it can be recognized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestKey {
    /// The caller's `request_id`.
    pub id: RequestId,
    /// SHA-256 of the method and of all fields but `request_id`.
    pub digest: [u8; 32],
}

/// A proposed change.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Who proposes it.
    pub actor: Actor,
    /// The change.
    pub command: Command,
    /// The reason that the caller gave.
    pub reason: Option<Reason>,
    /// The request's identity, if the caller gave a `request_id`.
    pub request: Option<RequestKey>,
    /// Decide, but write nothing.
    pub validate_only: bool,
    /// Where the call came from.
    pub origin: Origin,
    /// Encodes an answer so that it can be stored for retries.
    pub encode: fn(&Answer) -> Vec<u8>,
}

impl Proposal {
    /// A proposal without `request_id` and reason; its answer is not stored.
    pub fn without_request_id(actor: Actor, command: Command, origin: Origin) -> Self {
        let encode = |_: &Answer| Vec::new();
        Self { actor, command, reason: None, request: None, validate_only: false, origin, encode }
    }
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Flip a flag.
    Toggle {
        /// The flag.
        flag: FlagRef,
        /// Fail unless the flag is at this revision.
        expected_revision: Option<Revision>,
    },
    /// Set the status of one flag.
    SetStatus(SetStatus),
    /// Set the status of several flags: all or none.
    BatchSet(Vec<SetStatus>),
    /// Set a flag's status back to what it was before an entry.
    Revert(Revert),
    /// Create a flag.
    CreateFlag(NewFlag),
    /// Create several flags: all or none.
    BatchCreate(Vec<NewFlag>),
    /// Edit a flag. `None` leaves a field unchanged.
    UpdateFlag {
        /// The flag.
        flag: FlagRef,
        /// The new name.
        name: Option<Name>,
        /// The new description.
        description: Option<Description>,
        /// Fail unless the flag is at this revision.
        expected_revision: Option<Revision>,
    },
    /// Archive or unarchive a flag.
    SetArchived {
        /// The flag.
        flag: FlagRef,
        /// Whether the flag is to be archived.
        archived: bool,
        /// Fail unless the flag is at this revision.
        expected_revision: Option<Revision>,
    },
    /// Create an environment.
    CreateEnvironment(NewEnvironment),
    /// Edit an environment.
    UpdateEnvironment(EnvironmentUpdate),
    /// Archive or unarchive an environment.
    SetEnvironmentArchived {
        /// The environment.
        environment: EnvironmentRef,
        /// Whether the environment is to be archived.
        archived: bool,
        /// Fail unless the environment is at this revision.
        expected_revision: Option<Revision>,
    },
    /// Create a user.
    CreateUser {
        /// The user's e-mail address.
        email: Email,
        /// The single sign-on account to link.
        account: Option<Account>,
        /// The user's permissions.
        permissions: Permissions,
    },
    /// Change a user.
    UpdateUser {
        /// The user.
        id: Uuid,
        /// The single sign-on account to link; `None` leaves it unchanged.
        account: Option<Account>,
        /// The user's permissions after the change.
        permissions: Permissions,
        /// Reactivate the user if they are deactivated.
        reactivate: bool,
        /// Fail unless the user is at this revision.
        expected_revision: Option<Revision>,
    },
    /// Deactivate a user.
    DeactivateUser {
        /// The user.
        id: Uuid,
        /// Fail unless the user is at this revision.
        expected_revision: Option<Revision>,
    },
    /// Create a token for a user.
    CreateToken(NewToken),
    /// Revoke a token.
    RevokeToken {
        /// The token.
        id: Uuid,
        /// Fail unless the token is at this revision.
        expected_revision: Option<Revision>,
    },
    /// Create the first administrator, a user with all permissions, and a token: both or neither.
    CreateAdministrator {
        /// The user's e-mail address.
        email: Email,
        /// The token's name.
        token_name: Name,
        /// The hash of the token's secret.
        secret_hash: SecretHash,
    },
    /// Remove the oldest part of the audit log.
    TrimLog(TrimLog),
    /// Record a refused change. Requires no permission: the actor lacks the one that it names.
    RecordDenial(Denial),
}

impl Command {
    /// The number of changes: the number of items for a batch, else 1.
    pub fn weight(&self) -> usize {
        match self {
            Self::BatchSet(items) => items.len(),
            Self::BatchCreate(items) => items.len(),
            _ => 1,
        }
    }

    /// Whether the command changes flags and nothing else.
    pub fn changes_flags(&self) -> bool {
        match self {
            Self::Toggle { .. }
            | Self::SetStatus(_)
            | Self::BatchSet(_)
            | Self::Revert(_)
            | Self::CreateFlag(_)
            | Self::BatchCreate(_)
            | Self::UpdateFlag { .. }
            | Self::SetArchived { .. } => true,
            Self::CreateEnvironment(_)
            | Self::UpdateEnvironment(_)
            | Self::SetEnvironmentArchived { .. }
            | Self::CreateUser { .. }
            | Self::UpdateUser { .. }
            | Self::DeactivateUser { .. }
            | Self::CreateToken(_)
            | Self::RevokeToken { .. }
            | Self::CreateAdministrator { .. }
            | Self::TrimLog(_)
            | Self::RecordDenial(_) => false,
        }
    }

    /// The entry that the command reverts.
    pub fn reverts(&self) -> Option<Uuid> {
        match self {
            Self::Revert(revert) => Some(revert.id),
            _ => None,
        }
    }
}

/// A change that was refused for lack of a permission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The missing permission.
    pub permission: ScopedPermission,
    /// The object that the refused request named, if it named one. It may not exist.
    pub object: Option<ObjectRef>,
    /// The environment of all objects that it named, if it named several and all are in one. It may not exist.
    pub environment: Option<EnvironmentKey>,
    /// How many refusals of this caller were not recorded since the last record; 0 for a refusal itself.
    pub suppressed: u64,
}

/// An object that a request names. It may not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectRef {
    /// A flag, by key, in an environment if one was named.
    Key(Option<EnvironmentKey>, FlagKey),
    /// An environment, by key.
    Environment(EnvironmentKey),
    /// A user, by e-mail address.
    Email(Email),
    /// A flag, environment, user or token, by id.
    Id(Uuid),
}

impl From<FlagRef> for ObjectRef {
    fn from(flag: FlagRef) -> Self {
        match flag {
            FlagRef::Id(_, id) => Self::Id(id),
            FlagRef::Key(environment, key) => Self::Key(environment, key),
        }
    }
}

impl From<EnvironmentRef> for ObjectRef {
    fn from(environment: EnvironmentRef) -> Self {
        match environment {
            EnvironmentRef::Id(id) => Self::Id(id),
            EnvironmentRef::Key(key) => Self::Environment(key),
        }
    }
}

/// A flag to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFlag {
    /// The environment. `None` for the only one in which the caller may create flags.
    pub environment: Option<EnvironmentKey>,
    /// The key.
    pub key: FlagKey,
    /// The name.
    pub name: Name,
    /// The description.
    pub description: Description,
    /// The initial status.
    pub status: Status,
}

/// An environment to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEnvironment {
    /// The key.
    pub key: EnvironmentKey,
    /// The name.
    pub name: Name,
    /// The description.
    pub description: Description,
    /// Whether each flip of a flag must have a reason.
    pub require_reason: bool,
}

/// An edit of an environment. `None` leaves a field unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentUpdate {
    /// The environment.
    pub environment: EnvironmentRef,
    /// The new name.
    pub name: Option<Name>,
    /// The new description.
    pub description: Option<Description>,
    /// Whether each flip of a flag must have a reason.
    pub require_reason: Option<bool>,
    /// Fail unless the environment is at this revision.
    pub expected_revision: Option<Revision>,
}

/// A token to create.
#[derive(Clone, PartialEq, Eq)]
pub struct NewToken {
    /// The user that the token acts as.
    pub user_id: Uuid,
    /// The name.
    pub name: Name,
    /// The permissions that it is limited to.
    pub permissions: Option<Permissions>,
    /// Its own environment.
    pub environment: Option<EnvironmentKey>,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// The hash of its secret.
    pub secret_hash: SecretHash,
}

/// Leaves out the secret's hash: it does not belong in a log line.
impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("user_id", &self.user_id).field("name", &self.name).finish_non_exhaustive()
    }
}

/// A status to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetStatus {
    /// The flag.
    pub flag: FlagRef,
    /// The new status.
    pub status: Status,
    /// Fail unless the flag is at this revision.
    pub expected_revision: Option<Revision>,
}

/// A trim of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrimLog {
    /// The last revision to remove.
    pub through: Revision,
    /// The hash at that revision, as the caller has archived it.
    pub hash: Hash,
    /// The hash at that revision in the log; `None` if the lookup found no such entry.
    pub found_hash: Option<Hash>,
    /// The generation of the log at the lookup: see [`State::generation`](crate::domain::state::State::generation).
    pub generation: u64,
}

/// A revert of a flip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revert {
    /// The id of the flip's entry.
    pub id: Uuid,
    /// The flag's environment, if the request names one.
    pub environment: Option<EnvironmentKey>,
    /// The entry, which never changes; `None` if the lookup found none.
    pub entry: Option<Box<Entry>>,
    /// The generation of the log at the lookup: see [`State::generation`](crate::domain::state::State::generation).
    pub generation: u64,
    /// Fail unless the flag is at this revision.
    pub expected_revision: Option<Revision>,
}

impl Revert {
    /// The flag that the entry is about.
    pub fn flag(&self) -> Option<FlagRef> {
        let entry = self.entry.as_ref().filter(|entry| entry.entity_type == EntityType::FeatureFlag)?;
        entry.entity_id.map(|id| FlagRef::Id(self.environment.clone(), id))
    }

    /// The status before the entry, if the entry is a flip.
    pub fn status(&self) -> Option<Status> {
        let entry = self.entry.as_ref().filter(|entry| entry.action.is_flip())?;
        entry.old_value.as_deref().and_then(Status::parse)
    }
}
