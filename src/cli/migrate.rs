//! `toggled migrate`: the schema, up, down, and its state.

use clap::{Args, Subcommand};

use super::offline::Target;
use super::{Failure, say};

/// Arguments of `toggled migrate`.
#[derive(Debug, Args)]
pub(super) struct Migrate {
    #[command(subcommand)]
    direction: Direction,
}

#[derive(Debug, Subcommand)]
enum Direction {
    /// Apply every migration that the database lacks
    Up(Target),
    /// Take back the newest migration that the database has
    Down {
        #[command(flatten)]
        target: Target,
        /// Even if that drops a log with entries in it
        #[arg(long)]
        drop_log: bool,
    },
    /// List all migrations, and which of them the database has
    Status(Target),
}

pub(super) async fn run(settings: Migrate) -> Result<(), Failure> {
    let store = match settings.direction {
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
