//! The committer's queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::Span;

use crate::domain::advance::{Answer, Proposal};
use crate::domain::error::Error;
use crate::telemetry::request;

/// The reply to a proposal.
#[derive(Debug, Clone)]
pub enum Reply {
    /// It was decided now, and written unless it changed nothing.
    Answer(Answer),
    /// It is a retry: the encoded answer to the first request.
    Replayed(Vec<u8>),
}

/// The sending end of the committer's queue.
#[derive(Clone)]
pub struct Proposals {
    pub(super) queue: mpsc::Sender<PendingProposal>,
}

/// A proposal in the queue.
pub(super) struct PendingProposal {
    pub proposal: Proposal,
    pub reply: oneshot::Sender<Result<Reply, Error>>,
    /// Set by the committer when it takes the proposal: the caller then waits for the outcome. Set by the caller if its deadline
    /// passes first: the committer then skips the proposal.
    pub claimed: Arc<AtomicBool>,
    /// The span of the caller's request.
    pub span: Span,
}

impl Proposals {
    /// Proposes a change and waits for the reply. A change that the committer has taken is finished, even if the caller stops
    /// waiting. A change that it has not taken by `deadline` is never made.
    ///
    /// # Errors
    /// Why the change was not made; or [`Error::CommitOutcomeUnknown`] if it may have been made.
    pub async fn propose(&self, proposal: Proposal, deadline: Option<Instant>) -> Result<Reply, Error> {
        let (reply, mut answer) = oneshot::channel();
        let claimed = Arc::new(AtomicBool::new(false));
        let pending = PendingProposal { proposal, reply, claimed: Arc::clone(&claimed), span: request::current_span() };
        self.queue.try_send(pending).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Error::QueueFull,
            mpsc::error::TrySendError::Closed(_) => Error::Draining,
        })?;
        if let Some(deadline) = deadline {
            match tokio::time::timeout_at(deadline, &mut answer).await {
                Ok(answered) => return answered.unwrap_or_else(|_| Err(no_answer(&claimed))),
                Err(_) if !claimed.swap(true, Ordering::AcqRel) => return Err(Error::DeadlineBeforeStart),
                // The committer has taken it: only the outcome of the commit is the truth.
                Err(_) => {}
            }
        }
        answer.await.unwrap_or_else(|_| Err(no_answer(&claimed)))
    }
}

/// The error when the committer ends without an answer. A proposal that it had not taken is not written.
fn no_answer(claimed: &AtomicBool) -> Error {
    if claimed.load(Ordering::Acquire) { Error::CommitOutcomeUnknown } else { Error::Draining }
}
