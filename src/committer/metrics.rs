//! The committer's metrics.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use super::Proposals;
use crate::domain::advance::Step;
use crate::store::{AppendOutcome, StoreError};
use crate::telemetry::metrics::{BATCH_SIZE, COMMIT_DURATION, COMMITS, DATED_AHEAD, QUEUE_LENGTH, QUEUE_LIMIT};

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

/// How far an entry's date must be ahead of the clock to be reported.
const REPORTED_LEAD: Duration = Duration::from_secs(1);

/// Reports a log that is ahead of the clock: the clock was set back, and is behind the last entry's date or the closed time. New entries
/// are then dated after the present. Changes are never refused for that.
#[derive(Default)]
pub(super) struct DateMonitor {
    is_ahead: bool,
}

impl DateMonitor {
    /// Counts the entries of an appended batch, and logs when the log gets ahead of the clock and when no longer.
    pub fn check(&mut self, step: &Step) {
        let Some(first) = step.entries.first() else { return };
        let lead = first.created_at.until(first.timestamp);
        let is_ahead = lead > REPORTED_LEAD;
        if is_ahead {
            counter!(DATED_AHEAD).increment(step.entries.len() as u64);
        }
        match (std::mem::replace(&mut self.is_ahead, is_ahead), is_ahead) {
            (false, true) => tracing::warn!(?lead, "log is ahead of the clock: entries are dated after the present"),
            (true, false) => tracing::info!("log is no longer ahead of the clock"),
            _ => {}
        }
    }
}
