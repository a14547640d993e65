//! The part of a log to verify, between checkpoints that the caller kept, and the checkpoints stored with the log.

use uuid::Uuid;

use super::{Fault, HashSource, KnownHash, Problem, Start, Verifier};
use crate::checkpoint::{CheckpointMismatch, Note, VerifierKey};
use crate::domain::hex::parse_hex;
use crate::domain::{Hash, Revision};
use crate::store::StoredCheckpoint;

/// A checkpoint that the caller kept.
#[derive(Debug)]
pub struct GivenCheckpoint {
    /// The revision.
    pub revision: Revision,
    /// The hash of the entry there.
    pub hash: Hash,
    /// The signed note; `None` for a plain revision and hash.
    note: Option<Note>,
}

impl GivenCheckpoint {
    /// Parses `REVISION:HASH`.
    pub fn parse(text: &str) -> Option<Self> {
        let (revision, hash) = text.split_once(':')?;
        let revision = revision.parse().ok().filter(|revision| *revision >= 0)?;
        Some(Self { revision, hash: parse_hex(hash)?, note: None })
    }

    /// The log that a signed checkpoint belongs to.
    pub fn log_id(&self) -> Option<Uuid> {
        self.note.as_ref().map(|note| note.checkpoint.log_id)
    }

    /// Whether it has a signature.
    pub fn is_signed(&self) -> bool {
        self.note.is_some()
    }

    /// Checks the signature, if there are keys, and that it belongs to this log.
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

impl From<Note> for GivenCheckpoint {
    fn from(note: Note) -> Self {
        Self { revision: note.checkpoint.revision, hash: note.checkpoint.hash, note: Some(note) }
    }
}

/// The part of the log to verify. By default all of it.
#[derive(Debug, Default)]
pub struct Bounds {
    /// Verifies only the entries after this checkpoint.
    pub since: Option<GivenCheckpoint>,
    /// Verifies only the entries up to this checkpoint, which the log must match.
    pub until: Option<GivenCheckpoint>,
    /// The keys that given and stored checkpoints must be signed with. Without any, stored checkpoints are verified with the
    /// keys that the log lists, and signatures of given ones are not verified.
    pub keys: Vec<VerifierKey>,
}

impl Bounds {
    /// Checks that the given checkpoints are authentic and belong to this log.
    ///
    /// # Errors
    /// The fault of the first that does not.
    pub fn check(&self, log_id: Uuid) -> Result<(), Fault> {
        self.since.iter().chain(&self.until).try_for_each(|given| given.check(log_id, &self.keys))
    }

    /// A verifier of these bounds of a log that starts at `start`.
    pub fn verifier(&self, log_id: Uuid, start: Start, mut known: Vec<KnownHash>) -> Verifier {
        let start = self.since.as_ref().map_or(start, |since| Start::After(since.revision, since.hash));
        let until = self.until.as_ref();
        known.extend(until.map(|until| KnownHash {
            revision: until.revision,
            hash: until.hash,
            source: HashSource::Given,
        }));
        Verifier::new(log_id, start, until.map(|until| until.revision), known)
    }

    /// The hashes that the stored checkpoints within the bounds prove, and the fault of the first that is not authentic.
    /// `listed` are the keys that the log itself lists.
    pub fn stored_hashes(
        &self,
        log_id: Uuid,
        stored: &[StoredCheckpoint],
        listed: &[VerifierKey],
    ) -> (Vec<KnownHash>, Option<Fault>) {
        let keys = if self.keys.is_empty() { listed } else { &self.keys };
        let first = self.since.as_ref().map_or(0, |since| since.revision);
        let last = self.until.as_ref().map_or(Revision::MAX, |until| until.revision);
        let (mut known, mut forged) = (Vec::new(), None);
        for checkpoint in stored.iter().filter(|checkpoint| (first..=last).contains(&checkpoint.revision)) {
            match stored_hash(log_id, checkpoint, keys) {
                Ok(hash) => known.push(hash),
                Err(fault) => forged = forged.or(Some(fault)),
            }
        }
        (known, forged)
    }
}

/// The hash that a stored checkpoint proves, if it is authentic.
pub(super) fn stored_hash(log_id: Uuid, stored: &StoredCheckpoint, keys: &[VerifierKey]) -> Result<KnownHash, Fault> {
    let revision = stored.revision;
    let note = Note::parse_verified(log_id, revision, &stored.note, keys).map_err(|mismatch| {
        let problem = match mismatch {
            CheckpointMismatch::OtherPosition(_, of) if of != log_id => Problem::OtherLog { of, this: log_id },
            mismatch => Problem::Forged(mismatch.to_string()),
        };
        Fault { revision, problem }
    })?;
    Ok(KnownHash { revision, hash: note.checkpoint.hash, source: HashSource::Stored })
}

/// The keys that a log lists. Those that cannot be parsed have signed nothing.
pub fn parse_keys<'a>(keys: impl IntoIterator<Item = &'a str>) -> Vec<VerifierKey> {
    keys.into_iter().filter_map(|key| VerifierKey::parse(key).ok()).collect()
}
