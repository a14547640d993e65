//! `toggled migrate`: migrates the schema up or down, or shows its state.

use clap::{Args, Subcommand};

use super::offline::{DatabaseTarget, close_after};
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
    let store = match &args.direction {
        Direction::Up(target) => target.open()?,
        Direction::Down { target, .. } | Direction::Status(target) => target.open_existing()?,
    };
    let migrate = async {
        match args.direction {
            Direction::Up(_) => store.migrate_up().await?,
            Direction::Down { drop_log, .. } => store.migrate_down(drop_log).await?,
            Direction::Status(_) => {}
        }
        Ok(store.migrations().await?)
    };
    let migrations = close_after(&*store, migrate).await?;
    say(&store.describe());
    for migration in migrations {
        let state = if migration.applied { "applied" } else { "pending" };
        say(&format!("{:>6}  {state}  {}", migration.version, migration.name));
    }
    Ok(())
}
