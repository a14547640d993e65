//! The statement of an append: its text, and the values in the order of the text.
//!
//! Everything depends on the row that the update of the head returns. If the log is not at the expected revision, that
//! update returns no row and nothing is written. The same holds if the time of the first entry is closed.

use std::sync::{Arc, LazyLock};

use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;
use sqlx::{Arguments, AssertSqlSafe};

use super::notifications;
use crate::domain::access::{Token, User};
use crate::domain::advance::{Step, StoredRequest};
use crate::domain::audit::Entry;
use crate::domain::environment::Environment;
use crate::domain::flag::Flag;
use crate::domain::state::{Delta, Head};
use crate::store::rows::{
    BoxError, Column, Kind, Part, Table, Time, assignments, column_list, columns, conflict_update,
};

/// Moves the head, inserts entries, updates flags and stores requests: all that flips, edits of flags and denials need.
static FLAG_UPDATES: LazyLock<Arc<str>> = LazyLock::new(|| StatementBuilder::flag_updates().outcome());

/// As [`FLAG_UPDATES`], and inserts flags, and inserts or updates environments, users and tokens.
static EVERYTHING: LazyLock<Arc<str>> = LazyLock::new(|| {
    let mut text = StatementBuilder::flag_updates();
    text.insert::<Flag>("new_flags", "");
    text.insert::<Environment>("changed_environments", &conflict_update::<Environment>());
    text.insert::<User>("changed_users", &conflict_update::<User>());
    text.insert::<Token>("changed_tokens", &conflict_update::<Token>());
    text.outcome()
});

/// The statement that appends a step, with its values.
///
/// # Errors
/// A value that cannot be encoded.
pub(super) fn statement(step: &Step, instance: &str) -> Result<Query<'static, Postgres, PgArguments>, BoxError> {
    let Delta { flags, environments, users, tokens } = &step.delta;
    let (known, new) = flags.split_at(flags.len() - step.created.flags);
    let only_updates_flags = new.is_empty() && environments.is_empty() && users.is_empty() && tokens.is_empty();
    let mut arguments = PgArguments::default();
    arguments.add(step.base.revision)?;
    arguments.add(step.base.log_id)?;
    arguments.add(&step.base.hash[..])?;
    arguments.add(Time(step.first_timestamp()))?;
    step.head.bind::<Postgres>(Part::Update, &mut arguments)?;
    Entry::bind_arrays(&step.entries, Part::All, &mut arguments)?;
    Flag::bind_arrays(known, Part::Update, &mut arguments)?;
    StoredRequest::bind_arrays(&step.requests, Part::All, &mut arguments)?;
    if !only_updates_flags {
        Flag::bind_arrays(new, Part::All, &mut arguments)?;
        Environment::bind_arrays(environments, Part::All, &mut arguments)?;
        User::bind_arrays(users, Part::All, &mut arguments)?;
        Token::bind_arrays(tokens, Part::All, &mut arguments)?;
    }
    arguments.add(instance)?;
    let text = if only_updates_flags { &FLAG_UPDATES } else { &EVERYTHING };
    Ok(sqlx::query_with(AssertSqlSafe(Arc::clone(text)), arguments))
}

/// Builds the text, one part after the other. Only constants go into it.
struct StatementBuilder {
    sql: String,
    /// How many parameters it has so far.
    parameters: usize,
    /// The parameter that holds the ids of the flags to update.
    flag_ids: String,
}

impl StatementBuilder {
    fn flag_updates() -> Self {
        let mut text = Self { sql: String::new(), parameters: 0, flag_ids: String::new() };
        text.update_head();
        text.insert::<Entry>("entries", "");
        text.update_flags();
        text.insert::<StoredRequest>("stored_requests", "");
        text
    }

    /// The next parameter: `$1`.
    fn parameter(&mut self) -> String {
        self.parameters += 1;
        format!("${}", self.parameters)
    }

    /// One array per column: `unnest($9::uuid[], $10::int8[]) AS rows (id, revision)`.
    fn rows<T: Table>(&mut self, part: Part) -> String {
        let arrays: Vec<_> =
            columns::<T>(part).map(|column| format!("{}::{}[]", self.parameter(), sent_as(column.kind))).collect();
        format!("unnest({}) AS rows ({})", arrays.join(", "), column_list::<T>(part))
    }

    fn update_head(&mut self) {
        let (revision, log_id, hash) = (self.parameter(), self.parameter(), self.parameter());
        let first_timestamp = self.parameter();
        let assignments = assignments::<Head>(|_, _| self.parameter());
        self.sql = format!(
            "WITH head AS (UPDATE log_head SET {assignments}
                WHERE revision = {revision} AND log_id = {log_id} AND hash = {hash} AND closed_at < {first_timestamp}
                RETURNING revision)"
        );
    }

    fn insert<T: Table>(&mut self, name: &str, conflict: &str) {
        let values: Vec<_> = columns::<T>(Part::All).map(received).collect();
        let rows = self.rows::<T>(Part::All);
        self.sql += &format!(
            ", {name} AS (INSERT INTO {} ({}) SELECT {} FROM head, {rows} {conflict})",
            T::NAME,
            column_list::<T>(Part::All),
            values.join(", "),
        );
    }

    fn update_flags(&mut self) {
        // The id is the first column of `Part::Update`.
        self.flag_ids = format!("${}::uuid[]", self.parameters + 1);
        let assignments = assignments::<Flag>(|_, column| received(column));
        let rows = self.rows::<Flag>(Part::Update);
        self.sql += &format!(
            ", flags AS (UPDATE feature_flags AS flag SET {assignments} FROM head, {rows}
                WHERE flag.id = rows.id RETURNING flag.id)"
        );
    }

    /// The one row of an append that happened. If a flag to update is missing, it divides by zero, which rolls everything
    /// back: no entry without its change. The row also notifies the other replicas, and reads the clock.
    fn outcome(mut self) -> Arc<str> {
        let instance = self.parameter();
        self.sql += &format!(
            " SELECT 1 / ((SELECT count(*) FROM flags) = cardinality({}))::int, pg_notify('{}', {instance}::text),
                clock_timestamp() AS present FROM head",
            self.flag_ids,
            notifications::CHANNEL,
        );
        self.sql.into()
    }
}

/// The type of one element of a column's array.
fn sent_as(kind: Kind) -> &'static str {
    match kind {
        Kind::Uuid => "uuid",
        Kind::Integer => "int8",
        Kind::SmallInteger => "int2",
        Kind::Boolean => "bool",
        Kind::Text | Kind::TextList => "text",
        Kind::Bytes => "bytea",
        Kind::Time => "timestamptz",
    }
}

/// The value of a column in [`StatementBuilder::rows`].
fn received(column: &Column) -> String {
    match column.kind {
        Kind::TextList => format!("string_to_array(rows.{}, ',')", column.name),
        _ => format!("rows.{}", column.name),
    }
}
