//! The append: one transaction. Each kind of row goes in with few statements of many rows, because every statement costs a
//! trip to the connection's own thread.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;
use sqlx::ConnectOptions;
use sqlx::query_builder::{QueryBuilder, Separated};
use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqliteConnection};

use super::error;
use crate::domain::access::{Token, User};
use crate::domain::advance::{Step, StoredRequest};
use crate::domain::audit::Entry;
use crate::domain::flag::Flag;
use crate::store::columns::Time;
use crate::store::{Appended, StoreError, Writer};

const HEAD_IS: &str = "SELECT 1 FROM log_head WHERE revision = ? AND log_id = ? AND hash = ?";

/// A statement that takes rows: what stands before them, and behind them.
struct Rows(&'static str, &'static str);

const ENTRIES: Rows = Rows(
    "INSERT INTO audit_logs (id, revision, timestamp, user_id, user_email, token_id, action_type, entity_type, entity_id,
        entity_key, entity_name, old_value, new_value, reason, request_id, method, peer, user_agent,
        previous_entity_revision, reverts, hash_version, hash, created_at) ",
    "",
);

const FLAGS: Rows = Rows(
    "UPDATE feature_flags SET name = new.column2, description = new.column3, status = new.column4,
        revision = new.column5, updated_at = new.column6, updated_by = new.column7, archived_at = new.column8
    FROM (",
    ") AS new WHERE feature_flags.id = new.column1",
);

const NEW_FLAGS: Rows = Rows(
    "INSERT INTO feature_flags (id, name, description, status, revision, updated_at, updated_by, archived_at, key,
        created_at) ",
    "",
);

const USERS: Rows = Rows(
    "INSERT INTO users (id, email, issuer, subject, permissions, revision, created_at, updated_at, deactivated_at) ",
    " ON CONFLICT (id) DO UPDATE SET issuer = excluded.issuer, subject = excluded.subject,
        permissions = excluded.permissions, revision = excluded.revision, updated_at = excluded.updated_at,
        deactivated_at = excluded.deactivated_at",
);

const TOKENS: Rows = Rows(
    "INSERT INTO api_tokens (id, user_id, name, secret_hash, permissions, revision, created_at, expires_at, revoked_at) ",
    " ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, revoked_at = excluded.revoked_at",
);

const REQUESTS: Rows = Rows("INSERT INTO requests (user_id, request_id, digest, response, expires_at) ", "");

/// Rows that go in with one statement at the most: SQLite takes 32,766 values.
const AT_ONCE: usize = 256;

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
        // A statement of many rows keeps what it may have to take back; in a file, that is written for nothing.
        let options = options.pragma("temp_store", "MEMORY");
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
        insert(connection, NEW_FLAGS, new, new_flag).await?;
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

/// Writes all rows; how many it touched. Statements are kept by their texts, so that there is one for each power of two
/// rows, and not for each number of them.
async fn insert<T>(
    connection: &mut SqliteConnection,
    sql: Rows,
    mut rows: &[T],
    bind: impl Fn(&mut Values<'_>, &T),
) -> Result<u64, sqlx::Error> {
    let mut touched = 0;
    while let Some(power) = rows.len().checked_ilog2() {
        let (now, later) = rows.split_at((1 << power).min(AT_ONCE));
        let mut statement = QueryBuilder::new(sql.0);
        statement.push_values(now, |mut values, row| bind(&mut values, row)).push(sql.1);
        touched += statement.build().execute(&mut *connection).await?.rows_affected();
        rows = later;
    }
    Ok(touched)
}

/// JSON text of plain values, which have no way to fail.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

type Values<'a> = Separated<'a, Sqlite, &'static str>;

fn entry(values: &mut Values<'_>, e: &Arc<Entry>) {
    values
        .push_bind(e.id)
        .push_bind(e.revision)
        .push_bind(Time(e.timestamp))
        .push_bind(e.user_id)
        .push_bind(&*e.user_email)
        .push_bind(e.token_id)
        .push_bind(e.action.as_str())
        .push_bind(e.entity_type.as_str())
        .push_bind(e.entity_id)
        .push_bind(&*e.entity_key)
        .push_bind(&*e.entity_name)
        .push_bind(e.old_value.as_deref())
        .push_bind(e.new_value.as_deref())
        .push_bind(e.reason.as_deref())
        .push_bind(e.request_id.as_deref())
        .push_bind(&*e.method)
        .push_bind(e.peer.as_deref())
        .push_bind(e.user_agent.as_deref())
        .push_bind(e.previous_entity_revision)
        .push_bind(e.reverts)
        .push_bind(e.hash_version)
        .push_bind(&e.hash[..])
        .push_bind(Time(e.created_at));
}

fn flag(values: &mut Values<'_>, f: &Arc<Flag>) {
    values
        .push_bind(f.id)
        .push_bind(f.name.as_str())
        .push_bind(f.description.as_str())
        .push_bind(f.status.as_str())
        .push_bind(f.revision)
        .push_bind(Time(f.updated_at))
        .push_bind(&*f.updated_by)
        .push_bind(f.archived_at.map(Time));
}

fn new_flag(values: &mut Values<'_>, f: &Arc<Flag>) {
    flag(values, f);
    values.push_bind(f.key.as_str()).push_bind(Time(f.created_at));
}

fn user(values: &mut Values<'_>, u: &Arc<User>) {
    values
        .push_bind(u.id)
        .push_bind(u.email.as_str())
        .push_bind(u.account.as_ref().map(|account| &*account.issuer))
        .push_bind(u.account.as_ref().map(|account| &*account.subject))
        .push_bind(json(&u.permissions.names()))
        .push_bind(u.revision)
        .push_bind(Time(u.created_at))
        .push_bind(Time(u.updated_at))
        .push_bind(u.deactivated_at.map(Time));
}

fn token(values: &mut Values<'_>, t: &Arc<Token>) {
    values
        .push_bind(t.id)
        .push_bind(t.user_id)
        .push_bind(t.name.as_str())
        .push_bind(&t.secret_hash[..])
        .push_bind(t.permissions.map(|permissions| json(&permissions.names())))
        .push_bind(t.revision)
        .push_bind(Time(t.created_at))
        .push_bind(t.expires_at.map(Time))
        .push_bind(t.revoked_at.map(Time));
}

fn request(values: &mut Values<'_>, r: &StoredRequest) {
    values
        .push_bind(r.user_id)
        .push_bind(r.request_id.as_str())
        .push_bind(&r.digest[..])
        .push_bind(&r.response[..])
        .push_bind(Time(r.expires_at));
}
