//! Logs batches that the database did not write: the first of each outage, and how many there were at its end.

use std::mem::{self, Discriminant};

use crate::domain::error::Error;
use crate::store::StoreError;

/// The outage in progress, if there is one.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// The batches that were not written.
    batches: u64,
    /// The kind of the last error that was logged.
    logged: Option<Discriminant<StoreError>>,
}

impl Outage {
    /// The error of a batch that the database did not write. Logs it, if it is the first of its kind in a row.
    pub fn not_written(&mut self, error: StoreError) -> Error {
        if matches!(error, StoreError::OutcomeUnknown(_)) || !error.is_temporary() {
            return Error::internal(error);
        }
        self.batches += 1;
        if self.logged.replace(mem::discriminant(&error)) != Some(mem::discriminant(&error)) {
            tracing::warn!(%error, "batch not written");
        }
        Error::DatabaseUnavailable
    }

    /// Ends the outage: a batch was written.
    pub fn end(&mut self) {
        if self.batches > 1 {
            tracing::info!(not_written = self.batches, "batch writes resumed");
        }
        *self = Self::default();
    }
}
