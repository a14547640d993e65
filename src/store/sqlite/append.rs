//! The append: one transaction. Rows of one table are written with few statements of many rows, because every statement costs
//! a trip to the connection's own thread.

use std::borrow::Borrow;
use std::marker::PhantomData;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use async_trait::async_trait;
use serde::Serialize;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnectOptions, SqliteConnection};
use uuid::Uuid;

use super::database::SqliteDatabase;
use super::error;
use crate::domain::access::{Token, User};
use crate::domain::advance::{Step, StoredRequest};
use crate::domain::audit::Entry;
use crate::domain::environment::Environment;
use crate::domain::flag::Flag;
use crate::domain::state::Head;
use crate::domain::time::Timestamp;
use crate::store::follow::LogEnd;
use crate::store::query_throttle::QueryThrottle;
use crate::store::rows::{Part, Table, Time, assignments, column_list, columns, conflict_update};
use crate::store::{AppendOutcome, StoreError, Writer};

const CHECK_HEAD: &str = "SELECT 1 FROM log_head WHERE revision = ? AND log_id = ? AND hash = ? AND closed_at < ?";

static UPDATE_HEAD: LazyLock<Arc<str>> =
    LazyLock::new(|| format!("UPDATE log_head SET {}", assignments::<Head>(|_, _| "?".to_owned())).into());

static INSERT_ENTRIES: LazyLock<RowStatement<Entry>> = LazyLock::new(RowStatement::insert);
static INSERT_FLAGS: LazyLock<RowStatement<Flag>> = LazyLock::new(RowStatement::insert);
static UPDATE_FLAGS: LazyLock<RowStatement<Flag>> = LazyLock::new(RowStatement::update);
static UPSERT_ENVIRONMENTS: LazyLock<RowStatement<Environment>> = LazyLock::new(RowStatement::insert_or_update);
static UPSERT_USERS: LazyLock<RowStatement<User>> = LazyLock::new(RowStatement::insert_or_update);
static UPSERT_TOKENS: LazyLock<RowStatement<Token>> = LazyLock::new(RowStatement::insert_or_update);
static INSERT_REQUESTS: LazyLock<RowStatement<StoredRequest>> = LazyLock::new(RowStatement::insert);

/// The most rows in one statement. SQLite takes 32,766 values: enough for 127 columns.
const MAX_ROWS: usize = 256;

/// The one connection that appends to the log.
pub(super) struct SqliteWriter {
    database: Arc<SqliteDatabase>,
    throttle: Arc<QueryThrottle>,
    options: SqliteConnectOptions,
    connection: Option<SqliteConnection>,
    /// Whether a transaction is open that has locked the head.
    is_head_locked: bool,
}

impl SqliteWriter {
    pub fn new(database: Arc<SqliteDatabase>, throttle: Arc<QueryThrottle>) -> Self {
        // A statement of many rows keeps a journal to undo itself, which would otherwise be written to a file.
        let options = database.options().clone().pragma("temp_store", "MEMORY");
        Self { database, throttle, options, connection: None, is_head_locked: false }
    }

    /// Takes the connection out. The caller puts it back only if it is still usable.
    async fn take(&mut self) -> Result<SqliteConnection, StoreError> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => {
                self.is_head_locked = false;
                self.database.connect(&self.options).await
            }
        }
    }

    async fn begin(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        // Takes the write lock at once: a transaction that reads before it writes can fail in between.
        sqlx::query("BEGIN IMMEDIATE").execute(connection).await.map(drop)
    }

    /// Writes everything but the COMMIT. Returns whether the log is at the expected head.
    async fn write(connection: &mut SqliteConnection, step: &Step) -> Result<bool, sqlx::Error> {
        let found: Option<i64> = sqlx::query_scalar(CHECK_HEAD)
            .bind(step.base.revision)
            .bind(step.base.log_id)
            .bind(&step.base.hash[..])
            .bind(Time(step.first_timestamp()))
            .fetch_optional(&mut *connection)
            .await?;
        if found.is_none() {
            return Ok(false);
        }
        if step.is_empty() {
            return Ok(true);
        }
        let (known, new) = step.delta.flags.split_at(step.delta.flags.len() - step.created.flags);
        write_rows(connection, &UPSERT_ENVIRONMENTS, &step.delta.environments).await?;
        write_rows(connection, &UPSERT_USERS, &step.delta.users).await?;
        write_rows(connection, &UPSERT_TOKENS, &step.delta.tokens).await?;
        write_rows(connection, &INSERT_ENTRIES, &step.entries).await?;
        write_rows(connection, &INSERT_FLAGS, new).await?;
        let updated = write_rows(connection, &UPDATE_FLAGS, known).await?;
        if updated != known.len() as u64 {
            // No entry without its change.
            return Err(sqlx::Error::Protocol(format!("only {updated} of {} flags to update exist", known.len())));
        }
        write_rows(connection, &INSERT_REQUESTS, &step.requests).await?;
        if step.head.revision > step.base.revision {
            let mut arguments = SqliteArguments::default();
            step.head.bind::<Sqlite>(Part::Update, &mut arguments).map_err(sqlx::Error::Encode)?;
            sqlx::query_with(AssertSqlSafe(Arc::clone(&UPDATE_HEAD)), arguments).execute(&mut *connection).await?;
        }
        Ok(true)
    }

    async fn append_now(&mut self, step: &Step) -> Result<AppendOutcome, StoreError> {
        // Checked before the transaction and again before its COMMIT. A file that is moved between that check and the COMMIT still gets
        // the step. Nothing distinguishes that from a move right after the COMMIT.
        self.database.open_to_write().await?;
        let mut connection = self.take().await?;
        if !std::mem::take(&mut self.is_head_locked) {
            Self::begin(&mut connection)
                .await
                .map_err(|error| self.database.give_up_if_damaged(error::classify(error)))?;
        }
        // On an error the connection is dropped, which rolls back.
        let is_expected_head = match Self::write(&mut connection, step).await {
            Ok(is_expected_head) => is_expected_head,
            Err(sqlx::Error::Protocol(problem)) => return Ok(AppendOutcome::Refused(problem)),
            Err(error) => return error::append_outcome(error).map_err(|error| self.database.give_up_if_damaged(error)),
        };
        self.database.check_to_commit().await?;
        let end = if is_expected_head { "COMMIT" } else { "ROLLBACK" };
        match sqlx::query(end).execute(&mut connection).await {
            Ok(_) => {
                self.connection = Some(connection);
                Ok(if is_expected_head { AppendOutcome::Appended } else { AppendOutcome::HeadMoved })
            }
            Err(error) => error::commit_outcome(error).map_err(|error| self.database.give_up_if_damaged(error)),
        }
    }
}

