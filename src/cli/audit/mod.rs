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
pub(super) struct AuditArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List entries, newest first
    List(list::AuditListArgs),
    /// Show the last entries and follow new ones, until Ctrl-C
    Tail(tail::TailArgs),
    /// Write entries to a file, oldest first; an existing file is continued
    Export(export::AuditExportArgs),
    /// Get a signed checkpoint of the log; kept elsewhere, it reveals later tampering with the log
    Checkpoint(checkpoint::CheckpointArgs),
    /// Write the oldest entries to a file and verify it; with --remove, then remove them from the log
    Trim(trim::TrimArgs),
    /// Recompute every hash of the log, and report the first entry that is not as it was written
    Verify(verify::VerifyArgs),
}

pub(super) async fn run(args: AuditArgs) -> Result<(), Failure> {
    match args.action {
        Action::List(args) => args.run().await,
        Action::Tail(args) => args.run().await,
        Action::Export(args) => args.run().await,
        Action::Checkpoint(args) => args.run().await,
        Action::Trim(args) => args.run().await,
        Action::Verify(args) => args.run().await,
    }
}
