//! The one layer that every call passes: who calls, and may they.
//!
//! It lies around all services at once, so that no service and no kind of method can be left out of it, and it lets
//! through only what the policies name. A stream stays under its eyes: it ends when what let its caller in does.

mod authorizer;
mod denials;
mod guard;

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{BoxFuture, Either, FutureExt, Ready, ready};
use http::{Request, Response};
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::api::call::Call;
use crate::api::listener::Peer;
use crate::api::middleware::limits::{OpenStream, Opener, Streams, arriving};
use crate::api::protocol::{Wire, needs_http2};
use crate::auth::policy::{Method, Policy};
use crate::domain::error::Error;
use authorizer::{Admission, Arrived, Unverified};
use guard::guard;

pub(in crate::api) use authorizer::Gate;
pub(in crate::api) use denials::Denials;

/// Puts [`Authorize`] around a service.
#[derive(Clone)]
pub struct AuthorizeLayer(Arc<Shared>);

/// What all calls share: cloned with every call, and so behind one pointer.
struct Shared {
    gate: Arc<Gate>,
    denials: Denials,
    streams: Arc<Streams>,
}

impl AuthorizeLayer {
    /// A layer that lets in whom `gate` admits.
    pub(in crate::api) fn new(gate: Gate, denials: Denials, streams: Arc<Streams>) -> Self {
        Self(Arc::new(Shared { gate: Arc::new(gate), denials, streams }))
    }
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize { layer: self.clone(), inner }
    }
}

/// A service behind the layer.
#[derive(Clone)]
pub struct Authorize<S> {
    layer: AuthorizeLayer,
    inner: S,
}

impl<S> Service<Request<Body>> for Authorize<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(wire) = Wire::of(&request) else { return at_once::<S>(needs_http2()) };
        match self.layer.0.gate.admit(&request) {
            Ok(Arrived::Decided(admission)) => self.layer.pass(wire, admission, &mut self.inner, request),
            Ok(Arrived::Unverified(unverified)) => {
                // The instance that was polled is the one that is ready.
                let fresh = self.inner.clone();
                let inner = std::mem::replace(&mut self.inner, fresh);
                Either::Right(verified(self.layer.clone(), wire, unverified, inner, request))
            }
            Err(error) => at_once::<S>(wire.refuse(error)),
        }
    }
}

/// An answer: at once, the service's own, or one that takes more.
type Answer<S> = Either<Either<Ready<Result<Response<Body>, <S as Service<Request<Body>>>::Error>>, Own<S>>, Later<S>>;
type Own<S> = <S as Service<Request<Body>>>::Future;

impl AuthorizeLayer {
    fn pass<S>(&self, wire: Wire, admission: Admission, inner: &mut S, mut request: Request<Body>) -> Answer<S>
    where
        S: Service<Request<Body>, Response = Response<Body>> + 'static,
        S::Future: Send + 'static,
    {
        let (call, method) = match admission {
            Admission::Public(method) => (None, method),
            Admission::Granted(call, method) => (Some(call), method),
            Admission::Lacking(call, method, permission) if method.changes => {
                let answer = self.0.denials.clone().answer(call, method, permission, request.into_body());
                return Either::Right(answer.map(Ok).boxed());
            }
            Admission::Lacking(_, _, permission) => {
                return at_once::<S>(wire.refuse(Error::PermissionDenied(permission)));
            }
        };
        let by = call.as_ref().map_or_else(|| Instant::now() + self.0.gate.request_timeout, |call| call.deadline);
        if !method.takes_stream {
            request = request.map(|body| arriving(body, by));
        }
        if method.streams {
            return match self.0.streams.open(opener(call.as_ref(), &request)) {
                Ok(open) => {
                    if let Some(call) = call.clone() {
                        request.extensions_mut().insert(call);
                    }
                    Either::Right(watched(inner.call(request), Arc::clone(&self.0.gate), call, method, open).boxed())
                }
                Err(error) => at_once::<S>(wire.refuse(error)),
            };
        }
        if let Some(call) = call {
            request.extensions_mut().insert(call);
        }
        // A change keeps its own time: one that is being written is finished. Memory answers at once.
        if method.changes || method.reads_memory() || method.policy == Policy::Public {
            return Either::Left(Either::Right(inner.call(request)));
        }
        let answer = timeout_at(by, inner.call(request));
        let answer = answer.map(move |answer| answer.unwrap_or_else(|_| Ok(wire.refuse(Error::DeadlineExceeded))));
        Either::Right(answer.boxed())
    }
}

/// An answer for which there is more to wait for.
type Later<S> = BoxFuture<'static, Result<Response<Body>, <S as Service<Request<Body>>>::Error>>;

fn at_once<S: Service<Request<Body>>>(response: Response<Body>) -> Answer<S> {
    Either::Left(Either::Left(ready(Ok(response))))
}

/// A call whose token has to be verified before it is known whose it is.
fn verified<S>(
    layer: AuthorizeLayer,
    wire: Wire,
    unverified: Unverified,
    mut inner: S,
    request: Request<Body>,
) -> Later<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
{
    async move {
        match layer.0.gate.verify(unverified).await {
            Ok(admission) => layer.pass(wire, admission, &mut inner, request).await,
            Err(error) => Ok(wire.refuse(error)),
        }
    }
    .boxed()
}

/// Whose a stream would be.
fn opener(call: Option<&Call>, request: &Request<Body>) -> Opener {
    let address = || request.extensions().get::<Peer>().map(|peer| peer.address.ip());
    call.and_then(|call| call.caller.key()).map_or_else(|| Opener::stranger(address()), Opener::Caller)
}

/// A stream, which ends when its caller may no longer have it, and when the server stops.
async fn watched<E>(
    answer: impl Future<Output = Result<Response<Body>, E>>,
    gate: Arc<Gate>,
    call: Option<Call>,
    method: Arc<Method>,
    open: OpenStream,
) -> Result<Response<Body>, E> {
    let response = answer.await?;
    let ended = async move {
        let _open = open;
        gate.ended(call, &method).await
    };
    Ok(response.map(|body| guard(body, ended)))
}
