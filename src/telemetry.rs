//! Log lines.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Logs to standard error what passes `filter`, which has been checked when the settings were read.
pub fn start(filter: &str) {
    let filter = EnvFilter::builder().parse_lossy(filter);
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second start in one process keeps the first.
    let _ = logs.with_ansi(io::stderr().is_terminal()).try_init();
}
