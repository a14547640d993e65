//! Classifies SQLite's errors. Nothing else looks at a result code.

use sqlx::Error;

use crate::store::error::Cause;
use crate::store::{AppendOutcome, StoreError};

/// An error of a statement that only read, or whose write was rolled back for certain.
pub(in crate::store) fn read(error: Error) -> StoreError {
    let refused = match &error {
        Error::Database(database) => !is_transient(database.code().as_deref()),
        Error::Configuration(_) | Error::ColumnDecode { .. } | Error::Decode(_) | Error::RowNotFound => true,
        _ => false,
    };
    if refused { StoreError::Refused(Cause::named("SQLite", error)) } else { StoreError::Unavailable(error.into()) }
}

/// An error of an append before its COMMIT: it was rolled back, or will be when the connection closes.
pub(super) fn append(error: Error) -> Result<AppendOutcome, StoreError> {
    match error.as_database_error() {
        Some(database) if database.message().contains("requests.user_id") => Ok(AppendOutcome::RequestExists),
        Some(database) if !is_transient(database.code().as_deref()) => {
            Ok(AppendOutcome::Refused(format!("SQLite: {database}")))
        }
        _ => Err(StoreError::Unavailable(error.into())),
    }
}

/// Whether a retry may succeed, by the primary result code: BUSY (5), LOCKED (6), NOMEM (7), IOERR (10), FULL (13).
fn is_transient(code: Option<&str>) -> bool {
    let primary = code.and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
    matches!(primary, Some(5 | 6 | 7 | 10 | 13))
}
