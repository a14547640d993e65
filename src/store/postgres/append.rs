//! The append: one statement, one round trip, one implicit transaction.
//!
//! Everything hangs on the row that moving the head returns. When the log is not at the expected revision there is no
//! such row, and nothing happens.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection};
use sqlx::query::Query;
use uuid::Uuid;

use super::{connect, error, hints};
use crate::domain::access::{Permissions, Token, User};
use crate::domain::advance::{Step, StoredRequest};
use crate::domain::audit::Entry;
use crate::domain::flag::Flag;
use crate::store::columns::Time;
use crate::store::{Appended, StoreError, Writer};

/// How long the append may wait for another replica's: longer than any that is alive takes.
const LOCK_TIMEOUT: &str = "5s";

/// How long a replica that vanished while it held the head can keep it.
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "5s";

/// How long to wait for an append to be answered. Past it the connection is given up, never the statement cancelled:
/// cancelling the wait for a synchronous standby would report success.
const APPEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Moves the head, writes entries, updates flags, stores requests: all that flips need.
macro_rules! flips {
    () => {
        "WITH head AS (
            UPDATE log_head SET revision = $4, hash = $5, timestamp = $6, floor = $7, floor_hash = $8
            WHERE revision = $1 AND log_id = $2 AND hash = $3 RETURNING revision
        ), entries AS (
            INSERT INTO audit_logs (id, revision, timestamp, user_id, user_email, token_id, action_type, entity_type,
                entity_id, entity_key, entity_name, old_value, new_value, reason, request_id, method, peer, user_agent,
                previous_entity_revision, reverts, hash_version, hash, created_at)
            SELECT e.* FROM head, unnest($9::uuid[], $10::int8[], $11::timestamptz[], $12::uuid[], $13::text[],
                $14::uuid[], $15::text[], $16::text[], $17::uuid[], $18::text[], $19::text[], $20::text[],
                $21::text[], $22::text[], $23::text[], $24::text[], $25::text[], $26::text[], $27::int8[],
                $28::uuid[], $29::int2[], $30::bytea[], $31::timestamptz[]) AS e
        ), flags AS (
            UPDATE feature_flags AS f SET name = u.name, description = u.description, status = u.status,
                revision = u.revision, updated_at = u.updated_at, updated_by = u.updated_by,
                archived_at = u.archived_at
            FROM head, unnest($32::uuid[], $33::text[], $34::text[], $35::text[], $36::int8[], $37::timestamptz[],
                $38::text[], $39::timestamptz[])
                AS u (id, name, description, status, revision, updated_at, updated_by, archived_at)
            WHERE f.id = u.id RETURNING f.id
        ), requests AS (
            INSERT INTO requests (user_id, request_id, digest, response, expires_at)
            SELECT r.* FROM head, unnest($40::uuid[], $41::text[], $42::bytea[], $43::bytea[],
                $44::timestamptz[]) AS r
        )"
    };
}

/// The one row of an append that happened. A flag that was to be updated and is not there divides by zero, which takes
/// everything back: no entry without its change. With the row goes the hint to the other replicas.
macro_rules! outcome {
    ($instance:literal) => {
        concat!(
            " SELECT 1 / ((SELECT count(*) FROM flags) = cardinality($32::uuid[]))::int, pg_notify('",
            hints::channel!(),
            "', ",
            $instance,
            "::text) FROM head"
        )
    };
}

const FLIPS: &str = concat!(flips!(), outcome!("$45"));

/// As [`FLIPS`], and new flags, users and tokens, new or changed.
const EVERYTHING: &str = concat!(
    flips!(),
    ", new_flags AS (
        INSERT INTO feature_flags (id, key, name, description, status, revision, created_at, updated_at, updated_by,
            archived_at)
        SELECT n.* FROM head, unnest($45::uuid[], $46::text[], $47::text[], $48::text[], $49::text[], $50::int8[],
            $51::timestamptz[], $52::timestamptz[], $53::text[], $54::timestamptz[]) AS n
    ), changed_users AS (
        INSERT INTO users (id, email, issuer, subject, permissions, revision, created_at, updated_at, deactivated_at)
        SELECT u.id, u.email, u.issuer, u.subject, string_to_array(u.permissions, ','), u.revision, u.created_at,
            u.updated_at, u.deactivated_at
        FROM head, unnest($55::uuid[], $56::text[], $57::text[], $58::text[], $59::text[], $60::int8[],
            $61::timestamptz[], $62::timestamptz[], $63::timestamptz[])
            AS u (id, email, issuer, subject, permissions, revision, created_at, updated_at, deactivated_at)
        ON CONFLICT (id) DO UPDATE SET issuer = excluded.issuer, subject = excluded.subject,
            permissions = excluded.permissions, revision = excluded.revision, updated_at = excluded.updated_at,
            deactivated_at = excluded.deactivated_at
    ), changed_tokens AS (
        INSERT INTO api_tokens (id, user_id, name, secret_hash, permissions, revision, created_at, expires_at,
            revoked_at)
        SELECT t.id, t.user_id, t.name, t.secret_hash, string_to_array(t.permissions, ','), t.revision, t.created_at,
            t.expires_at, t.revoked_at
        FROM head, unnest($64::uuid[], $65::uuid[], $66::text[], $67::bytea[], $68::text[], $69::int8[],
            $70::timestamptz[], $71::timestamptz[], $72::timestamptz[])
            AS t (id, user_id, name, secret_hash, permissions, revision, created_at, expires_at, revoked_at)
        ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, revoked_at = excluded.revoked_at
    )",
    outcome!("$73")
);

