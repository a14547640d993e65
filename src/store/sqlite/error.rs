//! What SQLite's errors mean to us. The only place that looks at a result code.

use sqlx::Error;

use crate::store::{AppendOutcome, StoreError};

/// An error of something that only read: nothing can have been written.
pub(in crate::store) fn read(error: Error) -> StoreError {
    match &error {
        Error::Database(database) if !passes(database.code().as_deref()) => {
            StoreError::Refused(format!("SQLite: {database}"))
        }
        Error::Configuration(_) | Error::ColumnDecode { .. } | Error::Decode(_) | Error::RowNotFound => {
            StoreError::Refused(format!("SQLite: {error}"))
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}

/// An error of an append before its COMMIT: it was rolled back, or will be when the connection goes.
pub(super) fn append(error: &Error) -> Result<AppendOutcome, StoreError> {
    match error.as_database_error() {
        Some(database) if database.message().contains("requests.user_id") => Ok(AppendOutcome::RequestExists),
        Some(database) if !passes(database.code().as_deref()) => {
            Ok(AppendOutcome::Refused(format!("SQLite: {database}")))
        }
        _ => Err(StoreError::Unavailable(error.to_string())),
    }
}

/// Whether a state passes by itself, told by the primary result code: BUSY (5), LOCKED (6), NOMEM (7), IOERR (10),
/// FULL (13).
fn passes(code: Option<&str>) -> bool {
    let primary = code.and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
    matches!(primary, Some(5 | 6 | 7 | 10 | 13))
}
