//! Domain objects to protobuf messages, and back where clients need it.

use std::sync::Arc;

use uuid::Uuid;

use super::pb;
use crate::checkpoint::{Checkpoint, Note};
use crate::domain::access::{Identity, Permissions, Token, User};
use crate::domain::audit::{Action, EntityType, Entry};
use crate::domain::environment::Environment;
use crate::domain::flag::{Flag, LastFlip, Status};
use crate::domain::history::PastFlag;
use crate::domain::time::Timestamp;

pub(super) fn time(time: Timestamp) -> prost_types::Timestamp {
    let micros = time.micros();
    let nanos = i32::try_from(micros.rem_euclid(1_000_000)).unwrap_or_default() * 1_000;
    prost_types::Timestamp { seconds: micros.div_euclid(1_000_000), nanos }
}

impl From<Status> for pb::FeatureFlagStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Enabled => Self::Enabled,
            Status::Disabled => Self::Disabled,
        }
    }
}

impl From<&Arc<Flag>> for pb::FeatureFlag {
    fn from(flag: &Arc<Flag>) -> Self {
        Self {
            id: flag.id.to_string(),
            key: flag.key.as_str().to_owned(),
            name: flag.name.as_str().to_owned(),
            description: flag.description.as_str().to_owned(),
            status: pb::FeatureFlagStatus::from(flag.status).into(),
            revision: flag.revision,
            created_at: Some(time(flag.created_at)),
            updated_at: Some(time(flag.updated_at)),
            updated_by: (*flag.updated_by).to_owned(),
            archived_at: flag.archived_at.map(time),
            environment: flag.environment.to_string(),
            last_flip: flag.last_flip.as_deref().map(pb::LastFlip::from),
        }
    }
}

impl From<&LastFlip> for pb::LastFlip {
    fn from(flip: &LastFlip) -> Self {
        Self {
            revision: flip.revision,
            time: Some(time(flip.time)),
            by: (*flip.by).to_owned(),
            reason: flip.reason.as_deref().map(str::to_owned),
            audit_log_id: flip.audit_log_id.to_string(),
        }
    }
}

impl From<&Arc<PastFlag>> for pb::FeatureFlag {
    fn from(past: &Arc<PastFlag>) -> Self {
        let flag = Self::from(&past.flag);
        if past.has_update_metadata {
            flag
        } else {
            Self { updated_at: None, updated_by: String::new(), last_flip: None, ..flag }
        }
    }
}

impl From<&Arc<Environment>> for pb::Environment {
    fn from(environment: &Arc<Environment>) -> Self {
        Self {
            id: environment.id.to_string(),
            key: environment.key.to_string(),
            name: environment.name.to_string(),
            description: environment.description.as_str().to_owned(),
            require_reason: environment.require_reason,
            revision: environment.revision,
            created_at: Some(time(environment.created_at)),
            updated_at: Some(time(environment.updated_at)),
            updated_by: (*environment.updated_by).to_owned(),
            archived_at: environment.archived_at.map(time),
        }
    }
}

impl From<&Arc<User>> for pb::User {
    fn from(user: &Arc<User>) -> Self {
        Self {
            id: user.id.to_string(),
            email: user.email.to_string(),
            permissions: user.permissions.names(),
            revision: user.revision,
            created_at: Some(time(user.created_at)),
            updated_at: Some(time(user.updated_at)),
            deactivated_at: user.deactivated_at.map(time),
            issuer: user.account.as_ref().map(|account| account.issuer.to_string()),
            subject: user.account.as_ref().map(|account| account.subject.to_string()),
        }
    }
}

/// A single sign-on caller who is not a user yet.
impl From<&Identity> for pb::User {
    fn from(identity: &Identity) -> Self {
        Self {
            email: identity.email.to_string(),
            issuer: Some(identity.issuer.to_string()),
            subject: Some(identity.subject.to_string()),
            ..Self::default()
        }
    }
}

impl From<&Arc<Token>> for pb::ApiToken {
    fn from(token: &Arc<Token>) -> Self {
        Self {
            id: token.id.to_string(),
            user_id: token.user_id.to_string(),
            name: token.name.to_string(),
            permissions: token.permissions.as_ref().map(Permissions::names).unwrap_or_default(),
            revision: token.revision,
            created_at: Some(time(token.created_at)),
            expires_at: token.expires_at.map(time),
            revoked_at: token.revoked_at.map(time),
            // Not part of the log, and so not of the token: ListTokens adds it.
            last_used_at: None,
            environment: token.environment.as_ref().map(ToString::to_string),
        }
    }
}