type PgQuery<'q> = Query<'q, Postgres, PgArguments>;

/// The committer's own connection.
pub(super) struct PostgresWriter {
    options: PgConnectOptions,
    /// What the hints of our appends say.
    instance: String,
    connection: Option<PgConnection>,
    /// Whether a transaction is open that holds the head.
    holding: bool,
}

impl PostgresWriter {
    pub fn new(options: PgConnectOptions, instance: Uuid) -> Self {
        let options = options.options([
            ("default_transaction_isolation", "read committed"),
            ("lock_timeout", LOCK_TIMEOUT),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
            // The statements are always the same and their plans do not depend on what is in them.
            ("plan_cache_mode", "force_generic_plan"),
            ("jit", "off"),
        ]);
        Self { options, instance: instance.to_string(), connection: None, holding: false }
    }

    /// The connection, taken out: it is put back only by who finds it sound.
    async fn take(&mut self) -> Result<PgConnection, StoreError> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        self.holding = false;
        connect(&self.options).await
    }

    async fn run(
        connection: &mut PgConnection,
        step: &Step,
        instance: &str,
        holding: bool,
    ) -> Result<Appended, sqlx::Error> {
        let moved = if step.is_empty() {
            let sql = "SELECT 0::int8 FROM log_head WHERE revision = $1 AND log_id = $2 AND hash = $3";
            let there: Option<i64> = sqlx::query_scalar(sql)
                .bind(step.base.revision)
                .bind(step.base.log_id)
                .bind(&step.base.hash[..])
                .fetch_optional(&mut *connection)
                .await?;
            there.is_none()
        } else {
            statement(step, instance).fetch_optional(&mut *connection).await?.is_none()
        };
        if holding {
            sqlx::query("COMMIT").execute(connection).await?;
        }
        Ok(if moved { Appended::HeadMoved } else { Appended::Done })
    }
}

#[async_trait]
impl Writer for PostgresWriter {
    async fn append(&mut self, step: &Step) -> Result<Appended, StoreError> {
        let mut connection = self.take().await?;
        let holding = std::mem::take(&mut self.holding);
        let result =
            tokio::time::timeout(APPEND_TIMEOUT, Self::run(&mut connection, step, &self.instance, holding)).await;
        match result {
            Ok(Ok(appended)) => {
                self.connection = Some(connection);
                Ok(appended)
            }
            Ok(Err(problem)) => {
                // What wrote nothing cannot have been written.
                let meaning = if step.is_empty() { Err(error::read(problem)) } else { error::append(&problem) };
                // After an error in a transaction of its own the connection is not worth mending.
                if !holding && !matches!(meaning, Err(StoreError::OutcomeUnknown(_))) {
                    self.connection = Some(connection);
                }
                meaning
            }
            Err(_) if step.is_empty() => Err(StoreError::Unavailable("no answer in time".to_owned())),
            Err(_) => Err(StoreError::OutcomeUnknown("no answer in time".to_owned())),
        }
    }

    async fn hold_head(&mut self) -> Result<(), StoreError> {
        let mut connection = self.take().await?;
        let hold = async {
            sqlx::query("BEGIN").execute(&mut connection).await?;
            sqlx::query("SELECT revision FROM log_head FOR UPDATE").execute(&mut connection).await
        };
        match tokio::time::timeout(APPEND_TIMEOUT, hold).await {
            Ok(Ok(_)) => {
                self.connection = Some(connection);
                self.holding = true;
                Ok(())
            }
            Ok(Err(problem)) => Err(error::read(problem)),
            Err(_) => Err(StoreError::Unavailable("the head of the log was not to be had in time".to_owned())),
        }
    }
}

fn statement<'q>(step: &'q Step, instance: &'q str) -> PgQuery<'q> {
    let (known, new) = step.delta.flags.split_at(step.delta.flags.len() - step.created.flags);
    let plain = new.is_empty() && step.delta.users.is_empty() && step.delta.tokens.is_empty();
    let query = sqlx::query(if plain { FLIPS } else { EVERYTHING })
        .bind(step.base.revision)
        .bind(step.base.log_id)
        .bind(&step.base.hash[..])
        .bind(step.head.revision)
        .bind(&step.head.hash[..])
        .bind(Time(step.head.timestamp))
        .bind(step.head.floor)
        .bind(&step.head.floor_hash[..]);
    let query = bind_entries(query, &step.entries);
    let query = bind_flags(query, known);
    let query = bind_requests(query, &step.requests);
    if plain {
        return query.bind(instance);
    }
    let query = bind_new_flags(query, new);
    bind_tokens(bind_users(query, &step.delta.users), &step.delta.tokens).bind(instance)
}

