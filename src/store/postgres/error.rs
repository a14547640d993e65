//! What PostgreSQL's errors mean to us. The only place that looks at an SQLSTATE.

use sqlx::Error;
use sqlx::postgres::PgDatabaseError;

use crate::store::{AppendOutcome, StoreError};

/// An error of something that only read: nothing can have been written.
pub(in crate::store) fn read(error: Error) -> StoreError {
    match &error {
        Error::Database(database) if !passes(database.code().as_deref().unwrap_or_default()) => {
            StoreError::Refused(format!("PostgreSQL: {database}"))
        }
        Error::Configuration(_) | Error::ColumnDecode { .. } | Error::Decode(_) | Error::RowNotFound => {
            StoreError::Refused(format!("PostgreSQL: {error}"))
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}

/// An error of an append. What the server itself reports, it has rolled back, unless it was on its way down: then,
/// as when the connection is gone, it may have committed first.
pub(super) fn append(error: &Error) -> Result<AppendOutcome, StoreError> {
    let Some(database) = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>()) else {
        return Err(StoreError::OutcomeUnknown(error.to_string()));
    };
    match database.code() {
        "23505" if database.constraint() == Some("requests_pkey") => Ok(AppendOutcome::RequestExists),
        // The session is at its end: 25P too, which is a transaction that took too long.
        code if ["57P", "25P", "08"].iter().any(|class| code.starts_with(class)) => {
            Err(StoreError::OutcomeUnknown(database.to_string()))
        }
        // No room for notifications: somebody who listens keeps a transaction open. The state has other meanings.
        "54000" if database.message().contains("NOTIFY") => Err(StoreError::Unavailable(database.to_string())),
        code if passes(code) => Err(StoreError::Unavailable(database.to_string())),
        _ => Ok(AppendOutcome::Refused(format!("PostgreSQL: {database}"))),
    }
}

/// Whether a state passes by itself: connection trouble (08), a lost race (40), no resources (53), an operator at work
/// (57), trouble outside the database (58), a database that takes no connections now (55000), a lock not had in time
/// (55P03), a read-only standby (25006).
fn passes(code: &str) -> bool {
    ["08", "25P", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class))
        || ["55000", "55P03", "25006"].contains(&code)
}
