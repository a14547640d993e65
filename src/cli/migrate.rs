//! `toggled migrate`: migrates the schema up or down, or shows its state.

use clap::{Args, Subcommand};

use super::offline::DatabaseTarget;
use super::{Failure, say};

/// Arguments of `toggled migrate`.
#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    #[command(subcommand)]
    direction: Direction,
}

#[derive(Debug, Subcommand)]
enum Direction {
    /// Apply all pending migrations
    Up(DatabaseTarget),
    /// Revert the newest applied migration
    Down {
        #[command(flatten)]
        target: DatabaseTarget,
        /// Revert it even if that drops a log that has entries
        #[arg(long)]
        drop_log: bool,
    },
    /// List all migrations and their state
    Status(DatabaseTarget),
}

pub(super) async fn run(args: MigrateArgs) -> Result<(), Failure> {
    let store = match args.direction {
        Direction::Up(target) => {
            let store = target.open()?;
            store.migrate_up().await?;
            store
        }
        Direction::Down { target, drop_log } => {
            let store = target.open_existing()?;
            store.migrate_down(drop_log).await?;
            store
        }
        Direction::Status(target) => target.open_existing()?,
    };
    let migrations = store.migrations().await?;
    say(&store.describe());
    for migration in migrations {
        let state = if migration.applied { "applied" } else { "pending" };
        say(&format!("{:>6}  {state}  {}", migration.version, migration.name));
    }
    Ok(())
}
