//! The settings. Each option can be set on the command line (`--long-name`), in the environment (`TOGGLED_LONG_NAME`) and,
//! for `serve`, in a configuration file (`long-name`); in this order of precedence.

mod checkpoints;
pub mod duration;
mod environment;
mod file;
mod fixed;
mod following;
mod limits;
mod listening;
mod shutdown;
mod sign_on;
pub mod suggestion;
mod telemetry;

use clap::Args;
use tracing_subscriber::EnvFilter;

use crate::auth::AnonymousReads;
use crate::auth::secret::Secret;
use crate::domain::text::EnvironmentKey;

pub use checkpoints::CheckpointOptions;
pub use environment::{check_names, variable};
pub use file::{CONFIG_OPTION, ConfigFile, ConfigFileError, ConfigPath, first_paragraph};
pub use fixed::{CONNECTION_WINDOW, FixedLimits, STREAM_WINDOW};
pub use following::FollowerOptions;
pub use limits::Limits;
pub use listening::ListenerOptions;
pub use shutdown::ShutdownOptions;
pub use sign_on::SignOnOptions;
pub use telemetry::{STANDARD_VARIABLES, TelemetryOptions};

/// The database. Every command that works on one has these options.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Database")]
pub struct DatabaseOptions {
    /// The database: sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE
    #[arg(long, value_name = "URL", env = "TOGGLED_DATABASE_URL", default_value = "sqlite://toggled.db")]
    pub database_url: String,
}

/// The log lines on standard error. Every command that works on a database has this option.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Telemetry")]
pub struct LogOptions {
    /// The lowest level that is logged to standard error: error, warn, info, debug or trace, also by module (info,sqlx=debug)
    #[arg(long, value_name = "FILTER", env = "TOGGLED_LOG", default_value = "info", value_parser = log_filter)]
    pub log: String,
}

/// Access without API tokens, and the first token.
#[derive(Clone, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessOptions {
    /// The first administrator's token, at least 32 characters; used on the first start only. Without it, a token is created
    /// and written to toggled-admin.token, or to toggled-admin.ID.token if that exists: beside a SQLite database, or else in the
    /// working directory
    // Not parsed here: an error would repeat it.
    #[arg(long, value_name = "TOKEN", env = "TOGGLED_BOOTSTRAP_TOKEN")]
    bootstrap_token: Option<String>,
    /// The environments whose flags callers without credentials can read through flagd's gRPC services, and nothing else: OFREP needs
    /// a token. The first is what they read if they select none. Repeat it, or separate several by commas
    #[arg(long, value_name = "KEY", env = "TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS", value_delimiter = ',')]
    anonymous_flagd_environments: Vec<String>,
}

impl AccessOptions {
    /// The first administrator's token.
    ///
    /// # Errors
    /// The rule that it breaks, in one line, without the token.
    pub fn bootstrap_token(&self) -> Result<Option<Secret>, String> {
        let own = self.bootstrap_token.clone().map(Secret::parse).transpose();
        own.map_err(|rule| format!("--bootstrap-token (TOGGLED_BOOTSTRAP_TOKEN) {rule}"))
    }

    /// What callers without credentials may read.
    ///
    /// # Errors
    /// The first malformed key, and the rule that it breaks, in one line.
    pub fn anonymous_reads(&self) -> Result<Option<AnonymousReads>, String> {
        // A list in the environment may be empty, or end in a comma.
        let keys = self.anonymous_flagd_environments.iter().map(|key| key.trim()).filter(|key| !key.is_empty());
        let parse = |key| {
            EnvironmentKey::parse(key).map_err(|rule| {
                let name = "--anonymous-flagd-environments (TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS)";
                format!("{name} has the environment '{key}', whose key {rule}")
            })
        };
        Ok(AnonymousReads::of(&keys.map(parse).collect::<Result<Vec<_>, _>>()?))
    }
}

/// The options of `serve`.
#[derive(Clone, Args)]
pub struct ServeOptions {
    #[command(flatten)]
    _config: ConfigPath,
    #[command(flatten)]
    pub(crate) listening: ListenerOptions,
    #[command(flatten)]
    pub(crate) database: DatabaseOptions,
    #[command(flatten)]
    pub(crate) following: FollowerOptions,
    #[command(flatten)]
    pub(crate) access: AccessOptions,
    #[command(flatten)]
    pub(crate) sign_on: SignOnOptions,
    #[command(flatten)]
    pub(crate) limits: Limits,
    #[command(flatten)]
    pub(crate) checkpoints: CheckpointOptions,
    #[command(flatten)]
    pub(crate) logging: LogOptions,
    #[command(flatten)]
    pub(crate) telemetry: TelemetryOptions,
    #[command(flatten)]
    pub(crate) shutdown: ShutdownOptions,
}

fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::builder().parse(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}
