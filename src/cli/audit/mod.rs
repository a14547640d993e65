//! `toggled audit`: commands for the audit log of a server; `verify` reads databases and files too.

mod checkpoint;
mod export;
mod filters;
mod list;
mod tail;
mod trim;
mod verify;

use clap::{Args, Subcommand};

use super::Failure;

/// Arguments of `toggled audit`.
#[derive(Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List entries, newest first
    List(list::List),
    /// Show the last entries and follow new ones, until Ctrl-C
    Tail(tail::Tail),
    /// Write entries to a file, oldest first; an existing file is continued
    Export(export::Export),
    /// Get a signed checkpoint of the log; kept elsewhere, it proves later changes to the log
    Checkpoint(checkpoint::Checkpoint),
    /// Move the oldest entries to a file: export, verify, then remove them from the log
    Trim(trim::Trim),
    /// Recompute every hash of the log, and report the first entry that is not as it was written
    Verify(verify::Verify),
}

pub(super) async fn run(settings: Audit) -> Result<(), Failure> {
    match settings.action {
        Action::List(settings) => settings.run().await,
        Action::Tail(settings) => settings.run().await,
        Action::Export(settings) => settings.run().await,
        Action::Checkpoint(settings) => settings.run().await,
        Action::Trim(settings) => settings.run().await,
        Action::Verify(settings) => settings.run().await,
    }
}
