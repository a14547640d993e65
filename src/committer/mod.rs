//! The committer: the one task of a server that appends to the log.
//!
//! It takes the waiting proposals as a batch, up to its limits, and decides them on the mirror's state. It appends the batch as one
//! transaction, moves the mirror and answers the callers. Meanwhile the next batch gathers. There is no timer: an idle server answers
//! at once, and a busy one writes larger batches.
//!
//! It runs in its own task, so that a caller who disconnects cannot leave a change half done.

mod closing;
mod metrics;
mod outage;
mod proposals;
mod replay;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};
use uuid::Uuid;

use crate::domain::advance::{Decision, RequestOwner, Step, advance};
use crate::domain::error::Error;
use crate::domain::time::Clock;
use crate::mirror::Mirror;
use crate::store::{AppendOutcome, Store, StoreError, Writer, with_timeout};
use crate::telemetry::traces;
use closing::TimeCloser;
use metrics::DateMonitor;
use outage::Outage;
use proposals::PendingProposal;
pub use proposals::{ChangeStart, Proposals, Reply};

/// The most proposals in one batch.
const MAX_BATCH: usize = 512;

/// The most entries in one batch. One proposal has at most 1,000.
const MAX_BATCH_ENTRIES: usize = 2_000;

/// How long a read that the committer waits for may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// After this many lost races for the head in a row, the committer locks the head before its next append.
const LOCK_AFTER_LOSSES: u32 = 3;

/// After more lost races than this, the batch fails: something is wrong that a retry cannot mend.
const MAX_LOSSES: u32 = 100;

/// After more replays than this that answer no proposal, the batch fails: appends report a stored request that a read does not find.
const MAX_EMPTY_REPLAYS: u32 = 10;

/// If the connection was lost during an append, how long after its start the committer keeps trying to determine the outcome.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(15);

/// The pause between two attempts to determine an outcome.
const OUTCOME_RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// The committer, with the receiving end of the queue.
pub struct Committer {
    queue: mpsc::Receiver<PendingProposal>,
    /// Proposals received from the queue that are in no batch yet.
    received: Vec<PendingProposal>,
    mirror: Arc<Mirror>,
    store: Arc<dyn Store>,
    writer: Box<dyn Writer>,
    clock: Arc<dyn Clock>,
    /// Closes times for readers, between batches.
    closer: TimeCloser,
    dates: DateMonitor,
    outage: Outage,
}

/// What to do with a batch after an attempt to append it.
enum BatchAction {
    /// Answer its callers: it is appended.
    Answer,
    /// Follow the log, which has moved, and decide again.
    CatchUp,
    /// Answer the requests that are stored already, and decide the others again.
    Replay,
    /// Append each proposal alone, to find the one that the database refuses.
    Split(String),
}

/// A proposal that wrote nothing.
struct Unwritten {
    pending: PendingProposal,
    decision: Decision,
    /// The user whose request it is, as the decision found.
    owner: Option<RequestOwner>,
}

/// The outcome of an append whose connection was lost.
enum CommitOutcome {
    /// The log holds the step.
    Committed,
    /// The log does not hold it.
    NotCommitted,
    /// The entries at its revisions were trimmed: the outcome can no longer be determined.
    Trimmed,
}

impl Committer {
    /// A committer and its queue, which holds up to `queue` proposals and rejects more.
    pub fn new(mirror: Arc<Mirror>, store: Arc<dyn Store>, clock: Arc<dyn Clock>, queue: usize) -> (Self, Proposals) {
        let (sender, queue) = mpsc::channel(queue);
        let writer = store.writer();
        let received = Vec::with_capacity(MAX_BATCH);
        let closer = TimeCloser::new(Arc::clone(&mirror), Arc::clone(&clock));
        let (dates, outage) = (DateMonitor::default(), Outage::default());
        (Self { queue, received, mirror, store, writer, clock, closer, dates, outage }, Proposals { queue: sender })
    }

    /// Runs until `stop` is cancelled or every [`Proposals`] is dropped. Then answers all queued proposals, closes its connection
    /// and returns.
    pub async fn run(mut self, stop: CancellationToken) {
        self.commit_all(stop).await;
        self.writer.close().await;
    }

