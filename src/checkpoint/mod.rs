//! Checkpoints: signed statements of what the log was at a revision. `docs/audit-proof.md` specifies the text.
//!
//! A checkpoint is a signed note as the transparency logs write it (C2SP `signed-note`), and its text has the lines of
//! their checkpoints (C2SP `tlog-checkpoint`): the origin, the revision, the hash, and here one more, the time.

mod key;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use crate::domain::time::Timestamp;
use crate::domain::{Hash, Revision};

pub use key::{KeyError, KeyId, SigningKey, VerifierKey};

/// What a line with a signature begins with: an em dash and a space.
const SIGNATURE: &str = "\u{2014} ";

/// What the log was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub log_id: Uuid,
    /// The revision of the entry that it speaks of.
    pub revision: Revision,
    /// The hash of that entry.
    pub hash: Hash,
    /// When it was signed, by the clock of who did.
    pub time: Timestamp,
}

/// What a log is called in checkpoints, and what the keys are called that sign them.
pub fn origin(log_id: Uuid) -> String {
    format!("toggled/{log_id}")
}

/// The text that is signed.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log_id, revision, hash, time } = self;
        writeln!(f, "{}\n{revision}\n{}\ntime {time}", origin(*log_id), STANDARD.encode(hash))
    }
}

impl Checkpoint {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let log_id = Uuid::try_parse(lines.next()?.strip_prefix("toggled/")?).ok()?;
        let revision = lines.next()?.parse().ok()?;
        let hash = STANDARD.decode(lines.next()?).ok()?.try_into().ok()?;
        let time: jiff::Timestamp = lines.next()?.strip_prefix("time ")?.parse().ok()?;
        let time = Timestamp::from_micros(time.as_microsecond());
        let checkpoint = Self { log_id, revision, hash, time };
        // There is one way to write a checkpoint, and what was signed is that one.
        (checkpoint.to_string() == text).then_some(checkpoint)
    }
}

/// Why a text is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It is something else.
    #[error("it is no signed checkpoint of a log of toggled's")]
    Malformed,
    /// No known key has signed it.
    #[error("none of the given keys has signed it")]
    UnknownKey,
    /// A known key's signature is not of this text.
    #[error("the signature of the key {0} is not of this checkpoint")]
    BadSignature(KeyId),
}

/// How a note is not the checkpoint of a log that it is kept or sent as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It is none, or none of the log's keys has signed it.
    #[error("{0}")]
    Note(#[from] NoteError),
    /// It was signed for another log, or for another revision than that it stands at.
    #[error("it was signed for revision {0} of log {1}")]
    Elsewhere(Revision, Uuid),
    /// The log ends before.
    #[error("the log ends at revision {0}")]
    Beyond(Revision),
    /// The entry there is another.
    #[error("the entry there has another hash")]
    Hash,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    name: String,
    key_id: KeyId,
    bytes: Vec<u8>,
}

/// A checkpoint and who has signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What was signed.
    pub checkpoint: Checkpoint,
    signatures: Vec<Signature>,
}

impl Note {
    /// Reads one. Nothing is verified yet.
    ///
    /// # Errors
    /// That it is none.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        let (text, signatures) = note.split_once("\n\n").ok_or(NoteError::Malformed)?;
        let checkpoint = Checkpoint::parse(&format!("{text}\n")).ok_or(NoteError::Malformed)?;
        let signatures: Option<Vec<_>> = signatures.lines().map(signature).collect();
        let signatures = signatures.filter(|signatures| !signatures.is_empty()).ok_or(NoteError::Malformed)?;
        Ok(Self { checkpoint, signatures })
    }

    /// Reads one that stands at this revision of this log, which one of these keys must have signed.
    ///
    /// # Errors
    /// That it is none, that none of them has signed it, or that it is of another log or revision.
    pub fn of(log_id: Uuid, revision: Revision, note: &str, keys: &[VerifierKey]) -> Result<Self, Misfit> {
        let note = Self::parse(note)?;
        note.verify(keys)?;
        let of = note.checkpoint;
        let fits = (of.log_id, of.revision) == (log_id, revision);
        if fits { Ok(note) } else { Err(Misfit::Elsewhere(of.revision, of.log_id)) }
    }

    /// Which of these keys has signed it. Signatures by others say nothing.
    ///
    /// # Errors
    /// That none has.
    pub fn verify<'k>(&self, keys: &'k [VerifierKey]) -> Result<&'k VerifierKey, NoteError> {
        let text = self.checkpoint.to_string();
        for signature in &self.signatures {
            let signer = |key: &&VerifierKey| key.name() == signature.name && key.id() == signature.key_id;
            let Some(key) = keys.iter().find(signer) else { continue };
            return if key.has_signed(text.as_bytes(), &signature.bytes) {
                Ok(key)
            } else {
                Err(NoteError::BadSignature(key.id()))
            };
        }
        Err(NoteError::UnknownKey)
    }

    /// The first signature, and which key is said to have made it.
    pub fn signature(&self) -> Option<(KeyId, &[u8])> {
        self.signatures.first().map(|signature| (signature.key_id, signature.bytes.as_slice()))
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.checkpoint)?;
        for Signature { name, key_id, bytes } in &self.signatures {
            let signed = [&key_id.bytes()[..], bytes].concat();
            writeln!(f, "{SIGNATURE}{name} {}", STANDARD.encode(signed))?;
        }
        Ok(())
    }
}

