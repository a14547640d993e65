//! Everything that can be wrong with a call, in the service's own terms.

use std::time::Duration;

use uuid::Uuid;

use super::Revision;
use super::access::{Account, Permission};
use super::text::{Email, FlagKey};

/// One malformed field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field: `items[3].status`.
    pub field: String,
    /// The rule that it breaks: "must be ...".
    pub rule: String,
}

/// Why a call failed. What each becomes on the wire is decided in one place, where the transport is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No token that works. Deliberately silent about why.
    #[error("a valid bearer token is required: authorization: Bearer TOKEN")]
    Unauthenticated,
    /// The caller lacks this permission.
    #[error("Insufficient permissions: {0} required")]
    PermissionDenied(Permission),
    /// Malformed fields, all of them at once.
    #[error("invalid request: {}", first(.0))]
    Invalid(Vec<Violation>),
    /// No flag has this id or key.
    #[error("feature flag not found: {0}")]
    FlagNotFound(String),
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
    /// Another user has this address.
    #[error("a user with the e-mail address {0} exists already")]
    EmailTaken(Email),
    /// Somebody comes by single sign-on for the first time, and another user has their address.
    #[error(
        "another user has the e-mail address {0}, and is not taken to be you; an access manager can tie them to you"
    )]
    SignOnEmailTaken(Email),
    /// Another user is tied to this account of the single sign-on.
    #[error("another user is tied to the subject {subject} of {issuer}", issuer = .0.issuer, subject = .0.subject)]
    AccountTaken(Account),
    /// The user is shut out.
    #[error("the user {0} is deactivated; UpdateUser with reactivate lets them in again")]
    UserDeactivated(Email),
    /// The change would shut its own caller out.
    #[error("this would shut you out: create another token first, or let somebody else do it")]
    LastWayIn,
    /// The change would leave nobody who can manage access.
    #[error("{0} is the last active user who holds manage_access; grant it to somebody else first")]
    LastAccessManager(Email),
    /// The object is not at the revision that the caller expects.
    #[error("the object is at revision {current}, not at the expected {expected}; read it and decide again")]
    RevisionMismatch {
        /// What the caller expected.
        expected: Revision,
        /// What the object is at.
        current: Revision,
    },
    /// An archived flag cannot be flipped.
    #[error("the feature flag {0} is archived; unarchive it first")]
    FlagArchived(FlagKey),
    /// The entry did not turn a flag on or off.
    #[error("the audit log entry {0} did not turn a feature flag on or off: there is no status to go back to")]
    NotRevertible(Uuid),
    /// The request id stands for another request already.
    #[error("this request_id was used for a different request; use a fresh one")]
    RequestIdReused,
    /// The cursor comes from another log, or from one that was restored since.
    #[error("{0} does not fit this log: it was restored from a backup or is another log; start again without a cursor")]
    LogMismatch(&'static str),
    /// A revision was asked for that the log has not reached.
    #[error("revision {asked} is beyond the end of the log, {head}")]
    CursorInFuture {
        /// What was asked for.
        asked: Revision,
        /// The end of the log.
        head: Revision,
    },
    /// A revision was asked for that is no longer kept.
    #[error("revision {asked} is no longer kept; the oldest kept is {oldest}")]
    CursorTooOld {
        /// What was asked for.
        asked: Revision,
        /// The oldest that is kept.
        oldest: Revision,
    },
    /// A time was asked for from before the oldest entry that is kept.
    #[error("what was at that time is no longer kept; the oldest revision kept is {oldest}")]
    TimeTooOld {
        /// The oldest revision that is kept.
        oldest: Revision,
    },
    /// Too many changes are waiting.
    #[error("too many changes are waiting; this call has written nothing; retry")]
    QueueFull,
    /// The caller makes more changes than one may.
    #[error("you make more than {most} changes a second; this call has written nothing; retry later")]
    RateLimited {
        /// What is let through.
        most: u32,
        /// When to come back.
        after: Duration,
    },
    /// The caller has too many streams open.
    #[error("you have {0} streams open already; close some, or share one")]
    CallerStreamLimit(usize),
    /// Too many streams are open.
    #[error("this server has too many streams open; retry, perhaps on another replica")]
    StreamLimit,
    /// The database does not answer, and nothing was written.
    #[error("the database is unavailable; nothing was written; retry")]
    DatabaseUnavailable,
    /// The issuer of the single sign-on has not answered since the server started.
    #[error("the keys of the single sign-on's issuer could not be read yet; retry")]
    IssuerUnavailable,
    /// The state in memory could not be shown to be fresh enough.
    #[error("this server is behind the log, or its database does not answer; retry, perhaps on another replica")]
    Stale,
    /// The server is shutting down.
    #[error("this server is shutting down; retry on another replica")]
    Draining,
    /// The caller's deadline came before the change was begun.
    #[error("the deadline came before the change was begun; nothing was written")]
    DeadlineBeforeStart,
    /// The deadline came before there was an answer to a call that changes nothing.
    #[error("the deadline came before the answer")]
    DeadlineExceeded,
    /// The connection was lost in a commit, and how it ended could not be learnt.
    #[error("the database was lost during the commit; retry with the same request_id")]
    CommitOutcomeUnknown,
    /// The bytes are not the request that the method takes; holds where they stop being one.
    #[error("the request is not what the method takes: {0}; write it with stubs generated from the .proto files")]
    Malformed(String),
    /// A request or an answer is larger than it may be; holds how large.
    #[error("a message is larger than this server lets it be: {0}; ask in smaller parts")]
    MessageTooLarge(String),
    /// There is no such method.
    #[error("there is no method {0}")]
    UnknownMethod(String),
    /// There is nothing to sign checkpoints with.
    #[error(
        "this server has no key to sign checkpoints with; give it one: --checkpoint-key-file (TOGGLED_CHECKPOINT_KEY_FILE)"
    )]
    NoCheckpointKey,
    /// The log does not hold what it should.
    #[error("the audit log is not intact: revision {revision} is not as it was written; run toggled audit verify")]
    LogCorrupt {
        /// The first that is known not to.
        revision: Revision,
    },
    /// A checkpoint that is stored with the log is none of it.
    #[error(
        "the checkpoint that is stored for revision {revision} cannot be read: the log's proof is not intact; run toggled \
         audit verify; the list goes on with from_revision {next}", next = revision + 1
    )]
    CheckpointCorrupt {
        /// The revision that it is stored for.
        revision: Revision,
    },
    /// A defect, or a database that does not hold what it should. The words are for the server's log only.
    #[error("internal error: {0}")]
    Internal(String),
    /// The same, of which the log has been told already.
    #[error("internal error")]
    Told,
}

fn first(violations: &[Violation]) -> String {
    match violations {
        [] => "no field is at fault".to_owned(),
        [only] => format!("{} {}", only.field, only.rule),
        [first, rest @ ..] => format!("{} {} (and {} more)", first.field, first.rule, rest.len()),
    }
}
