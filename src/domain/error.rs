//! Why the rules refuse a call, or why it failed, in the service's own terms and free of any transport.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

use super::Revision;
use super::access::{Account, ScopedPermission};
use super::environment::MAX_ENVIRONMENTS;
use super::text::{Email, EnvironmentKey, FlagKey};

/// One malformed field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field: `items[3].status`.
    pub field: String,
    /// The rule that it breaks: "must be ...".
    pub rule: String,
}

/// Why a call failed. The API turns each into a status, in one place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No valid credential. The message never says why: that would help an attacker.
    #[error("a valid bearer token is required: authorization: Bearer TOKEN")]
    Unauthenticated,
    /// The caller lacks this permission.
    #[error("Insufficient permissions: {0} required")]
    PermissionDenied(ScopedPermission),
    /// Malformed fields, all of them at once.
    #[error("invalid request: {}", summary(.0))]
    Invalid(Vec<Violation>),
    /// No flag has this id or key.
    #[error("feature flag not found: {0}")]
    FlagNotFound(String),
    /// No environment has this id or key.
    #[error("environment not found: {0}")]
    EnvironmentNotFound(String),
    /// No user has this id.
    #[error("user not found: {0}")]
    UserNotFound(Uuid),
    /// No token has this id.
    #[error("token not found: {0}")]
    TokenNotFound(Uuid),
    /// No audit entry has this id.
    #[error("audit log entry not found: {0}")]
    AuditLogNotFound(Uuid),
    /// Another flag has this key.
    #[error("a feature flag with the key {0} exists already; archived flags keep their keys")]
    KeyTaken(FlagKey),
    /// Another environment has this key.
    #[error("an environment with the key {0} exists already; archived environments keep their keys")]
    EnvironmentKeyTaken(EnvironmentKey),
    /// There are as many environments as there can be.
    #[error("there are {MAX_ENVIRONMENTS} environments already, and there can be no more; use one of them")]
    EnvironmentLimit,
    /// Another user has this address.
    #[error("a user with the e-mail address {0} exists already; use that user, or another address")]
    EmailTaken(Email),
    /// A first-time caller by single sign-on has the address of another user.
    #[error("another user has the e-mail address {0}; ask an access manager to link that user to your single sign-on")]
    SignOnEmailTaken(Email),
    /// Another user is linked to this single sign-on account.
    #[error("another user is linked to the subject {subject} of {issuer}", issuer = .0.issuer, subject = .0.subject)]
    AccountTaken(Account),
    /// The user is deactivated.
    #[error("the user {0} is deactivated; reactivate the user first (UpdateUser with reactivate)")]
    UserDeactivated(Email),
    /// The change would leave its own caller without access.
    #[error("this would remove your own access; create another token first, or ask another access manager")]
    RemovesOwnAccess,
    /// The change would leave no active user who holds `manage_access`.
    #[error("{0} is the last active user with manage_access; grant it to another user first")]
    LastAccessManager(Email),
    /// The object is not at the revision that the caller expects.
    #[error("the object is at revision {current}, not at the expected {expected}; read it again, then decide")]
    RevisionMismatch {
        /// The revision that the caller expected.
        expected: Revision,
        /// The object's revision.
        current: Revision,
    },
    /// An archived flag cannot be flipped.
    #[error("the feature flag {0} is archived; unarchive it first")]
    FlagArchived(FlagKey),
    /// An archived environment cannot be changed.
    #[error("the environment {0} is archived; unarchive it first")]
    EnvironmentArchived(EnvironmentKey),
    /// The entry is not a flip.
    #[error("the audit log entry {0} is not a flip; only flips can be reverted")]
    NotRevertible(Uuid),
    /// The idempotency key belongs to another request.
    #[error("this request_id was used for a different request; use a new one")]
    RequestIdReused,
    /// The cursor belongs to another log, or to this one before a restore.
    #[error(
        "{0} does not fit this log, which was restored from a backup or is another one; start again without a cursor"
    )]
    LogMismatch(&'static str),
    /// The revision lies beyond the end of the log.
    #[error("revision {asked} is beyond the end of the log, {head}")]
    CursorInFuture {
        /// The requested revision.
        asked: Revision,
        /// The last revision of the log.
        head: Revision,
    },
    /// The revision was trimmed.
    #[error("revision {asked} is no longer kept; the oldest kept is {oldest}")]
    CursorTooOld {
        /// The requested revision.
        asked: Revision,
        /// The oldest revision that is kept.
        oldest: Revision,
    },
    /// The time lies before the oldest entry that is kept.
    #[error("the log no longer reaches back to that time; the oldest revision kept is {oldest}")]
    TimeTooOld {
        /// The oldest revision that is kept.
        oldest: Revision,
    },
    /// The committer's queue is full.
    #[error("too many changes are waiting; nothing was written; retry")]
    QueueFull {
        /// How many changes may wait.
        max: usize,
    },
    /// The database does not answer. Nothing was written.
    #[error("the database is unavailable; nothing was written; retry")]
    DatabaseUnavailable,
    /// The mirror could not be confirmed to be fresh enough.
    #[error("this server is behind the log, or its database does not answer; retry, perhaps on another replica")]
    Stale,
    /// The server is shutting down.
    #[error("this server is shutting down; retry on another replica")]
    Draining,
    /// The caller's deadline passed before the committer took the change.
    #[error("the deadline passed before the change began; nothing was written")]
    DeadlineBeforeStart,
    /// The caller's deadline passed while the change was made. The change is still completed; the caller does not get its
    /// outcome.
    #[error(
        "the deadline passed during the change, which may have been written; retry with the same request_id, or read \
         first"
    )]
    DeadlineDuringChange,
    /// The connection was lost during a commit, and its outcome could not be determined.
    #[error("the connection to the database was lost during the commit; retry with the same request_id")]
    CommitOutcomeUnknown,
    /// The log is damaged.
    #[error("the audit log is damaged at revision {revision}; run toggled audit verify")]
    LogCorrupt {
        /// The first revision known to be damaged.
        revision: Revision,
    },
    /// A stored checkpoint is damaged.
    #[error(
        "the stored checkpoint of revision {revision} is damaged; run toggled audit verify; to list later ones, pass \
         from_revision {next}", next = revision + 1
    )]
    CheckpointCorrupt {
        /// The revision of the checkpoint.
        revision: Revision,
    },
    /// A defect of the program, or a database that rejects what it should take.
    #[error("internal error: {0}")]
    Internal(#[source] Defect),
}

