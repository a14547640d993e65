//! `toggled flag`: flags, through a server.

mod as_of;
pub(in crate::cli) mod change;
mod copy;
mod diff;
mod export;
mod import;
mod matrix;
mod name;
mod read;
mod selector;
mod set;
mod watch;

use clap::{Args, Subcommand};

use super::Failure;

/// Arguments of `toggled flag`.
#[derive(Args)]
pub(super) struct FlagArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Create a flag; it starts disabled unless --enabled is given
    Create(change::CreateArgs),
    /// Show a flag, now or at a time in the past
    Get(read::GetArgs),
    /// List flags sorted by key, now or at a time in the past; with -e - each key in all environments
    List(read::ListArgs),
    /// Flip a flag: enable it if it is disabled, and disable it if it is enabled. Automatic retries never flip it twice
    Toggle(change::ChangeArgs),
    /// Enable flags: all of them or, on any error, none
    Enable(set::SetArgs),
    /// Disable flags: all of them or, on any error, none
    Disable(set::SetArgs),
    /// Revert a flip: give a flag the status it had before an entry of the audit log
    Revert(change::RevertArgs),
    /// Change a flag's name or description
    Update(change::UpdateArgs),
    /// Archive a flag, so that it is no longer evaluated; it keeps its key and its history
    Archive(change::ChangeArgs),
    /// Unarchive a flag
    Unarchive(change::ChangeArgs),
    /// Show flags, and then every flag that changes, until Ctrl-C
    Watch(watch::WatchArgs),
    /// Create and change flags as a file says: CSV, NDJSON of flag export, a flag definition file of flagd, or an export of
    /// Unleash
    Import(Box<import::ImportArgs>),
    /// Write all flags at the current revision to a file
    Export(export::ExportArgs),
    /// Show what differs between the flags of two environments; ends with 0 if nothing does, and with 1 otherwise
    #[command(after_help = "Example: toggled flag diff -e staging production")]
    Diff(diff::DiffArgs),
    /// Give the flags of --to the status, name and description that they have in --from; create missing ones
    ///
    /// Shows the changes first. Never removes or archives a flag.
    #[command(after_help = "Example: toggled flag copy --from staging --to production checkout --dry-run")]
    Copy(Box<copy::CopyArgs>),
}

pub(super) async fn run(args: FlagArgs) -> Result<(), Failure> {
    match args.action {
        Action::Create(args) => args.run().await,
        Action::Get(args) => args.run().await,
        Action::List(args) => args.run().await,
        Action::Toggle(args) => args.toggle().await,
        Action::Enable(args) => args.enable().await,
        Action::Disable(args) => args.disable().await,
        Action::Revert(args) => args.run().await,
        Action::Update(args) => args.run().await,
        Action::Archive(args) => args.archive().await,
        Action::Unarchive(args) => args.unarchive().await,
        Action::Watch(args) => args.run().await,
        Action::Import(args) => args.run().await,
        Action::Export(args) => args.run().await,
        Action::Diff(args) => args.run().await,
        Action::Copy(args) => args.run().await,
    }
}
