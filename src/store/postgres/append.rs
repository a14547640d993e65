//! The append: one statement, one round trip, one implicit transaction.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use uuid::Uuid;

use super::statement::statement;
use super::{connect, error};
use crate::domain::advance::Step;
use crate::store::{AppendOutcome, StoreError, Writer};

/// How long the append may wait for another replica's: longer than any that is alive takes.
const LOCK_TIMEOUT: &str = "5s";

/// How long a replica that vanished while it held the head can keep it.
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "5s";

/// How long to wait for an append to be answered. Past it the connection is given up, never the statement cancelled:
/// cancelling the wait for a synchronous standby would report success.
const APPEND_TIMEOUT: Duration = Duration::from_secs(10);

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
    ) -> Result<AppendOutcome, sqlx::Error> {
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
            statement(step, instance).map_err(sqlx::Error::Encode)?.fetch_optional(&mut *connection).await?.is_none()
        };
        if holding {
            sqlx::query("COMMIT").execute(connection).await?;
        }
        Ok(if moved { AppendOutcome::HeadMoved } else { AppendOutcome::Appended })
    }
}

#[async_trait]
impl Writer for PostgresWriter {
    async fn append(&mut self, step: &Step) -> Result<AppendOutcome, StoreError> {
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

    async fn lock_head(&mut self) -> Result<(), StoreError> {
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