#[async_trait]
impl Writer for SqliteWriter {
    async fn append(&mut self, step: &Step) -> Result<AppendOutcome, StoreError> {
        let start = Instant::now();
        let outcome = self.append_now(step).await;
        self.throttle.record_writing(start.elapsed());
        outcome
    }

    async fn close_time(&mut self, log_id: Uuid, through: Timestamp) -> Result<Option<Head>, StoreError> {
        if self.is_head_locked {
            // Rolls back: the close would otherwise be part of a transaction that nobody commits.
            self.connection = None;
        }
        self.database.open_to_write().await?;
        let mut connection = self.take().await?;
        let sql = format!(
            "UPDATE log_head SET closed_at = $1 WHERE log_id = $2 AND closed_at < $1 RETURNING {}",
            LogEnd::columns(),
        );
        // Reads all rows, since the statement commits only at its end.
        let close = sqlx::query(AssertSqlSafe(sql)).bind(Time(through)).bind(log_id).fetch_all(&mut connection);
        let rows = close.await.map_err(|error| self.database.give_up_if_damaged(error::classify(error)))?;
        self.connection = Some(connection);
        rows.first().map(|row| Ok(LogEnd::decode::<Sqlite>(row)?.head)).transpose()
    }

    async fn lock_head(&mut self) -> Result<(), StoreError> {
        if self.is_head_locked {
            return Ok(());
        }
        self.database.open_to_write().await?;
        let mut connection = self.take().await?;
        Self::begin(&mut connection).await.map_err(error::classify)?;
        self.connection = Some(connection);
        self.is_head_locked = true;
        Ok(())
    }

    async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.database.close_connection(connection).await;
        }
    }
}

/// A statement that writes rows of a table.
struct RowStatement<T> {
    part: Part,
    /// The text before the rows.
    before: String,
    /// The text after the rows.
    after: String,
    table: PhantomData<fn() -> T>,
}

impl<T: Table> RowStatement<T> {
    fn insert() -> Self {
        let before = format!("INSERT INTO {} ({}) VALUES ", T::NAME, column_list::<T>(Part::All));
        Self { part: Part::All, before, after: String::new(), table: PhantomData }
    }

    fn insert_or_update() -> Self {
        Self { after: format!(" {}", conflict_update::<T>()), ..Self::insert() }
    }

    /// For a table whose key is `id`; the key is bound first.
    fn update() -> Self {
        let assignments = assignments::<T>(|position, _| format!("new.column{}", position + 1));
        Self {
            part: Part::Update,
            before: format!("UPDATE {} SET {assignments} FROM (VALUES ", T::NAME),
            after: format!(") AS new WHERE {}.id = new.column1", T::NAME),
            table: PhantomData,
        }
    }

    /// The text for this many rows.
    fn sql(&self, rows: usize) -> String {
        let row = format!("({})", vec!["?"; columns::<T>(self.part).count()].join(", "));
        format!("{}{}{}", self.before, vec![row; rows].join(", "), self.after)
    }
}

/// Writes all rows, and returns how many the database wrote. The statement cache is keyed by text, so rows are written in
/// powers of two: that keeps the number of different texts small.
async fn write_rows<T: Table, R: Borrow<T>>(
    connection: &mut SqliteConnection,
    statement: &RowStatement<T>,
    mut rows: &[R],
) -> Result<u64, sqlx::Error> {
    let mut written = 0;
    while let Some(power) = rows.len().checked_ilog2() {
        let (now, later) = rows.split_at((1 << power).min(MAX_ROWS));
        let mut arguments = SqliteArguments::default();
        for row in now {
            row.borrow().bind::<Sqlite>(statement.part, &mut arguments).map_err(sqlx::Error::Encode)?;
        }
        let query = sqlx::query_with(AssertSqlSafe(statement.sql(now.len())), arguments);
        written += query.execute(&mut *connection).await?.rows_affected();
        rows = later;
    }
    Ok(written)
}

/// JSON text of plain values, which always succeeds.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
