//! The append: one statement, one round trip, one implicit transaction. After `lock_head`, it is the last statement of an explicit
//! transaction, which `run` commits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{AssertSqlSafe, Connection, Row};
use uuid::Uuid;

use super::clock::DatabaseClock;
use super::connect::Connector;
use super::error;
use super::session::Purpose;
use super::statement::statement;
use crate::domain::advance::Step;
use crate::domain::state::Head;
use crate::domain::time::Timestamp;
use crate::store::follow::LogEnd;
use crate::store::query_throttle::QueryThrottle;
use crate::store::rows::Time;
use crate::store::{AppendOutcome, StoreError, Writer};

/// How long to wait for an answer to an append. After that the connection is dropped. The statement is never cancelled:
/// cancelling the wait for a synchronous standby would report success.
const APPEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The committer's own connection.
pub(super) struct PostgresWriter {
    connector: Connector,
    /// The payload of this server's notifications.
    instance: String,
    connection: Option<PgConnection>,
    /// Corrected by each append.
    clock: Arc<DatabaseClock>,
    throttle: Arc<QueryThrottle>,
    /// Whether a transaction is open that has locked the head.
    is_head_locked: bool,
}

impl PostgresWriter {
    pub fn new(connector: Connector, instance: Uuid, clock: Arc<DatabaseClock>, throttle: Arc<QueryThrottle>) -> Self {
        Self { connector, instance: instance.to_string(), connection: None, clock, throttle, is_head_locked: false }
    }

    /// Takes the connection out. The caller puts it back only if it is still usable.
    async fn take(&mut self) -> Result<PgConnection, StoreError> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        self.is_head_locked = false;
        self.connector.connect(Purpose::Appending).await
    }

    async fn run(
        &self,
        connection: &mut PgConnection,
        step: &Step,
        is_head_locked: bool,
    ) -> Result<AppendOutcome, sqlx::Error> {
        let has_moved = if step.is_empty() {
            let sql = "SELECT 0::int8 FROM log_head WHERE revision = $1 AND log_id = $2 AND hash = $3";
            let found: Option<i64> = sqlx::query_scalar(sql)
                .bind(step.base.revision)
                .bind(step.base.log_id)
                .bind(&step.base.hash[..])
                .fetch_optional(&mut *connection)
                .await?;
            found.is_none()
        } else {
            let asked = Instant::now();
            let statement = statement(step, &self.instance).map_err(sqlx::Error::Encode)?;
            let row = statement.fetch_optional(&mut *connection).await?;
            // A clock that cannot be read is no failure: the step is appended.
            if let Some(Ok(Time(reading))) = row.as_ref().map(|row| row.try_get("present")) {
                self.clock.correct(reading, asked);
            }
            row.is_none()
        };
        if is_head_locked {
            sqlx::query("COMMIT").execute(connection).await?;
        }
        Ok(if has_moved { AppendOutcome::HeadMoved } else { AppendOutcome::Appended })
    }
}

#[async_trait]
impl Writer for PostgresWriter {
    async fn append(&mut self, step: &Step) -> Result<AppendOutcome, StoreError> {
        let mut connection = self.take().await?;
        let is_head_locked = std::mem::take(&mut self.is_head_locked);
        let start = Instant::now();
        let result = tokio::time::timeout(APPEND_TIMEOUT, self.run(&mut connection, step, is_head_locked)).await;
        self.throttle.record_writing(start.elapsed());
        match result {
            Ok(Ok(appended)) => {
                self.connection = Some(connection);
                Ok(appended)
            }
            Ok(Err(error)) => {
                // After an error the open transaction would have to be rolled back first.
                let is_usable = !is_head_locked && !error::must_reconnect(&error);
                // An empty step writes nothing.
                let outcome = if step.is_empty() { Err(error::classify(error)) } else { error::append_outcome(error) };
                if is_usable {
                    self.connection = Some(connection);
                }
                outcome
            }
            Err(_) if step.is_empty() => Err(StoreError::Unavailable("no answer in time".into())),
            Err(_) => Err(StoreError::OutcomeUnknown("no answer in time".into())),
        }
    }

    async fn close_time(&mut self, log_id: Uuid, through: Timestamp) -> Result<Option<Head>, StoreError> {
        if self.is_head_locked {
            // Rolls back: the close would otherwise be part of a transaction that nobody commits.
            self.connection = None;
        }
        let mut connection = self.take().await?;
        let sql = format!(
            "UPDATE log_head SET closed_at = $1 WHERE log_id = $2 AND closed_at < $1 RETURNING {}",
            LogEnd::columns(),
        );
        let close = sqlx::query(AssertSqlSafe(sql)).bind(Time(through)).bind(log_id).fetch_optional(&mut connection);
        match tokio::time::timeout(APPEND_TIMEOUT, close).await {
            Ok(Ok(row)) => {
                self.connection = Some(connection);
                row.map(|row| Ok(LogEnd::decode::<Postgres>(&row)?.head)).transpose()
            }
            Ok(Err(error)) => Err(error::classify(error)),
            Err(_) => Err(StoreError::Unavailable("no answer in time".into())),
        }
    }

    async fn lock_head(&mut self) -> Result<(), StoreError> {
        let mut connection = self.take().await?;
        let lock = async {
            sqlx::query("BEGIN").execute(&mut connection).await?;
            sqlx::query("SELECT revision FROM log_head FOR UPDATE").execute(&mut connection).await
        };
        match tokio::time::timeout(APPEND_TIMEOUT, lock).await {
            Ok(Ok(_)) => {
                self.connection = Some(connection);
                self.is_head_locked = true;
                Ok(())
            }
            Ok(Err(error)) => Err(error::classify(error)),
            Err(_) => Err(StoreError::Unavailable("could not lock the head of the log in time".into())),
        }
    }

    async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = connection.close().await;
        }
    }
}
