//! The faults that a log can have.

use uuid::Uuid;

use crate::domain::Revision;

/// The first fault of a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("revision {revision}: {problem}")]
pub struct Fault {
    /// The first revision that is not as it was written.
    pub revision: Revision,
    /// What is wrong there.
    pub problem: Problem,
}

/// Where a known hash comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashSource {
    /// A checkpoint that the caller gave.
    Given,
    /// A checkpoint that is stored with the log.
    Stored,
    /// The head of the log, in the database or as a server reports it.
    Head,
    /// The floor in `log_head`: the last entry that was trimmed.
    Floor,
}

impl std::fmt::Display for HashSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Given => "the given checkpoint",
            Self::Stored => "the checkpoint stored with the log",
            Self::Head => "the head of the log",
            Self::Floor => "the floor in log_head",
        })
    }
}

/// What is wrong at a revision. Each text begins with the [`kind`](Problem::kind).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The entry's hash does not match its fields and the hash before it.
    #[error("altered: the entry's hash does not match its content and the hash of the entry before it")]
    Altered,
    /// The entry is missing, and later ones exist.
    #[error("missing: the next entry is at revision {next}")]
    Missing {
        /// The first later revision that exists.
        next: Revision,
    },
    /// The log starts later, and no entry confirms the hash before its first entry.
    #[error("missing: the log starts at revision {first}, and no log_trimmed entry confirms the hash before it")]
    UnknownStart {
        /// The first revision that exists.
        first: Revision,
    },
    /// The log starts after the revision of a known hash.
    #[error("missing: the log starts at revision {first}, so {known_by} cannot be compared")]
    BeforeStart {
        /// The first revision that exists.
        first: Revision,
        /// The source of the known hash.
        known_by: HashSource,
    },
    /// An entry that was written for another revision of this log stands here.
    #[error("reordered: an entry of another revision stands here")]
    Reordered,
    /// The entry is not part of the chain, which continues or ends without it.
    #[error("inserted: the entry is not part of the chain")]
    Inserted,
    /// The log ends before a revision that is known to have existed.
    #[error("truncated: the log ends at revision {end}, but {known_by} is at revision {known}")]
    Truncated {
        /// The last revision that exists.
        end: Revision,
        /// The source of the known hash.
        known_by: HashSource,
        /// The revision of the known hash.
        known: Revision,
    },
    /// The entry fits the one before it, but its hash is not the known one.
    #[error("forked: the hash differs from the one in {0}")]
    Forked(HashSource),
    /// The checkpoint belongs to another log.
    #[error("forked: the checkpoint belongs to log {of}, and this is log {this}")]
    OtherLog {
        /// The log of the checkpoint.
        of: Uuid,
        /// This log.
        this: Uuid,
    },
    /// A checkpoint is not authentic.
    #[error("forged: the checkpoint is not authentic: {0}")]
    Forged(String),
    /// A flag, environment, user or token differs from what the log says of it.
    #[error("state: {0}")]
    State(String),
}

impl Problem {
    /// One word for scripts: `altered`, `missing`, `reordered`, `inserted`, `truncated`, `forked`, `forged` or `state`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Altered => "altered",
            Self::Missing { .. } | Self::UnknownStart { .. } | Self::BeforeStart { .. } => "missing",
            Self::Reordered => "reordered",
            Self::Inserted => "inserted",
            Self::Truncated { .. } => "truncated",
            Self::Forked(_) | Self::OtherLog { .. } => "forked",
            Self::Forged(_) => "forged",
            Self::State(_) => "state",
        }
    }
}
