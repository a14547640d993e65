//! The command line: one binary, one file or folder a command. `user`, `token` and `migrate` work on the database itself;
//! `flag`, `audit`, `whoami` and `health` are clients of a server, by way of `remote`.

mod arguments;
mod audit;
mod completions;
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
mod token;
mod user;
mod when;
mod whoami;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config;
use crate::store::Store;

/// Exit status for what was done.
const EXIT_DONE: u8 = 0;

/// Exit status for what fails in a way that has no status of its own.
const EXIT_FAILURE: u8 = 1;

/// Exit status for a setting or argument that is wrong.
const EXIT_USAGE: u8 = 2;

/// Exit status for something named that does not exist.
const EXIT_NOT_FOUND: u8 = 3;

/// Exit status for a caller who is not known, or may not do this.
const EXIT_DENIED: u8 = 4;

/// Exit status for what others have done first: exists already, was changed meanwhile.
const EXIT_CONFLICT: u8 = 5;

/// Exit status for a server that does not answer, or not now.
const EXIT_UNAVAILABLE: u8 = 6;

/// How long to wait at the end for what cannot be cancelled.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Feature flags and the log of every change to them, over gRPC. Without a command: serve.
#[derive(Parser)]
#[command(name = "toggled", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (the default)
    #[command(after_help = serve::standard_variables())]
    Serve(Box<config::Serve>),
    /// Change the schema of the database, or show its state; serve brings it up to date by itself
    Migrate(migrate::Migrate),
    /// Create and list users on the database itself, without a server or a token; audited as cli@HOST
    User(user::User),
    /// Create, list and revoke tokens on the database itself, without a server or a token; audited as cli@HOST
    Token(token::Token),
    /// Read, flip and manage flags, by way of a server
    Flag(flag::Flag),
    /// Read and follow the log of every change, by way of a server
    Audit(audit::Audit),
    /// Tell who you are to a server, and what you may do
    #[command(name = "whoami")]
    WhoAmI(whoami::WhoAmI),
    /// Tell whether a server serves, for probes; it needs no token
    Health(health::Health),
    /// Print what a shell needs to complete commands
    Completions(completions::Completions),
}

/// Why a command failed: one line for a person, and what to exit with.
struct Failure {
    code: u8,
    line: String,
}

impl Failure {
    /// A setting is wrong.
    fn usage(line: impl Into<String>) -> Self {
        Self { code: EXIT_USAGE, line: line.into() }
    }
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: remote::exit_code_of(&error), line: error.to_string() }
    }
}

/// All commands with their settings, for who documents them.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs what the arguments ask for.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (command, from_file) = match arguments::parse(arguments.into_iter().collect()) {
        Ok((cli, from_file)) => (cli.command, from_file),
        Err(status) => return status,
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.code != EXIT_DONE {
                complain(&from_file.locate(failure.line));
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
            Command::Migrate(settings) => migrate::run(settings).await,
            Command::User(settings) => user::run(settings).await,
            Command::Token(settings) => token::run(settings).await,
            Command::Flag(settings) => flag::run(settings).await,
            Command::Audit(settings) => audit::run(settings).await,
            Command::WhoAmI(settings) => whoami::run(settings).await,
            Command::Health(settings) => health::run(settings).await,
            Command::Completions(settings) => completions::run(&settings),
        }
    });
    // A file that hangs while it is read must not keep the program from ending.
    runtime.shutdown_timeout(LAST_WAIT);
    done
}

/// One line about what went wrong.
fn complain(line: &str) {
    // A server's words may hold anything.
    let line = table::sanitize(&line.replace('\n', " "));
    progress::beside(|| {
        let _ = writeln!(io::stderr(), "toggled: {line}");
    });
}

/// What the person at the terminal reads. A pipe that nobody reads any more is no reason to stop.
fn say(text: &str) {
    let _ = hand_over(text);
}

/// What is lost if it is not read.
fn hand_over(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush())
}

/// A database that a setting names; a wrong setting is told by its name.
fn opened(store: Result<Arc<dyn Store>, String>) -> Result<Arc<dyn Store>, Failure> {
    store.map_err(|rule| Failure::usage(format!("--database-url (TOGGLED_DATABASE_URL) {rule}")))
}