fn signature(line: &str) -> Option<Signature> {
    let (name, signed) = line.strip_prefix(SIGNATURE)?.split_once(' ')?;
    let signed = STANDARD.decode(signed).ok()?;
    let (key_id, bytes) = signed.split_first_chunk::<4>()?;
    let (name, bytes) = (name.to_owned(), bytes.to_vec());
    (!name.is_empty() && !bytes.is_empty()).then(|| Signature { name, key_id: KeyId::from(*key_id), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Uuid = Uuid::from_u128(0x0102_0304_0506_4708_890a_0b0c_0d0e_0f10);

    /// The key of the first test of RFC 8032, as `openssl genpkey -algorithm ed25519` writes one.
    const PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";

    fn checkpoint() -> Checkpoint {
        Checkpoint { log_id: LOG, revision: 3, hash: [7; 32], time: Timestamp::from_micros(1_700_000_000_000_001) }
    }

    /// What docs/audit-proof.md shows is what the program writes.
    #[test]
    fn the_document_shows_a_note_of_the_known_key() {
        let document = include_str!("../../docs/audit-proof.md");
        let hash = "5252fe55a33e3864d4a2394cc34bed4e1245abd0677105f9a068d6555a75613f";
        let mut checkpoint = checkpoint();
        for (byte, digits) in checkpoint.hash.iter_mut().zip(hash.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
        }
        let key = SigningKey::from_pem(PEM.as_bytes()).unwrap();
        let (note, verifier) = (key.sign(checkpoint), key.verifier(LOG).to_string());
        for shown in [PEM, &note.to_string(), &format!("{verifier}\n"), &format!("hash of entry 3: {hash}\n")] {
            assert!(document.contains(shown), "not in the document:\n{shown}");
        }
    }

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let key = SigningKey::from_pem(PEM.as_bytes()).unwrap();
        let note = key.sign(checkpoint());
        let text = note.to_string();
        assert_eq!(Note::parse(&text), Ok(note.clone()));
        assert_eq!(note.verify(&[key.verifier(LOG)]), Ok(&key.verifier(LOG)));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..3], ["toggled/01020304-0506-4708-890a-0b0c0d0e0f10", "3", &STANDARD.encode([7; 32])]);
        assert_eq!(lines[3..5], ["time 2023-11-14T22:13:20.000001Z", ""]);
        assert!(lines[5].starts_with("\u{2014} toggled/01020304-0506-4708-890a-0b0c0d0e0f10 "), "{text}");
    }

    #[test]
    fn whatever_is_changed_in_a_note_is_noticed() {
        let key = SigningKey::from_pem(PEM.as_bytes()).unwrap();
        let (text, keys) = (key.sign(checkpoint()).to_string(), [key.verifier(LOG)]);
        for (at, was) in text.char_indices() {
            let now = if was == 'A' { 'B' } else { 'A' };
            let altered = format!("{}{now}{}", &text[..at], &text[at + was.len_utf8()..]);
            let verified = Note::parse(&altered).and_then(|note| note.verify(&keys).map(VerifierKey::id));
            assert!(verified.is_err(), "{altered}");
        }
        let longer = text.replacen("\n\n", "\nmore\n\n", 1);
        assert_eq!(Note::parse(&longer), Err(NoteError::Malformed));
    }

    #[test]
    fn somebody_elses_signature_counts_for_nothing() {
        let (ours, theirs) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let note = theirs.sign(checkpoint());
        assert_eq!(note.verify(&[ours.verifier(LOG)]), Err(NoteError::UnknownKey));
        assert_eq!(note.verify(&[ours.verifier(LOG), theirs.verifier(LOG)]), Ok(&theirs.verifier(LOG)));
        // The same key is another in another log.
        assert_eq!(note.verify(&[theirs.verifier(Uuid::nil())]), Err(NoteError::UnknownKey));
    }

    #[test]
    fn a_note_counts_where_it_was_signed_for() {
        let (ours, theirs) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let (note, keys) = (ours.sign(checkpoint()), [ours.verifier(LOG)]);
        let text = note.to_string();
        assert_eq!(Note::of(LOG, 3, &text, &keys), Ok(note));
        assert_eq!(Note::of(LOG, 4, &text, &keys), Err(Misfit::Elsewhere(3, LOG)));
        assert_eq!(Note::of(Uuid::nil(), 3, &text, &keys), Err(Misfit::Elsewhere(3, LOG)));
        assert_eq!(Note::of(LOG, 3, "hello", &keys), Err(Misfit::Note(NoteError::Malformed)));
        assert_eq!(Note::of(LOG, 3, &text, &[theirs.verifier(LOG)]), Err(Misfit::Note(NoteError::UnknownKey)));
    }

    #[test]
    fn all_who_make_a_key_at_once_end_up_with_the_same() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("a.key");
        let make = || SigningKey::read_or_make(&path).unwrap().to_pem();
        let keys: Vec<_> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..16).map(|_| scope.spawn(make)).collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pem(key.to_pem().as_bytes()).unwrap();
        assert_eq!(again.verifier(LOG), key.verifier(LOG));
        let text = key.verifier(LOG).to_string();
        assert_eq!(VerifierKey::parse(&text), Ok(key.verifier(LOG)));
        assert!(SigningKey::from_pem(b"hello").is_err());
        for broken in ["", "hello", &text[1..], &text[..text.len() - 4], &text.replace('+', " ")] {
            assert!(VerifierKey::parse(broken).is_err(), "{broken}");
        }
        // Of RFC 8032: the key's public half.
        let known = SigningKey::from_pem(PEM.as_bytes()).unwrap().verifier(LOG).to_string();
        assert!(known.ends_with("+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea"), "{known}");
        assert!(!format!("{key:?}").contains(key.to_pem().lines().nth(1).unwrap()));
    }
}
