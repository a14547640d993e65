//! The settings of a graceful stop.

use std::time::Duration;

use clap::Args;

use super::duration::{duration, duration_or_zero};

/// How the server stops.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Shutdown")]
pub struct ShutdownOptions {
    /// How long the server keeps serving after SIGTERM while its health is NOT_SERVING, so that load balancers stop sending
    /// to it; 0s to 24h. Use 5s in Kubernetes
    #[arg(long, value_name = "DURATION", env = "TOGGLED_DRAIN_DELAY", default_value = "0s", value_parser = duration_or_zero)]
    pub drain_delay: Duration,
    /// How long calls in progress may take after the drain delay, 10ms to 24h. The program exits at most 3 seconds later
    #[arg(long, value_name = "DURATION", env = "TOGGLED_SHUTDOWN_TIMEOUT", default_value = "25s", value_parser = duration)]
    pub shutdown_timeout: Duration,
}
