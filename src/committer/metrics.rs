//! The committer's metrics.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use super::Proposals;
use crate::store::{AppendOutcome, StoreError};
use crate::telemetry::metrics::{BATCH_SIZE, COMMIT_DURATION, COMMITS, QUEUE_LENGTH, QUEUE_LIMIT};

impl Proposals {
    /// Updates the gauges of the queue.
    pub fn update_gauges(&self) {
        let waiting = self.queue.max_capacity() - self.queue.capacity();
        gauge!(QUEUE_LENGTH).set(waiting as f64);
        gauge!(QUEUE_LIMIT).set(self.queue.max_capacity() as f64);
    }
}

/// Records the size of a decided batch.
pub(super) fn record_batch(proposals: usize) {
    histogram!(BATCH_SIZE).record(proposals as f64);
}

/// Records an attempt to append.
pub(super) fn record_append(outcome: &Result<AppendOutcome, StoreError>, duration: Duration) {
    let outcome = match outcome {
        Ok(AppendOutcome::Appended) => "appended",
        Ok(AppendOutcome::HeadMoved) => "head_moved",
        Ok(AppendOutcome::RequestExists) => "request_exists",
        Ok(AppendOutcome::Refused(_)) => "refused",
        Err(StoreError::OutcomeUnknown(_)) => "unknown",
        Err(_) => "failed",
    };
    counter!(COMMITS, "outcome" => outcome).increment(1);
    histogram!(COMMIT_DURATION).record(duration);
}
