//! Checkpoints: signed statements of the log's hash at a revision. `docs/audit-proof.md` specifies the text.
//!
//! A checkpoint is a signed note as used by transparency logs (C2SP `signed-note`). Its text has the lines of their
//! checkpoints (C2SP `tlog-checkpoint`), which are origin, revision and hash, and one more line with the time.

mod key_file;
mod note;
mod signing_key;
mod verifier_key;

use std::fmt;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use crate::domain::time::Timestamp;
use crate::domain::{Hash, Revision};

pub use note::{Note, NoteError};
pub use signing_key::SigningKey;
pub use verifier_key::{KeyId, VerifierKey};

/// The identifier of Ed25519 in signed notes.
const ED25519_ALGORITHM: u8 = 1;

/// The prefix of a log's origin, before the id of the log.
const ORIGIN_PREFIX: &str = "toggled/";

/// The state of a log at a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The id of the log.
    pub log_id: Uuid,
    /// The revision of the last entry that the checkpoint covers.
    pub revision: Revision,
    /// The hash of that entry.
    pub hash: Hash,
    /// When the checkpoint was signed. A server signs by the clock of its database.
    pub time: Timestamp,
}

/// The name of a log in its checkpoints, and of the keys that sign them.
fn origin(log_id: Uuid) -> String {
    format!("{ORIGIN_PREFIX}{log_id}")
}

/// The signed text.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log_id, revision, hash, time } = self;
        writeln!(f, "{}\n{revision}\n{}\ntime {time}", origin(*log_id), STANDARD.encode(hash))
    }
}

impl Checkpoint {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let log_id = Uuid::try_parse(lines.next()?.strip_prefix(ORIGIN_PREFIX)?).ok()?;
        let revision = lines.next()?.parse().ok()?;
        let hash = STANDARD.decode(lines.next()?).ok()?.try_into().ok()?;
        let time: jiff::Timestamp = lines.next()?.strip_prefix("time ")?.parse().ok()?;
        let time = Timestamp::from_micros(time.as_microsecond());
        let checkpoint = Self { log_id, revision, hash, time };
        // A checkpoint has exactly one text. Any other text was not signed.
        (checkpoint.to_string() == text).then_some(checkpoint)
    }
}

/// Why a note is not a valid checkpoint of the given log at the given revision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointMismatch {
    /// The text is not a checkpoint, or no key of the log has signed it.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The checkpoint was signed for another log or revision.
    #[error("signed for revision {0} of log {1}")]
    OtherPosition(Revision, Uuid),
    /// The log ends before the revision of the checkpoint.
    #[error("the log ends at revision {0}")]
    BeyondHead(Revision),
    /// The log's entry at that revision has another hash.
    #[error("the entry there has another hash")]
    HashDiffers,
}

/// Why a key cannot be read or created.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointKeyError {
    /// The text is not a private key.
    #[error("not a private Ed25519 key in PEM; create one with `openssl genpkey -algorithm ed25519`")]
    NotPrivate,
    /// The text is not a verifier key.
    #[error("not a verifier key of a toggled log; the form is name+key_id+base64")]
    NotVerifier,
    /// The operating system provides no randomness.
    #[error("no randomness for a new key: {0}")]
    Random(#[from] getrandom::Error),
    /// The file of the key cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const LOG: Uuid = Uuid::from_u128(0x0102_0304_0506_4708_890a_0b0c_0d0e_0f10);

    /// The key of the first test in RFC 8032, in the form that `openssl genpkey -algorithm ed25519` writes.
    pub(super) const PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";

    pub(super) fn checkpoint() -> Checkpoint {
        Checkpoint { log_id: LOG, revision: 3, hash: [7; 32], time: Timestamp::from_micros(1_700_000_000_000_001) }
    }

    #[test]
    fn documented_note_matches_the_written_one() {
        let document = include_str!("../../docs/audit-proof.md");
        let hash = "e1d3651499dbd270436819dc93b9c3e5f3af172046eeff7a5ba0bbe583e33b2f";
        let mut checkpoint = checkpoint();
        hex::decode_to_slice(hash, &mut checkpoint.hash).unwrap();
        let key = SigningKey::from_pem(PEM.as_bytes()).unwrap();
        let (note, verifier) = (key.sign(checkpoint), key.verifier(LOG).to_string());
        for part in [PEM, &note.to_string(), &format!("{verifier}\n"), &format!("hash of entry 3: {hash}\n")] {
            assert!(document.contains(part), "missing in the document:\n{part}");
        }
    }
}
