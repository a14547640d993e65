//! What can go wrong with a database, whichever it is.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use sqlx::postgres::PgDatabaseError;

/// An error of a database. Its text may name tables, hosts and users: it is for the log and for operators, never for clients.
///
/// "Nothing was appended" is a promise about the audit log alone. Another write may have been committed, such as a checkpoint
/// or a closed time. All of these may be repeated.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database does not answer, or has no space, connection or lock at the moment. Nothing was appended; a retry may
    /// succeed.
    #[error("the database is unavailable: {0}")]
    Unavailable(#[source] Cause),
    /// The database cannot be written until an operator acts: it is read-only or full, or its file was moved or replaced.
    /// Nothing was appended. See [`Usability`](super::Usability).
    #[error("the database cannot be used: {0}")]
    Unusable(#[source] Cause),
    /// The database is damaged, or none. At a start it cannot be used. Later its file was overwritten, perhaps, and an operator
    /// must act. Nothing was written.
    #[error("the database is damaged: {0}")]
    Damaged(#[source] Cause),
    /// The database cannot be opened: wrong password, no such database, no permission, no tables. At a start, a setting is wrong. Later,
    /// an operator is changing something, and a retry may succeed. Nothing was appended.
    #[error("{0}")]
    Inaccessible(#[source] Cause),
    /// The connection was lost during an append, which may have been committed or not.
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
    /// The database refuses the request, and would refuse it again: a value that breaks a rule, a log with entries.
    #[error("{0}")]
    Refused(#[source] Cause),
    /// A setting must change before the database can be used: the URL, a file that it names, or one of the database itself.
    #[error("{0}")]
    Misconfigured(#[source] Cause),
}

impl StoreError {
    /// Whether the same call may succeed later, so that callers should retry. Otherwise it is a defect.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unavailable(_)
            | Self::Unusable(_)
            | Self::Damaged(_)
            | Self::Inaccessible(_)
            | Self::Misconfigured(_)
            | Self::OutcomeUnknown(_) => true,
            Self::Corrupt { .. } | Self::Refused(_) => false,
        }
    }
}

/// What an error of a database means. Each database has one function that classifies all of its codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorClass {
    /// [`StoreError::Unavailable`]
    Unavailable,
    /// [`StoreError::Unusable`]
    Unusable,
    /// [`StoreError::Damaged`]
    Damaged,
    /// [`StoreError::Inaccessible`]
    Inaccessible,
    /// [`StoreError::Refused`]
    Defect,
}

impl ErrorClass {
    /// The class of an error, given that of each code of the database.
    pub fn of(error: &sqlx::Error, code_class: fn(&str) -> Self) -> Self {
        match error {
            sqlx::Error::Database(database) => code_class(database.code().as_deref().unwrap_or_default()),
            // The values or the statement are wrong, whatever the state of the database.
            sqlx::Error::Configuration(_)
            | sqlx::Error::InvalidArgument(_)
            | sqlx::Error::RowNotFound
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Encode(_)
            | sqlx::Error::Decode(_) => Self::Defect,
            // The connection: lost, not made in time, or ended by the driver.
            _ => Self::Unavailable,
        }
    }

    /// The error of this class. `database` is its name, for messages.
    pub fn error(self, database: &str, error: sqlx::Error) -> StoreError {
        match self {
            Self::Unavailable => StoreError::Unavailable(error.into()),
            Self::Unusable => StoreError::Unusable(error.into()),
            Self::Damaged => StoreError::Damaged(Cause::named(database, error)),
            Self::Inaccessible => StoreError::Inaccessible(Cause::named(database, error)),
            Self::Defect => StoreError::Refused(Cause::named(database, error)),
        }
    }
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
    /// The driver's error, if there is one.
    pub(super) fn driver_error(&self) -> Option<&sqlx::Error> {
        self.source.as_ref()
    }

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
