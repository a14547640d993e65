//! An entry of the audit log.

use serde::Serialize;

use super::Printable;
use super::fields::time;
use crate::api::pb;
use crate::cli::table::Cell;

#[derive(Serialize)]
struct EntryJson<'a> {
    id: &'a str,
    revision: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    user_email: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<&'a str>,
    action_type: &'a str,
    entity_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity_id: Option<&'a str>,
    entity_key: &'a str,
    entity_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_entity_revision: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reverts: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'a str>,
    hash_version: i32,
    hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
}

/// The JSON object of an entry.
pub(in crate::cli) fn entry_json(entry: &pb::AuditLog) -> impl Serialize {
    EntryJson {
        id: &entry.id,
        revision: entry.revision,
        timestamp: time(entry.timestamp.as_ref()),
        user_id: entry.user_id.as_deref(),
        user_email: &entry.user_email,
        token_id: entry.token_id.as_deref(),
        action_type: &entry.action_type,
        entity_type: &entry.entity_type,
        entity_id: entry.entity_id.as_deref(),
        entity_key: &entry.entity_key,
        entity_name: &entry.entity_name,
        old_value: entry.old_value.as_deref(),
        new_value: entry.new_value.as_deref(),
        reason: entry.reason.as_deref(),
        request_id: entry.request_id.as_deref(),
        method: &entry.method,
        peer: entry.peer.as_deref(),
        user_agent: entry.user_agent.as_deref(),
        previous_entity_revision: entry.previous_entity_revision,
        reverts: entry.reverts.as_deref(),
        environment: entry.environment.as_deref(),
        hash_version: entry.hash_version,
        hash: hex::encode(&entry.hash),
        created_at: time(entry.created_at.as_ref()),
    }
}

impl Printable<7> for pb::AuditLog {
    const HEADER: [&str; 7] = ["TIME", "REVISION", "BY", "ACTION", "ENVIRONMENT", "WHAT", "REASON"];

    fn row(&self) -> [Cell; 7] {
        [
            Cell::from(time(self.timestamp.as_ref()).unwrap_or_default()),
            Cell::from(self.revision.to_string()),
            Cell::from(&*self.user_email),
            Cell::from(&*self.action_type),
            Cell::from(self.environment()),
            Cell::from(&*self.entity_key),
            Cell::from(self.reason()),
        ]
    }

    fn json(&self) -> impl Serialize {
        entry_json(self)
    }
}
