//! The command line of the one binary. Each command has a file or folder of its own. `serve` starts the server; `user`, `token`
//! and `migrate` work on the database directly; `flag`, `audit`, `environment`, `whoami` and `health` call a server, through `remote`.
//! `audit verify` can read a database or a file instead.

mod arguments;
mod audit;
mod completions;
mod environment;
mod file;
mod flag;
mod health;
mod migrate;
mod offline;
mod output;
mod progress;
mod remote;
mod serve;
mod table;
mod time_argument;
mod token;
mod user;
mod whoami;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use uuid::Uuid;

use crate::config;
use crate::visible::visible;

/// Exit code of a success.
const EXIT_SUCCESS: u8 = 0;

/// Exit code of a failure that has no code of its own.
const EXIT_FAILURE: u8 = 1;

/// Exit code for a wrong setting or argument.
const EXIT_USAGE: u8 = 2;

/// Exit code for an object that does not exist.
const EXIT_NOT_FOUND: u8 = 3;

/// Exit code for a caller without a valid token or without the permission.
const EXIT_DENIED: u8 = 4;

/// Exit code for a conflict: the object already exists, or has been changed.
const EXIT_CONFLICT: u8 = 5;

/// Exit code for a server or database that cannot be reached, or cannot serve now.
const EXIT_UNAVAILABLE: u8 = 6;

/// How long blocking tasks may take to end once the command is done: a read of a file may hang, and cannot be cancelled.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Feature flags and the log of every change to them, over gRPC. Without a command: serve
#[derive(Parser)]
#[command(name = "toggled", version, override_usage = "toggled [COMMAND]")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server (the default)
    #[command(after_help = serve::standard_variables())]
    Serve(Box<config::ServeOptions>),
    /// Migrate the database's schema up or down, or show its state; serve migrates up when it starts
    Migrate(migrate::MigrateArgs),
    /// Create, deactivate and list users directly in the database, without a server or a token; logged as cli@HOST
    ///
    /// AccessService of a running server also changes permissions (UpdateUser) and reactivates users.
    User(user::UserArgs),
    /// Create, list and revoke tokens directly in the database, without a server or a token; logged as cli@HOST
    Token(token::TokenArgs),
    /// Read, flip and manage flags through a server
    Flag(flag::FlagArgs),
    /// Read, follow, export, verify and trim the audit log through a server
    Audit(audit::AuditArgs),
    /// Create, change, show and archive environments through a server
    Environment(environment::EnvironmentArgs),
    /// Show the user and the permissions of the token
    #[command(name = "whoami")]
    WhoAmI(whoami::WhoAmIArgs),
    /// Check whether a server is serving, for probes; needs no token
    Health(health::HealthArgs),
    /// Print the completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// Why a command ended early. Without a message nothing is printed, for example because the reader of its output has gone.
struct Failure {
    /// The exit code.
    code: u8,
    /// What failed, then what to do.
    message: String,
}

impl Failure {
    /// A wrong setting or argument.
    fn usage(message: impl Into<String>) -> Self {
        Self { code: EXIT_USAGE, message: message.into() }
    }
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: remote::exit_code_of(&error), message: error.to_string() }
    }
}

/// All commands with their options, from which the documentation is generated.
pub fn command() -> clap::Command {
    without_values(Cli::command())
}

/// Leaves the values of environment variables out of the help: some are secret, and the help should be the same everywhere.
fn without_values(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| arg.hide_env_values(true)).mut_subcommands(without_values)
}

/// Runs the command that the arguments name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (command, from_file) = match arguments::parse(arguments.into_iter().collect()) {
        Ok((cli, from_file)) => (cli.command, from_file),
        Err(code) => return code,
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                print_error(&from_file.locate(failure.message));
            }
            ExitCode::from(failure.code)
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        match command {
            Command::Serve(settings) => serve::run(*settings).await,
            Command::Migrate(args) => migrate::run(args).await,
            Command::User(args) => user::run(args).await,
            Command::Token(args) => token::run(args).await,
            Command::Flag(args) => flag::run(args).await,
            Command::Audit(args) => audit::run(args).await,
            Command::Environment(args) => environment::run(args).await,
            Command::WhoAmI(args) => whoami::run(args).await,
            Command::Health(args) => health::run(args).await,
            Command::Completions(args) => completions::run(&args),
        }
    });
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    done
}

/// Prints an error, or a notice about a running command, as one line to standard error.
fn print_error(message: &str) {
    // A line break is easier to read as a space than as an escape.
    let message = message.replace('\n', " ");
    progress::with_bars_hidden(|| {
        let _ = writeln!(io::stderr(), "toggled: {}", visible(&message));
    });
}

/// Prints to standard output and ignores errors: a server keeps running if its output is closed.
fn print(text: &str) {
    let _ = try_print(text);
}

/// Prints to standard output.
fn try_print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush())
}

/// Parses the UUID of an argument.
fn parse_uuid(text: &str) -> Result<Uuid, String> {
    Uuid::try_parse(text).map_err(|_| "must be a UUID: xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx".to_owned())
}

/// The failure for a `--database-url` that breaks this rule.
fn invalid_database_url(rule: String) -> Failure {
    Failure::usage(format!("--database-url (TOGGLED_DATABASE_URL) {rule}"))
}
