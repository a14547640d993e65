//! Rows, as both databases return them, and what they become. Nothing outside the store sees one.

use std::sync::Arc;

use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};
use uuid::Uuid;

use super::StoreError;
use super::columns::{PermissionList, Time};
use crate::domain::Hash;
use crate::domain::access::{Account, Token, User};
use crate::domain::advance::StoredRequest;
use crate::domain::audit::{Action, EntityType, Entry};
use crate::domain::flag::{Flag, Status};
use crate::domain::past::NextChange;
use crate::domain::state::Head;
use crate::domain::text::{Description, Email, FlagKey, Name, RequestId};

/// The columns of `audit_logs` in the order of [`EntryRow`].
macro_rules! entry_columns {
    () => {
        "id, revision, timestamp, user_id, user_email, token_id, action_type, entity_type, entity_id, entity_key, \
         entity_name, old_value, new_value, reason, request_id, method, peer, user_agent, previous_entity_revision, reverts, \
         CAST(hash_version AS BIGINT) AS hash_version, hash, created_at"
    };
}
pub(super) use entry_columns;

// Columns are named one by one everywhere: a column that a later version adds changes no statement of this one, which
// may still be running beside it.
macro_rules! flag_columns {
    () => {
        "id, key, name, description, status, revision, created_at, updated_at, updated_by, archived_at"
    };
}
pub(super) use flag_columns;

macro_rules! user_columns {
    () => {
        "id, email, issuer, subject, permissions, revision, created_at, updated_at, deactivated_at"
    };
}
pub(super) use user_columns;

macro_rules! token_columns {
    () => {
        "id, user_id, name, secret_hash, permissions, revision, created_at, expires_at, revoked_at"
    };
}
pub(super) use token_columns;

#[derive(FromRow)]
pub(super) struct HeadRow {
    log_id: Uuid,
    revision: i64,
    hash: Vec<u8>,
    timestamp: Time,
    floor: i64,
    floor_hash: Vec<u8>,
}

impl TryFrom<HeadRow> for Head {
    type Error = StoreError;

    fn try_from(row: HeadRow) -> Result<Self, StoreError> {
        let place = Place { table: "log_head", row: String::new() };
        Ok(Self {
            log_id: row.log_id,
            revision: row.revision,
            hash: place.hash("hash", row.hash)?,
            timestamp: row.timestamp.0,
            floor: row.floor,
            floor_hash: place.hash("floor_hash", row.floor_hash)?,
        })
    }
}

#[derive(FromRow)]
pub(super) struct FlagRow {
    id: Uuid,
    key: String,
    name: String,
    description: String,
    status: String,
    revision: i64,
    created_at: Time,
    updated_at: Time,
    updated_by: String,
    archived_at: Option<Time>,
}

impl TryFrom<FlagRow> for Arc<Flag> {
    type Error = StoreError;

    fn try_from(row: FlagRow) -> Result<Self, StoreError> {
        let place = Place { table: "feature_flags", row: row.id.to_string() };
        Ok(Self::new(Flag {
            id: row.id,
            key: place.check("key", FlagKey::parse(&row.key))?,
            name: place.check("name", Name::parse(&row.name))?,
            description: place.check("description", Description::parse(&row.description))?,
            status: place.known("status", Status::parse(&row.status))?,
            revision: row.revision,
            created_at: row.created_at.0,
            updated_at: row.updated_at.0,
            updated_by: row.updated_by.into(),
            archived_at: row.archived_at.map(|t| t.0),
        }))
    }
}

#[derive(FromRow)]
pub(super) struct UserRow {
    id: Uuid,
    email: String,
    issuer: Option<String>,
    subject: Option<String>,
    permissions: PermissionList,
    revision: i64,
    created_at: Time,
    updated_at: Time,
    deactivated_at: Option<Time>,
}

impl TryFrom<UserRow> for Arc<User> {
    type Error = StoreError;

