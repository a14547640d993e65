//! The settings of how a server stops.

use std::time::Duration;

use clap::Args;

use super::duration::{duration, duration_or_zero};

/// How it stops.
#[derive(Debug, Clone, Copy, Args)]
pub struct Shutdown {
    /// How long to go on serving once asked to stop, with health saying NOT_SERVING already, so that load balancers have
    /// sent everybody elsewhere before connections close: 5s in Kubernetes
    #[arg(long, value_name = "DURATION", env = "TOGGLED_DRAIN_DELAY", default_value = "0s", value_parser = duration_or_zero)]
    pub drain_delay: Duration,
    /// How long calls that are under way may take after that; then the program ends in any case, at most 3 seconds later
    #[arg(long, value_name = "DURATION", env = "TOGGLED_SHUTDOWN_TIMEOUT", default_value = "25s", value_parser = duration)]
    pub shutdown_timeout: Duration,
}
