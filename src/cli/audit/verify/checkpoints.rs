//! What is known of the log beside the log: checkpoints that were kept, and those that are stored with it.

use std::fs;
use std::path::Path;

use uuid::Uuid;

use crate::checkpoint::{Misfit, Note, VerifierKey};
use crate::cli::{Failure, file, output};
use crate::domain::hash::parse_hex;
use crate::domain::{Hash, Revision};
use crate::verify::{Fault, Mark, Problem, Start, Verifier, Witness};

/// A checkpoint that was given.
#[derive(Debug)]
pub(super) struct Given {
    pub revision: Revision,
    pub hash: Hash,
    /// None for a revision and its hash alone.
    note: Option<Note>,
}

impl Given {
    /// `REVISION:HASH`, or the name of a file with a signed note.
    pub fn read(setting: &str, text: &str) -> Result<Self, Failure> {
        if let Some(plain) = Self::plain(text) {
            return Ok(plain);
        }
        if text.split_once(':').is_some_and(|(revision, _)| revision.parse::<Revision>().is_ok())
            && !Path::new(text).exists()
        {
            let rule = "it is no REVISION:HASH, with a hash of 64 hexadecimal digits";
            return Err(Failure::usage(format!("{setting} {text}: {rule}, nor a file")));
        }
        let note = fs::read_to_string(text).map_err(|error| file::failed(&format!("{setting} {text}"), &error))?;
        let rule = |error| Failure::usage(format!("{setting} {text}: {error}"));
        let note = Note::parse(&note).map_err(rule)?;
        Ok(Self { revision: note.checkpoint.revision, hash: note.checkpoint.hash, note: Some(note) })
    }

    fn plain(text: &str) -> Option<Self> {
        let (revision, hash) = text.split_once(':')?;
        let revision = revision.parse().ok().filter(|revision| *revision >= 0)?;
        Some(Self { revision, hash: parse_hex(hash)?, note: None })
    }

    /// Which log it is of, if it says so.
    pub fn log_id(&self) -> Option<Uuid> {
        self.note.as_ref().map(|note| note.checkpoint.log_id)
    }

    /// Whether it is of this log, and signed.
    fn check(&self, log_id: Uuid, keys: &[VerifierKey]) -> Result<(), Fault> {
        let fault = |problem| Fault { revision: self.revision, problem };
        let Some(note) = &self.note else { return Ok(()) };
        if !keys.is_empty() {
            note.verify(keys).map_err(|error| fault(Problem::Forged(error.to_string())))?;
        }
        let of = note.checkpoint.log_id;
        if of == log_id { Ok(()) } else { Err(fault(Problem::OtherLog { of, this: log_id })) }
    }
}

/// What to verify.
pub(super) struct Plan {
    pub since: Option<Given>,
    pub until: Option<Given>,
    keys: Vec<VerifierKey>,
}

impl Plan {
    pub fn new(since: Option<Given>, until: Option<Given>, keys: Vec<VerifierKey>) -> Result<Self, Failure> {
        if since.as_ref().zip(until.as_ref()).is_some_and(|(since, until)| since.revision > until.revision) {
            return Err(Failure::usage("--since is after --until: nothing is in between then"));
        }
        let plan = Self { since, until, keys };
        if plan.keys.is_empty() && plan.given().any(|given| given.note.is_some()) {
            output::note("the signatures of the given checkpoints are not verified: there is no --public-key");
        }
        Ok(plan)
    }

    fn given(&self) -> impl Iterator<Item = &Given> {
        self.since.iter().chain(&self.until)
    }

    /// Whether what was given is of this log, and signed.
    pub fn check(&self, log_id: Uuid) -> Result<(), Fault> {
        self.given().try_for_each(|given| given.check(log_id, &self.keys))
    }

    /// Verifies this log from where it begins, unless it is to be verified from later on.
    pub fn verifier(&self, log_id: Uuid, start: Start, mut marks: Vec<Mark>) -> Verifier {
        let start = self.since.as_ref().map_or(start, |since| Start::Behind(since.revision, since.hash));
        let until = self.until.as_ref();
        marks.extend(until.map(|until| Mark { revision: until.revision, hash: until.hash, witness: Witness::Given }));
        Verifier::new(log_id, start, until.map(|until| until.revision), marks)
    }

    /// What the checkpoints know that are stored with the log, and the first of them that is not to be believed. `keys`
    /// are what the log itself says that they were signed with.
    pub fn stored(&self, log_id: Uuid, stored: &[(Revision, String)], keys: &[String]) -> (Vec<Mark>, Option<Fault>) {
        let listed: Vec<_> = keys.iter().filter_map(|key| VerifierKey::parse(key).ok()).collect();
        let keys = if self.keys.is_empty() { &listed } else { &self.keys };
        let first = self.since.as_ref().map_or(0, |since| since.revision);
        let last = self.until.as_ref().map_or(Revision::MAX, |until| until.revision);
        let (mut marks, mut forged) = (Vec::new(), None);
        for (revision, note) in stored.iter().filter(|(revision, _)| (first..=last).contains(revision)) {
            match mark(log_id, *revision, note, keys) {
                Ok(mark) => marks.push(mark),
                Err(problem) => forged = forged.or(Some(Fault { revision: *revision, problem })),
            }
        }
        (marks, forged)
    }
}

/// What a stored checkpoint knows, if it is to be believed.
fn mark(log_id: Uuid, revision: Revision, note: &str, keys: &[VerifierKey]) -> Result<Mark, Problem> {
    let note = Note::of(log_id, revision, note, keys).map_err(|misfit| match misfit {
        Misfit::Elsewhere(_, of) if of != log_id => Problem::OtherLog { of, this: log_id },
        misfit => Problem::Forged(misfit.to_string()),
    })?;
    Ok(Mark { revision, hash: note.checkpoint.hash, witness: Witness::Stored })
}
