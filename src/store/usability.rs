//! Whether the database can be written, for the server's readiness.

use tokio::sync::watch;

use super::StoreError;

/// The problem that an operator must solve before the database can be used, if there is one. An append that fails for such a
/// reason sets it. The server then probes the database, and clears it once a probe succeeds.
#[derive(Debug, Default)]
pub struct Usability(watch::Sender<Option<String>>);

impl Usability {
    /// The problem now, and each time that it changes.
    pub fn subscribe(&self) -> watch::Receiver<Option<String>> {
        self.0.subscribe()
    }

    /// Whether no problem is known.
    pub fn is_usable(&self) -> bool {
        self.0.borrow().is_none()
    }

    /// Records why an append failed. An outage of the database is not recorded: the mirror's age shows it.
    pub fn record_error(&self, error: &StoreError) {
        if let StoreError::Unusable(cause) | StoreError::Damaged(cause) | StoreError::Inaccessible(cause) = error {
            self.set(Some(cause.message().to_owned()));
        }
    }

    /// Records the outcome of a probe. Only a probe shows that the database can be written: an append may write nothing.
    pub fn record_probe(&self, outcome: &Result<(), StoreError>) {
        match outcome {
            Ok(()) => self.set(None),
            Err(error) => self.record_error(error),
        }
    }

    fn set(&self, problem: Option<String>) {
        self.0.send_if_modified(|now| {
            let is_changed = *now != problem;
            *now = problem;
            is_changed
        });
    }
}
