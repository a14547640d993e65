//! The settings: each by flag or by environment variable, `--long-name` and `TOGGLED_LONG_NAME`.

mod checkpoints;
pub mod duration;
mod following;
mod limits;
mod shutdown;
mod sign_on;
mod telemetry;
mod transport;

use std::net::SocketAddr;

use clap::Args;
use clap::builder::BoolishValueParser;
use tracing_subscriber::EnvFilter;

use crate::auth::secret::Secret;

pub use checkpoints::Checkpoints;
pub use following::Following;
pub use limits::Limits;
pub use shutdown::Shutdown;
pub use sign_on::SignOn;
pub use telemetry::Telemetry;
pub use transport::Transport;

/// Which database. Every command that touches one has this.
#[derive(Debug, Clone, Args)]
pub struct Database {
    /// Where the flags and the log are kept: sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE
    // A URL may hold a password, which does not belong in a help text.
    #[arg(long, value_name = "URL", env = "TOGGLED_DATABASE_URL", default_value = "sqlite://toggled.db")]
    #[arg(hide_env_values = true)]
    pub database_url: String,
}

/// What is logged. Every command has this.
#[derive(Debug, Clone, Args)]
pub struct Logging {
    /// What to log, on standard error: error, warn, info, debug or trace, also by module (info,sqlx=debug)
    #[arg(long, value_name = "FILTER", env = "TOGGLED_LOG", default_value = "info", value_parser = log_filter)]
    pub log: String,
}

/// How to serve.
#[derive(Clone, Args)]
pub struct Serve {
    #[command(flatten)]
    pub(crate) database: Database,
    #[command(flatten)]
    pub(crate) logging: Logging,
    /// The address to listen on; port 0 takes a free one, and the address that was taken is printed
    #[arg(long, value_name = "ADDRESS", env = "TOGGLED_LISTEN", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub(crate) transport: Transport,
    #[command(flatten)]
    pub(crate) sign_on: SignOn,
    #[command(flatten)]
    pub(crate) following: Following,
    #[command(flatten)]
    pub(crate) checkpoints: Checkpoints,
    #[command(flatten)]
    pub(crate) limits: Limits,
    #[command(flatten)]
    pub(crate) shutdown: Shutdown,
    /// Let callers who send no credentials read flags through flagd's services; they can call nothing else
    #[arg(long, env = "TOGGLED_ANONYMOUS_FLAGD_READS", value_parser = BoolishValueParser::new())]
    pub anonymous_flagd_reads: bool,
    #[command(flatten)]
    pub(crate) telemetry: Telemetry,
    /// The first administrator's token, 32 characters or more; used on the first start alone. Without it one is made
    /// and written to toggled-admin.token
    // Not parsed here: an error would repeat it.
    #[arg(long, value_name = "TOKEN", env = "TOGGLED_BOOTSTRAP_TOKEN", hide_env_values = true)]
    bootstrap_token: Option<String>,
}

impl Serve {
    /// The first administrator's own token.
    ///
    /// # Errors
    /// A line for a person, without the token.
    pub fn bootstrap_token(&self) -> Result<Option<Secret>, String> {
        let own = self.bootstrap_token.clone().map(Secret::own).transpose();
        own.map_err(|rule| format!("--bootstrap-token (TOGGLED_BOOTSTRAP_TOKEN) {rule}"))
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::builder().parse(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}
