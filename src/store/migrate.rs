//! The migrations, and which of them a database has.

use std::collections::HashMap;

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migrate, MigrateError, MigrationType, Migrator};

use super::StoreError;

/// One migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Its number.
    pub version: i64,
    /// Its name.
    pub name: String,
    /// Whether the database has it.
    pub applied: bool,
}

/// The number of entries that were ever written, including trimmed ones.
pub(super) const LOG_LENGTH: &str = "SELECT revision FROM log_head";

/// The migrations of one database, from the texts of its files. sqlx's macro would do the same, but compiles both drivers
/// a second time.
pub(super) fn migrator(initial_up: &'static str, initial_down: &'static str) -> Migrator {
    let migration = |version, name: &'static str, kind, sql: &'static str| {
        sqlx::migrate::Migration::new(version, name.into(), kind, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![
        migration(1, "initial", MigrationType::ReversibleUp, initial_up),
        migration(1, "initial", MigrationType::ReversibleDown, initial_down),
    ])
}

/// The migrations of a database.
pub(super) struct Schema {
    /// All known migrations, and which of them the database has.
    pub migrations: Vec<Migration>,
    /// Whether the database has them all, and no other.
    pub is_current: bool,
}

/// Reads which migrations the database has. Creates no table, so a role that may not create tables can call it.
///
/// # Errors
/// [`StoreError::Refused`] when the database has a migration in another form than this program.
pub(super) async fn schema<C: Migrate>(
    migrator: &Migrator,
    connection: &mut C,
    has_table: bool,
    classify: fn(sqlx::Error) -> StoreError,
) -> Result<Schema, StoreError> {
    let applied = match has_table {
        true => connection.list_applied_migrations(&migrator.table_name).await,
        false => Ok(Vec::new()),
    };
    let applied = applied.map_err(|problem| error(problem, classify))?;
    let applied: HashMap<i64, _> = applied.into_iter().map(|m| (m.version, m.checksum)).collect();
    let mut migrations = Vec::new();
    for migration in migrator.iter().filter(|m| m.migration_type.is_up_migration()) {
        let checksum = applied.get(&migration.version);
        if checksum.is_some_and(|checksum| *checksum != migration.checksum) {
            return Err(made_by_development_version());
        }
        let name = migration.description.to_string();
        migrations.push(Migration { version: migration.version, name, applied: checksum.is_some() });
    }
    let is_current = applied.len() == migrations.len() && migrations.iter().all(|m| m.applied);
    Ok(Schema { migrations, is_current })
}

/// The version that remains when the newest applied migration is reverted; `None` if none is applied.
pub(super) fn below_newest(migrations: &[Migration]) -> Option<i64> {
    let mut applied = migrations.iter().filter(|m| m.applied).rev().map(|m| m.version);
    applied.next().map(|_| applied.next().unwrap_or(0))
}

/// Refuses to revert the first migration while the log has entries: that would drop them.
pub(super) fn check_log_is_empty(length: i64) -> Result<(), StoreError> {
    if length == 0 {
        return Ok(());
    }
    let message = format!(
        "reverting this migration would delete the audit log ({length} revisions); nothing was changed; restore the backup \
         from before the upgrade instead (--drop-log deletes the log for good)"
    );
    Err(StoreError::Refused(message.into()))
}

/// What an error of a migration means. `classify` is for an error of the database itself.
pub(super) fn error(error: MigrateError, classify: fn(sqlx::Error) -> StoreError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => classify(error),
        MigrateError::VersionMismatch(_) => made_by_development_version(),
        MigrateError::VersionMissing(version) => {
            let message = format!(
                "the database has migration {version}, which this version of toggled does not know; start the version that \
                 made it, or revert the migration with that version (`toggled migrate down`)"
            );
            StoreError::Refused(message.into())
        }
        other => StoreError::Refused(format!("migrating: {other}").into()),
    }
}

/// Until 0.1.0 migrations were edited in place.
fn made_by_development_version() -> StoreError {
    StoreError::Refused(
        "the database was made by a development version of toggled before 0.1.0, whose format has changed; export its \
         flags with that version (`toggled flag export`), then start with a new database"
            .into(),
    )
}
