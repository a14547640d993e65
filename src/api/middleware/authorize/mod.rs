//! The layer that every call passes: is the caller authenticated, and do they hold the permission?
//!
//! It encloses all services at once, so that no service and no kind of method can bypass it, and passes only the methods that
//! the policies name. It also ends a stream when its caller loses access.

mod authorizer;
mod denials;
mod ending_body;
mod stream_end;

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{BoxFuture, Either, FutureExt, Ready, ready};
use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use super::admit::Admission;
use super::limits::{StreamLimiter, StreamOwner, with_deadline};
use crate::api::call::Call;
use crate::api::listener::Peer;
use crate::api::protocol::Protocol;
use crate::auth::policy::ServedMethod;
use crate::domain::error::Error;
use authorizer::{Authorization, EarlyDecision, PendingCall};
use ending_body::end_when;

pub(in crate::api) use authorizer::Authorizer;
pub(in crate::api) use denials::Denials;

/// Puts [`Authorize`] around a service.
#[derive(Clone)]
pub struct AuthorizeLayer(Arc<Shared>);

/// Shared by all calls; behind one pointer, since the layer is cloned with every call.
struct Shared {
    authorizer: Arc<Authorizer>,
    denials: Denials,
    streams: Arc<StreamLimiter>,
}

impl AuthorizeLayer {
    /// A layer that passes what `authorizer` grants, records refused changes in `denials`, and limits `streams`.
    pub(in crate::api) fn new(authorizer: Authorizer, denials: Denials, streams: Arc<StreamLimiter>) -> Self {
        Self(Arc::new(Shared { authorizer: Arc::new(authorizer), denials, streams }))
    }
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize { layer: self.clone(), inner }
    }
}

/// A service inside the layer.
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
    type Future = ResponseFuture<S>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let admission = match Admission::of(&request) {
            Ok(admission) => admission.clone(),
            Err(error) => return at_once::<S>(Protocol::Grpc.refuse(error)),
        };
        let protocol = admission.protocol;
        match self.layer.0.authorizer.decide(&request, &admission.deadline) {
            Ok(EarlyDecision::Made(authorization)) => {
                self.layer.pass(admission, authorization, &mut self.inner, request)
            }
            Ok(EarlyDecision::Pending(pending)) => {
                // Only the instance that was polled ready may be called.
                let fresh = self.inner.clone();
                let inner = std::mem::replace(&mut self.inner, fresh);
                Either::Right(verify_and_pass(self.layer.clone(), admission, pending, inner, request))
            }
            Err(error) => at_once::<S>(protocol.refuse(error)),
        }
    }
}

/// The answer to a call: ready at once, the service's own future, or a boxed one.
type ResponseFuture<S> =
    Either<Either<Ready<Result<Response<Body>, <S as Service<Request<Body>>>::Error>>, Own<S>>, Later<S>>;
type Own<S> = <S as Service<Request<Body>>>::Future;
type Later<S> = BoxFuture<'static, Result<Response<Body>, <S as Service<Request<Body>>>::Error>>;

fn at_once<S: Service<Request<Body>>>(response: Response<Body>) -> ResponseFuture<S> {
    Either::Left(Either::Left(ready(Ok(response))))
}

impl AuthorizeLayer {
    /// Passes a call on, if its caller has access.
    fn pass<S>(
        &self,
        admission: Admission,
        authorization: Authorization,
        inner: &mut S,
        mut request: Request<Body>,
    ) -> ResponseFuture<S>
    where
        S: Service<Request<Body>, Response = Response<Body>> + 'static,
        S::Future: Send + 'static,
    {
        let (call, method) = match authorization {
            Authorization::Public(method) => (None, method),
            Authorization::Granted(call, method) => (Some(call), method),
            Authorization::Denied(call, method, permission) if method.makes_changes => {
                let answer = self.0.denials.clone().answer(call, method, permission, request.into_body());
                return Either::Right(answer.map(Ok).boxed());
            }
            Authorization::Denied(_, _, permission) => {
                return at_once::<S>(admission.protocol.refuse(Error::PermissionDenied(permission)));
            }
        };
        if !method.is_client_streaming {
            request = request.map(|body| with_deadline(body, admission.deadline.answer));
        }
        if method.is_server_streaming {
            return self.open_stream(admission, call, method, inner, request);
        }
        if let Some(call) = call {
            request.extensions_mut().insert(call);
        }
        Either::Left(Either::Right(inner.call(request)))
    }

    /// Opens a stream, which ends when its caller loses access, at its deadline, and when the server stops.
    fn open_stream<S>(
        &self,
        admission: Admission,
        call: Option<Call>,
        method: Arc<ServedMethod>,
        inner: &mut S,
        mut request: Request<Body>,
    ) -> ResponseFuture<S>
    where
        S: Service<Request<Body>, Response = Response<Body>> + 'static,
        S::Future: Send + 'static,
    {
        let permit = match self.0.streams.open(stream_owner(call.as_ref(), &request)) {
            Ok(permit) => permit,
            Err(error) => return at_once::<S>(admission.protocol.refuse(error)),
        };
        if let Some(call) = call.clone() {
            request.extensions_mut().insert(call);
        }
        let authorizer = Arc::clone(&self.0.authorizer);
        let end = async move {
            let _permit = permit;
            authorizer.stream_end(call, &method, admission.deadline.callers).await
        };
        let answer = inner.call(request);
        Either::Right(async move { Ok(answer.await?.map(|body| end_when(body, end))) }.boxed())
    }
}

/// A call whose token is verified before it passes.
fn verify_and_pass<S>(
    layer: AuthorizeLayer,
    admission: Admission,
    pending: PendingCall,
    mut inner: S,
    request: Request<Body>,
) -> Later<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
{
    async move {
        match layer.0.authorizer.decide_pending(pending).await {
            Ok(authorization) => layer.pass(admission, authorization, &mut inner, request).await,
            Err(error) => Ok(admission.protocol.refuse(error)),
        }
    }
    .boxed()
}

fn stream_owner(call: Option<&Call>, request: &Request<Body>) -> StreamOwner {
    let address = || request.extensions().get::<Peer>().map(|peer| peer.address.ip());
    call.and_then(|call| call.caller.key()).map_or_else(|| StreamOwner::anonymous(address()), StreamOwner::Caller)
}
