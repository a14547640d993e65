//! The messages of the wire contract in both forms. Fields are called as there; times are RFC 3339 with six digits, bytes
//! hexadecimal, statuses `enabled` and `disabled`, and what is absent is left out.

use console::Style;
use prost_types::Timestamp;
use serde::Serialize;

use super::Item;
use crate::cli::table::Cell;
use crate::domain::time;
use crate::grpc::pb;

/// A time with six digits, always: those that the log keeps.
pub(in crate::cli) fn time(time: Option<&Timestamp>) -> Option<String> {
    let time = time?;
    let micros = time.seconds.checked_mul(1_000_000)?.checked_add(i64::from(time.nanos) / 1_000)?;
    jiff::Timestamp::from_microsecond(time::Timestamp::from_micros(micros).micros())
        .ok()
        .map(|time| format!("{time:.6}"))
}

/// `enabled`, `disabled`, or what a newer server says.
pub(in crate::cli) fn status(status: i32) -> String {
    match pb::FeatureFlagStatus::try_from(status) {
        Ok(pb::FeatureFlagStatus::Enabled) => "enabled".to_owned(),
        Ok(pb::FeatureFlagStatus::Disabled) => "disabled".to_owned(),
        _ => format!("status {status}"),
    }
}

/// Bytes as hexadecimal digits.
pub(in crate::cli) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Serialize)]
struct UserShape<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    email: &'a str,
    permissions: &'a [String],
    revision: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
}

#[derive(Serialize)]
struct WhoAmIShape<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<UserShape<'a>>,
    permissions: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    token_id: &'a str,
}

impl Item<4> for pb::WhoAmIResponse {
    const HEAD: [&str; 4] = ["EMAIL", "PERMISSIONS", "USER", "TOKEN"];

    fn row(&self) -> [Cell; 4] {
        let user = self.user.as_ref();
        let or_none = |text: &str| Cell::from(if text.is_empty() { "-" } else { text });
        [
            or_none(user.map_or("", |user| &user.email)),
            or_none(&self.permissions.join(",")),
            or_none(user.map_or("", |user| &user.id)),
            or_none(&self.token_id),
        ]
    }

    fn json(&self) -> impl Serialize {
        let user = self.user.as_ref().map(|user| UserShape {
            id: &user.id,
            email: &user.email,
            permissions: &user.permissions,
            revision: user.revision,
            created_at: time(user.created_at.as_ref()),
            updated_at: time(user.updated_at.as_ref()),
            issuer: user.issuer.as_deref(),
            subject: user.subject.as_deref(),
        });
        WhoAmIShape { user, permissions: &self.permissions, token_id: &self.token_id }
    }
}

#[derive(Serialize)]
struct FlagShape<'a> {
    id: &'a str,
    key: &'a str,
    name: &'a str,
    description: &'a str,
    status: String,
    revision: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
    updated_by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    archived_at: Option<String>,
}

/// What is told to scripts of a flag.
fn flag(flag: &pb::FeatureFlag) -> impl Serialize {
    FlagShape {
        id: &flag.id,
        key: &flag.key,
        name: &flag.name,
        description: &flag.description,
        status: status(flag.status),
        revision: flag.revision,
        created_at: time(flag.created_at.as_ref()),
        updated_at: time(flag.updated_at.as_ref()),
        updated_by: &flag.updated_by,
        archived_at: time(flag.archived_at.as_ref()),
    }
}

/// The status as people see it at once.
fn state(flag: &pb::FeatureFlag) -> Cell {
    match pb::FeatureFlagStatus::try_from(flag.status) {
        _ if flag.archived_at.is_some() => Cell::new(format!("{}, archived", status(flag.status)), Style::new().dim()),
        Ok(pb::FeatureFlagStatus::Enabled) => Cell::new(status(flag.status), Style::new().green()),
        _ => Cell::new(status(flag.status), Style::new().yellow()),
    }
}

impl Item<6> for pb::FeatureFlag {
    const HEAD: [&str; 6] = ["KEY", "STATUS", "NAME", "REVISION", "CHANGED", "BY"];

    fn row(&self) -> [Cell; 6] {
        [
            Cell::from(&*self.key),
            state(self),
            Cell::from(&*self.name),
            Cell::from(self.revision.to_string()),
            Cell::from(time(self.updated_at.as_ref()).unwrap_or_default()),
            Cell::from(&*self.updated_by),
        ]
    }

    fn json(&self) -> impl Serialize {
        flag(self)
    }
}

#[derive(Serialize)]
struct EntryShape<'a> {
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
    hash_version: i32,
    hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
}

/// What is told to scripts of an entry of the log.
pub(in crate::cli) fn entry(entry: &pb::AuditLog) -> impl Serialize {
    EntryShape {
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
        hash_version: entry.hash_version,
        hash: hex(&entry.hash),
        created_at: time(entry.created_at.as_ref()),
    }
}

impl Item<6> for pb::AuditLog {
    const HEAD: [&str; 6] = ["TIME", "REVISION", "BY", "ACTION", "WHAT", "REASON"];

    fn row(&self) -> [Cell; 6] {
        [
            Cell::from(time(self.timestamp.as_ref()).unwrap_or_default()),
            Cell::from(self.revision.to_string()),
            Cell::from(&*self.user_email),
            Cell::from(&*self.action_type),
            Cell::from(&*self.entity_key),
            Cell::from(self.reason()),
        ]
    }

    fn json(&self) -> impl Serialize {
        entry(self)
    }
}
