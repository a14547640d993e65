//! A log verified entry by entry, from wherever it is read.

use std::collections::VecDeque;

use uuid::Uuid;

use super::diagnose::{WINDOW, diagnose};
use super::{Chain, Fault, Problem, Run, Witness};
use crate::domain::audit::Entry;
use crate::domain::hash::GENESIS;
use crate::domain::{Hash, Revision};

/// What the hash at some revision was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Where.
    pub revision: Revision,
    /// What it was.
    pub hash: Hash,
    /// Who says so.
    pub witness: Witness,
}

/// Where the log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Behind a revision of which the hash is known.
    Behind(Revision, Hash),
    /// At this revision; the log itself has to say after which hash.
    At(Revision),
    /// With the first entry that comes. Unless that is the very first, the log itself has to say after which hash.
    Anywhere,
}

/// What was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Of which log.
    pub log_id: Uuid,
    /// How many entries.
    pub entries: u64,
    /// Where they begin: at the revision after this.
    pub after: Revision,
    /// Where they end.
    pub last: Revision,
    /// The hash there.
    pub hash: Hash,
}

/// What is known of the hash that the first entry follows.
enum Beginning {
    Known,
    /// Nothing has come yet.
    Open,
    /// The first entry, which cannot be verified before an entry says what it follows, and what others know of that.
    Unvouched(Box<Entry>, Vec<Mark>),
}

/// Verifies a log.
pub struct Verifier {
    chain: Chain,
    beginning: Beginning,
    /// The first revision that there must be, if it is known.
    oldest: Option<Revision>,
    after: Revision,
    entries: u64,
    until: Option<Revision>,
    /// By rising revision.
    marks: VecDeque<Mark>,
    /// What comes from the first entry on that does not fit.
    doubtful: Vec<Entry>,
}

impl Verifier {
    /// Verifies from `start` on, no further than `until`, and that it fits the marks.
    pub fn new(log_id: Uuid, start: Start, until: Option<Revision>, mut marks: Vec<Mark>) -> Self {
        marks.retain(|mark| until.is_none_or(|until| mark.revision <= until));
        marks.sort_by_key(|mark| mark.revision);
        let ((revision, hash), beginning, oldest) = match start {
            Start::Behind(revision, hash) => ((revision, hash), Beginning::Known, None),
            Start::At(first) => ((first - 1, GENESIS), Beginning::Open, Some(first)),
            Start::Anywhere => ((0, GENESIS), Beginning::Open, None),
        };
        let chain = Chain::behind(log_id, revision, hash);
        let (marks, doubtful) = (marks.into(), Vec::new());
        Self { chain, beginning, oldest, after: revision, entries: 0, until, marks, doubtful }
    }

    /// The last revision that was verified.
    pub fn revision(&self) -> Revision {
        self.chain.revision()
    }

    /// Whether what comes next is of no interest any more: not before something vouches for the beginning.
    pub fn is_done(&self) -> bool {
        matches!(self.beginning, Beginning::Known) && self.until.is_some_and(|until| self.revision() >= until)
    }

    /// What was verified so far.
    pub fn verified(&self) -> Verified {
        let Chain { log_id, revision, hash } = self.chain;
        Verified { log_id, entries: self.entries, after: self.after, last: revision, hash }
    }

