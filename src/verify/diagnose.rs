//! What was done to a log: told from the first entry that does not fit and some of those after it.

use super::{Chain, Fault, Problem};
use crate::domain::audit::Entry;
use crate::domain::hash::chain;
use crate::domain::{Hash, Revision};

/// So many entries are looked at, from the first that does not fit.
pub(super) const WINDOW: usize = 1_000;

/// What is wrong where the chain stands, by the entries that come next, of which the first does not fit.
pub(super) fn diagnose(known: &Chain, window: &[Entry]) -> Option<Fault> {
    let (first, rest) = window.split_first()?;
    let revision = known.revision + 1;
    if first.revision < revision {
        return Some(Fault { revision: first.revision, problem: Problem::Inserted });
    }
    let as_it_stands = rest.iter().any(|entry| entry.revision == revision);
    let own = rest.iter().position(|entry| fits(known, &known.hash, entry, revision));
    let problem = if first.revision > revision {
        if fits(known, &known.hash, first, revision) {
            Problem::Altered
        } else if as_it_stands || own.is_some() {
            Problem::Reordered
        } else {
            Problem::Missing { next: first.revision }
        }
    } else if belongs_further_on(known, first, rest, own) {
        Problem::Reordered
    } else if own.is_some() {
        Problem::Inserted
    } else {
        Problem::Altered
    };
    Some(Fault { revision, problem })
}

/// Whether the hash of an entry is the one that it would have at this revision, after this hash.
fn fits(known: &Chain, previous: &Hash, entry: &Entry, revision: Revision) -> bool {
    chain(previous, known.log_id, &Entry { revision, ..entry.clone() }) == entry.hash
}

/// Whether an entry was written for a later place: after the hash of the entry before that place, after that of the
/// entry that stands there and may be the one before it, or after that of the entry that should stand here.
fn belongs_further_on(known: &Chain, entry: &Entry, rest: &[Entry], own: Option<usize>) -> bool {
    let after_own = own.map(|own| rest[own].hash);
    rest.iter().enumerate().any(|(at, there)| {
        let before = if at == 0 { entry.hash } else { rest[at - 1].hash };
        let previous = [Some(before), Some(there.hash), after_own];
        previous.iter().flatten().any(|previous| fits(known, previous, entry, there.revision))
    })
}
