//! Classifies PostgreSQL's errors. Nothing else looks at an SQLSTATE.

use sqlx::Error;
use sqlx::postgres::PgDatabaseError;

use crate::store::error::Cause;
use crate::store::{AppendOutcome, StoreError};

/// An error of a statement that only read, or whose write was rolled back for certain.
pub(in crate::store) fn read(error: Error) -> StoreError {
    let refused = match &error {
        Error::Database(database) => !is_transient(database.code().as_deref().unwrap_or_default()),
        Error::Configuration(_) | Error::ColumnDecode { .. } | Error::Decode(_) | Error::RowNotFound => true,
        _ => false,
    };
    if refused { StoreError::Refused(Cause::named("PostgreSQL", error)) } else { StoreError::Unavailable(error.into()) }
}

/// An error of an append. PostgreSQL has rolled back what it reports an error for, unless it is shutting down: then, as when
/// the connection is lost, it may have committed first.
pub(super) fn append(error: Error) -> Result<AppendOutcome, StoreError> {
    let Some(database) = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>()) else {
        return Err(StoreError::OutcomeUnknown(error.into()));
    };
    match database.code() {
        "23505" if database.constraint() == Some("requests_pkey") => Ok(AppendOutcome::RequestExists),
        // The session has ended; 25P means that a transaction took too long.
        code if ["57P", "25P", "08"].iter().any(|class| code.starts_with(class)) => {
            Err(StoreError::OutcomeUnknown(error.into()))
        }
        // The queue of notifications is full, because a listener keeps a transaction open. The code has other meanings too.
        "54000" if database.message().contains("NOTIFY") => Err(StoreError::Unavailable(error.into())),
        code if is_transient(code) => Err(StoreError::Unavailable(error.into())),
        _ => Ok(AppendOutcome::Refused(format!("PostgreSQL: {}", database.message()))),
    }
}

/// Whether a retry may succeed: connection trouble (08), transaction too long (25P), lost race (40), insufficient resources
/// (53), operator intervention (57), system error (58), database accepts no connections (55000), lock not available (55P03),
/// read-only standby (25006).
fn is_transient(code: &str) -> bool {
    ["08", "25P", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class))
        || ["55000", "55P03", "25006"].contains(&code)
}