    /// Takes a mark that became known late, and lies behind all others.
    pub fn expect(&mut self, mark: Mark) {
        if self.until.is_none_or(|until| mark.revision <= until) {
            self.marks.push_back(mark);
        }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// What is wrong with the log. What does not fit is told once so many entries more have come, or with the end.
    pub fn take(&mut self, entry: Entry) -> Result<(), Fault> {
        if self.is_done() {
            return Ok(());
        }
        if matches!(self.beginning, Beginning::Open) {
            return self.begin(entry);
        }
        if self.entries == 0 {
            self.pass()?;
        }
        if !self.doubtful.is_empty() || self.chain.take(&entry).is_err() {
            self.doubtful.push(entry);
            return if self.doubtful.len() < WINDOW { Ok(()) } else { self.judge() };
        }
        self.entries += 1;
        self.vouch(&entry)?;
        self.pass()
    }

    /// Takes the next entries at once, if there is nothing to look at within them; whether it has. If not, they are to be
    /// taken one by one.
    pub fn take_run(&mut self, run: &Run) -> bool {
        let is_known = match self.beginning {
            Beginning::Known => true,
            Beginning::Unvouched(..) => !run.tells,
            Beginning::Open => false,
        };
        let is_plain = self.doubtful.is_empty()
            && self.until.is_none_or(|until| run.last() <= until)
            && self.marks.front().is_none_or(|mark| mark.revision > run.last());
        let before = self.chain;
        if !is_known || !is_plain || run.log_id() != before.log_id || self.chain.take(&run.first).is_err() {
            return false;
        }
        self.chain = run.chain;
        self.entries += run.last().abs_diff(before.revision);
        true
    }

    /// Takes something that stands where the next entry should, and says nothing that an entry could.
    pub fn take_garbled(&self) -> Fault {
        let altered = Fault { revision: self.revision() + 1, problem: Problem::Altered };
        self.judge().err().unwrap_or(altered)
    }

    /// There are no more entries.
    ///
    /// # Errors
    /// What is wrong with the log.
    pub fn finish(&mut self) -> Result<Verified, Fault> {
        self.judge()?;
        if let Beginning::Unvouched(first, _) = &self.beginning {
            return Err(unvouched(first.revision));
        }
        if let Some(oldest) = self.oldest.filter(|_| matches!(self.beginning, Beginning::Open)) {
            // The hash that the first entry follows is not known, so that only what lies further on tells anything.
            self.marks.retain(|mark| mark.revision >= oldest);
            if self.marks.is_empty() {
                return Err(unvouched(oldest));
            }
        }
        self.pass()?;
        let end = self.revision();
        if let Some(Mark { revision, witness, .. }) = self.marks.front() {
            let problem = Problem::Truncated { end, witness: *witness, known: *revision };
            return Err(Fault { revision: end + 1, problem });
        }
        Ok(self.verified())
    }

    /// What is wrong with what has come so far, as far as that tells: for who cannot read on.
    ///
    /// # Errors
    /// What is wrong with the log.
    pub fn judge(&self) -> Result<(), Fault> {
        diagnose(&self.chain, &self.doubtful).map_or(Ok(()), Err)
    }

    fn begin(&mut self, first: Entry) -> Result<(), Fault> {
        if first.revision == 1 {
            self.beginning = Beginning::Known;
            return self.take(first);
        }
        if let Some(oldest) = self.oldest.filter(|oldest| first.revision != *oldest) {
            return Err(Fault { revision: oldest, problem: Problem::Missing { next: first.revision } });
        }
        self.after = first.revision - 1;
        self.chain = Chain { revision: first.revision, hash: first.hash, ..self.chain };
        self.entries = 1;
        let earlier = self.marks.partition_point(|mark| mark.revision < first.revision);
        let (before, gone): (Vec<_>, Vec<_>) =
            self.marks.drain(..earlier).partition(|mark| mark.revision == self.after);
        // What is stored with the log may be older than what is left of it; what somebody asks for must be compared.
        if let Some(Mark { revision, witness, .. }) = gone.into_iter().find(|mark| mark.witness == Witness::Given) {
            return Err(Fault { revision, problem: Problem::Gone { first: first.revision, witness } });
        }
        self.beginning = Beginning::Unvouched(Box::new(first.clone()), before);
        self.vouch(&first)?;
        self.pass()
    }

    /// An entry that was verified may say what the first one follows.
    fn vouch(&mut self, entry: &Entry) -> Result<(), Fault> {
        let Beginning::Unvouched(first, marks) = &self.beginning else { return Ok(()) };
        let Some(hash) = entry.log_start().filter(|trim| trim.floor == self.after).map(|trim| trim.hash) else {
            return Ok(());
        };
        Chain { revision: self.after, hash, ..self.chain }.take(first)?;
        if let Some(mark) = marks.iter().find(|mark| mark.hash != hash) {
            return Err(Fault { revision: mark.revision, problem: Problem::Forked(mark.witness) });
        }
        self.beginning = Beginning::Known;
        Ok(())
    }

    /// Compares what others know of the revision that the chain stands at.
    fn pass(&mut self) -> Result<(), Fault> {
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.revision <= self.chain.revision) {
            if mark.revision == self.chain.revision && mark.hash != self.chain.hash {
                return Err(Fault { revision: mark.revision, problem: Problem::Forked(mark.witness) });
            }
        }
        Ok(())
    }
}

/// Nothing says what came before the first entry.
fn unvouched(first: Revision) -> Fault {
    Fault { revision: first - 1, problem: Problem::Unvouched { first } }
}

#[cfg(test)]
mod tests;
