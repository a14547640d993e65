//! `toggled audit`: the log of every change, by way of a server; `verify` reads databases and files too.

mod export;
mod filters;
mod list;
mod tail;
mod verify;
mod when;

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
    /// Show the last entries, and then new ones as they come, until Ctrl-C
    Tail(tail::Tail),
    /// Write entries to a file, oldest first; a file that is there already is gone on with
    Export(export::Export),
    /// Recompute every hash of the log, and tell the first entry that is not as it was written
    Verify(verify::Verify),
}

pub(super) async fn run(settings: Audit) -> Result<(), Failure> {
    match settings.action {
        Action::List(settings) => settings.run().await,
        Action::Tail(settings) => settings.run().await,
        Action::Export(settings) => settings.run().await,
        Action::Verify(settings) => settings.run().await,
    }
}
