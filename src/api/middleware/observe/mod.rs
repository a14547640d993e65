//! The layer around all others but `protocol/translate`: logs, counts and traces every call when it ends. A panic becomes an internal error of its call alone. A stream's
//! call ends with the stream.

mod body;
mod call;
mod code;
mod metrics;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Response;
use pin_project_lite::pin_project;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::api::errors::ApiError;
use crate::api::protocol::{Protocol, ReadRequest};
use crate::auth::policy::Policies;
use body::track;
use call::TrackedCall;
use metrics::MethodMetrics;

/// Puts [`Observe`] around a service.
#[derive(Clone)]
pub(in crate::api) struct ObserveLayer {
    methods: Arc<MethodMetrics>,
    calls: TaskTracker,
}

impl ObserveLayer {
    /// A layer that counts calls of the methods in `policies`, and all others as unknown. `calls` tracks open calls that are not
    /// streams.
    pub(in crate::api) fn new(policies: Arc<Policies>, calls: TaskTracker) -> Self {
        Self { methods: Arc::new(MethodMetrics::new(policies)), calls }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { layer: self.clone(), inner }
    }
}

/// A service inside the layer.
#[derive(Clone)]
pub(in crate::api) struct Observe<S> {
    layer: ObserveLayer,
    inner: S,
}

impl<S> Service<ReadRequest> for Observe<S>
where
    S: Service<ReadRequest, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ObservedResponse<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, read: ReadRequest) -> Self::Future {
        let protocol = read.protocol.as_ref().ok().copied();
        let tracked = TrackedCall::begin(&self.layer.methods, &self.layer.calls, &read.request, protocol);
        let answer = catch_unwind(AssertUnwindSafe(|| tracked.request_context().enter(|| self.inner.call(read))));
        ObservedResponse { answer: answer.ok(), protocol, tracked: Some(tracked) }
    }
}

pin_project! {
    /// The future of an answer. Neither boxed nor moved: every read passes here.
    pub(in crate::api) struct ObservedResponse<F> {
        // `None` if the service panicked before it returned a future.
        #[pin]
        answer: Option<F>,
        protocol: Option<Protocol>,
        // `None` once the answer is ready.
        tracked: Option<TrackedCall>,
    }
}

impl<F, E> Future for ObservedResponse<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        // Polled again after it was ready: nothing more will come.
        let Some(tracked) = this.tracked.take() else { return Poll::Pending };
        let request = tracked.request_context();
        let poll = |answer: Pin<&mut F>| catch_unwind(AssertUnwindSafe(|| request.enter(|| answer.poll(context))));
        let response = match this.answer.as_mut().as_pin_mut().map(poll) {
            Some(Ok(Poll::Pending)) => {
                *this.tracked = Some(tracked);
                return Poll::Pending;
            }
            Some(Ok(Poll::Ready(answered))) => answered?,
            Some(Err(_)) | None => request.enter(|| this.protocol.unwrap_or(Protocol::Grpc).refuse(ApiError::Panicked)),
        };
        Poll::Ready(Ok(track(tracked, response)))
    }
}

#[cfg(test)]
mod tests;