    fn try_from(row: UserRow) -> Result<Self, StoreError> {
        let place = Place { table: "users", row: row.id.to_string() };
        Ok(Self::new(User {
            id: row.id,
            email: place.check("email", Email::parse(&row.email))?,
            account: row
                .issuer
                .zip(row.subject)
                .map(|(issuer, subject)| Account { issuer: issuer.into(), subject: subject.into() }),
            permissions: row.permissions.0,
            revision: row.revision,
            created_at: row.created_at.0,
            updated_at: row.updated_at.0,
            deactivated_at: row.deactivated_at.map(|t| t.0),
        }))
    }
}

#[derive(FromRow)]
pub(super) struct TokenRow {
    id: Uuid,
    user_id: Uuid,
    name: String,
    secret_hash: Vec<u8>,
    permissions: Option<PermissionList>,
    revision: i64,
    created_at: Time,
    expires_at: Option<Time>,
    revoked_at: Option<Time>,
}

impl TryFrom<TokenRow> for Arc<Token> {
    type Error = StoreError;

    fn try_from(row: TokenRow) -> Result<Self, StoreError> {
        let place = Place { table: "api_tokens", row: row.id.to_string() };
        Ok(Self::new(Token {
            id: row.id,
            user_id: row.user_id,
            name: place.check("name", Name::parse(&row.name))?,
            secret_hash: place.hash("secret_hash", row.secret_hash)?,
            permissions: row.permissions.map(|p| p.0),
            revision: row.revision,
            created_at: row.created_at.0,
            expires_at: row.expires_at.map(|t| t.0),
            revoked_at: row.revoked_at.map(|t| t.0),
        }))
    }
}

#[derive(FromRow)]
pub(super) struct EntryRow {
    id: Uuid,
    revision: i64,
    timestamp: Time,
    user_id: Option<Uuid>,
    user_email: String,
    token_id: Option<Uuid>,
    action_type: String,
    entity_type: String,
    entity_id: Option<Uuid>,
    entity_key: String,
    entity_name: String,
    old_value: Option<String>,
    new_value: Option<String>,
    reason: Option<String>,
    request_id: Option<String>,
    method: String,
    peer: Option<String>,
    user_agent: Option<String>,
    previous_entity_revision: Option<i64>,
    reverts: Option<Uuid>,
    hash_version: i64,
    hash: Vec<u8>,
    created_at: Time,
}

impl TryFrom<EntryRow> for Entry {
    type Error = StoreError;

    fn try_from(row: EntryRow) -> Result<Self, StoreError> {
        let place = Place { table: "audit_logs", row: row.revision.to_string() };
        Ok(Self {
            id: row.id,
            revision: row.revision,
            timestamp: row.timestamp.0,
            user_id: row.user_id,
            user_email: row.user_email.into(),
            token_id: row.token_id,
            action: place.known("action_type", Action::parse(&row.action_type))?,
            entity_type: place.known("entity_type", EntityType::parse(&row.entity_type))?,
            entity_id: row.entity_id,
            entity_key: row.entity_key.into(),
            entity_name: row.entity_name.into(),
            old_value: row.old_value.map(Into::into),
            new_value: row.new_value.map(Into::into),
            reason: row.reason.map(Into::into),
            request_id: row.request_id.map(Into::into),
            method: row.method.into(),
            peer: row.peer.map(Into::into),
            user_agent: row.user_agent.map(Into::into),
            previous_entity_revision: row.previous_entity_revision,
            reverts: row.reverts,
            hash_version: place.check("hash_version", u8::try_from(row.hash_version))?,
            hash: place.hash("hash", row.hash)?,
            created_at: row.created_at.0,
        })
    }
}

#[derive(FromRow)]
pub(super) struct NextChangeRow {
    flag_id: Uuid,
    revision: i64,
    action_type: String,
    old_value: Option<String>,
    previous_entity_revision: Option<i64>,
    before_edit: Option<String>,
    previous_timestamp: Option<Time>,
    previous_user_email: Option<String>,
}

