//! The log in its database, read without a server.

use super::report::trimmed;
use crate::cli::{EXIT_UNAVAILABLE, Failure, offline, output, progress};
use crate::store::{self, Store};
use crate::verify::{Bounds, DatabaseError, Problem, Progress, Report, verify_database};

/// Verifies the database at `url`.
pub(super) async fn verify(bounds: &Bounds, url: &str) -> Result<Report, Failure> {
    let store = store::open_existing(url).map_err(|rule| Failure::usage(format!("--database {rule}")))?;
    offline::check_exists(&*store, "--database")?;
    offline::close_after(&*store, verify_store(bounds, &*store)).await
}

async fn verify_store(bounds: &Bounds, store: &dyn Store) -> Result<Report, Failure> {
    offline::check_migrated(store).await?;
    let bar = progress::bar(0, "entries");
    let mut on_progress = |progress: Progress| {
        bar.set_length(progress.expected);
        bar.set_position(progress.entries);
    };
    let verified = verify_database(store, bounds, &mut on_progress).await;
    bar.finish_and_clear();
    let verified = verified.map_err(|error| match error {
        DatabaseError::Store(error) => error.into(),
        error @ DatabaseError::TrimmedMeanwhile => Failure { code: EXIT_UNAVAILABLE, message: error.to_string() },
    })?;
    // The head says that the log was trimmed, so this is no fault of the log.
    if let Some(fault) =
        verified.report.fault.as_ref().filter(|fault| matches!(fault.problem, Problem::BeforeStart { .. }))
    {
        let is_until = bounds.until.as_ref().is_some_and(|until| until.revision == fault.revision);
        return Err(trimmed(if is_until { "--until" } else { "--since" }, fault.revision));
    }
    if verified.uncompared_rows > 0 {
        output::print_note(&format!(
            "{} rows were not compared: their last change comes before the verified entries",
            verified.uncompared_rows
        ));
    }
    Ok(verified.report)
}