impl Error {
    /// An internal error with this cause.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Internal(Defect::new(cause))
    }
}

/// The cause of an internal error: for the server's log, never for callers. Clones share one cause, so that a defect that
/// fails a whole batch is reported once.
#[derive(Clone)]
pub struct Defect(Arc<Cause>);

struct Cause {
    error: Box<dyn StdError + Send + Sync>,
    reported: AtomicBool,
}

impl Defect {
    /// A defect that has not been reported yet.
    pub fn new(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(Arc::new(Cause { error: error.into(), reported: AtomicBool::new(false) }))
    }

    /// Whether the caller of this method is the first, and so the one that reports the defect.
    pub fn claim_report(&self) -> bool {
        !self.0.reported.swap(true, Ordering::Relaxed)
    }
}

impl fmt::Debug for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.error, f)
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.error, f)
    }
}

impl StdError for Defect {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.error.source()
    }
}

/// Defects are equal when they read the same.
impl PartialEq for Defect {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.to_string() == other.to_string()
    }
}

impl Eq for Defect {}

/// The most names that an error lists. Its text is a header, which clients limit to 8 KiB.
const MAX_NAMED: usize = 20;

/// Names for the text of an error: the first ones, and how many more there are.
pub fn list_of(names: &[impl AsRef<str>]) -> String {
    let (named, others) = names.split_at(names.len().min(MAX_NAMED));
    let list = named.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if others.is_empty() { list } else { format!("{list} and {} more", others.len()) }
}

fn summary(violations: &[Violation]) -> String {
    match violations {
        [] => "no field is at fault".to_owned(),
        [only] => format!("{} {}", only.field, only.rule),
        [first, rest @ ..] => format!("{} {} (and {} more)", first.field, first.rule, rest.len()),
    }
}
