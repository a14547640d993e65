//! The log in its database, without a server, and the rows that it speaks of.

use indicatif::ProgressBar;

use super::checkpoints::Plan;
use super::report::{self, Halt, Report};
use crate::cli::{EXIT_UNAVAILABLE, Failure, offline, output, progress};
use crate::domain::Revision;
use crate::domain::audit::Entry;
use crate::domain::filter::{Filter, Range};
use crate::domain::hash::GENESIS;
use crate::domain::state::{Head, State};
use crate::store::{self, EntryQuery, Order, Store, StoreError};
use crate::verify::{Fault, Mark, Problem, Replay, Start, Verifier, Witness};

/// So many entries or checkpoints are read at once.
const PAGE: i64 = 1_000;

/// Verifies a database, as of one moment: others may append meanwhile.
pub(super) async fn verify(plan: &Plan, url: &str) -> Result<Report, Failure> {
    let store = store::open_existing(url).map_err(|rule| Failure::usage(format!("--database {rule}")))?;
    offline::exists(&*store, "--database")?;
    offline::is_migrated(&*store).await?;
    // In this order: a checkpoint that is written meanwhile is of no revision beyond the head, and signed by a key
    // that is there.
    let checkpoints = checkpoints(&*store).await?;
    let keys: Vec<_> = store.checkpoint_keys().await?.into_iter().map(|(key, _)| key).collect();
    let (head, rows) = load(&*store).await?;
    let (mut marks, forged) = plan.stored(head.log_id, &checkpoints, &keys);
    marks.extend(marks_of(&head));
    let start = if head.floor == 0 { Start::Behind(0, GENESIS) } else { Start::At(head.floor + 1) };
    let verifier = plan.verifier(head.log_id, start, marks);
    let after = plan.since.as_ref().map_or(head.floor, |since| since.revision);
    let bar = progress::bar((head.revision - after).unsigned_abs(), "entries");
    let mut reading = Reading { store: &*store, verifier, replay: Replay::behind(after), bar };
    let ended = reading.run(plan, &head, &rows).await;
    reading.bar.finish_and_clear();
    let ended = match ended {
        Err(Halt::Fault(_)) if store.head().await?.floor != head.floor => Err(Halt::Failure(Failure {
            code: EXIT_UNAVAILABLE,
            line: "the log was trimmed while it was read: verify it once more".to_owned(),
        })),
        ended => ended,
    };
    if let (Ok(older @ 1..), None) = (&ended, &forged) {
        output::note(&format!(
            "{older} rows are older than what was read of the log, and could not be compared with it"
        ));
    }
    let ended = ended.map(drop);
    Report::new(reading.verifier.verified(), ended, forged)
}

/// The flags, users and tokens; or which row of theirs says nothing that one could, and in what words.
type Rows = Result<State, (String, StoreError)>;

/// The head of the log, which alone it takes to verify the entries, and the rows of that moment.
async fn load(store: &dyn Store) -> Result<(Head, Rows), StoreError> {
    match store.load().await {
        Ok(state) => Ok((*state.head(), Ok(state))),
        Err(error) => match &error {
            StoreError::Corrupt { table: "feature_flags" | "users" | "api_tokens", row, .. } => {
                Ok((store.head().await?, Err((row.clone(), error))))
            }
            _ => Err(error),
        },
    }
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
    /// Reads and compares all that there is to; how many rows could not be compared.
    async fn run(&mut self, plan: &Plan, head: &Head, rows: &Rows) -> Result<usize, Halt> {
        plan.check(head.log_id)?;
        if let Some(until) = plan.until.as_ref().filter(|until| until.revision < head.floor) {
            return Err(gone("--until", until.revision).into());
        }
        let after = self.begin(plan, head).await?;
        self.entries(Range { first: after + 1, last: head.revision }).await?;
        self.verifier.finish()?;
        if plan.until.as_ref().is_some_and(|until| until.revision < head.revision) {
            return Ok(0);
        }
        self.nothing_behind(head).await?;
        let state = rows.as_ref().map_err(|(row, error)| self.replay.unreadable(row, error))?;
        self.replay.compare(state)?;
        Ok(self.replay.older(state))
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
        let there = match self.store.entry_at(since.revision).await? {
            Some((_, hash)) => hash,
            None if since.revision == head.floor => head.floor_hash,
            None => return fault(since.revision, self.gone(since.revision, head).await?),
        };
        if there == since.hash { Ok(since.revision) } else { fault(since.revision, Problem::Forked(Witness::Given)) }
    }

    /// How an entry is not there that should be.
    async fn gone(&self, revision: Revision, head: &Head) -> Result<Problem, StoreError> {
        let next = self.first_behind(revision).await?;
        let truncated = Problem::Truncated { end: revision - 1, witness: Witness::Head, known: head.revision };
        Ok(next.map_or(truncated, |next| Problem::Missing { next }))
    }

    /// Reads page by page. Each begins with the last entry of the one before: should there be another one at its
    /// revision, it must not be overlooked.
    async fn entries(&mut self, range: Range) -> Result<(), Halt> {
        let (mut rest, mut last, mut garbled) = (range, None::<Entry>, false);
        loop {
            let page = self.page(rest, PAGE).await;
            // A row that says what no entry can: what comes before it comes first.
            if let Some(revision) = page.as_ref().err().and_then(report::garbled) {
                (rest.last, garbled) = (revision - 1, true);
                continue;
            }
            let page = page?;
            let full = i64::try_from(page.len()).is_ok_and(|length| length == PAGE);
            let seen = std::mem::replace(&mut last, page.last().cloned());
            for entry in page {
                if seen.as_ref() != Some(&entry) {
                    self.replay.take(&entry);
                    self.verifier.take(entry)?;
                    self.bar.inc(1);
                }
            }
            match &last {
                _ if self.verifier.is_done() => return Ok(()),
                Some(last) if full => rest.first = last.revision,
                _ if garbled => return Err(self.verifier.take_garbled().into()),
                _ => return Ok(()),
            }
        }
    }

    async fn page(&self, range: Range, limit: i64) -> Result<Vec<Entry>, StoreError> {
        let (filter, order) = (Filter::default(), Order::OldestFirst);
        self.store.entries(&EntryQuery { filter, range, order, offset: 0, limit }).await
    }

    /// Nothing stands behind the head, unless the head has moved on since.
    async fn nothing_behind(&self, head: &Head) -> Result<(), Halt> {
        let Some(revision) = self.first_behind(head.revision).await? else { return Ok(()) };
        if self.store.head().await?.revision >= revision {
            return Ok(());
        }
        Err(Fault { revision, problem: Problem::Inserted }.into())
    }

    /// Where the next entry stands, whatever it says.
    async fn first_behind(&self, revision: Revision) -> Result<Option<Revision>, StoreError> {
        let behind = Range { first: revision + 1, last: Revision::MAX };
        match self.page(behind, 1).await {
            Ok(entries) => Ok(entries.first().map(|entry| entry.revision)),
            Err(error) => report::garbled(&error).map(Some).ok_or(error),
        }
    }
}

/// What was kept is of a part of the log that is gone.
pub(super) fn trimmed(since: Revision) -> Failure {
    gone("--since", since)
}

fn gone(setting: &str, revision: Revision) -> Failure {
    Failure::usage(format!(
        "{setting}: the log was trimmed beyond revision {revision} since; give the checkpoint that was kept when it was trimmed"
    ))
}
