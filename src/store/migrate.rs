//! Which migrations there are, and which of them a database has.

use std::collections::HashSet;

use sqlx::migrate::{Migrate, MigrateError, Migrator};

use super::StoreError;

/// One migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Its number.
    pub version: i64,
    /// What it is called.
    pub name: String,
    /// Whether the database has it.
    pub applied: bool,
}

pub(super) async fn status<C: Migrate>(
    migrator: &Migrator,
    connection: &mut C,
) -> Result<Vec<Migration>, MigrateError> {
    connection.ensure_migrations_table(&migrator.table_name).await?;
    let applied = connection.list_applied_migrations(&migrator.table_name).await?;
    let applied: HashSet<i64> = applied.into_iter().map(|m| m.version).collect();
    let ups = migrator.iter().filter(|m| m.migration_type.is_up_migration());
    Ok(ups
        .map(|m| Migration {
            version: m.version,
            name: m.description.to_string(),
            applied: applied.contains(&m.version),
        })
        .collect())
}

/// To which version the newest migration's going takes a database: `None` when it has none.
pub(super) fn below_newest(migrations: &[Migration]) -> Option<i64> {
    let mut applied = migrations.iter().filter(|m| m.applied).rev().map(|m| m.version);
    applied.next().map(|_| applied.next().unwrap_or(0))
}

/// How many entries have been written. Asked of any schema that there ever was.
pub(super) const LENGTH: &str = "SELECT revision FROM log_head";

/// Whether the log is proven only with what the second migration brought.
pub(super) const LEANS_ON_PROOF: &str = "SELECT EXISTS (SELECT 1 FROM audit_logs WHERE reverts IS NOT NULL)
    OR EXISTS (SELECT 1 FROM log_head WHERE floor > 0) OR EXISTS (SELECT 1 FROM checkpoints)";

/// Dropping the first migration drops the log: that takes an explicit word.
pub(super) fn refuse_to_drop_log(revision: i64) -> StoreError {
    StoreError::Refused(format!(
        "the log has {revision} entries and this migration would drop it; if that is what you want, say --drop-log"
    ))
}

/// Dropping the second drops what entries that revert others are hashed with, the hash that a trimmed log begins after, and
/// the checkpoints.
pub(super) fn refuse_to_drop_proof() -> StoreError {
    StoreError::Refused(
        "the log has signed checkpoints or entries that revert others, or was trimmed: without this migration they would be \
         lost, and it could not be verified any more; \
         if that is what you want, say --drop-log"
            .to_owned(),
    )
}