/// One column of all rows.
fn column<'q, T, V>(rows: &'q [T], value: impl Fn(&'q T) -> V) -> Vec<V> {
    rows.iter().map(value).collect()
}

fn bind_entries<'q>(query: PgQuery<'q>, rows: &'q [std::sync::Arc<Entry>]) -> PgQuery<'q> {
    query
        .bind(column(rows, |e| e.id))
        .bind(column(rows, |e| e.revision))
        .bind(column(rows, |e| Time(e.timestamp)))
        .bind(column(rows, |e| e.user_id))
        .bind(column(rows, |e| &*e.user_email))
        .bind(column(rows, |e| e.token_id))
        .bind(column(rows, |e| e.action.as_str()))
        .bind(column(rows, |e| e.entity_type.as_str()))
        .bind(column(rows, |e| e.entity_id))
        .bind(column(rows, |e| &*e.entity_key))
        .bind(column(rows, |e| &*e.entity_name))
        .bind(column(rows, |e| e.old_value.as_deref()))
        .bind(column(rows, |e| e.new_value.as_deref()))
        .bind(column(rows, |e| e.reason.as_deref()))
        .bind(column(rows, |e| e.request_id.as_deref()))
        .bind(column(rows, |e| &*e.method))
        .bind(column(rows, |e| e.peer.as_deref()))
        .bind(column(rows, |e| e.user_agent.as_deref()))
        .bind(column(rows, |e| e.previous_entity_revision))
        .bind(column(rows, |e| e.reverts))
        .bind(column(rows, |e| i16::from(e.hash_version)))
        .bind(column(rows, |e| &e.hash[..]))
        .bind(column(rows, |e| Time(e.created_at)))
}

fn bind_flags<'q>(query: PgQuery<'q>, rows: &'q [std::sync::Arc<Flag>]) -> PgQuery<'q> {
    query
        .bind(column(rows, |f| f.id))
        .bind(column(rows, |f| f.name.as_str()))
        .bind(column(rows, |f| f.description.as_str()))
        .bind(column(rows, |f| f.status.as_str()))
        .bind(column(rows, |f| f.revision))
        .bind(column(rows, |f| Time(f.updated_at)))
        .bind(column(rows, |f| &*f.updated_by))
        .bind(column(rows, |f| f.archived_at.map(Time)))
}

fn bind_requests<'q>(query: PgQuery<'q>, rows: &'q [StoredRequest]) -> PgQuery<'q> {
    query
        .bind(column(rows, |r| r.user_id))
        .bind(column(rows, |r| r.request_id.as_str()))
        .bind(column(rows, |r| &r.digest[..]))
        .bind(column(rows, |r| &r.response[..]))
        .bind(column(rows, |r| Time(r.expires_at)))
}

fn bind_new_flags<'q>(query: PgQuery<'q>, rows: &'q [std::sync::Arc<Flag>]) -> PgQuery<'q> {
    query
        .bind(column(rows, |f| f.id))
        .bind(column(rows, |f| f.key.as_str()))
        .bind(column(rows, |f| f.name.as_str()))
        .bind(column(rows, |f| f.description.as_str()))
        .bind(column(rows, |f| f.status.as_str()))
        .bind(column(rows, |f| f.revision))
        .bind(column(rows, |f| Time(f.created_at)))
        .bind(column(rows, |f| Time(f.updated_at)))
        .bind(column(rows, |f| &*f.updated_by))
        .bind(column(rows, |f| f.archived_at.map(Time)))
}

fn bind_users<'q>(query: PgQuery<'q>, rows: &'q [std::sync::Arc<User>]) -> PgQuery<'q> {
    query
        .bind(column(rows, |u| u.id))
        .bind(column(rows, |u| u.email.as_str()))
        .bind(column(rows, |u| u.account.as_ref().map(|account| &*account.issuer)))
        .bind(column(rows, |u| u.account.as_ref().map(|account| &*account.subject)))
        .bind(column(rows, |u| joined(u.permissions)))
        .bind(column(rows, |u| u.revision))
        .bind(column(rows, |u| Time(u.created_at)))
        .bind(column(rows, |u| Time(u.updated_at)))
        .bind(column(rows, |u| u.deactivated_at.map(Time)))
}

fn bind_tokens<'q>(query: PgQuery<'q>, rows: &'q [std::sync::Arc<Token>]) -> PgQuery<'q> {
    query
        .bind(column::<_, Uuid>(rows, |t| t.id))
        .bind(column(rows, |t| t.user_id))
        .bind(column(rows, |t| t.name.as_str()))
        .bind(column(rows, |t| &t.secret_hash[..]))
        .bind(column(rows, |t| t.permissions.map(joined)))
        .bind(column(rows, |t| t.revision))
        .bind(column(rows, |t| Time(t.created_at)))
        .bind(column(rows, |t| t.expires_at.map(Time)))
        .bind(column(rows, |t| t.revoked_at.map(Time)))
}

/// An array of arrays would be flattened by `unnest`: a list travels as one text.
fn joined(permissions: Permissions) -> String {
    permissions.names().join(",")
}
