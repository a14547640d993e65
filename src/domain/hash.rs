//! The hash chain. Each entry's hash covers the previous one, so that altering, removing or moving an entry changes
//! every later hash. `docs/audit-proof.md` specifies the bytes; only this module computes them.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Hash;
use super::audit::Entry;

/// The hash before the first entry.
pub const GENESIS: Hash = [0; 32];

/// The version of an entry's encoding, which the hash covers too. Version 2 adds `reverts`. An entry that reverts nothing uses version
/// 1, so that a verifier of a log without reverts need not know version 2.
pub fn version(reverts: Option<Uuid>) -> u8 {
    if reverts.is_some() { 2 } else { 1 }
}

/// The hash of `entry` after the entry with hash `previous` in the log `log_id`. Ignores the entry's own `hash`.
pub fn entry_hash(previous: &Hash, log_id: Uuid, entry: &Entry) -> Hash {
    let mut encoder = Encoder(Sha256::new());
    encoder.0.update(previous);
    encoder.0.update(log_id.as_bytes());
    encoder.0.update([entry.hash_version]);
    encoder.fields(entry);
    encoder.0.finalize().into()
}

/// Feeds fields to the hash: a tag byte (the field's number in the message `AuditLog`), the length in 4 bytes, the
/// value. Numbers are big-endian. An absent field has length 0, and an optional field that is present
/// never has; an absent `reverts` is left out.
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
        // Covered whatever the version says: otherwise it could be added afterwards.
        if entry.reverts.is_some() {
            self.uuid(23, entry.reverts);
        }
        self.text(24, entry.environment.as_deref());
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
        // Every text is limited at the edge, far below 4 GiB.
        header[1..].copy_from_slice(&(value.len() as u32).to_be_bytes());
        self.0.update(header);
        self.0.update(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::audit::{Action, EntityType};
    use crate::domain::time::Timestamp;

    const LOG: Uuid = Uuid::from_u128(0x0102_0304_0506_4708_890a_0b0c_0d0e_0f10);

    /// The first entry of a log, by the service itself: as much as can be is absent.
    fn first() -> Entry {
        Entry {
            id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001),
            revision: 1,
            timestamp: Timestamp::from_micros(1_700_000_000_000_000),
            user_id: None,
            user_email: "bootstrap@localhost".into(),
            token_id: None,
            action: Action::UserCreated,
            entity_type: EntityType::User,
            entity_id: Some(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0002)),
            entity_key: "admin@localhost".into(),
            entity_name: "admin@localhost".into(),
            old_value: None,
            new_value: Some("{}".into()),
            reason: None,
            request_id: None,
            method: "toggled serve".into(),
            peer: None,
            user_agent: None,
            previous_entity_revision: None,
            reverts: None,
            environment: None,
            hash_version: 1,
            hash: GENESIS,
            created_at: Timestamp::from_micros(1_700_000_000_000_000),
        }
    }

    /// A flip with every field but `reverts`.
    fn second() -> Entry {
        Entry {
            id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0003),
            revision: 2,
            timestamp: Timestamp::from_micros(1_700_000_000_000_001),
            user_id: Some(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0002)),
            user_email: "admin@localhost".into(),
            token_id: Some(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0004)),
            action: Action::ToggleEnabled,
            entity_type: EntityType::FeatureFlag,
            entity_id: Some(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0005)),
            entity_key: "checkout".into(),
            entity_name: "Neue Kasse ✓".into(),
            old_value: Some("disabled".into()),
            new_value: Some("enabled".into()),
            reason: Some("'; DROP TABLE audit_logs; --".into()),
            request_id: Some("r-1".into()),
            method: "toggled.v1.ToggleService/ToggleFeatureFlag".into(),
            peer: Some("127.0.0.1:54321".into()),
            user_agent: Some("grpcurl/1.9".into()),
            previous_entity_revision: Some(1),
            reverts: None,
            environment: Some("staging".into()),
            hash_version: 1,
            hash: GENESIS,
            created_at: Timestamp::default(),
        }
    }

    /// A flip that takes the second back.
    fn third() -> Entry {
        Entry {
            id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0006),
            revision: 3,
            action: Action::ToggleDisabled,
            old_value: Some("enabled".into()),
            new_value: Some("disabled".into()),
            reason: None,
            request_id: None,
            method: "toggled.v1.ToggleService/RevertFeatureFlag".into(),
            previous_entity_revision: Some(2),
            reverts: Some(second().id),
            hash_version: 2,
            ..second()
        }
    }

    fn hex(hash: &Hash) -> String {
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Implementations in other languages check against these.
    #[test]
    fn hashes_match_the_specification() {
        let specification = include_str!("../../docs/audit-proof.md");
        let one = entry_hash(&GENESIS, LOG, &first());
        let two = entry_hash(&one, LOG, &second());
        let three = entry_hash(&two, LOG, &third());
        for (name, hash) in [("hash of entry 1", one), ("hash of entry 2", two), ("hash of entry 3", three)] {
            let line = format!("{name}: {}", hex(&hash));
            assert!(specification.lines().any(|l| l == line), "not in docs/audit-proof.md: {line}");
        }
    }

    #[test]
    fn every_field_changes_the_hash() {
        let original = entry_hash(&GENESIS, LOG, &second());
        let alterations: [fn(&mut Entry); 22] = [
            |e| e.id = Uuid::nil(),
            |e| e.revision += 1,
            |e| e.timestamp = Timestamp::default(),
            |e| e.user_id = None,
            |e| e.user_email = "x".into(),
            |e| e.token_id = None,
            |e| e.action = Action::ToggleDisabled,
            |e| e.entity_type = EntityType::Log,
            |e| e.entity_id = None,
            |e| e.entity_key = "x".into(),
            |e| e.entity_name = "x".into(),
            |e| e.old_value = None,
            |e| e.new_value = None,
            |e| e.reason = None,
            |e| e.request_id = None,
            |e| e.method = "x".into(),
            |e| e.peer = None,
            |e| e.user_agent = None,
            |e| e.previous_entity_revision = None,
            |e| e.reverts = Some(Uuid::nil()),
            |e| e.environment = None,
            |e| e.hash_version = 2,
        ];
        for (index, alter) in alterations.iter().enumerate() {
            let mut altered = second();
            alter(&mut altered);
            assert_ne!(entry_hash(&GENESIS, LOG, &altered), original, "alteration {index}");
        }
        assert_ne!(entry_hash(&[1; 32], LOG, &second()), original);
        assert_ne!(entry_hash(&GENESIS, Uuid::nil(), &second()), original);
        let stored_later = Entry { created_at: Timestamp::from_micros(7), hash: [9; 32], ..second() };
        assert_eq!(entry_hash(&GENESIS, LOG, &stored_later), original, "these two are not part of it");
    }

    #[test]
    fn field_boundaries_change_the_hash() {
        let with = |key: &str, name: &str| Entry { entity_key: key.into(), entity_name: name.into(), ..second() };
        assert_ne!(entry_hash(&GENESIS, LOG, &with("ab", "c")), entry_hash(&GENESIS, LOG, &with("a", "bc")));
    }
}
