//! The statement of an append: its text, and the values in the order of the text.
//!
//! Everything hangs on the row that moving the head returns. When the log is not at the expected revision there is no
//! such row, and nothing happens.

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use uuid::Uuid;

use super::hints;
use crate::domain::access::{Permissions, Token, User};
use crate::domain::advance::{Step, StoredRequest};
use crate::domain::audit::Entry;
use crate::domain::flag::Flag;
use crate::store::columns::Time;

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

/// The statement that appends a step, with its values.
pub(super) fn statement<'q>(step: &'q Step, instance: &'q str) -> PgQuery<'q> {
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
