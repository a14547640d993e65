//! `toggled flag`: flags, by way of a server.

mod as_of;
mod change;
mod export;
mod import;
mod named;
mod read;
mod set;
mod watch;

use clap::{Args, Subcommand};

use super::Failure;

/// Arguments of `toggled flag`.
#[derive(Args)]
pub(super) struct Flag {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Create a flag; it is off unless told otherwise
    Create(change::Create),
    /// Show a flag, as it is or as it was
    Get(read::Get),
    /// List all flags, sorted by key, as they are or as they were
    List(read::List),
    /// Turn a flag that is on off, and one that is off on; retried safely
    Toggle(change::One),
    /// Turn flags on: all of them or, on any error, none
    Enable(set::Set),
    /// Turn flags off: all of them or, on any error, none
    Disable(set::Set),
    /// Set a flag back to what it was before an entry of the audit log that turned it on or off; retried safely
    Revert(change::Revert),
    /// Change a flag's name or description
    Update(change::Update),
    /// Take a flag out of use; it keeps its key and its history
    Archive(change::One),
    /// Bring an archived flag back
    Unarchive(change::One),
    /// Show flags as they are, and then each again when it changes, until Ctrl-C
    Watch(watch::Watch),
    /// Make flags what a file says: CSV, NDJSON of flag export, a flag definition file of flagd, an export of Unleash
    Import(Box<import::Import>),
    /// Write all flags as they are at one revision
    Export(export::Export),
}

pub(super) async fn run(settings: Flag) -> Result<(), Failure> {
    match settings.action {
        Action::Create(settings) => settings.run().await,
        Action::Get(settings) => settings.run().await,
        Action::List(settings) => settings.run().await,
        Action::Toggle(settings) => settings.toggle().await,
        Action::Enable(settings) => settings.enable().await,
        Action::Disable(settings) => settings.disable().await,
        Action::Revert(settings) => settings.run().await,
        Action::Update(settings) => settings.run().await,
        Action::Archive(settings) => settings.archive().await,
        Action::Unarchive(settings) => settings.unarchive().await,
        Action::Watch(settings) => settings.run().await,
        Action::Import(settings) => settings.run().await,
        Action::Export(settings) => settings.run().await,
    }
}
