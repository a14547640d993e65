//! All of a log in a database, and the rows that it describes.

use super::DatabaseError;
use super::reader::{LogReader, PAGE_SIZE, READ_TIMEOUT};
use crate::domain::Revision;
use crate::domain::filter::Range;
use crate::domain::hash::GENESIS;
use crate::domain::state::{Head, State};
use crate::store::{Store, StoreError, StoredCheckpoint, with_timeout};
use crate::verify::bounds::parse_keys;
use crate::verify::{Bounds, Fault, HashSource, OnProgress, Problem, Progress, Replay, Report, Start, Stop, Verifier};

/// The result of [`verify_database`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseReport {
    /// The result for the log.
    pub report: Report,
    /// The number of rows that were not compared: their last change comes before the verified entries.
    pub uncompared_rows: usize,
}

/// Verifies the log of a database within these bounds. If they reach the end of the log, also compares the flags,
/// environments, users and tokens with it.
///
/// # Errors
/// The database could not be read.
pub async fn verify_database(
    store: &dyn Store,
    bounds: &Bounds,
    on_progress: OnProgress<'_>,
) -> Result<DatabaseReport, DatabaseError> {
    // Checkpoints first, then keys, then the head: so each checkpoint's key is listed, and none is after the head.
    let checkpoints = checkpoints(store).await?;
    let keys = with_timeout(READ_TIMEOUT, store.checkpoint_keys()).await?;
    let (head, rows) = load(store).await?;
    let keys = parse_keys(keys.iter().map(|(key, _)| key.as_str()));
    let (mut known, forged) = bounds.stored_hashes(head.log_id, &checkpoints, &keys);
    let log = LogReader { store, head };
    known.extend(log.known_hashes());
    let start = if head.floor == 0 { Start::After(0, GENESIS) } else { Start::At(head.floor + 1) };
    let verifier = bounds.verifier(head.log_id, start, known);
    let after = bounds.since.as_ref().map_or(head.floor, |since| since.revision);
    let mut full = FullVerification { log, bounds, verifier, replay: Replay::after(after) };
    let compared = full.verify(after, &rows, on_progress).await;
    let compared = full.log.unless_trimmed(compared).await;
    let uncompared_rows = if forged.is_none() { *compared.as_ref().unwrap_or(&0) } else { 0 };
    let end = match compared {
        // A forged stored checkpoint is more serious than `BeforeStart`, which only says that the given checkpoint is older than
        // the kept log.
        Err(Stop::Fault(Fault { problem: Problem::BeforeStart { .. }, .. })) if forged.is_some() => Ok(()),
        compared => compared.map(drop),
    };
    let report = Report::new(full.verifier.verified(), end, forged)?;
    Ok(DatabaseReport { report, uncompared_rows })
}

async fn checkpoints(store: &dyn Store) -> Result<Vec<StoredCheckpoint>, StoreError> {
    let (mut all, mut first) = (Vec::new(), 0);
    loop {
        let range = Range { first, last: Revision::MAX };
        let page = with_timeout(READ_TIMEOUT, store.checkpoints(range, PAGE_SIZE)).await?;
        let Some(last) = page.last() else { return Ok(all) };
        first = last.revision + 1;
        all.extend(page);
    }
}

/// The flags, environments, users and tokens; or the row that cannot be read, and why.
type Rows = Result<State, (String, StoreError)>;

/// The head of the log and the rows, as of one moment. The log is verified even if a row cannot be read: then the head is read
/// alone.
async fn load(store: &dyn Store) -> Result<(Head, Rows), StoreError> {
    match store.load().await {
        Ok(state) => Ok((*state.head(), Ok(state))),
        Err(error) => match &error {
            StoreError::Corrupt { table: "feature_flags" | "environments" | "users" | "api_tokens", row, .. } => {
                Ok((store.head().await?, Err((row.clone(), error))))
            }
            _ => Err(error),
        },
    }
}

struct FullVerification<'a> {
    log: LogReader<'a>,
    bounds: &'a Bounds,
    verifier: Verifier,
    replay: Replay,
}

impl FullVerification<'_> {
    /// Verifies the log and compares the rows; returns the number of rows that were not compared.
    async fn verify(
        &mut self,
        after: Revision,
        rows: &Rows,
        on_progress: OnProgress<'_>,
    ) -> Result<usize, Stop<DatabaseError>> {
        let head = self.log.head;
        self.check_bounds().await?;
        let mut progress = Progress { entries: 0, expected: (head.revision - after).unsigned_abs() };
        let replay = &mut self.replay;
        let mut on_entry = |entry: &_| {
            replay.push(entry);
            progress.entries += 1;
            on_progress(progress);
        };
        self.log.verify(after, &mut self.verifier, &mut on_entry).await?;
        if self.bounds.until.as_ref().is_some_and(|until| until.revision < head.revision) {
            return Ok(0);
        }
        self.log.check_end().await?;
        let state = rows.as_ref().map_err(|(row, error)| self.replay.unreadable_row(row, error))?;
        self.replay.compare(state)?;
        Ok(self.replay.uncompared_rows(state))
    }

    /// Checks that the log has the given checkpoints' revisions, and the hash of the one to start after.
    async fn check_bounds(&self) -> Result<(), Stop<DatabaseError>> {
        let (head, Bounds { since, until, .. }) = (self.log.head, self.bounds);
        self.bounds.check(head.log_id)?;
        let fault = |revision, problem| Err(Fault { revision, problem }.into());
        if let Some(given) = until.iter().chain(since).find(|given| given.revision < head.floor) {
            let problem = Problem::BeforeStart { first: head.floor + 1, known_by: HashSource::Given };
            return fault(given.revision, problem);
        }
        let Some(since) = since else { return Ok(()) };
        if since.revision > head.revision {
            let (end, known_by, known) = (head.revision, HashSource::Given, since.revision);
            return fault(end + 1, Problem::Truncated { end, known_by, known });
        }
        if self.log.hash_at(since.revision).await? == since.hash {
            Ok(())
        } else {
            fault(since.revision, Problem::Forked(HashSource::Given))
        }
    }
}
