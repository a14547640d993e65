//! The context of the current request, for log lines, traces and error reports.
//!
//! It is a task-local value, not an argument: errors and panics can occur anywhere below the handler.

use std::fmt;
use std::sync::{Arc, OnceLock};

use tracing::Span;

use super::traces::{RequestTrace, TraceId};

tokio::task_local! {
    static CURRENT: Arc<RequestContext>;
}

/// A request and its attributes. An attribute is set once, when it becomes known; later values are ignored.
#[derive(Debug)]
pub struct RequestContext {
    /// The trace that the request belongs to.
    pub trace_id: TraceId,
    /// The request's span; disabled unless traces are collected.
    pub span: Span,
    /// The name of the method, such as `toggled.v1.ToggleService/ToggleFeatureFlag`.
    pub method: Arc<str>,
    caller: OnceLock<CallerId>,
    revision: OnceLock<i64>,
    reason: OnceLock<&'static str>,
    incomplete: OnceLock<()>,
}

/// A pseudonymous identifier of the caller, for logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerId {
    /// The id of a user.
    User(uuid::Uuid),
    /// The first bytes of a hash of a single sign-on account that has no user yet.
    Account([u8; 8]),
}

impl fmt::Display for CallerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => id.fmt(f),
            Self::Account(hash) => write!(f, "account-{}", hex::encode(hash)),
        }
    }
}

impl RequestContext {
    /// The context of a new request.
    pub fn new(method: Arc<str>, trace: RequestTrace) -> Arc<Self> {
        let RequestTrace { id: trace_id, span } = trace;
        Arc::new(Self {
            trace_id,
            span,
            method,
            caller: OnceLock::new(),
            revision: OnceLock::new(),
            reason: OnceLock::new(),
            incomplete: OnceLock::new(),
        })
    }

    /// Runs `future` with this as the current request.
    pub async fn scope<F: Future>(self: Arc<Self>, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    /// Calls `f` with this as the current request.
    pub fn enter<T>(self: &Arc<Self>, f: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(Arc::clone(self), f)
    }

    /// The current request, if there is one.
    pub fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// The caller, once authenticated.
    pub fn caller(&self) -> Option<CallerId> {
        self.caller.get().copied()
    }

    /// The revision of the change that the request made.
    pub fn revision(&self) -> Option<i64> {
        self.revision.get().copied()
    }

    /// The name of the `ErrorReason` that the request failed with.
    pub fn reason(&self) -> Option<&'static str> {
        self.reason.get().copied()
    }

    /// Whether the client ended the request before all of it had arrived.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete.get().is_some()
    }
}

/// Records the caller of the current request.
pub fn record_caller(caller: CallerId) {
    record(|request| &request.caller, caller);
}

/// Records the revision of the change that the current request made.
pub fn record_revision(revision: i64) {
    record(|request| &request.revision, revision);
}

/// Records the name of the `ErrorReason` that the current request failed with.
pub fn record_reason(reason: &'static str) {
    record(|request| &request.reason, reason);
}

/// Records that the client ended the current request before all of it had arrived.
pub fn record_incomplete() {
    record(|request| &request.incomplete, ());
}

fn record<T>(field: impl FnOnce(&RequestContext) -> &OnceLock<T>, value: T) {
    // Fails outside of a request, where there is nothing to record.
    let _ = CURRENT.try_with(|request| field(request).set(value));
}

/// The span of the current request; a disabled span if there is no request.
pub fn current_span() -> Span {
    CURRENT.try_with(|request| request.span.clone()).unwrap_or_else(|_| Span::none())
}
