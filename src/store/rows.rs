//! Rows, as both databases return them, and what they become. Nothing outside the store sees one.

use std::fmt::Display;
use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt};
use sqlx::{Column, ColumnIndex, Decode, FromRow, Row, Type};
use uuid::Uuid;

use super::StoreError;
use super::columns::{PermissionList, Time};
use crate::domain::Hash;
use crate::domain::access::{Account, Token, User};
use crate::domain::advance::StoredRequest;
use crate::domain::audit::{Action, EntityType, Entry};
use crate::domain::flag::{Flag, Status};
use crate::domain::history::NextChange;
use crate::domain::state::Head;
use crate::domain::text::{Description, Email, FlagKey, Name, RequestId};

/// The columns of `audit_logs`, in the order of [`EntryRow`].
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
        let place = Place { table: "log_head", row: "" };
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
        let place = Place { table: "feature_flags", row: row.id };
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
        let place = Place { table: "users", row: row.id };
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
        let place = Place { table: "api_tokens", row: row.id };
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

/// By position, in the order of [`entry_columns`]: of a million entries, looking each column up by its name took a tenth of
/// the time. Texts are borrowed from the row, to be copied once.
#[derive(FromRow)]
pub(super) struct EntryRow<'r>(
    Uuid,
    i64,
    Time,
    Option<Uuid>,
    &'r str,
    Option<Uuid>,
    &'r str,
    &'r str,
    Option<Uuid>,
    &'r str,
    &'r str,
    Option<&'r str>,
    Option<&'r str>,
    Option<&'r str>,
    Option<&'r str>,
    &'r str,
    Option<&'r str>,
    Option<&'r str>,
    Option<i64>,
    Option<Uuid>,
    i64,
    &'r [u8],
    Time,
);

impl TryFrom<EntryRow<'_>> for Entry {
    type Error = StoreError;

    fn try_from(row: EntryRow<'_>) -> Result<Self, StoreError> {
        let EntryRow(
            id,
            revision,
            timestamp,
            user_id,
            user_email,
            token_id,
            action_type,
            entity_type,
            entity_id,
            entity_key,
            entity_name,
            old_value,
            new_value,
            reason,
            request_id,
            method,
            peer,
            user_agent,
            previous_entity_revision,
            reverts,
            hash_version,
            hash,
            created_at,
        ) = row;
        let place = Place { table: "audit_logs", row: revision };
        Ok(Self {
            id,
            revision,
            timestamp: timestamp.0,
            user_id,
            user_email: user_email.into(),
            token_id,
            action: place.known("action_type", Action::parse(action_type))?,
            entity_type: place.known("entity_type", EntityType::parse(entity_type))?,
            entity_id,
            entity_key: entity_key.into(),
            entity_name: entity_name.into(),
            old_value: old_value.map(Into::into),
            new_value: new_value.map(Into::into),
            reason: reason.map(Into::into),
            request_id: request_id.map(Into::into),
            method: method.into(),
            peer: peer.map(Into::into),
            user_agent: user_agent.map(Into::into),
            previous_entity_revision,
            reverts,
            hash_version: place.check("hash_version", u8::try_from(hash_version))?,
            hash: place.hash("hash", hash)?,
            created_at: created_at.0,
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
        let place = Place { table: "audit_logs", row: row.revision };
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

/// Rows of `audit_logs` into entries, each as it comes: the database reads on meanwhile.
pub(super) async fn entries<R>(
    rows: impl Stream<Item = Result<R, sqlx::Error>>,
    read: fn(sqlx::Error) -> StoreError,
) -> Result<Vec<Entry>, StoreError>
where
    R: Row,
    for<'r> EntryRow<'r>: FromRow<'r, R>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    &'static str: ColumnIndex<R>,
{
    rows.map(|row| entry(&row.map_err(read)?, read)).try_collect().await
}

/// One that does not even have the type of its column, as a text that is none, is told by its revision like any other that
/// stands for nothing.
fn entry<R>(row: &R, read: fn(sqlx::Error) -> StoreError) -> Result<Entry, StoreError>
where
    R: Row,
    for<'r> EntryRow<'r>: FromRow<'r, R>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    &'static str: ColumnIndex<R>,
{
    let decoded = EntryRow::from_row(row).map_err(|error| match row.try_get::<i64, _>("revision") {
        Ok(revision) => Place { table: "audit_logs", row: revision }.corrupt("row", by_name(row, error).to_string()),
        Err(_) => read(error),
    });
    decoded.and_then(Entry::try_from)
}

/// The same error, with the column's name in place of its number.
fn by_name(row: &impl Row, error: sqlx::Error) -> sqlx::Error {
    let sqlx::Error::ColumnDecode { index, source } = error else { return error };
    let column = index.parse().ok().and_then(|number: usize| row.columns().get(number));
    let name = column.map(|column| column.name().to_owned());
    sqlx::Error::ColumnDecode { index: name.unwrap_or(index), source }
}

/// The id and hash of an entry.
pub(super) fn entry_at((id, hash): (Uuid, Vec<u8>), revision: i64) -> Result<(Uuid, Hash), StoreError> {
    let place = Place { table: "audit_logs", row: revision };
    Ok((id, place.hash("hash", hash)?))
}

/// Where a value stands, so that whoever has to mend it finds it.
struct Place<R> {
    table: &'static str,
    row: R,
}

impl<R: Display> Place<R> {
    fn check<T>(&self, column: &'static str, value: Result<T, impl ToString>) -> Result<T, StoreError> {
        value.map_err(|problem| self.corrupt(column, problem.to_string()))
    }

    fn known<T>(&self, column: &'static str, value: Option<T>) -> Result<T, StoreError> {
        value.ok_or_else(|| self.corrupt(column, "a value that this version does not know".to_owned()))
    }

    fn hash(&self, column: &'static str, bytes: impl AsRef<[u8]>) -> Result<Hash, StoreError> {
        bytes.as_ref().try_into().map_err(|_| self.corrupt(column, "not 32 bytes".to_owned()))
    }

    fn corrupt(&self, column: &'static str, problem: String) -> StoreError {
        StoreError::Corrupt { table: self.table, column, row: self.row.to_string(), problem }
    }
}
