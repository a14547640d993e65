//! A log verified entry by entry, wherever it is read from.

use std::collections::VecDeque;

use uuid::Uuid;

use super::diagnose::{WINDOW, diagnose};
use super::{Chain, Fault, HashSource, Problem, Segment};
use crate::domain::audit::Entry;
use crate::domain::hash::GENESIS;
use crate::domain::{Hash, Revision};

/// The hash that the log had at a revision, known from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownHash {
    /// The revision.
    pub revision: Revision,
    /// The hash of the entry there.
    pub hash: Hash,
    /// Where it is known from.
    pub source: HashSource,
}

/// Where the log starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// After a revision with a known hash.
    After(Revision, Hash),
    /// At this revision. A `log_trimmed` entry must confirm the hash before it.
    At(Revision),
    /// At the first entry that is pushed. Unless its revision is 1, a `log_trimmed` entry must confirm the hash before it.
    Anywhere,
}

/// The part of a log that was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// The log.
    pub log_id: Uuid,
    /// The number of entries.
    pub entries: u64,
    /// The revision before the first entry.
    pub after: Revision,
    /// The revision of the last entry.
    pub last: Revision,
    /// The hash of the last entry.
    pub hash: Hash,
}

/// What is known of the hash before the first entry.
enum StartState {
    Known,
    /// No entry was pushed yet.
    Empty,
    /// The first entry, which cannot be verified until a `log_trimmed` entry contains the hash before it, and the known hashes
    /// to compare that with.
    Unconfirmed(Box<Entry>, Vec<KnownHash>),
}

/// Verifies a log.
pub struct Verifier {
    chain: Chain,
    start: StartState,
    /// The revision that the first entry must have, for [`Start::At`].
    required_first: Option<Revision>,
    after: Revision,
    entries: u64,
    until: Option<Revision>,
    /// The known hashes that were not compared yet, by rising revision.
    known: VecDeque<KnownHash>,
    /// The first entry that does not fit and the entries after it, for the diagnosis.
    nonmatching: Vec<Entry>,
}

impl Verifier {
    /// Verifies a log from `start` to `until`, or to its end, and compares it with the known hashes in that range.
    pub fn new(log_id: Uuid, start: Start, until: Option<Revision>, mut known: Vec<KnownHash>) -> Self {
        known.retain(|known| until.is_none_or(|until| known.revision <= until));
        known.sort_by_key(|known| known.revision);
        let ((revision, hash), start, required_first) = match start {
            Start::After(revision, hash) => ((revision, hash), StartState::Known, None),
            Start::At(first) => ((first - 1, GENESIS), StartState::Empty, Some(first)),
            Start::Anywhere => ((0, GENESIS), StartState::Empty, None),
        };
        let chain = Chain::after(log_id, revision, hash);
        let (known, nonmatching) = (known.into(), Vec::new());
        Self { chain, start, required_first, after: revision, entries: 0, until, known, nonmatching }
    }

    /// The last verified revision.
    pub fn revision(&self) -> Revision {
        self.chain.revision()
    }

    /// Whether the rest of the log is not needed: `until` is reached, and the start is confirmed.
    pub fn is_done(&self) -> bool {
        matches!(self.start, StartState::Known) && self.until.is_some_and(|until| self.revision() >= until)
    }

    /// What was verified so far.
    pub fn verified(&self) -> Verified {
        let Chain { log_id, revision, hash } = self.chain;
        Verified { log_id, entries: self.entries, after: self.after, last: revision, hash }
    }

    /// Adds a known hash, which must not come before those added earlier.
    pub fn add_known_hash(&mut self, known: KnownHash) {
        if self.until.is_none_or(|until| known.revision <= until) {
            self.known.push_back(known);
        }
    }

    /// Verifies the next entry.
    ///
    /// # Errors
    /// The first fault of the log. An entry that does not fit is reported once enough later entries were pushed to classify
    /// the fault, or by [`Verifier::finish`].
    pub fn push(&mut self, entry: Entry) -> Result<(), Fault> {
        if self.is_done() {
            return Ok(());
        }
        if matches!(self.start, StartState::Empty) {
            return self.push_first(entry);
        }
        if self.entries == 0 {
            self.compare_known()?;
        }
        if !self.nonmatching.is_empty() || self.chain.push(&entry).is_err() {
            self.nonmatching.push(entry);
            return if self.nonmatching.len() < WINDOW { Ok(()) } else { self.check_nonmatching() };
        }
        self.entries += 1;
        self.confirm_start(&entry)?;
        self.compare_known()
    }

