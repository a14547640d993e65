//! The hash chain: each entry's hash covers the one before it, so that no entry can be altered, removed or moved
//! without every later hash changing. `docs/audit-proof.md` specifies the bytes; this is their only writer.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::audit::Entry;

/// A SHA-256 value.
pub type Hash = [u8; 32];

/// The hash before the first entry.
pub const GENESIS: Hash = [0; 32];

/// The encoding in use. It is part of what is hashed, and of the entry.
pub const VERSION: u8 = 1;

/// The hash of `entry`, whose own `hash` field is not read, when it follows the entry with the hash `previous` in the
/// log `log_id`.
pub fn chain(previous: &Hash, log_id: Uuid, entry: &Entry) -> Hash {
    let mut encoder = Encoder(Sha256::new());
    encoder.0.update(previous);
    encoder.0.update(log_id.as_bytes());
    encoder.0.update([entry.hash_version]);
    encoder.fields(entry);
    encoder.0.finalize().into()
}

/// Feeds fields to the hash: a tag byte (the field's number in the message `AuditLog`), the length in 4 bytes, the
/// value. Numbers are big-endian. A field that is absent is there with length 0, which no present one has.
struct Encoder(Sha256);

impl Encoder {
    fn fields(&mut self, entry: &Entry) {
        self.uuid(1, Some(entry.id));
        self.integer(2, Some(entry.revision));
        self.integer(3, Some(entry.timestamp.micros()));
        self.uuid(4, entry.user_id);
        self.text(5, Some(&entry.user_email));
        self.uuid(6, entry.token_id);
        self.text(7, Some(entry.action.as_str()));
        self.text(8, Some(entry.entity_type.as_str()));
        self.uuid(9, entry.entity_id);
        self.text(10, Some(&entry.entity_key));
        self.text(11, Some(&entry.entity_name));
        self.text(12, entry.old_value.as_deref());
        self.text(13, entry.new_value.as_deref());
        self.text(14, entry.reason.as_deref());
        self.text(15, entry.request_id.as_deref());
        self.text(16, Some(&entry.method));
        self.text(17, entry.peer.as_deref());
        self.text(18, entry.user_agent.as_deref());
        self.integer(19, entry.previous_entity_revision);
    }

    fn uuid(&mut self, tag: u8, value: Option<Uuid>) {
        self.field(tag, value.as_ref().map_or(&[], |id| id.as_bytes()));
    }

    fn integer(&mut self, tag: u8, value: Option<i64>) {
        match value {
            Some(number) => self.field(tag, &number.to_be_bytes()),
            None => self.field(tag, &[]),
        }
    }

    fn text(&mut self, tag: u8, value: Option<&str>) {
        self.field(tag, value.unwrap_or_default().as_bytes());
    }

    fn field(&mut self, tag: u8, value: &[u8]) {
        let mut header = [tag, 0, 0, 0, 0];
        // No field comes near 4 GiB: every text is limited where it enters.
        header[1..].copy_from_slice(&(value.len() as u32).to_be_bytes());
        self.0.update(header);
        self.0.update(value);
    }
}