impl From<&Arc<Note>> for pb::AuditCheckpoint {
    fn from(note: &Arc<Note>) -> Self {
        let Checkpoint { log_id, revision, hash, time: signed_at } = note.checkpoint;
        let (key_id, signature) = note.signature().unzip();
        Self {
            log_id: log_id.to_string(),
            revision,
            hash: hash.to_vec(),
            time: Some(time(signed_at)),
            key_id: key_id.map(|id| id.to_string()).unwrap_or_default(),
            signature: signature.unwrap_or_default().to_vec(),
            note: note.to_string(),
        }
    }
}

impl From<&Entry> for pb::AuditLog {
    fn from(entry: &Entry) -> Self {
        let text = |value: &Option<Arc<str>>| value.as_deref().map(str::to_owned);
        Self {
            id: entry.id.to_string(),
            revision: entry.revision,
            timestamp: Some(time(entry.timestamp)),
            user_id: entry.user_id.map(|id| id.to_string()),
            user_email: entry.user_email.to_string(),
            token_id: entry.token_id.map(|id| id.to_string()),
            action_type: entry.action.as_str().to_owned(),
            entity_type: entry.entity_type.as_str().to_owned(),
            entity_id: entry.entity_id.map(|id| id.to_string()),
            entity_key: entry.entity_key.to_string(),
            entity_name: entry.entity_name.to_string(),
            old_value: text(&entry.old_value),
            new_value: text(&entry.new_value),
            reason: text(&entry.reason),
            request_id: text(&entry.request_id),
            method: entry.method.to_string(),
            peer: text(&entry.peer),
            user_agent: text(&entry.user_agent),
            previous_entity_revision: entry.previous_entity_revision,
            reverts: entry.reverts.map(|id| id.to_string()),
            environment: text(&entry.environment),
            hash_version: entry.hash_version.into(),
            hash: entry.hash.to_vec(),
            created_at: Some(time(entry.created_at)),
        }
    }
}

/// The entry exactly as it was hashed; or the name of the first invalid field.
impl TryFrom<&pb::AuditLog> for Entry {
    type Error = &'static str;

    fn try_from(log: &pb::AuditLog) -> Result<Self, &'static str> {
        let uuid = |text: &str, field| Uuid::try_parse(text).map_err(|_| field);
        let maybe = |text: &Option<String>, field| text.as_deref().map(|text| uuid(text, field)).transpose();
        let text = |value: &Option<String>| value.as_deref().map(Arc::from);
        Ok(Self {
            id: uuid(&log.id, "id")?,
            revision: log.revision,
            timestamp: log.timestamp.and_then(micros).ok_or("timestamp")?,
            user_id: maybe(&log.user_id, "user_id")?,
            user_email: log.user_email.as_str().into(),
            token_id: maybe(&log.token_id, "token_id")?,
            action: Action::parse(&log.action_type).ok_or("action_type")?,
            entity_type: EntityType::parse(&log.entity_type).ok_or("entity_type")?,
            entity_id: maybe(&log.entity_id, "entity_id")?,
            entity_key: log.entity_key.as_str().into(),
            entity_name: log.entity_name.as_str().into(),
            old_value: text(&log.old_value),
            new_value: text(&log.new_value),
            reason: text(&log.reason),
            request_id: text(&log.request_id),
            method: log.method.as_str().into(),
            peer: text(&log.peer),
            user_agent: text(&log.user_agent),
            previous_entity_revision: log.previous_entity_revision,
            reverts: maybe(&log.reverts, "reverts")?,
            environment: text(&log.environment),
            hash_version: log.hash_version.try_into().map_err(|_| "hash_version")?,
            hash: log.hash.as_slice().try_into().map_err(|_| "hash")?,
            created_at: log.created_at.and_then(micros).ok_or("created_at")?,
        })
    }
}

/// The log holds whole microseconds; other times are invalid.
fn micros(time: prost_types::Timestamp) -> Option<Timestamp> {
    let has_whole_micros = (0..1_000_000_000).contains(&time.nanos) && time.nanos % 1_000 == 0;
    let micros = time.seconds.checked_mul(1_000_000)?.checked_add(i64::from(time.nanos / 1_000))?;
    (has_whole_micros && (Timestamp::MIN.micros()..=Timestamp::MAX.micros()).contains(&micros))
        .then(|| Timestamp::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_before_1970_has_positive_nanos() {
        let converted = time(Timestamp::from_micros(-1));
        assert_eq!((converted.seconds, converted.nanos), (-1, 999_999_000));
    }
}
