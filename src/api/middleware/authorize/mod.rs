//! The layer that every call passes: is the caller authenticated, and do they hold the permission?
//!
//! It encloses all services at once, so that no service and no kind of method can bypass it. It passes only methods that have a policy.
//! It also charges each call to the budget of bytes, limits open streams, and ends a stream when its caller loses access.

mod authorizer;
mod denials;
mod ending_body;
mod stream_end;

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, Either, FutureExt, Ready, ready};
use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use super::admit::{Admission, AdmittedRequest};
use super::limits::{
    AnswerKind, Arrival, ByteAccount, ByteBudget, Charge, ChargedAnswer, ConnectionBytes, Owner, Precedence,
    StreamLimiter, UnreadBody, Unsent, charged_body, charged_refusal, charged_request, max_message_bytes,
};
use crate::api::call::Call;
use crate::api::connection::Peer;
use crate::api::errors::{ApiError, Limit, millis};
use crate::api::protocol::Protocol;
use crate::api::protocol::connect::ConnectCall;
use crate::auth::policy::{Policy, ServedMethod};
use crate::config::Limits;
use crate::domain::error::Error;
use crate::domain::state::EnvironmentScope;
use authorizer::{Authorization, EarlyDecision, PendingCall};
use ending_body::end_when;
use stream_end::StreamAccess;

pub(in crate::api) use authorizer::Authorizer;
pub(in crate::api) use denials::Denials;

/// Puts [`Authorize`] around a service.
#[derive(Clone)]
pub(in crate::api) struct AuthorizeLayer(Arc<Shared>);

/// What the layer's calls share; behind one pointer, since the layer is cloned with every call.
struct Shared {
    authorizer: Arc<Authorizer>,
    denials: Denials,
    streams: Arc<StreamLimiter>,
    bytes: Arc<ByteBudget>,
    limits: Limits,
}

