//! Where changes are handed in, and what comes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::Span;

use crate::domain::advance::{Answer, Proposal};
use crate::domain::error::Error;
use crate::telemetry::request;

/// What a proposal came to.
#[derive(Debug, Clone)]
pub enum Reply {
    /// It was decided now.
    Answer(Answer),
    /// It is a retry: the encoded answer to the first time.
    Replayed(Vec<u8>),
}

/// Where proposals are handed in.
#[derive(Clone)]
pub struct Proposals {
    pub(super) queue: mpsc::Sender<Waiting>,
}

/// A proposal in the queue.
pub(super) struct Waiting {
    pub proposal: Proposal,
    pub reply: oneshot::Sender<Result<Reply, Error>>,
    /// Set by whoever is first: the committer, who takes it up, or the caller, whose deadline has come. The other then
    /// leaves it.
    pub settled: Arc<AtomicBool>,
    /// Of the request that it came with.
    pub span: Span,
}

impl Proposals {
    /// Proposes a change and waits for what comes of it. Whoever stops waiting may have been too late: what was taken up
    /// is finished. What was not taken up by `deadline` is not executed at all.
    ///
    /// # Errors
    /// Why the change was not made.
    pub async fn propose(&self, proposal: Proposal, deadline: Option<Instant>) -> Result<Reply, Error> {
        let (reply, mut answer) = oneshot::channel();
        let settled = Arc::new(AtomicBool::new(false));
        let waiting = Waiting { proposal, reply, settled: Arc::clone(&settled), span: request::span() };
        self.queue.try_send(waiting).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Error::QueueFull,
            mpsc::error::TrySendError::Closed(_) => Error::Draining,
        })?;
        if let Some(deadline) = deadline {
            match tokio::time::timeout_at(deadline, &mut answer).await {
                Ok(answered) => return answered.unwrap_or_else(|_| Err(unanswered(&settled))),
                Err(_) if !settled.swap(true, Ordering::AcqRel) => return Err(Error::DeadlineBeforeStart),
                // It is being written: only how that ends is the truth.
                Err(_) => {}
            }
        }
        answer.await.unwrap_or_else(|_| Err(unanswered(&settled)))
    }
}

/// The committer is gone without a word. What it had not taken up is not written; of what it had, nobody knows.
fn unanswered(settled: &AtomicBool) -> Error {
    if settled.load(Ordering::Acquire) { Error::CommitOutcomeUnknown } else { Error::Draining }
}
