//! The request that is being answered, for whoever tells of what happens meanwhile.
//!
//! It goes with the task rather than from hand to hand: errors and panics come from anywhere below.

use std::fmt;
use std::sync::{Arc, OnceLock};

use tracing::Span;

use super::traces::{TraceId, Traced};

tokio::task_local! {
    static CURRENT: Arc<Request>;
}

/// What is known of a request, more and more as it goes on. What is noted first stays.
#[derive(Debug)]
pub struct Request {
    /// The trace that it belongs to.
    pub trace_id: TraceId,
    /// Its span; disabled unless traces are collected.
    pub span: Span,
    /// What is called: `toggled.v1.ToggleService/ToggleFeatureFlag`, for one.
    pub method: Arc<str>,
    caller: OnceLock<Caller>,
    revision: OnceLock<i64>,
    reason: OnceLock<&'static str>,
}

/// Who calls, without anything that tells a stranger who that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A user, by their id.
    User(uuid::Uuid),
    /// An account of the single sign-on that is no user yet, by the beginning of a hash.
    Account([u8; 8]),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => id.fmt(f),
            Self::Account(hash) => write!(f, "account-{:016x}", u64::from_be_bytes(*hash)),
        }
    }
}

impl Request {
    /// A request of which no more is known yet.
    pub fn new(method: Arc<str>, traced: Traced) -> Arc<Self> {
        let Traced { id: trace_id, span } = traced;
        let (caller, revision, reason) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Arc::new(Self { trace_id, span, method, caller, revision, reason })
    }

    /// Goes with what `future` does.
    pub async fn scope<F: Future>(self: Arc<Self>, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    /// Goes with what `act` does.
    pub fn enter<T>(self: &Arc<Self>, act: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(Arc::clone(self), act)
    }

    /// The one that is being answered here, if one is.
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Who calls, once that is known.
    pub fn caller(&self) -> Option<Caller> {
        self.caller.get().copied()
    }

    /// The revision of the log at which it changed something.
    pub fn revision(&self) -> Option<i64> {
        self.revision.get().copied()
    }

    /// Why it failed, by the name of its ErrorReason.
    pub fn reason(&self) -> Option<&'static str> {
        self.reason.get().copied()
    }
}

/// Notes who makes the request that is being answered here.
pub fn note_caller(caller: Caller) {
    note(|request| &request.caller, caller);
}

/// Notes at which revision it changed something.
pub fn note_revision(revision: i64) {
    note(|request| &request.revision, revision);
}

/// Notes why it failed.
pub fn note_reason(reason: &'static str) {
    note(|request| &request.reason, reason);
}

fn note<T>(field: impl FnOnce(&Request) -> &OnceLock<T>, value: T) {
    // Nothing is answered outside of a request.
    let _ = CURRENT.try_with(|request| field(request).set(value));
}

/// The span of the request that is being answered here; a disabled one if none is.
pub fn span() -> Span {
    CURRENT.try_with(|request| request.span.clone()).unwrap_or_else(|_| Span::none())
}
