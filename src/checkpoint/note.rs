//! Signed notes (C2SP `signed-note`): the text of a checkpoint with its signatures.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use super::{Checkpoint, CheckpointMismatch, KeyId, VerifierKey};
use crate::domain::Revision;

/// The start of a signature line: an em dash and a space.
const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// Why a text is not a signed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The text does not have the form of a signed checkpoint.
    #[error("not a signed checkpoint of a toggled log")]
    Malformed,
    /// None of the known keys has signed the checkpoint.
    #[error("not signed by any of the known keys")]
    UnknownKey,
    /// The signature of a known key is invalid for this text.
    #[error("the signature of key {0} does not match the checkpoint")]
    BadSignature(KeyId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    name: String,
    key_id: KeyId,
    bytes: Vec<u8>,
}

/// A checkpoint with its signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The signed checkpoint.
    pub checkpoint: Checkpoint,
    signatures: Vec<Signature>,
}

impl Note {
    /// A note with one signature.
    pub(super) fn new(checkpoint: Checkpoint, key: &VerifierKey, signature: &[u8]) -> Self {
        let signature = Signature { name: key.name().to_owned(), key_id: key.id(), bytes: signature.to_vec() };
        Self { checkpoint, signatures: vec![signature] }
    }

    /// Parses a note without verifying its signatures.
    ///
    /// # Errors
    /// When the text is not a signed checkpoint.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        let (text, signatures) = note.split_once("\n\n").ok_or(NoteError::Malformed)?;
        let checkpoint = Checkpoint::parse(&format!("{text}\n")).ok_or(NoteError::Malformed)?;
        let signatures: Option<Vec<_>> = signatures.lines().map(parse_signature).collect();
        let signatures = signatures.filter(|signatures| !signatures.is_empty()).ok_or(NoteError::Malformed)?;
        Ok(Self { checkpoint, signatures })
    }

    /// Parses a note and verifies that one of `keys` has signed it, for this revision of this log.
    ///
    /// # Errors
    /// When the text is not a signed checkpoint, no key has signed it, or it was signed for another log or revision.
    pub fn parse_verified(
        log_id: Uuid,
        revision: Revision,
        note: &str,
        keys: &[VerifierKey],
    ) -> Result<Self, CheckpointMismatch> {
        let note = Self::parse(note)?;
        note.verify(keys)?;
        let signed = note.checkpoint;
        if (signed.log_id, signed.revision) == (log_id, revision) {
            Ok(note)
        } else {
            Err(CheckpointMismatch::OtherPosition(signed.revision, signed.log_id))
        }
    }

    /// Returns the key that has signed the note. Signatures by unknown keys are ignored.
    ///
    /// # Errors
    /// When none of the keys has signed the note.
    pub fn verify<'k>(&self, keys: &'k [VerifierKey]) -> Result<&'k VerifierKey, NoteError> {
        let text = self.checkpoint.to_string();
        for signature in &self.signatures {
            let is_signer = |key: &&VerifierKey| key.name() == signature.name && key.id() == signature.key_id;
            let Some(key) = keys.iter().find(is_signer) else { continue };
            return if key.verifies(text.as_bytes(), &signature.bytes) {
                Ok(key)
            } else {
                Err(NoteError::BadSignature(key.id()))
            };
        }
        Err(NoteError::UnknownKey)
    }

    /// The first signature, and the id of the key that it names.
    pub fn signature(&self) -> Option<(KeyId, &[u8])> {
        self.signatures.first().map(|signature| (signature.key_id, signature.bytes.as_slice()))
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.checkpoint)?;
        for Signature { name, key_id, bytes } in &self.signatures {
            let signed = [&key_id.bytes()[..], bytes].concat();
            writeln!(f, "{SIGNATURE_PREFIX}{name} {}", STANDARD.encode(signed))?;
        }
        Ok(())
    }
}

fn parse_signature(line: &str) -> Option<Signature> {
    let (name, signed) = line.strip_prefix(SIGNATURE_PREFIX)?.split_once(' ')?;
    let signed = STANDARD.decode(signed).ok()?;
    let (key_id, bytes) = signed.split_first_chunk::<4>()?;
    let (name, bytes) = (name.to_owned(), bytes.to_vec());
    (!name.is_empty() && !bytes.is_empty()).then(|| Signature { name, key_id: KeyId::from(*key_id), bytes })
}

#[cfg(test)]
mod tests {
    use super::super::SigningKey;
    use super::super::tests::{LOG, PEM, checkpoint};
    use super::*;

    #[test]
    fn written_note_parses_and_verifies() {
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
    fn changed_note_does_not_verify() {
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
    fn signature_of_unknown_key_is_ignored() {
        let (ours, theirs) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let note = theirs.sign(checkpoint());
        assert_eq!(note.verify(&[ours.verifier(LOG)]), Err(NoteError::UnknownKey));
        assert_eq!(note.verify(&[ours.verifier(LOG), theirs.verifier(LOG)]), Ok(&theirs.verifier(LOG)));
        // The same key has another identity in another log.
        assert_eq!(note.verify(&[theirs.verifier(Uuid::nil())]), Err(NoteError::UnknownKey));
    }

    #[test]
    fn note_is_valid_only_for_its_log_and_revision() {
        let (ours, theirs) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let (note, keys) = (ours.sign(checkpoint()), [ours.verifier(LOG)]);
        let text = note.to_string();
        assert_eq!(Note::parse_verified(LOG, 3, &text, &keys), Ok(note));
        assert_eq!(Note::parse_verified(LOG, 4, &text, &keys), Err(CheckpointMismatch::OtherPosition(3, LOG)));
        assert_eq!(Note::parse_verified(Uuid::nil(), 3, &text, &keys), Err(CheckpointMismatch::OtherPosition(3, LOG)));
        assert_eq!(Note::parse_verified(LOG, 3, "hello", &keys), Err(CheckpointMismatch::Note(NoteError::Malformed)));
        assert_eq!(
            Note::parse_verified(LOG, 3, &text, &[theirs.verifier(LOG)]),
            Err(CheckpointMismatch::Note(NoteError::UnknownKey))
        );
    }
}
