//! What can go wrong with a database, whichever it is.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use sqlx::postgres::PgDatabaseError;

/// An error of a database. Its text may name tables, hosts and users: it is for the log and for operators, never for clients.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database does not answer, or has no space, connection or lock at the moment. Nothing was written; a retry may
    /// succeed.
    #[error("the database is unavailable: {0}")]
    Unavailable(#[source] Cause),
    /// The connection was lost during a write, which may have been committed or not.
    #[error("the connection was lost while writing: {0}")]
    OutcomeUnknown(#[source] Cause),
    /// A row has an invalid value.
    #[error("{table}.{column} of row {row} is not valid: {problem}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The key of the row; a revision in `audit_logs`.
        row: String,
        /// What is wrong with the value.
        problem: String,
    },
    /// The database refuses the request, and would refuse it again: wrong password, missing table, a log with entries.
    #[error("{0}")]
    Refused(#[source] Cause),
    /// A setting must change before the database can be used: the URL, a file that it names, or one of the database itself.
    #[error("{0}")]
    Misconfigured(#[source] Cause),
}

/// A message, and the driver's error that it describes, if there is one.
#[derive(Debug)]
pub struct Cause {
    message: String,
    source: Option<sqlx::Error>,
}

impl Cause {
    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

impl From<String> for Cause {
    fn from(message: String) -> Self {
        Self { message, source: None }
    }
}

impl From<&str> for Cause {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

impl From<sqlx::Error> for Cause {
    fn from(error: sqlx::Error) -> Self {
        // The driver's own text begins with "error returned from database", and PostgreSQL's ends with a line of its source.
        let message = error.as_database_error().map_or_else(
            || error.to_string(),
            |database| match database.try_downcast_ref::<PgDatabaseError>() {
                Some(database) => database.message().to_owned(),
                None => database.to_string(),
            },
        );
        Self { message, source: Some(error) }
    }
}

impl Cause {
    /// As `From<sqlx::Error>`, with the name of the database before the message.
    pub(super) fn named(database: &str, error: sqlx::Error) -> Self {
        let cause = Self::from(error);
        Self { message: format!("{database}: {}", cause.message), ..cause }
    }
}

/// Waits for the database at most this long: a lost connection can stay silent for ever, and the next one may answer.
///
/// # Errors
/// The error of the call, or [`StoreError::Unavailable`] if the time is over.
pub async fn with_timeout<T>(
    timeout: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let too_late = |_| Err(StoreError::Unavailable("no answer in time".into()));
    tokio::time::timeout(timeout, call).await.unwrap_or_else(too_late)
}
