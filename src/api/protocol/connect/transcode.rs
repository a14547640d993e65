//! The inner half: the bodies of Connect calls, between the layers and the services. Other calls pass unchanged.

use std::task::{Context, Poll};

use futures::future::{BoxFuture, Either, FutureExt};
use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use super::{ConnectCall, grpc_body};
use crate::api::middleware::limits::max_message_bytes;
use crate::config::FixedLimits;

/// Puts [`Transcode`] around services.
#[derive(Clone)]
pub(in crate::api) struct TranscodeLayer {
    limits: FixedLimits,
}

impl TranscodeLayer {
    /// A layer that limits requests by `limits`.
    pub fn new(limits: FixedLimits) -> Self {
        Self { limits }
    }
}

impl<S> Layer<S> for TranscodeLayer {
    type Service = Transcode<S>;

    fn layer(&self, inner: S) -> Transcode<S> {
        Transcode { limits: self.limits.clone(), inner }
    }
}

/// Services inside the layer.
#[derive(Clone)]
pub(in crate::api) struct Transcode<S> {
    limits: FixedLimits,
    inner: S,
}

impl<S> Service<Request<Body>> for Transcode<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(call) = request.extensions_mut().remove::<ConnectCall>() else {
            return Either::Left(self.inner.call(request));
        };
        let max_bytes = max_message_bytes(&self.limits, &call.0.method);
        let answer = self.inner.call(request.map(|body| grpc_body(&call, body, max_bytes)));
        let answer = async move {
            let response = answer.await?;
            Ok(call.encode_answer(response).await)
        };
        Either::Right(answer.boxed())
    }
}
