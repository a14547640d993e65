//! The layer around all others: what every call came to is logged, counted and traced when it ends, a stream's when the
//! stream does; and a call that panics takes nothing else with it.

mod body;
mod code;
mod series;
mod watched;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{BoxFuture, FutureExt};
use http::{Request, Response};
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower::{Layer, Service};

use super::wire::{Wire, needs_http2};
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
    pub(super) fn new(policies: Arc<Policies>, calls: TaskTracker) -> Self {
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
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The instance that was polled is the one that is ready.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let wire = Wire::of(&request);
        let watched = Watched::begin(&self.layer.methods, &self.layer.calls, &request, wire);
        async move {
            let record = Arc::clone(watched.record());
            let answer = AssertUnwindSafe(Arc::clone(&record).scope(async move { inner.call(request).await }));
            let response = match answer.catch_unwind().await {
                Ok(answered) => answered?,
                Err(_) => record.enter(|| wire.map_or_else(needs_http2, |wire| wire.refuse(Error::Told))),
            };
            Ok(follow(watched, response))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
