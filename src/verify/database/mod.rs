//! A log in a database. Others may append to it or trim it while it is read.

mod full;
mod reader;
mod startup;

use super::{Fault, Problem, Stop};
use crate::domain::Revision;
use crate::store::StoreError;

pub use full::{DatabaseReport, verify_database};
pub use startup::{Scope, verify_at_start};

/// Why the log of a database could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The database could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The entries that were read are gone.
    #[error("the log was trimmed while it was read; verify it again")]
    TrimmedMeanwhile,
}

/// An entry that cannot be read was altered. Any other error keeps the log from being read.
impl From<StoreError> for Stop<DatabaseError> {
    fn from(error: StoreError) -> Self {
        match unreadable_entry(&error) {
            Some(revision) => Fault { revision, problem: Problem::Altered }.into(),
            None => Self::Error(error.into()),
        }
    }
}

/// The revision of the entry that cannot be read, if that is the error.
fn unreadable_entry(error: &StoreError) -> Option<Revision> {
    match error {
        StoreError::Corrupt { table: "audit_logs", row, .. } => row.parse().ok(),
        _ => None,
    }
}