impl AuthorizeLayer {
    /// A layer that passes what `authorizer` grants, records refused changes in `denials`, and limits `streams` and `bytes`.
    pub(in crate::api) fn new(
        authorizer: Authorizer,
        denials: Denials,
        streams: Arc<StreamLimiter>,
        bytes: Arc<ByteBudget>,
        limits: Limits,
    ) -> Self {
        Self(Arc::new(Shared { authorizer: Arc::new(authorizer), denials, streams, bytes, limits }))
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
pub(in crate::api) struct Authorize<S> {
    layer: AuthorizeLayer,
    inner: S,
}

impl<S> Service<AdmittedRequest> for Authorize<S>
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

    fn call(&mut self, AdmittedRequest { admission, request }: AdmittedRequest) -> Self::Future {
        let protocol = admission.protocol;
        match self.layer.0.authorizer.decide(&request, &admission.deadline) {
            Ok(EarlyDecision::Made(authorization)) => {
                self.layer.pass(admission, authorization, &mut self.inner, request)
            }
            Ok(EarlyDecision::Pending(pending)) => {
                // Only the instance that was polled ready may be called.
                let fresh = self.inner.clone();
                let inner = std::mem::replace(&mut self.inner, fresh);
                // Until the token is verified, the caller counts as unauthenticated.
                let account = self.layer.account(&request, &Owner::unauthenticated(address(&request)));
                match account.begin_call(request.headers(), Precedence::Vital) {
                    Ok(charge) => {
                        let pending = (pending, charge, account.unread_body());
                        Either::Right(verify_and_pass(self.layer.clone(), admission, pending, inner, request))
                    }
                    Err(error) => at_once::<S>(charged_refusal(protocol.refuse(error), account.refuse_call())),
                }
            }
            Err(error) => at_once::<S>(self.layer.0.bytes.refusal(request.extensions(), protocol.refuse(error))),
        }
    }
}

/// The answer to a call: ready at once, the service's own future, or a boxed one.
type ResponseFuture<S> =
    Either<Either<Ready<Result<Response<Body>, <S as Service<Request<Body>>>::Error>>, Unboxed<S>>, Boxed<S>>;
type Unboxed<S> = ChargedAnswer<<S as Service<Request<Body>>>::Future>;
type Boxed<S> = BoxFuture<'static, Result<Response<Body>, <S as Service<Request<Body>>>::Error>>;

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
        let (call, method, missing) = match authorization {
            Authorization::Public(method) => (None, method, None),
            Authorization::Anonymous(reads, method) => {
                request.extensions_mut().insert(reads);
                (None, method, None)
            }
            Authorization::Granted(call, method) => (Some(call), method, None),
            Authorization::Denied(call, method, permission) => (Some(call), method, Some(permission)),
        };
        let protocol = admission.protocol;
        let owner = owner(call.as_ref(), &request);
        let account = self.account(&request, &owner);
        let charge = match account.begin_call(request.headers(), precedence(&method)) {
            Ok(charge) => charge,
            Err(error) => return at_once::<S>(charged_refusal(protocol.refuse(error), account.refuse_call())),
        };
        let arrival = self.arrival(&admission, &method, &request);
        request = request.map(|body| charged_request(body, Arc::clone(&account), arrival));
        if let Some((call, permission)) = call.as_ref().zip(missing) {
            if method.makes_changes {
                let answer = self.0.denials.clone().answer(call.clone(), method, permission, request);
                return Either::Right(answer.map(|answer| Ok(charged_refusal(answer, charge))).boxed());
            }
            let refused = protocol.refuse(Error::PermissionDenied(permission.into()));
            return at_once::<S>(charged_refusal(refused, charge));
        }
        if method.is_server_streaming {
            return self.open_stream(admission, call, method, inner, request, (owner, account, charge));
        }
        if let Some(call) = call {
            request.extensions_mut().insert(call);
        }
        let kind = if method.makes_changes { AnswerKind::Change } else { AnswerKind::Read };
        Either::Left(Either::Right(ChargedAnswer::new(inner.call(request), protocol, kind, charge)))
    }

    /// Opens a stream, which ends when its caller loses access, at its deadline, and when the server stops.
    fn open_stream<S>(
        &self,
        admission: Admission,
        call: Option<Call>,
        method: Arc<ServedMethod>,
        inner: &mut S,
        mut request: Request<Body>,
        (owner, account, mut charge): (Owner, Arc<ByteAccount>, Charge),
    ) -> ResponseFuture<S>
    where
        S: Service<Request<Body>, Response = Response<Body>> + 'static,
        S::Future: Send + 'static,
    {
        let permit = match self.0.streams.open(owner) {
            Ok(permit) => permit,
            Err(error) => return at_once::<S>(charged_refusal(admission.protocol.refuse(error), charge)),
        };
        if let Some(call) = call.clone() {
            request.extensions_mut().insert(call);
        }
        // For what the stream keeps of its request, and reads ahead.
        request.extensions_mut().insert(Arc::clone(&account));
        let (authorizer, limits) = (Arc::clone(&self.0.authorizer), self.0.limits.fixed.clone());
        let connection = Peer::connection(request.extensions());
        let answer = inner.call(request);
        let answer = async move {
            let response = answer.await?;
            // From here on the permit limits the streams of callers, and what they receive and send is charged. A stream without
            // credentials is charged itself, as long as it is open.
            if !account.is_unauthenticated() {
                charge.release_bytes();
            }
            // The method says in its response which environments the stream is about.
            let scope = response.extensions().get().cloned().unwrap_or(EnvironmentScope::All);
            let access = call.map(|call| StreamAccess { call, scope });
            Ok(charged_body(response, account).map(|body| {
                let unsent = body.unsent().filter(|_| body.sends_latest_state()).cloned();
                let end = async move {
                    let _open = (permit, charge);
                    tokio::select! {
                        error = authorizer.stream_end(access, &method, admission.deadline.requested, connection) => error,
                        error = unread_for(unsent, limits.unread_timeout) => error,
                    }
                };
                end_when(body, end, limits.reset_timeout)
            }))
        };
        Either::Right(answer.boxed())
    }

    /// By when the request must have arrived, and how large its message may be. Its service has the same limit of size.
    fn arrival(&self, admission: &Admission, method: &ServedMethod, request: &Request<Body>) -> Arrival {
        let deadline = admission.deadline.answer_by;
        if method.is_client_streaming {
            return Arrival::EachMessage(self.0.limits.request_timeout);
        }
        let is_unary = |call: &ConnectCall| call.is_unary();
        match admission.protocol {
            Protocol::Grpc if request.extensions().get().is_some_and(is_unary) => Arrival::Other(deadline),
            Protocol::Grpc => Arrival::Message { deadline, max_bytes: max_message_bytes(&self.0.limits.fixed, method) },
            Protocol::Ofrep | Protocol::OfrepEvents => Arrival::Other(deadline),
        }
    }

    fn account(&self, request: &Request<Body>, owner: &Owner) -> Arc<ByteAccount> {
        match Peer::of(request.extensions()) {
            Some(peer) => self.0.bytes.account(&peer.bytes, owner),
            None => self.0.bytes.account(&ConnectionBytes::default(), owner),
        }
    }
}

/// A call whose token is verified before it passes.
fn verify_and_pass<S>(
    layer: AuthorizeLayer,
    admission: Admission,
    (pending, charge, unread): (PendingCall, Charge, UnreadBody),
    mut inner: S,
    request: Request<Body>,
) -> Boxed<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send,
{
    async move {
        let decided = layer.0.authorizer.decide_pending(pending).await;
        match decided {
            Ok(authorization) => {
                drop((charge, unread));
                layer.pass(admission, authorization, &mut inner, request).await
            }
            Err(error) => Ok(charged_refusal(admission.protocol.refuse(error), charge)),
        }
    }
    .boxed()
}

/// Waits until the client has read nothing for too long.
async fn unread_for(unsent: Option<Unsent>, limit: Duration) -> ApiError {
    match unsent {
        Some(unsent) => unsent.unread_for(limit).await,
        None => std::future::pending().await,
    }
    Limit::UnreadTime.reached(millis(limit)).into()
}

fn precedence(method: &ServedMethod) -> Precedence {
    match method.policy {
        _ if method.is_server_streaming => Precedence::Stream,
        // Health checks.
        Policy::Public => Precedence::Vital,
        _ => Precedence::Ordinary,
    }
}

fn owner(call: Option<&Call>, request: &Request<Body>) -> Owner {
    let caller = call.and_then(|call| call.caller.key());
    caller.map_or_else(|| Owner::unauthenticated(address(request)), Owner::Caller)
}

fn address(request: &Request<Body>) -> Option<IpAddr> {
    Peer::of(request.extensions()).map(|peer| peer.address.ip())
}