    /// Verifies a whole segment at once. Returns false, and verifies nothing, if the segment does not continue the chain,
    /// passes `until`, reaches a known hash, or may hold the entry that confirms the start. The caller then pushes its
    /// entries one by one.
    pub fn push_segment(&mut self, segment: &Segment) -> bool {
        let is_start_known = match self.start {
            StartState::Known => true,
            StartState::Unconfirmed(..) => !segment.has_log_start,
            StartState::Empty => false,
        };
        let is_plain = self.nonmatching.is_empty()
            && self.until.is_none_or(|until| segment.last() <= until)
            && self.known.front().is_none_or(|known| known.revision > segment.last());
        let before = self.chain;
        if !is_start_known || !is_plain || segment.log_id() != before.log_id || self.chain.push(&segment.first).is_err()
        {
            return false;
        }
        self.chain = segment.chain;
        self.entries += segment.last().abs_diff(before.revision);
        true
    }

    /// The fault when the next entry cannot be parsed.
    pub fn invalid_entry(&self) -> Fault {
        let altered = Fault { revision: self.revision() + 1, problem: Problem::Altered };
        self.check_nonmatching().err().unwrap_or(altered)
    }

    /// Ends the log.
    ///
    /// # Errors
    /// The first fault of the log.
    pub fn finish(&mut self) -> Result<Verified, Fault> {
        self.check_nonmatching()?;
        if let StartState::Unconfirmed(first, _) = &self.start {
            return Err(unknown_start(first.revision));
        }
        if let Some(first) = self.required_first.filter(|_| matches!(self.start, StartState::Empty)) {
            // No entry was pushed. A known hash at or after `first` proves that entries are missing; without one, the
            // start is unknown.
            self.known.retain(|known| known.revision >= first);
            if self.known.is_empty() {
                return Err(unknown_start(first));
            }
        }
        self.compare_known()?;
        let end = self.revision();
        if let Some(KnownHash { revision, source, .. }) = self.known.front() {
            let problem = Problem::Truncated { end, known_by: *source, known: *revision };
            return Err(Fault { revision: end + 1, problem });
        }
        Ok(self.verified())
    }

    /// Classifies the entries that did not fit so far, for a caller that cannot read further.
    ///
    /// # Errors
    /// The first fault of the log.
    pub fn check_nonmatching(&self) -> Result<(), Fault> {
        diagnose(&self.chain, &self.nonmatching).map_or(Ok(()), Err)
    }

    fn push_first(&mut self, first: Entry) -> Result<(), Fault> {
        if first.revision == 1 {
            self.start = StartState::Known;
            return self.push(first);
        }
        if let Some(required) = self.required_first.filter(|required| first.revision != *required) {
            return Err(Fault { revision: required, problem: Problem::Missing { next: first.revision } });
        }
        self.after = first.revision - 1;
        self.chain = Chain { revision: first.revision, hash: first.hash, ..self.chain };
        self.entries = 1;
        let earlier = self.known.partition_point(|known| known.revision < first.revision);
        let (at_floor, trimmed): (Vec<_>, Vec<_>) =
            self.known.drain(..earlier).partition(|known| known.revision == self.after);
        // A stored checkpoint may lie before the first kept entry, and is skipped. A hash that the caller gave must be
        // compared, so it is a fault if it lies there.
        if let Some(KnownHash { revision, source, .. }) =
            trimmed.into_iter().find(|known| known.source == HashSource::Given)
        {
            return Err(Fault { revision, problem: Problem::BeforeStart { first: first.revision, known_by: source } });
        }
        self.start = StartState::Unconfirmed(Box::new(first.clone()), at_floor);
        self.confirm_start(&first)?;
        self.compare_known()
    }

    /// Verifies the first entry, if this entry contains the hash before it.
    fn confirm_start(&mut self, entry: &Entry) -> Result<(), Fault> {
        let StartState::Unconfirmed(first, at_floor) = &self.start else { return Ok(()) };
        let Some(hash) = entry.log_start().filter(|start| start.floor == self.after).map(|start| start.hash) else {
            return Ok(());
        };
        Chain { revision: self.after, hash, ..self.chain }.push(first)?;
        if let Some(known) = at_floor.iter().find(|known| known.hash != hash) {
            return Err(Fault { revision: known.revision, problem: Problem::Forked(known.source) });
        }
        self.start = StartState::Known;
        Ok(())
    }

    /// Compares the known hashes up to the last verified revision.
    fn compare_known(&mut self) -> Result<(), Fault> {
        while let Some(known) = self.known.pop_front_if(|known| known.revision <= self.chain.revision) {
            if known.revision == self.chain.revision && known.hash != self.chain.hash {
                return Err(Fault { revision: known.revision, problem: Problem::Forked(known.source) });
            }
        }
        Ok(())
    }
}

fn unknown_start(first: Revision) -> Fault {
    Fault { revision: first - 1, problem: Problem::UnknownStart { first } }
}

#[cfg(test)]
mod tests;
