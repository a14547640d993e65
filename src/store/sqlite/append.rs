//! The append: one transaction. Each kind of row goes in with one statement, all rows in one JSON value, because every
//! statement costs a trip to the connection's own thread.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use uuid::Uuid;

use super::error;
use crate::domain::access::{Token, User};
use crate::domain::advance::{Step, StoredRequest};
use crate::domain::audit::Entry;
use crate::domain::flag::Flag;
use crate::store::columns::Time;
use crate::store::{Appended, StoreError, Writer};

const HEAD_IS: &str = "SELECT 1 FROM log_head WHERE revision = ? AND log_id = ? AND hash = ?";

const ENTRIES: &str = "INSERT INTO audit_logs (id, revision, timestamp, user_id, user_email, token_id, action_type,
        entity_type, entity_id, entity_key, entity_name, old_value, new_value, reason, request_id, method, peer,
        user_agent, previous_entity_revision, reverts, hash_version, hash, created_at)
    SELECT unhex(value ->> 0), value ->> 1, value ->> 2, unhex(value ->> 3), value ->> 4, unhex(value ->> 5),
        value ->> 6, value ->> 7, unhex(value ->> 8), value ->> 9, value ->> 10, value ->> 11, value ->> 12,
        value ->> 13, value ->> 14, value ->> 15, value ->> 16, value ->> 17, value ->> 18, unhex(value ->> 19),
        value ->> 20, unhex(value ->> 21), value ->> 22
    FROM json_each(?)";

const FLAGS: &str = "UPDATE feature_flags SET name = new.name, description = new.description, status = new.status,
        revision = new.revision, updated_at = new.updated_at, updated_by = new.updated_by,
        archived_at = new.archived_at
    FROM (SELECT unhex(value ->> 0) AS id, value ->> 2 AS name, value ->> 3 AS description, value ->> 4 AS status,
              value ->> 5 AS revision, value ->> 7 AS updated_at, value ->> 8 AS updated_by,
              value ->> 9 AS archived_at FROM json_each(?)) AS new
    WHERE feature_flags.id = new.id";

const NEW_FLAGS: &str = "INSERT INTO feature_flags (id, key, name, description, status, revision, created_at,
        updated_at, updated_by, archived_at)
    SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
        value ->> 7, value ->> 8, value ->> 9
    FROM json_each(?)";

const USERS: &str = "INSERT INTO users (id, email, issuer, subject, permissions, revision, created_at, updated_at,
        deactivated_at)
    SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
        value ->> 7, value ->> 8
    FROM json_each(?) WHERE TRUE
    ON CONFLICT (id) DO UPDATE SET issuer = excluded.issuer, subject = excluded.subject,
        permissions = excluded.permissions, revision = excluded.revision, updated_at = excluded.updated_at,
        deactivated_at = excluded.deactivated_at";

const TOKENS: &str = "INSERT INTO api_tokens (id, user_id, name, secret_hash, permissions, revision, created_at,
        expires_at, revoked_at)
    SELECT unhex(value ->> 0), unhex(value ->> 1), value ->> 2, unhex(value ->> 3), value ->> 4, value ->> 5,
        value ->> 6, value ->> 7, value ->> 8
    FROM json_each(?) WHERE TRUE
    ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, revoked_at = excluded.revoked_at";

const REQUESTS: &str = "INSERT INTO requests (user_id, request_id, digest, response, expires_at)
    SELECT unhex(value ->> 0), value ->> 1, unhex(value ->> 2), unhex(value ->> 3), value ->> 4 FROM json_each(?)";

const HEAD: &str = "UPDATE log_head SET revision = ?, hash = ?, timestamp = ?, floor = ?, floor_hash = ?";

/// The one connection that writes.
pub(super) struct SqliteWriter {
    options: SqliteConnectOptions,
    connection: Option<SqliteConnection>,
    /// Whether a transaction is open that holds the head.
    holding: bool,
}

impl SqliteWriter {
    pub fn new(options: SqliteConnectOptions) -> Self {
        Self { options, connection: None, holding: false }
    }

    /// The connection, taken out: it is put back only by who finds it sound.
    async fn take(&mut self) -> Result<SqliteConnection, StoreError> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => {
                self.holding = false;
                self.options.connect().await.map_err(error::read)
            }
        }
    }

    async fn begin(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        // Takes the write lock at once: a transaction that first reads and then writes can fail in between.
        sqlx::query("BEGIN IMMEDIATE").execute(connection).await.map(drop)
    }

    /// Everything but the COMMIT; whether the log was where it should be.
    async fn write(connection: &mut SqliteConnection, step: &Step) -> Result<bool, sqlx::Error> {
        let there: Option<i64> = sqlx::query_scalar(HEAD_IS)
            .bind(step.base.revision)
            .bind(step.base.log_id)
            .bind(&step.base.hash[..])
            .fetch_optional(&mut *connection)
            .await?;
        if there.is_none() {
            return Ok(false);
        }
        if step.is_empty() {
            return Ok(true);
        }
        let (known, new) = step.delta.flags.split_at(step.delta.flags.len() - step.created.flags);
        insert(connection, USERS, &step.delta.users, user).await?;
        insert(connection, TOKENS, &step.delta.tokens, token).await?;
        insert(connection, ENTRIES, &step.entries, entry).await?;
        insert(connection, NEW_FLAGS, new, flag).await?;
        let updated = insert(connection, FLAGS, known, flag).await?;
        if updated != known.len() as u64 {
            // No entry without its change: a flag that we know and the database does not.
            return Err(sqlx::Error::Protocol(format!("{updated} of {} flags are there to update", known.len())));
        }
        insert(connection, REQUESTS, &step.requests, request).await?;
        if step.head.revision > step.base.revision {
            sqlx::query(HEAD)
                .bind(step.head.revision)
                .bind(&step.head.hash[..])
                .bind(Time(step.head.timestamp))
                .bind(step.head.floor)
                .bind(&step.head.floor_hash[..])
                .execute(&mut *connection)
                .await?;
        }
        Ok(true)
    }
}

