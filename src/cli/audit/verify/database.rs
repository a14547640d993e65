//! The log in its database, without a server, and the rows that it speaks of.

use indicatif::ProgressBar;

use super::checkpoints::Plan;
use super::report::{Halt, Report};
use crate::cli::{EXIT_UNAVAILABLE, Failure, offline, progress};
use crate::domain::Revision;
use crate::domain::audit::Entry;
use crate::domain::filter::{Filter, Range};
use crate::domain::hash::GENESIS;
use crate::domain::state::{Head, State};
use crate::domain::verify::{Fault, Mark, Problem, Replay, Start, Verifier, Witness};
use crate::store::{self, EntryQuery, Order, Store, StoreError};

/// So many entries or checkpoints are read at once.
const PAGE: i64 = 1_000;

/// Verifies a database, as of one moment: others may append meanwhile.
pub(super) async fn verify(plan: &Plan, url: &str) -> Result<Report, Failure> {
    let store = store::open_existing(url).map_err(|rule| Failure::usage(format!("--database {rule}")))?;
    offline::exists(&*store, "--database")?;
    offline::is_migrated(&*store).await?;
    let state = store.load().await?;
    let head = *state.head();
    let keys: Vec<_> = store.checkpoint_keys().await?.into_iter().map(|(key, _)| key).collect();
    let (mut marks, forged) = plan.stored(head.log_id, &checkpoints(&*store).await?, &keys);
    marks.extend(marks_of(&head));
    let start = if head.floor == 0 { Start::Behind(0, GENESIS) } else { Start::At(head.floor + 1) };
    let verifier = plan.verifier(head.log_id, start, marks);
    let after = plan.since.as_ref().map_or(head.floor, |since| since.revision);
    let bar = progress::bar((head.revision - after).unsigned_abs(), "entries");
    let mut reading = Reading { store: &*store, verifier, replay: Replay::behind(after), bar };
    let ended = reading.run(plan, &state).await;
    reading.bar.finish_and_clear();
    let ended = match ended {
        Err(Halt::Fault(_)) if store.head().await?.floor != head.floor => Err(Halt::Failure(Failure {
            code: EXIT_UNAVAILABLE,
            line: "the log was trimmed while it was read: verify it once more".to_owned(),
        })),
        ended => ended,
    };
    Report::new(reading.verifier.verified(), ended, forged)
}

/// What the head of the log knows of its end and its beginning.
fn marks_of(head: &Head) -> impl Iterator<Item = Mark> {
    let end = Mark { revision: head.revision, hash: head.hash, witness: Witness::Head };
    let floor = Mark { revision: head.floor, hash: head.floor_hash, witness: Witness::Floor };
    [floor, end].into_iter()
}

async fn checkpoints(store: &dyn Store) -> Result<Vec<(Revision, String)>, StoreError> {
    let (mut all, mut first) = (Vec::new(), 0);
    loop {
        let page = store.checkpoints(Range { first, last: Revision::MAX }, PAGE).await?;
        let Some(last) = page.last() else { return Ok(all) };
        first = last.revision + 1;
        all.extend(page.into_iter().map(|checkpoint| (checkpoint.revision, checkpoint.note)));
    }
}

/// How far the log has been read.
struct Reading<'a> {
    store: &'a dyn Store,
    verifier: Verifier,
    replay: Replay,
    bar: ProgressBar,
}

impl Reading<'_> {
    async fn run(&mut self, plan: &Plan, state: &State) -> Result<(), Halt> {
        let head = state.head();
        plan.check(head.log_id)?;
        let after = self.begin(plan, head).await?;
        let until = plan.until.as_ref().map_or(head.revision, |until| until.revision.min(head.revision));
        self.entries(Range { first: after + 1, last: until }).await?;
        self.verifier.finish()?;
        if plan.until.as_ref().is_some_and(|until| until.revision < head.revision) {
            return Ok(());
        }
        self.nothing_behind(head).await?;
        Ok(self.replay.compare(state)?)
    }

    /// Behind which revision to read. What was kept must be there, as it was.
    async fn begin(&self, plan: &Plan, head: &Head) -> Result<Revision, Halt> {
        let Some(since) = &plan.since else { return Ok(head.floor) };
        let fault = |revision, problem| Err(Fault { revision, problem }.into());
        if since.revision < head.floor {
            return Err(trimmed(since.revision).into());
        }
        if since.revision > head.revision {
            let (end, witness, known) = (head.revision, Witness::Given, since.revision);
            return fault(end + 1, Problem::Truncated { end, witness, known });
        }
        match self.store.entry_at(since.revision).await? {
            Some((_, hash)) if hash != since.hash => fault(since.revision, Problem::Forked(Witness::Given)),
            None if since.revision == head.floor && since.hash != head.floor_hash => {
                fault(since.revision, Problem::Forked(Witness::Given))
            }
            _ => Ok(since.revision),
        }
    }

    /// Reads page by page. Each begins with the last entry of the one before: should there be another one at its
    /// revision, it must not be overlooked.
    async fn entries(&mut self, range: Range) -> Result<(), Halt> {
        let (mut rest, mut last, mut garbled) = (range, None::<Entry>, false);
        loop {
            let page = match self.page(rest).await {
                // A row that says what no entry can: what comes before it comes first.
                Err(StoreError::Corrupt { table: "audit_logs", row, .. }) => {
                    let revision: Revision = row.parse().unwrap_or(rest.first);
                    (rest.last, garbled) = (revision - 1, true);
                    continue;
                }
                page => page?,
            };
            let full = i64::try_from(page.len()).is_ok_and(|length| length == PAGE);
            let seen = last.take();
            for entry in page {
                last = Some(entry.clone());
                if seen.as_ref() != Some(&entry) {
                    self.replay.take(&entry);
                    self.verifier.take(entry)?;
                    self.bar.inc(1);
                }
            }
            match &last {
                Some(last) if full => rest.first = last.revision,
                _ if garbled => return Err(self.verifier.take_garbled().into()),
                _ => return Ok(()),
            }
        }
    }

    async fn page(&self, range: Range) -> Result<Vec<Entry>, StoreError> {
        let (filter, order) = (Filter::default(), Order::OldestFirst);
        self.store.entries(&EntryQuery { filter, range, order, offset: 0, limit: PAGE }).await
    }

    /// Nothing stands behind the head, unless the head has moved on since.
    async fn nothing_behind(&self, head: &Head) -> Result<(), Halt> {
        let behind = Range { first: head.revision + 1, last: Revision::MAX };
        let query =
            EntryQuery { filter: Filter::default(), range: behind, order: Order::OldestFirst, offset: 0, limit: 1 };
        let Some(entry) = self.store.entries(&query).await?.pop() else { return Ok(()) };
        if self.store.head().await?.revision >= entry.revision {
            return Ok(());
        }
        Err(Fault { revision: entry.revision, problem: Problem::Inserted }.into())
    }
}

/// What was kept is of a part of the log that is gone.
pub(super) fn trimmed(revision: Revision) -> Failure {
    Failure::usage(format!(
        "--since: the log was trimmed beyond revision {revision} since; give the checkpoint that was kept when it was trimmed"
    ))
}
