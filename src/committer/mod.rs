//! The one writer. It takes all proposals that are waiting, decides them on the mirror's state, appends them as one
//! transaction, moves the mirror, and answers; by then the next batch has gathered. No timer is involved: an idle
//! server answers at once, a busy one batches.
//!
//! It runs as a task of its own, so that a caller who goes away cannot leave anything half done.

mod meter;
mod proposals;
mod replay;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};
use uuid::Uuid;

use crate::domain::advance::{Step, Verdict, advance};
use crate::domain::error::Error;
use crate::domain::time::Clock;
use crate::mirror::Mirror;
use crate::store::{Appended, Store, StoreError, Writer, in_time};
use crate::telemetry::traces;
use proposals::Waiting;
pub use proposals::{Proposals, Reply};

/// Proposals in one batch at the most.
const BATCH: usize = 512;

/// Entries in one batch at about the most: one proposal may bring a thousand.
const BATCH_ENTRIES: usize = 2_000;

/// How long a read may take that the writing waits for.
const READ_PATIENCE: Duration = Duration::from_secs(5);

/// After losing the race for the head so many times in a row, wait for a turn instead.
const LOSSES: u32 = 3;

/// After so many, something is wrong that trying on will not mend.
const MOST_LOSSES: u32 = 100;

/// How long to go on asking what became of an append whose connection was lost.
const OUTCOME_PATIENCE: Duration = Duration::from_secs(15);

/// How long to wait between two such questions.
const OUTCOME_PAUSE: Duration = Duration::from_millis(200);

/// The writer's side of the queue.
pub struct Committer {
    queue: mpsc::Receiver<Waiting>,
    /// Taken out of the queue, and in no batch yet.
    gathered: Vec<Waiting>,
    mirror: Arc<Mirror>,
    store: Arc<dyn Store>,
    writer: Box<dyn Writer>,
    clock: Arc<dyn Clock>,
}

/// How a batch goes on after an attempt to append it.
enum Next {
    /// It is appended.
    Appended,
    /// The log has moved: catch up and decide again.
    CatchUp,
    /// Some of its requests were made before: answer those and decide the others again.
    Replay,
    /// The database does not take it: find out which proposal it is.
    Split(String),
}

/// What the log tells of a step whose append was in doubt.
enum Fate {
    /// It stands.
    Stands,
    /// It does not.
    Lost,
    /// Nobody will know any more: what stood there was trimmed since.
    Trimmed,
}

impl Committer {
    /// A committer, and where to hand in proposals: so many may wait, and more are turned away.
    pub fn new(mirror: Arc<Mirror>, store: Arc<dyn Store>, clock: Arc<dyn Clock>, queue: usize) -> (Self, Proposals) {
        let (sender, queue) = mpsc::channel(queue);
        let writer = store.writer();
        let gathered = Vec::with_capacity(BATCH);
        (Self { queue, gathered, mirror, store, writer, clock }, Proposals { queue: sender })
    }

