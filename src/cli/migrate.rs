//! `toggled migrate`: migrates the schema up or down, or shows its state.

use clap::{Args, Subcommand};

use super::offline::{DatabaseTarget, close_after};
use super::{Failure, print};

/// Arguments of `toggled migrate`.
#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Apply all pending migrations
    Up(DatabaseTarget),
    /// Revert the newest applied migration
    Down {
        #[command(flatten)]
        target: DatabaseTarget,
        /// Revert it even if that deletes the audit log for good. To undo an upgrade, restore the backup instead
        #[arg(long)]
        drop_log: bool,
    },
    /// List all migrations and their state
    Status(DatabaseTarget),
}

pub(super) async fn run(args: MigrateArgs) -> Result<(), Failure> {
    let store = match &args.action {
        Action::Up(target) => target.open()?,
        Action::Down { target, .. } | Action::Status(target) => target.open_existing()?,
    };
    let migrate = async {
        match args.action {
            Action::Up(_) => store.migrate_up().await?,
            Action::Down { drop_log, .. } => store.migrate_down(drop_log).await?,
            Action::Status(_) => {}
        }
        Ok(store.migrations().await?)
    };
    let migrations = close_after(&*store, migrate).await?;
    print(&store.describe());
    for migration in migrations {
        let state = if migration.applied { "applied" } else { "pending" };
        print(&format!("{:>6}  {state}  {}", migration.version, migration.name));
    }
    Ok(())
}
