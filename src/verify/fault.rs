//! What can be wrong with a log, in words for people and for scripts.

use uuid::Uuid;

use crate::domain::Revision;

/// What is wrong with a log, and where it is first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("revision {revision}: {problem}")]
pub struct Fault {
    /// The first revision that is not as it was written.
    pub revision: Revision,
    /// How it is not.
    pub problem: Problem,
}

/// Who knows what the hash at some revision was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// A checkpoint that was given.
    Given,
    /// A checkpoint that is stored with the log.
    Stored,
    /// The head of the log, or whoever serves it.
    Head,
    /// What the head of the log says of where the log begins.
    Floor,
}

impl std::fmt::Display for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Given => "the given checkpoint",
            Self::Stored => "the checkpoint that is stored with the log",
            Self::Head => "the head of the log",
            Self::Floor => "what log_head says of the beginning of the log",
        })
    }
}

/// What can be wrong with an entry, or with where one should be. Its words begin with its [`kind`](Problem::kind).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Its hash is not that of what it says and of the entry before it.
    #[error("altered: the hash of the entry is not that of what it says and of the entry before it")]
    Altered,
    /// It is not there, and later ones are.
    #[error("missing: the next entry is that of revision {next}")]
    Missing {
        /// The first that is there.
        next: Revision,
    },
    /// The log begins later, and nothing in it says what was before.
    #[error(
        "missing: the log begins at revision {first}, and no entry log_trimmed says what was before; give --since with a \
         checkpoint of what was before, such as the one that was kept when it was trimmed"
    )]
    Unvouched {
        /// The first that is there.
        first: Revision,
    },
    /// The log begins later, and what was kept is of an entry that is gone.
    #[error(
        "missing: the log begins at revision {first}, so that {witness} cannot be compared; if it was trimmed, give a \
         later one, such as the one that was kept then"
    )]
    Gone {
        /// The first that is there.
        first: Revision,
        /// Who knows of an earlier one.
        witness: Witness,
    },
    /// Another entry stands in its place, and it stands further on.
    #[error("reordered: an entry of another place stands here")]
    Reordered,
    /// It is none of the chain, which goes on without it.
    #[error("inserted: the entry is none of the chain, which goes on without it")]
    Inserted,
    /// It is not there, nor is any later one, and there was one.
    #[error("truncated: the log ends at revision {end}, and {witness} knows of revision {known}")]
    Truncated {
        /// The last that is there.
        end: Revision,
        /// Who knows of a later one.
        witness: Witness,
        /// Of which one.
        known: Revision,
    },
    /// It fits what is before it, but it is not what it was once.
    #[error("forked: the hash is not the one in {0}")]
    Forked(Witness),
    /// The checkpoint is of another log.
    #[error("forked: the checkpoint is of log {of}, and this is log {this}")]
    OtherLog {
        /// Which log it speaks of.
        of: Uuid,
        /// Which log this is.
        this: Uuid,
    },
    /// A checkpoint is not to be believed.
    #[error("forged: the checkpoint is not to be believed: {0}")]
    Forged(String),
    /// A row does not fit the log.
    #[error("state: {0}")]
    State(String),
}

impl Problem {
    /// In one word: `altered`, `missing`, `reordered`, `inserted`, `truncated`, `forked`, `forged` or `state`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Altered => "altered",
            Self::Missing { .. } | Self::Unvouched { .. } | Self::Gone { .. } => "missing",
            Self::Reordered => "reordered",
            Self::Inserted => "inserted",
            Self::Truncated { .. } => "truncated",
            Self::Forked(_) | Self::OtherLog { .. } => "forked",
            Self::Forged(_) => "forged",
            Self::State(_) => "state",
        }
    }
}