    async fn commit_all(&mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                received = self.queue.recv_many(&mut self.received, MAX_BATCH) => if received == 0 { return },
                () = stop.cancelled(), if !self.queue.is_closed() => self.queue.close(),
                () = self.closer.until_due() => self.closer.close(&mut *self.writer, &*self.store).await,
            }
            while !self.received.is_empty() {
                let mut batch = Vec::new();
                self.fill_batch(&mut batch);
                if !batch.is_empty() {
                    self.commit(batch, true).await;
                    self.closer.close(&mut *self.writer, &*self.store).await;
                }
            }
        }
    }

    /// Fills the batch up to its limits. Drops proposals whose callers have gone, so the batch may stay empty. Takes at least one from
    /// the queue if the batch is empty: otherwise one that exceeded the limits would stop the committer.
    fn fill_batch(&mut self, batch: &mut Vec<PendingProposal>) {
        while self.received.len() < MAX_BATCH
            && let Ok(pending) = self.queue.try_recv()
        {
            self.received.push(pending);
        }
        let mut entries: usize = batch.iter().map(|pending| pending.proposal.command.weight()).sum();
        let fits = self.received.iter().take(MAX_BATCH.saturating_sub(batch.len())).take_while(|pending| {
            entries += pending.proposal.command.weight();
            entries <= MAX_BATCH_ENTRIES
        });
        let count = fits.count().max(usize::from(batch.is_empty())).min(self.received.len());
        let now = Instant::now();
        batch.extend(self.received.drain(..count).filter_map(|pending| pending.begin(now)));
    }

    /// Commits a batch, and then the proposals that had to wait for it. Each round has fewer, since the first proposal of a batch
    /// is never deferred.
    async fn commit(&mut self, mut batch: Vec<PendingProposal>, may_grow: bool) {
        while !batch.is_empty() {
            batch = self.commit_once(batch, may_grow).await;
        }
    }

    /// Decides and appends a batch, and answers its callers. Returns proposals that must be decided after it.
    ///
    /// If another replica appended first and `may_grow` is set, waiting proposals join the batch: with several replicas each
    /// gets fewer turns, and then writes more. A part of a split batch must not grow, or waiting proposals would overtake the
    /// rest of it.
    async fn commit_once(&mut self, mut batch: Vec<PendingProposal>, may_grow: bool) -> Vec<PendingProposal> {
        let (mut losses, mut empty_replays) = (0, 0);
        let mut deferred = Vec::new();
        while !batch.is_empty() {
            let Some(step) = self.decide(&batch) else {
                reject_all(batch, &Error::DatabaseUnavailable);
                break;
            };
            let span = batch.first().map(|first| traces::commit_span(&first.span, batch.len()));
            let next = match self.append(&step).instrument(span.unwrap_or_else(Span::none)).await {
                Ok(next) => next,
                Err(error) => {
                    reject_all(batch, &error);
                    break;
                }
            };
            let result = match next {
                BatchAction::Answer => {
                    self.answer_batch(batch, step).await;
                    break;
                }
                BatchAction::CatchUp => {
                    losses += 1;
                    let caught_up = self.catch_up(losses).await;
                    if caught_up.is_ok() && may_grow {
                        self.fill_batch(&mut batch);
                    }
                    caught_up
                }
                BatchAction::Replay => {
                    let before = batch.len();
                    let replayed = self.replay(&mut batch, &mut deferred, &step).await;
                    empty_replays += u32::from(batch.len() == before);
                    replayed.and_then(|()| check_replays(empty_replays))
                }
                BatchAction::Split(problem) => {
                    self.split(batch, problem).await;
                    break;
                }
            };
            if let Err(error) = result {
                let error = self.outage.not_written(error);
                reject_all(batch, &error);
                break;
            }
        }
        deferred
    }

    fn decide(&self, batch: &[PendingProposal]) -> Option<Step> {
        let now = self.clock.now();
        self.mirror.read(|state| advance(state, batch.iter().map(|pending| &pending.proposal), now, &mut Uuid::now_v7))
    }

    /// Appends a step, and determines the outcome if the connection is lost meanwhile.
    ///
    /// To determine it, the same step is appended again. The append is conditional on the head, so the step cannot be written twice.
    /// If the condition fails, the entry after that head shows whether this step was committed. That holds even if the lost statement
    /// reaches the database later, since both attempts are the same.
    async fn append(&mut self, step: &Step) -> Result<BatchAction, Error> {
        let deadline = Instant::now() + OUTCOME_TIMEOUT;
        let mut is_outcome_unknown = false;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let start = Instant::now();
            let outcome = self.writer.append(step).await;
            metrics::record_append(&outcome, start.elapsed());
            let next = match outcome {
                Ok(AppendOutcome::Appended) => {
                    if !step.is_empty() {
                        self.outage.end();
                    }
                    return Ok(BatchAction::Answer);
                }
                Ok(AppendOutcome::RequestExists) => return Ok(BatchAction::Replay),
                Ok(AppendOutcome::HeadMoved) => Ok(BatchAction::CatchUp),
                Ok(AppendOutcome::Refused(problem)) => Ok(BatchAction::Split(problem)),
                Err(error) => {
                    self.store.usability().record_error(&error);
                    Err(error)
                }
            };
            is_outcome_unknown |= matches!(next, Err(StoreError::OutcomeUnknown(_)));
            let error = match next {
                next if !is_outcome_unknown => return next.map_err(|error| self.outage.not_written(error)),
                Ok(next) => match self.determine_outcome(step).await {
                    Ok(CommitOutcome::Committed) => return Ok(BatchAction::Answer),
                    Ok(CommitOutcome::NotCommitted) => return Ok(next),
                    Ok(CommitOutcome::Trimmed) => {
                        tracing::error!("commit outcome unknown: the step's revisions were trimmed");
                        return Err(Error::CommitOutcomeUnknown);
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if Instant::now() > deadline {
                tracing::error!(%error, attempt, "commit outcome unknown");
                return Err(Error::CommitOutcomeUnknown);
            }
            tracing::warn!(%error, attempt, "connection lost during append; determining the outcome");
            tokio::time::sleep(OUTCOME_RETRY_INTERVAL).await;
        }
    }

    /// Looks for a step's first entry in the log. A step without entries counts as not committed: if its requests were stored, the
    /// next append finds them.
    async fn determine_outcome(&self, step: &Step) -> Result<CommitOutcome, StoreError> {
        let Some(first) = step.entries.first() else { return Ok(CommitOutcome::NotCommitted) };
        if let Some((id, _)) = with_timeout(READ_TIMEOUT, self.store.entry_at(first.revision)).await? {
            if id != first.id {
                return Ok(CommitOutcome::NotCommitted);
            }
            with_timeout(READ_TIMEOUT, self.store.confirm_durable()).await?;
            return Ok(CommitOutcome::Committed);
        }
        let head = with_timeout(READ_TIMEOUT, self.store.head()).await?;
        Ok(if head.floor >= first.revision { CommitOutcome::Trimmed } else { CommitOutcome::NotCommitted })
    }

    /// Follows the log to its new head. After a few lost races it also locks the head, so that the next append succeeds.
    async fn catch_up(&mut self, losses: u32) -> Result<(), StoreError> {
        if losses > MAX_LOSSES {
            return Err(StoreError::Unavailable(format!("lost {losses} races for the head of the log").into()));
        }
        if losses >= LOCK_AFTER_LOSSES {
            self.writer.lock_head().await?;
        }
        let followed = with_timeout(READ_TIMEOUT, self.mirror.follow(&*self.store)).await;
        if followed.is_err() {
            // Unlocks the head by dropping the connection, since the next append may be long in coming.
            self.writer = self.store.writer();
        }
        followed
    }

    /// Moves the mirror, then answers. Proposals that wrote nothing may be retries of stored requests.
    async fn answer_batch(&mut self, batch: Vec<PendingProposal>, step: Step) {
        metrics::record_batch(batch.len());
        self.dates.check(&step);
        self.mirror.apply(&step.base, step.head, &step.delta);
        let mut unwritten = Vec::new();
        for ((pending, decision), owner) in batch.into_iter().zip(step.decisions).zip(step.owners) {
            let result = match decision {
                Decision::Accepted(answer) if !pending.proposal.validate_only => Ok(Reply::Answer(answer)),
                Decision::Replayed(response) => Ok(Reply::Replayed(response)),
                decision => {
                    unwritten.push(Unwritten { pending, decision, owner });
                    continue;
                }
            };
            answer(pending, result);
        }
        if !unwritten.is_empty() {
            self.answer_unwritten(unwritten).await;
        }
    }

    /// Appends each proposal of a refused batch alone, so that only the faulty one fails.
    async fn split(&mut self, mut batch: Vec<PendingProposal>, problem: String) {
        if batch.len() == 1 {
            return reject_all(batch, &Error::internal(format!("the database refuses a change: {problem}")));
        }
        for pending in batch.drain(..) {
            Box::pin(self.commit(vec![pending], false)).await;
        }
    }
}

/// Fails when replays answer no proposal again and again, since no retry would change that.
fn check_replays(empty: u32) -> Result<(), StoreError> {
    if empty > MAX_EMPTY_REPLAYS {
        let problem = "a request of the batch is reported as stored, and cannot be read";
        return Err(StoreError::Unavailable(problem.into()));
    }
    Ok(())
}

fn answer(pending: PendingProposal, result: Result<Reply, Error>) {
    // Fails only if the caller has disconnected.
    let _ = pending.reply.send(result);
}

fn reject_all(batch: Vec<PendingProposal>, error: &Error) {
    for pending in batch {
        answer(pending, Err(error.clone()));
    }
}
