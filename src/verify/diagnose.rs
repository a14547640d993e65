//! Classifies a break in the chain by the first entry that does not fit and those after it.

use super::{Chain, Fault, Problem};
use crate::domain::audit::Entry;
use crate::domain::hash::entry_hash;
use crate::domain::{Hash, Revision};

/// How many entries are kept for a diagnosis, from the first that does not fit.
pub(super) const WINDOW: usize = 1_000;

/// What is wrong after `known`, given the entries that come next; the first of them does not fit.
pub(super) fn diagnose(known: &Chain, window: &[Entry]) -> Option<Fault> {
    let (first, rest) = window.split_first()?;
    let revision = known.revision + 1;
    if first.revision < revision {
        return Some(Fault { revision: first.revision, problem: Problem::Inserted });
    }
    let has_revision = rest.iter().any(|entry| entry.revision == revision);
    let original = rest.iter().position(|entry| fits(known, &known.hash, entry, revision));
    let problem = if first.revision > revision {
        if fits(known, &known.hash, first, revision) {
            Problem::Altered
        } else if has_revision || original.is_some() {
            Problem::Reordered
        } else {
            Problem::Missing { next: first.revision }
        }
    } else if belongs_later(known, first, rest, original) {
        Problem::Reordered
    } else if original.is_some() {
        Problem::Inserted
    } else {
        Problem::Altered
    };
    Some(Fault { revision, problem })
}

/// Whether the entry's hash is right at this revision and after this hash.
fn fits(known: &Chain, previous: &Hash, entry: &Entry, revision: Revision) -> bool {
    entry_hash(previous, known.log_id, &Entry { revision, ..entry.clone() }) == entry.hash
}

/// Whether the entry was written for a later revision. If so, its hash was computed after one of three hashes: that of the
/// entry now before that revision, of the entry now at it, or of the original entry of this revision.
fn belongs_later(known: &Chain, entry: &Entry, rest: &[Entry], original: Option<usize>) -> bool {
    let after_original = original.map(|at| rest[at].hash);
    rest.iter().enumerate().any(|(at, later)| {
        let before = if at == 0 { entry.hash } else { rest[at - 1].hash };
        let previous = [Some(before), Some(later.hash), after_original];
        previous.iter().flatten().any(|previous| fits(known, previous, entry, later.revision))
    })
}
