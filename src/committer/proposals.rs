//! The committer's queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::Span;

use crate::domain::advance::{Answer, Proposal};
use crate::domain::error::Error;
use crate::telemetry::request;

/// The reply to a proposal.
#[derive(Debug, Clone)]
pub enum Reply {
    /// It was decided now, and written unless it changed nothing or was only to be validated.
    Answer(Answer),
    /// It is a retry: the encoded answer to the first request.
    Replayed(Vec<u8>),
}

/// The sending end of the committer's queue.
#[derive(Clone)]
pub struct Proposals {
    pub(super) queue: mpsc::Sender<PendingProposal>,
}

/// The start of a change: the committer begins it, or its deadline or caller prevents it, whichever comes first.
#[derive(Debug, Default)]
pub struct ChangeStart {
    /// `None` if the caller waits as long as it takes.
    deadline: Option<Instant>,
    is_proposed: AtomicBool,
    /// One of [`UNDECIDED`], [`BEGUN`] and [`PREVENTED`].
    decision: AtomicU8,
}

const UNDECIDED: u8 = 0;
const BEGUN: u8 = 1;
const PREVENTED: u8 = 2;

impl ChangeStart {
    /// A change that must begin before this time.
    pub fn before(deadline: Instant) -> Arc<Self> {
        Arc::new(Self { deadline: Some(deadline), ..Self::default() })
    }

    /// A change that may begin at any time.
    pub fn at_any_time() -> Arc<Self> {
        Arc::default()
    }

    /// Whether sending the change to the queue has begun. So it is true for every change that the committer can see, and also for one
    /// that the queue refused.
    pub fn is_proposed(&self) -> bool {
        self.is_proposed.load(Ordering::Acquire)
    }

    /// Prevents the change for good. False if it has begun: such a change is finished, whether its caller waits or not.
    pub fn prevent(&self) -> bool {
        self.decide(PREVENTED)
    }

    /// Begins the change. False if it was prevented.
    pub fn begin(&self) -> bool {
        self.decide(BEGUN)
    }

    /// Whether this is the decision. The first one stands: a change is begun or prevented, never both.
    fn decide(&self, wanted: u8) -> bool {
        match self.decision.compare_exchange(UNDECIDED, wanted, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(decided) => decided == wanted,
        }
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.decision.load(Ordering::Acquire) == BEGUN
    }

    fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }
}

/// A proposal in the queue.
pub(super) struct PendingProposal {
    pub proposal: Proposal,
    pub reply: oneshot::Sender<Result<Reply, Error>>,
    pub start: Arc<ChangeStart>,
    /// The span of the caller's request.
    pub span: Span,
}

impl PendingProposal {
    /// Begins the change, unless its caller has cancelled, or its deadline has passed.
    pub fn begin(self, now: Instant) -> Option<Self> {
        if self.start.is_late(now) {
            if self.start.prevent() {
                // Fails only if the caller has disconnected, or was answered at the deadline.
                let _ = self.reply.send(Err(Error::DeadlineBeforeStart));
            }
            return None;
        }
        (!self.reply.is_closed() && self.start.begin()).then_some(self)
    }
}

impl Proposals {
    /// Proposes a change and waits for the reply. A change that the committer has begun is finished, even if the caller stops
    /// waiting. A change that it has not begun by the deadline of `start` is never made.
    ///
    /// # Errors
    /// Why the change was not made; or [`Error::CommitOutcomeUnknown`] if it may have been made.
    pub async fn propose(&self, proposal: Proposal, start: Arc<ChangeStart>) -> Result<Reply, Error> {
        let (reply, answer) = oneshot::channel();
        start.is_proposed.store(true, Ordering::Release);
        let pending = PendingProposal { proposal, reply, start: Arc::clone(&start), span: request::current_span() };
        self.queue.try_send(pending).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Error::QueueFull { max: self.queue.max_capacity() },
            mpsc::error::TrySendError::Closed(_) => Error::Draining,
        })?;
        // If the committer ends before it replies, a change that it had begun may have been written, and one still in the queue was not.
        // A change that the call's deadline prevented gets no reply either. Its caller is answered already, so this error reaches nobody.
        let without_reply = || if start.has_begun() { Error::CommitOutcomeUnknown } else { Error::Draining };
        answer.await.unwrap_or_else(|_| Err(without_reply()))
    }
}
