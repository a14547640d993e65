//! Verifies the log with nothing but the API and docs/audit-proof.md.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use toggled::api::pb::*;
use uuid::Uuid;

use crate::support::Client;

/// The log has no gap, its hashes are correct, and its last entry on each flag matches the flag.
pub async fn assert_intact(client: &mut Client, log: &[AuditLog]) {
    assert_eq!(log.iter().map(|e| e.revision).collect::<Vec<_>>(), (1..=log.len() as i64).collect::<Vec<_>>());
    let mut stream = client.audit.stream_audit_logs(StreamAuditLogsRequest::default()).await.unwrap().into_inner();
    let id: Uuid = stream.message().await.unwrap().unwrap().log_id.parse().unwrap();
    let mut hash = vec![0; 32];
    for entry in log {
        hash = Sha256::digest([hash, bytes(id, entry)].concat()).to_vec();
        assert_eq!(entry.hash, hash, "revision {}", entry.revision);
    }
    let listed = client.toggle.list_feature_flags(ListFeatureFlagsRequest::default()).await.unwrap().into_inner();
    let flags: BTreeMap<_, _> =
        listed.feature_flags.iter().map(|f| (f.key.clone(), (f.revision, f.status()))).collect();
    assert_eq!(flags, logged_flags(log));
}

/// The last revision and status of each flag, according to the log.
fn logged_flags(log: &[AuditLog]) -> BTreeMap<String, (i64, FeatureFlagStatus)> {
    let flips = log.iter().filter(|entry| entry.entity_type == "feature_flag");
    let status = |entry: &AuditLog| match entry.action_type.as_str() {
        "toggle_enabled" => FeatureFlagStatus::Enabled,
        // The test creates its flags disabled.
        "toggle_disabled" | "flag_created" => FeatureFlagStatus::Disabled,
        other => panic!("unexpected action: {other}"),
    };
    flips.map(|entry| (entry.entity_key.clone(), (entry.revision, status(entry)))).collect()
}

/// The bytes hashed after the previous hash, by docs/audit-proof.md.
fn bytes(log: Uuid, entry: &AuditLog) -> Vec<u8> {
    let uuid = |text: &str| text.parse::<Uuid>().unwrap().as_bytes().to_vec();
    let id = |text: &Option<String>| text.as_deref().map(uuid).unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default().into_bytes();
    let number = |number: i64| number.to_be_bytes().to_vec();
    let time = entry.timestamp.unwrap();
    let fields = [
        uuid(&entry.id),
        number(entry.revision),
        number(time.seconds * 1_000_000 + i64::from(time.nanos / 1_000)),
        id(&entry.user_id),
        entry.user_email.clone().into_bytes(),
        id(&entry.token_id),
        entry.action_type.clone().into_bytes(),
        entry.entity_type.clone().into_bytes(),
        id(&entry.entity_id),
        entry.entity_key.clone().into_bytes(),
        entry.entity_name.clone().into_bytes(),
        text(&entry.old_value),
        text(&entry.new_value),
        text(&entry.reason),
        text(&entry.request_id),
        entry.method.clone().into_bytes(),
        text(&entry.peer),
        text(&entry.user_agent),
        entry.previous_entity_revision.map(number).unwrap_or_default(),
    ];
    let mut all = [log.as_bytes().to_vec(), vec![entry.hash_version as u8]].concat();
    let reverts = entry.reverts.as_deref().map(|id| (uuid(id), 23));
    for (value, tag) in fields.into_iter().zip(1..).chain(reverts).chain([(text(&entry.environment), 24)]) {
        all.push(tag);
        all.extend((value.len() as u32).to_be_bytes());
        all.extend(value);
    }
    all
}
