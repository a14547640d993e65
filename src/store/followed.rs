//! What became of the log since it was last looked at.

use crate::domain::Hash;
use crate::domain::state::{Delta, Head};

/// What happened to the log since.
#[derive(Debug, Clone)]
pub enum FollowOutcome {
    /// Nothing.
    Unchanged,
    /// It moved on to this head, and these objects changed on the way.
    Changed(Head, Delta),
    /// It does not go on from where we stood: it is behind, or has another entry there, as when a backup was restored, or
    /// it was trimmed beyond. What it is now tells which.
    Diverged,
}

/// How the log as it is now relates to where we stood in it.
pub(super) enum Relation {
    /// It is where we stood.
    Same,
    /// It goes on from there: we stood right before the first that is kept.
    Continues,
    /// It goes on from there if the entry there has this hash.
    ContinuesFrom(Hash),
    /// It is another log, or an older state of this one, or what came after us was trimmed.
    Diverged,
}

impl Relation {
    pub fn of(now: &Head, known: &Head) -> Self {
        if now == known {
            Self::Same
        } else if now.log_id != known.log_id || now.revision <= known.revision || known.revision < now.floor {
            Self::Diverged
        } else if known.revision == now.floor {
            if known.hash == now.floor_hash { Self::Continues } else { Self::Diverged }
        } else {
            Self::ContinuesFrom(known.hash)
        }
    }
}
