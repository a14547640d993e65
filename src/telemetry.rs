//! Log lines and metrics.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;

use metrics_exporter_prometheus::PrometheusBuilder;
use tracing_subscriber::EnvFilter;

/// Counts calls by nobody who is known, by `reason`.
pub const AUTHENTICATION_FAILURES: &str = "toggled_authentication_failures_total";

/// Serves metrics to Prometheus, over HTTP. Without it nothing is counted.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve_metrics(address: SocketAddr) -> Result<(), String> {
    let exporter = PrometheusBuilder::new().with_http_listener(address).install();
    exporter.map_err(|e| e.to_string())?;
    metrics::describe_counter!(AUTHENTICATION_FAILURES, "Calls without a credential that works, by reason");
    Ok(())
}

/// Logs to standard error what passes `filter`, which has been checked when the settings were read.
pub fn start(filter: &str) {
    let filter = EnvFilter::builder().parse_lossy(filter);
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second start in one process keeps the first.
    let _ = logs.with_ansi(io::stderr().is_terminal()).try_init();
}
