//! What can go wrong with a database, whichever it is.

use std::time::Duration;

/// What can go wrong with a database.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It does not answer, or has no room, connection or lock for us now. Nothing was written; it may pass.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The connection was lost while it was writing: it may have written or not.
    #[error("the connection was lost while writing: {0}")]
    OutcomeUnknown(String),
    /// A row holds what it must not.
    #[error("{table}.{column} of row {row} is not valid: {problem}")]
    Corrupt {
        /// Where.
        table: &'static str,
        /// In which column.
        column: &'static str,
        /// In which row.
        row: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It refuses to do what was asked, and would again: wrong password, missing table, a log that is not empty.
    #[error("{0}")]
    Refused(String),
}

/// What the database says, if it says it in time: a connection can be silent for ever, and the next one may answer.
///
/// # Errors
/// What went wrong, also that there was no answer.
pub async fn with_timeout<T>(
    patience: Duration,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let late = |_| Err(StoreError::Unavailable("no answer in time".to_owned()));
    tokio::time::timeout(patience, asked).await.unwrap_or_else(late)
}