    /// Works until it is told to stop, or every [`Proposals`] is gone, and everything that was handed in is answered.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                received = self.queue.recv_many(&mut self.gathered, BATCH) => if received == 0 { return },
                () = stop.cancelled(), if !self.queue.is_closed() => self.queue.close(),
            }
            while !self.gathered.is_empty() {
                let mut batch = Vec::new();
                self.take_up(&mut batch);
                if !batch.is_empty() {
                    self.commit(batch, true).await;
                }
            }
        }
    }

    /// Takes up those who wait, as many as do not make the transaction too heavy, and at least one if there is nobody in the
    /// batch yet.
    fn take_up(&mut self, batch: &mut Vec<Waiting>) {
        while self.gathered.len() < BATCH
            && let Ok(waiting) = self.queue.try_recv()
        {
            self.gathered.push(waiting);
        }
        let mut entries: usize = batch.iter().map(|waiting| waiting.proposal.command.weight()).sum();
        let fits = self.gathered.iter().take(BATCH.saturating_sub(batch.len())).take_while(|waiting| {
            entries += waiting.proposal.command.weight();
            entries <= BATCH_ENTRIES
        });
        let portion = fits.count().max(usize::from(batch.is_empty())).min(self.gathered.len());
        // Whoever cancelled, or ran out of time, while they waited is left alone.
        let taken = |waiting: &Waiting| !waiting.reply.is_closed() && !waiting.settled.swap(true, Ordering::AcqRel);
        batch.extend(self.gathered.drain(..portion).filter(taken));
    }

    /// Decides and appends a batch, and answers everyone in it. One that may grow takes others along when it was overtaken: where
    /// several servers write, each has its turn less often, and then writes more. One of a split batch does not: those who wait
    /// would come before the rest of it.
    async fn commit(&mut self, mut batch: Vec<Waiting>, may_grow: bool) {
        let mut losses = 0;
        while !batch.is_empty() {
            let Some(step) = self.decide(&batch) else {
                return refuse(batch, &Error::DatabaseUnavailable);
            };
            let span = batch.first().map(|first| traces::commit(&first.span, batch.len()));
            let next = match self.append(&step).instrument(span.unwrap_or_else(Span::none)).await {
                Ok(next) => next,
                Err(error) => return refuse(batch, &error),
            };
            let result = match next {
                Next::Appended => return self.settle(batch, step).await,
                Next::CatchUp => {
                    losses += 1;
                    let caught_up = self.catch_up(losses).await;
                    if caught_up.is_ok() && may_grow {
                        self.take_up(&mut batch);
                    }
                    caught_up
                }
                Next::Replay => self.replay(&mut batch, &step).await,
                Next::Split(problem) => return self.split(batch, problem).await,
            };
            if let Err(error) = result {
                return refuse(batch, &unavailable(&error));
            }
        }
    }

    fn decide(&self, batch: &[Waiting]) -> Option<Step> {
        let now = self.clock.now();
        self.mirror.read(|state| advance(state, batch.iter().map(|w| &w.proposal), now, &mut Uuid::now_v7))
    }

    /// Appends a step, and finds out whether it did when the connection is lost in between.
    ///
    /// The same step is simply appended again: it is conditional on the same head, so it cannot be written twice, and
    /// if it is not taken, the entry that stands next to that head tells whether it was this step that moved it. That holds
    /// even if the lost statement is still on its way to the database: it and the second attempt are the same.
    async fn append(&mut self, step: &Step) -> Result<Next, Error> {
        let give_up = Instant::now() + OUTCOME_PATIENCE;
        let mut in_doubt = false;
        loop {
            let began = Instant::now();
            let outcome = self.writer.append(step).await;
            meter::appended(&outcome, began.elapsed());
            let next = match outcome {
                Ok(Appended::Done) => return Ok(Next::Appended),
                Ok(Appended::RequestExists) => return Ok(Next::Replay),
                Ok(Appended::HeadMoved) => Ok(Next::CatchUp),
                Ok(Appended::Refused(problem)) => Ok(Next::Split(problem)),
                Err(problem) => Err(problem),
            };
            in_doubt |= matches!(next, Err(StoreError::OutcomeUnknown(_)));
            let problem = match next {
                next if !in_doubt => return next.map_err(|problem| unavailable(&problem)),
                Ok(next) => match self.fate(step).await {
                    Ok(Fate::Stands) => return Ok(Next::Appended),
                    Ok(Fate::Lost) => return Ok(next),
                    Ok(Fate::Trimmed) => {
                        tracing::error!(
                            "what became of a batch could not be learnt: what stood there was trimmed since"
                        );
                        return Err(Error::CommitOutcomeUnknown);
                    }
                    Err(problem) => problem,
                },
                Err(problem) => problem,
            };
            if Instant::now() > give_up {
                tracing::error!(%problem, "what became of a batch could not be learnt");
                return Err(Error::CommitOutcomeUnknown);
            }
            tracing::warn!(%problem, "lost the database while appending; asking what became of it");
            tokio::time::sleep(OUTCOME_PAUSE).await;
        }
    }

    /// What became of a step, by its first entry. A step without entries changed nothing that could be asked for; its
    /// requests, if they are there, are found as such.
    async fn fate(&self, step: &Step) -> Result<Fate, StoreError> {
        let Some(first) = step.entries.first() else { return Ok(Fate::Lost) };
        if let Some((id, _)) = in_time(READ_PATIENCE, self.store.entry_at(first.revision)).await? {
            if id != first.id {
                return Ok(Fate::Lost);
            }
            in_time(READ_PATIENCE, self.store.secure()).await?;
            return Ok(Fate::Stands);
        }
        let head = in_time(READ_PATIENCE, self.store.head()).await?;
        Ok(if head.floor >= first.revision { Fate::Trimmed } else { Fate::Lost })
    }

    /// Follows the log to where it has moved, and after a few losses keeps it from moving on before our next append.
    async fn catch_up(&mut self, losses: u32) -> Result<(), StoreError> {
        if losses > MOST_LOSSES {
            return Err(StoreError::Unavailable(format!("{losses} lost races for the head of the log")));
        }
        if losses >= LOSSES {
            self.writer.hold_head().await?;
        }
        let followed = in_time(READ_PATIENCE, self.mirror.follow(&*self.store)).await;
        if followed.is_err() {
            // There may be no next append soon: a new connection lets go of the head.
            self.writer = self.store.writer();
        }
        followed
    }

    /// Moves the mirror, then answers. Those who were refused but named their request may have made it before.
    async fn settle(&self, batch: Vec<Waiting>, step: Step) {
        meter::settled(batch.len());
        self.mirror.apply(&step.base, step.head, &step.delta);
        let mut refused = Vec::new();
        for (waiting, verdict) in batch.into_iter().zip(step.verdicts) {
            let result = match verdict {
                Verdict::Accepted(answer) if !waiting.proposal.validate_only => Ok(Reply::Answer(answer)),
                Verdict::Replayed(response) => Ok(Reply::Replayed(response)),
                verdict => {
                    refused.push((waiting, verdict));
                    continue;
                }
            };
            answer(waiting, result);
        }
        if !refused.is_empty() {
            self.settle_unwritten(refused).await;
        }
    }

    /// One bad proposal fails alone: each is appended by itself, and the one that is refused then is the one.
    async fn split(&mut self, mut batch: Vec<Waiting>, problem: String) {
        if batch.len() == 1 {
            return refuse(batch, &Error::Internal(format!("the database refuses a change: {problem}")));
        }
        for waiting in batch.drain(..) {
            Box::pin(self.commit(vec![waiting], false)).await;
        }
    }
}

fn answer(waiting: Waiting, result: Result<Reply, Error>) {
    // A caller who went away does not mind.
    let _ = waiting.reply.send(result);
}

/// One defect is told of once, however many it meets.
fn refuse(batch: Vec<Waiting>, error: &Error) {
    let mut error = error.clone();
    for waiting in batch {
        let next = if matches!(error, Error::Internal(_)) { Error::Told } else { error.clone() };
        answer(waiting, Err(std::mem::replace(&mut error, next)));
    }
}

/// What a caller is told of a database that failed before anything was written.
fn unavailable(error: &StoreError) -> Error {
    match error {
        StoreError::Unavailable(_) => {
            tracing::warn!(%error, "a batch was not written");
            Error::DatabaseUnavailable
        }
        error => Error::Internal(format!("a batch was not written: {error}")),
    }
}
