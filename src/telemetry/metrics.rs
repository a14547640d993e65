//! The metrics: names, descriptions, and the Prometheus recorder.
//!
//! The recorder is installed only if metrics are served (`--metrics-listen`). Without it, nothing is counted.

use ::metrics::{Gauge, Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::process;

/// Finished calls, by `method` and gRPC `code`.
pub const REQUESTS: &str = "toggled_requests_total";
/// Duration of unary calls, by `method` and `code`. By code, so that calls rejected at once do not hide slow ones.
pub const REQUEST_DURATION: &str = "toggled_request_duration_seconds";
/// Open streams, by `method`.
pub const STREAMS_OPEN: &str = "toggled_streams_open";
/// Open client connections.
pub const CONNECTIONS_OPEN: &str = "toggled_connections_open";
/// Bytes of unfinished requests and unread answers, by `direction`: `request` or `response`.
pub const BUFFERED_BYTES: &str = "toggled_buffered_bytes";
/// Error responses by `reason`, the name of their `ErrorReason`; also rejected connections.
pub const REFUSALS: &str = "toggled_refusals_total";
/// Calls whose authentication failed, by `reason`.
pub const AUTHENTICATION_FAILURES: &str = "toggled_authentication_failures_total";
/// Permissions in verified single sign-on tokens that name an unknown environment.
pub const IGNORED_PERMISSIONS: &str = "toggled_ignored_permissions_total";
/// Changes in the committer's queue.
pub const QUEUE_LENGTH: &str = "toggled_committer_queue_length";
/// Capacity of the committer's queue: `--max-queue`.
pub const QUEUE_LIMIT: &str = "toggled_committer_queue_limit";
/// Changes per batch.
pub const BATCH_SIZE: &str = "toggled_committer_batch_size";
/// Duration of an append to the log.
pub const COMMIT_DURATION: &str = "toggled_commit_duration_seconds";
/// Appends to the log, by `outcome`.
pub const COMMITS: &str = "toggled_commits_total";
/// Entries dated after the present, because the log is ahead of the clock.
pub const DATED_AHEAD: &str = "toggled_entries_dated_ahead_total";
/// Revision of the state in memory.
pub const MIRROR_REVISION: &str = "toggled_mirror_revision";
/// The most revisions that a check of the log found missing in memory, since the last scrape.
pub const MIRROR_LAG: &str = "toggled_mirror_lag_revisions";
/// Time since a check of the log last found nothing missing; before the first such check, the uptime of the server.
pub const MIRROR_AGE: &str = "toggled_mirror_age_seconds";
/// The age at which the mirror counts as stale: `--max-staleness`.
pub const MIRROR_MAX_AGE: &str = "toggled_mirror_max_age_seconds";
/// Connections in the database pool, by `state`: `idle` or `used`.
pub const DATABASE_CONNECTIONS: &str = "toggled_database_connections";
/// Maximum size of the database pool.
pub const DATABASE_CONNECTIONS_MAX: &str = "toggled_database_connections_max";
/// Panics in any thread.
pub const PANICS: &str = "toggled_panics_total";
/// Always 1; the label `version` is the version of the server.
pub const BUILD_INFO: &str = "toggled_build_info";

/// The values of `outcome` in [`COMMITS`].
pub const COMMIT_OUTCOMES: [&str; 6] = ["appended", "head_moved", "request_exists", "refused", "failed", "unknown"];

/// The names of all metrics: the server's own, and the metrics of the process.
pub const ALL: [&str; 27] = [
    REQUESTS,
    REQUEST_DURATION,
    STREAMS_OPEN,
    CONNECTIONS_OPEN,
    BUFFERED_BYTES,
    REFUSALS,
    AUTHENTICATION_FAILURES,
    IGNORED_PERMISSIONS,
    QUEUE_LENGTH,
    QUEUE_LIMIT,
    BATCH_SIZE,
    COMMIT_DURATION,
    COMMITS,
    DATED_AHEAD,
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

/// Upper bounds in seconds: from 50 µs, twice the time of a read, to 10 s, when clients have given up.
const DURATION_BUCKETS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Up to the largest batch.
const BATCH_SIZE_BUCKETS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// Installs the recorder. Metric handles created before this never record anything.
///
/// # Errors
/// When a recorder is installed already.
pub(super) fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = builder()?.install_recorder()?;
    describe();
    ::metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    // Start at 0: Prometheus sees no increase in a counter that first appears with the value 1.
    ::metrics::counter!(PANICS).absolute(0);
    ::metrics::counter!(DATED_AHEAD).absolute(0);
    ::metrics::counter!(IGNORED_PERMISSIONS).absolute(0);
    for outcome in COMMIT_OUTCOMES {
        ::metrics::counter!(COMMITS, "outcome" => outcome).absolute(0);
    }
    ::metrics::gauge!(CONNECTIONS_OPEN).set(0.0);
    Ok(handle)
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    let full = |name: &str| Matcher::Full(name.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(full(REQUEST_DURATION), &DURATION_BUCKETS)?
        .set_buckets_for_metric(full(COMMIT_DURATION), &DURATION_BUCKETS)?
        .set_buckets_for_metric(full(BATCH_SIZE), &BATCH_SIZE_BUCKETS)
}

/// A recorder for a single test, not installed globally.
#[cfg(test)]
pub(crate) fn recorder() -> metrics_exporter_prometheus::PrometheusRecorder {
    builder().unwrap().build_recorder()
}

fn describe() {
    let count = Unit::Count;
    describe_counter!(REQUESTS, count, "Finished calls, by method and gRPC code");
    describe_histogram!(REQUEST_DURATION, Unit::Seconds, "Duration of unary calls, by method and gRPC code");
    describe_gauge!(STREAMS_OPEN, count, "Open streams, by method");
    describe_gauge!(CONNECTIONS_OPEN, count, "Open client connections");
    describe_gauge!(BUFFERED_BYTES, Unit::Bytes, "Bytes of unfinished requests and unread answers, by direction");
    describe_counter!(REFUSALS, count, "Error responses and rejected connections, by reason");
    describe_counter!(AUTHENTICATION_FAILURES, count, "Calls whose authentication failed, by reason");
    describe_counter!(IGNORED_PERMISSIONS, count, "Permissions of single sign-on tokens in unknown environments");
    describe_gauge!(QUEUE_LENGTH, count, "Changes in the committer's queue");
    describe_gauge!(QUEUE_LIMIT, count, "Capacity of the committer's queue");
    describe_histogram!(BATCH_SIZE, count, "Changes per batch");
    describe_histogram!(COMMIT_DURATION, Unit::Seconds, "Duration of an append to the log");
    describe_counter!(COMMITS, count, "Appends to the log, by outcome");
    describe_counter!(DATED_AHEAD, count, "Entries dated after the present, because the log is ahead of the clock");
    describe_gauge!(MIRROR_REVISION, count, "Revision of the state in memory");
    describe_gauge!(
        MIRROR_LAG,
        count,
        "Most revisions that a check of the log found missing in memory, since the last scrape"
    );
    describe_gauge!(MIRROR_AGE, Unit::Seconds, "Time since a check of the log last found nothing missing in memory");
    describe_gauge!(MIRROR_MAX_AGE, Unit::Seconds, "Age at which the state in memory counts as stale");
    describe_gauge!(DATABASE_CONNECTIONS, count, "Connections in the database pool, by state");
    describe_gauge!(DATABASE_CONNECTIONS_MAX, count, "Maximum size of the database pool");
    describe_counter!(PANICS, count, "Panics");
    describe_gauge!(BUILD_INFO, count, "Always 1, labelled with the version");
    process::describe();
}

/// Counts an error response or a rejected connection.
pub fn count_refusal(reason: &'static str) {
    ::metrics::counter!(REFUSALS, "reason" => reason).increment(1);
}

/// Adds 1 to a gauge for as long as the guard lives.
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    /// Adds 1 to this gauge.
    pub fn new(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }

    /// Counts an open connection.
    pub fn connection() -> Self {
        Self::new(::metrics::gauge!(CONNECTIONS_OPEN))
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
