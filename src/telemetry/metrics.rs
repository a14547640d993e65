//! The metrics: their names, what they are, and the recorder that Prometheus is told from.
//!
//! Without a recorder, which only an address to serve them at brings, nothing is counted.

use ::metrics::{Gauge, Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::process;

/// Calls that have ended, by `method` and by the name of gRPC's `code`.
pub const REQUESTS: &str = "toggled_requests_total";
/// How long calls took that are not streams, by `method` and `code`: what is refused at once would hide what takes long.
pub const REQUEST_DURATION: &str = "toggled_request_duration_seconds";
/// Streams that are open, by `method`.
pub const STREAMS_OPEN: &str = "toggled_streams_open";
/// Connections that are open.
pub const CONNECTIONS_OPEN: &str = "toggled_connections_open";
/// Errors that were answered, by the `reason` that they carry; also connections turned away.
pub const REFUSALS: &str = "toggled_refusals_total";
/// Calls by nobody who is known, by `reason`.
pub const AUTHENTICATION_FAILURES: &str = "toggled_authentication_failures_total";
/// Changes that wait to be written.
pub const QUEUE_LENGTH: &str = "toggled_committer_queue_length";
/// As many as may wait: `--max-queue`.
pub const QUEUE_LIMIT: &str = "toggled_committer_queue_limit";
/// Changes that were decided together.
pub const BATCH_SIZE: &str = "toggled_committer_batch_size";
/// How long one append to the log took.
pub const COMMIT_DURATION: &str = "toggled_commit_duration_seconds";
/// Appends to the log, by `outcome`.
pub const COMMITS: &str = "toggled_commits_total";
/// The revision of the state in memory.
pub const MIRROR_REVISION: &str = "toggled_mirror_revision";
/// The most revisions that a look at the log has found that were not in memory, since this was last asked for.
pub const MIRROR_LAG: &str = "toggled_mirror_lag_revisions";
/// How long ago the last look at the log found nothing missing; before the first, how long the server has run.
pub const MIRROR_AGE: &str = "toggled_mirror_age_seconds";
/// How long ago that may be: `--max-staleness`.
pub const MIRROR_MAX_AGE: &str = "toggled_mirror_max_age_seconds";
/// Connections to the database that callers share, by `state`: `idle` or `used`.
pub const DATABASE_CONNECTIONS: &str = "toggled_database_connections";
/// As many of them as there may be.
pub const DATABASE_CONNECTIONS_MAX: &str = "toggled_database_connections_max";
/// Panics, wherever they were.
pub const PANICS: &str = "toggled_panics_total";
/// 1, with the `version`.
pub const BUILD_INFO: &str = "toggled_build_info";

/// What an append to the log may come to.
pub const OUTCOMES: [&str; 6] = ["appended", "head_moved", "request_exists", "refused", "failed", "unknown"];

/// Every metric there is: ours, and what is told of the process.
pub const ALL: [&str; 24] = [
    REQUESTS,
    REQUEST_DURATION,
    STREAMS_OPEN,
    CONNECTIONS_OPEN,
    REFUSALS,
    AUTHENTICATION_FAILURES,
    QUEUE_LENGTH,
    QUEUE_LIMIT,
    BATCH_SIZE,
    COMMIT_DURATION,
    COMMITS,
    MIRROR_REVISION,
    MIRROR_LAG,
    MIRROR_AGE,
    MIRROR_MAX_AGE,
    DATABASE_CONNECTIONS,
    DATABASE_CONNECTIONS_MAX,
    PANICS,
    BUILD_INFO,
    process::CPU_SECONDS,
    process::RESIDENT_MEMORY,
    process::OPEN_FDS,
    process::MAX_FDS,
    process::START_TIME,
];

/// From 50 µs, twice what a read takes, to the 10 s after which nobody waits any more.
const DURATIONS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Up to the largest batch.
const SIZES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// Counts from here on. What was asked for before goes on counting nothing.
///
/// # Errors
/// When somebody counts already.
pub(super) fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = builder()?.install_recorder()?;
    describe();
    ::metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    // Known to be none, rather than not known: the first of what begins at 1 is no increase.
    ::metrics::counter!(PANICS).absolute(0);
    for outcome in OUTCOMES {
        ::metrics::counter!(COMMITS, "outcome" => outcome).absolute(0);
    }
    ::metrics::gauge!(CONNECTIONS_OPEN).set(0.0);
    Ok(handle)
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    let full = |name: &str| Matcher::Full(name.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(full(REQUEST_DURATION), &DURATIONS)?
        .set_buckets_for_metric(full(COMMIT_DURATION), &DURATIONS)?
        .set_buckets_for_metric(full(BATCH_SIZE), &SIZES)
}

/// A recorder for a test alone.
#[cfg(test)]
pub(crate) fn recorder() -> metrics_exporter_prometheus::PrometheusRecorder {
    builder().unwrap().build_recorder()
}

fn describe() {
    let count = Unit::Count;
    describe_counter!(REQUESTS, count, "Calls that have ended, by method and gRPC code");
    describe_histogram!(
        REQUEST_DURATION,
        Unit::Seconds,
        "How long calls took that are not streams, by method and gRPC code"
    );
    describe_gauge!(STREAMS_OPEN, count, "Streams that are open, by method");
    describe_gauge!(CONNECTIONS_OPEN, count, "Connections that are open");
    describe_counter!(REFUSALS, count, "Errors that were answered, by reason, and connections that were turned away");
    describe_counter!(AUTHENTICATION_FAILURES, count, "Calls without a credential that works, by reason");
    describe_gauge!(QUEUE_LENGTH, count, "Changes that wait to be written");
    describe_gauge!(QUEUE_LIMIT, count, "How many changes may wait");
    describe_histogram!(BATCH_SIZE, count, "Changes that were decided together");
    describe_histogram!(COMMIT_DURATION, Unit::Seconds, "How long one append to the log took");
    describe_counter!(COMMITS, count, "Appends to the log, by outcome");
    describe_gauge!(MIRROR_REVISION, count, "The revision of the state in memory");
    describe_gauge!(
        MIRROR_LAG,
        count,
        "The most revisions that a look at the log found and that were not in memory, since the last time it was asked for"
    );
    describe_gauge!(MIRROR_AGE, Unit::Seconds, "How long ago the last look at the log found nothing missing");
    describe_gauge!(MIRROR_MAX_AGE, Unit::Seconds, "How long ago that may be");
    describe_gauge!(DATABASE_CONNECTIONS, count, "Connections to the database that callers share, by state");
    describe_gauge!(DATABASE_CONNECTIONS_MAX, count, "How many of them there may be");
    describe_counter!(PANICS, count, "Panics");
    describe_gauge!(BUILD_INFO, count, "1, with the version");
    process::describe();
}

/// Counts an error that was answered.
pub fn refused(reason: &'static str) {
    ::metrics::counter!(REFUSALS, "reason" => reason).increment(1);
}

/// Something that is open, and counted as such for as long as this value lives.
pub struct Open(Gauge);

impl Open {
    /// One more.
    pub fn new(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }

    /// One more connection.
    pub fn connection() -> Self {
        Self::new(::metrics::gauge!(CONNECTIONS_OPEN))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