impl TryFrom<NextChangeRow> for NextChange {
    type Error = StoreError;

    fn try_from(row: NextChangeRow) -> Result<Self, StoreError> {
        let place = Place { table: "audit_logs", row: row.revision.to_string() };
        let previous = row.previous_timestamp.zip(row.previous_user_email);
        Ok(Self {
            flag_id: row.flag_id,
            revision: row.revision,
            action: place.known("action_type", Action::parse(&row.action_type))?,
            old_value: row.old_value,
            previous_revision: row.previous_entity_revision,
            before_edit: row.before_edit,
            previous: previous.map(|(time, by)| (time.0, by.into())),
        })
    }
}

#[derive(FromRow)]
pub(super) struct RequestRow {
    user_id: Uuid,
    request_id: String,
    digest: Vec<u8>,
    response: Vec<u8>,
    expires_at: Time,
}

impl TryFrom<RequestRow> for StoredRequest {
    type Error = StoreError;

    fn try_from(row: RequestRow) -> Result<Self, StoreError> {
        let place = Place { table: "requests", row: format!("{} {}", row.user_id, row.request_id) };
        Ok(Self {
            user_id: row.user_id,
            request_id: place.check("request_id", RequestId::parse(&row.request_id))?,
            digest: place.hash("digest", row.digest)?,
            response: row.response,
            expires_at: row.expires_at.0,
        })
    }
}

/// Rows into what they stand for, or the first that stands for nothing.
pub(super) fn convert<R, T: TryFrom<R, Error = StoreError>>(rows: Vec<R>) -> Result<Vec<T>, StoreError> {
    rows.into_iter().map(T::try_from).collect()
}

/// Rows of `audit_logs` into entries. One that does not even have the type of its column, as a text that is none, is told
/// by its revision like any other that stands for nothing.
pub(super) fn entries<R>(rows: &[R], read: fn(sqlx::Error) -> StoreError) -> Result<Vec<Entry>, StoreError>
where
    R: Row,
    for<'r> EntryRow: FromRow<'r, R>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    &'static str: ColumnIndex<R>,
{
    let entry = |row: &R| {
        let decoded = EntryRow::from_row(row).map_err(|error| match row.try_get::<i64, _>("revision") {
            Ok(revision) => Place { table: "audit_logs", row: revision.to_string() }.corrupt("row", error.to_string()),
            Err(_) => read(error),
        });
        decoded.and_then(Entry::try_from)
    };
    rows.iter().map(entry).collect()
}

/// The id and hash of an entry.
pub(super) fn entry_at((id, hash): (Uuid, Vec<u8>), revision: i64) -> Result<(Uuid, Hash), StoreError> {
    let place = Place { table: "audit_logs", row: revision.to_string() };
    Ok((id, place.hash("hash", hash)?))
}

/// Where a value stands, so that whoever has to mend it finds it.
struct Place {
    table: &'static str,
    row: String,
}

impl Place {
    fn check<T>(&self, column: &'static str, value: Result<T, impl ToString>) -> Result<T, StoreError> {
        value.map_err(|problem| self.corrupt(column, problem.to_string()))
    }

    fn known<T>(&self, column: &'static str, value: Option<T>) -> Result<T, StoreError> {
        value.ok_or_else(|| self.corrupt(column, "a value that this version does not know".to_owned()))
    }

    fn hash(&self, column: &'static str, bytes: Vec<u8>) -> Result<Hash, StoreError> {
        bytes.try_into().map_err(|_| self.corrupt(column, "not 32 bytes".to_owned()))
    }

    fn corrupt(&self, column: &'static str, problem: String) -> StoreError {
        StoreError::Corrupt { table: self.table, column, row: self.row.clone(), problem }
    }
}