#[async_trait]
impl Writer for SqliteWriter {
    async fn append(&mut self, step: &Step) -> Result<Appended, StoreError> {
        let mut connection = self.take().await?;
        let holding = std::mem::take(&mut self.holding);
        if !holding {
            Self::begin(&mut connection).await.map_err(error::read)?;
        }
        // On an error the connection is dropped, which rolls back.
        let there = match Self::write(&mut connection, step).await {
            Ok(there) => there,
            Err(sqlx::Error::Protocol(problem)) => return Ok(Appended::Refused(problem)),
            Err(problem) => return error::append(&problem),
        };
        let end = if there { "COMMIT" } else { "ROLLBACK" };
        match sqlx::query(end).execute(&mut connection).await {
            Ok(_) => {
                self.connection = Some(connection);
                Ok(if there { Appended::Done } else { Appended::HeadMoved })
            }
            // A busy or full database has not committed; an error while syncing leaves it open.
            Err(problem) => match error::append(&problem) {
                Err(StoreError::Unavailable(problem)) if !problem.contains("full") => {
                    Err(StoreError::OutcomeUnknown(problem))
                }
                meaning => meaning,
            },
        }
    }

    async fn hold_head(&mut self) -> Result<(), StoreError> {
        if self.holding {
            return Ok(());
        }
        let mut connection = self.take().await?;
        Self::begin(&mut connection).await.map_err(error::read)?;
        self.connection = Some(connection);
        self.holding = true;
        Ok(())
    }
}

/// Writes all rows by one statement that takes them as one JSON array; how many it touched.
async fn insert<T>(
    connection: &mut SqliteConnection,
    sql: &'static str,
    rows: &[T],
    row: impl Fn(&T) -> Value,
) -> Result<u64, sqlx::Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    let rows: Vec<Value> = rows.iter().map(row).collect();
    Ok(sqlx::query(sql).bind(self::json(&rows)).execute(connection).await?.rows_affected())
}

/// JSON text of plain values, which have no way to fail.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for digit in [byte >> 4, byte & 0xf] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
        text
    })
}

fn id(id: Option<Uuid>) -> Option<String> {
    id.map(|id| id.simple().to_string())
}

fn entry(e: &Arc<Entry>) -> Value {
    json!([
        id(Some(e.id)),
        e.revision,
        e.timestamp.micros(),
        id(e.user_id),
        &*e.user_email,
        id(e.token_id),
        e.action.as_str(),
        e.entity_type.as_str(),
        id(e.entity_id),
        &*e.entity_key,
        &*e.entity_name,
        e.old_value.as_deref(),
        e.new_value.as_deref(),
        e.reason.as_deref(),
        e.request_id.as_deref(),
        &*e.method,
        e.peer.as_deref(),
        e.user_agent.as_deref(),
        e.previous_entity_revision,
        id(e.reverts),
        e.hash_version,
        hex(&e.hash),
        e.created_at.micros(),
    ])
}

fn flag(f: &Arc<Flag>) -> Value {
    json!([
        id(Some(f.id)),
        f.key.as_str(),
        f.name.as_str(),
        f.description.as_str(),
        f.status.as_str(),
        f.revision,
        f.created_at.micros(),
        f.updated_at.micros(),
        &*f.updated_by,
        f.archived_at.map(|t| t.micros()),
    ])
}

fn user(u: &Arc<User>) -> Value {
    json!([
        id(Some(u.id)),
        u.email.as_str(),
        u.account.as_ref().map(|account| &*account.issuer),
        u.account.as_ref().map(|account| &*account.subject),
        self::json(&u.permissions.names()),
        u.revision,
        u.created_at.micros(),
        u.updated_at.micros(),
        u.deactivated_at.map(|t| t.micros()),
    ])
}

fn token(t: &Arc<Token>) -> Value {
    json!([
        id(Some(t.id)),
        id(Some(t.user_id)),
        t.name.as_str(),
        hex(&t.secret_hash),
        t.permissions.map(|p| self::json(&p.names())),
        t.revision,
        t.created_at.micros(),
        t.expires_at.map(|t| t.micros()),
        t.revoked_at.map(|t| t.micros()),
    ])
}

fn request(r: &StoredRequest) -> Value {
    json!([id(Some(r.user_id)), r.request_id.as_str(), hex(&r.digest), hex(&r.response), r.expires_at.micros(),])
}
