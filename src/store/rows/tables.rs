//! The columns of each table. Add a column here, to the domain type and to the migrations; nothing else in the store lists it.
//!
//! Columns are selected by name: a column that a later version adds does not disturb this one while both run.

use std::borrow::Borrow;
use std::sync::Arc;

use sqlx::Arguments;
use sqlx::postgres::PgArguments;
use uuid::Uuid;

use super::field::Field;
use super::table::table;
use super::{BoxError, Column, Columns, Part, Role, Table};
use crate::domain::access::{Account, Permissions, SecretHash, Token, User};
use crate::domain::advance::StoredRequest;
use crate::domain::audit::{Action, EntityType, Entry};
use crate::domain::environment::Environment;
use crate::domain::flag::{Flag, LastFlip, Status};
use crate::domain::history::{NextChange, PreviousChange};
use crate::domain::state::Head;
use crate::domain::text::{Description, Email, EnvironmentKey, FlagKey, Name, RequestId};
use crate::domain::time::Timestamp;
use crate::domain::{Hash, Revision};
use crate::store::StoredCheckpoint;
use crate::store::backend::Backend;

table! {
    Entry in "audit_logs" {
        Key { revision: Revision }
        Fixed {
            id: Uuid,
            timestamp: Timestamp,
            user_id: Option<Uuid>,
            user_email: Arc<str>,
            token_id: Option<Uuid>,
            action as "action_type": Action,
            entity_type: EntityType,
            entity_id: Option<Uuid>,
            entity_key: Arc<str>,
            entity_name: Arc<str>,
            old_value: Option<Arc<str>>,
            new_value: Option<Arc<str>>,
            reason: Option<Arc<str>>,
            request_id: Option<Arc<str>>,
            method: Arc<str>,
            peer: Option<Arc<str>>,
            user_agent: Option<Arc<str>>,
            previous_entity_revision: Option<Revision>,
            reverts: Option<Uuid>,
            environment: Option<Arc<str>>,
            hash_version: u8,
            hash: Hash,
            created_at: Timestamp,
        }
    }
}

table! {
    Flag in "feature_flags" {
        Key { id: Uuid }
        Fixed { environment: EnvironmentKey, key: FlagKey, created_at: Timestamp }
        Updated {
            name: Name,
            description: Description,
            status: Status,
            revision: Revision,
            updated_at: Timestamp,
            updated_by: Arc<str>,
            archived_at: Option<Timestamp>,
        }
    }
    nested last_flip: LastFlip {
        audit_log_id as "last_flip_audit_log_id": Uuid,
        by as "last_flip_by": Arc<str>,
        revision as "last_flip_revision": Revision,
        time as "last_flip_time": Timestamp,
    } optional { reason as "last_flip_reason": Arc<str> }
}

table! {
    Environment in "environments" {
        Key { id: Uuid }
        Fixed { key: EnvironmentKey, created_at: Timestamp }
        Updated {
            name: Name,
            description: Description,
            require_reason: bool,
            revision: Revision,
            updated_at: Timestamp,
            updated_by: Arc<str>,
            archived_at: Option<Timestamp>,
        }
    }
}

table! {
    User in "users" {
        Key { id: Uuid }
        Fixed { email: Email, created_at: Timestamp }
        Updated {
            permissions: Permissions,
            revision: Revision,
            updated_at: Timestamp,
            deactivated_at: Option<Timestamp>,
        }
    }
    nested account: Account { issuer: Arc<str>, subject: Arc<str> }
}

table! {
    Token in "api_tokens" {
        Key { id: Uuid }
        Fixed {
            user_id: Uuid,
            name: Name,
            secret_hash: SecretHash,
            permissions: Option<Permissions>,
            environment: Option<EnvironmentKey>,
            created_at: Timestamp,
            expires_at: Option<Timestamp>,
        }
        Updated { revision: Revision, revoked_at: Option<Timestamp> }
    }
}

table! {
    StoredRequest in "requests" {
        Key { user_id: Uuid, request_id: RequestId }
        Fixed { digest: Hash, response: Vec<u8>, expires_at: Timestamp }
    }
}

table! {
    Head in "log_head" {
        Fixed { log_id: Uuid }
        Updated { revision: Revision, hash: Hash, timestamp: Timestamp, floor: Revision, floor_hash: Hash }
    }
}

table! {
    StoredCheckpoint in "checkpoints" {
        Key { revision: Revision }
        Fixed { note: String }
    }
}

/// The part of an entry that shows whether it is the expected one.
pub(in crate::store) struct EntryHash {
    revision: Revision,
    pub id: Uuid,
    pub hash: Hash,
}

table! {
    EntryHash in "audit_logs" {
        Key { revision: Revision }
        Fixed { id: Uuid, hash: Hash }
    }
}

// Not a table, but the columns of `next_changes.sql`, in its order.
table! {
    NextChange in "audit_logs" {
        Key { revision: Revision }
        Fixed {
            flag_id: Uuid,
            action as "action_type": Action,
            old_value: Option<String>,
            previous_revision as "previous_entity_revision": Option<Revision>,
            before_edit: Option<String>,
        }
    }
    nested previous: PreviousChange { id: Uuid, action: Action, timestamp: Timestamp, user_email: Arc<str> }
    optional { new_value: String, reason: Arc<str> }
}
