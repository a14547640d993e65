//! The layer around all others: what every call came to is logged, counted and traced when it ends, a stream's when the
//! stream does; and a call that panics takes nothing else with it.

mod body;
mod code;
mod series;
mod watched;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::api::protocol::{Wire, needs_http2};
use crate::auth::policy::Policies;
use crate::domain::error::Error;
use body::follow;
use series::Methods;
use watched::Watched;

/// Puts [`Observe`] around a service.
#[derive(Clone)]
pub struct ObserveLayer {
    methods: Arc<Methods>,
    calls: TaskTracker,
}

impl ObserveLayer {
    /// A layer that knows these methods; what else is called is counted as unknown. `calls` holds those under way that are
    /// no streams.
    pub(in crate::api) fn new(policies: Arc<Policies>, calls: TaskTracker) -> Self {
        Self { methods: Arc::new(Methods::new(policies)), calls }
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
pub struct Observe<S> {
    layer: ObserveLayer,
    inner: S,
}

impl<S> Service<Request<Body>> for Observe<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let wire = Wire::of(&request);
        let watched = Watched::begin(&self.layer.methods, &self.layer.calls, &request, wire);
        let answer = catch_unwind(AssertUnwindSafe(|| watched.record().enter(|| self.inner.call(request))));
        Answer { answer: answer.ok(), wire, watched: Some(watched) }
    }
}

pin_project! {
    /// An answer that is waited for. No box, and nothing is moved: every read comes by here.
    pub struct Answer<F> {
        // `None` if it panicked before there was one.
        #[pin]
        answer: Option<F>,
        wire: Option<Wire>,
        // `None` once it is there.
        watched: Option<Watched>,
    }
}

impl<F, E> Future for Answer<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        // Whoever polls once more after the end has nothing to wait for.
        let Some(watched) = this.watched.take() else { return Poll::Pending };
        let record = watched.record();
        let poll = |answer: Pin<&mut F>| catch_unwind(AssertUnwindSafe(|| record.enter(|| answer.poll(context))));
        let response = match this.answer.as_mut().as_pin_mut().map(poll) {
            Some(Ok(Poll::Pending)) => {
                *this.watched = Some(watched);
                return Poll::Pending;
            }
            Some(Ok(Poll::Ready(answered))) => answered?,
            Some(Err(_)) | None => record.enter(|| this.wire.map_or_else(needs_http2, |wire| wire.refuse(Error::Told))),
        };
        Poll::Ready(Ok(follow(watched, response)))
    }
}

#[cfg(test)]
mod tests;
