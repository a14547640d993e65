//! The layer that reads the head of a request, before its caller is known. It refuses methods and content types that the path does not
//! take, and sets the call's deadline.
//!
//! At the deadline it answers, whatever the service does. It waits longer only for a change that has begun, at most until the caller's own
//! deadline. A stream that has begun is ended by `authorize/stream_end` instead.

mod deadline;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::{self, Either, Ready};
use http::{Method, Request, Response};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::api::middleware::limits::ByteBudget;
use crate::api::protocol::{Protocol, ReadRequest};

pub(in crate::api) use deadline::CallDeadline;

/// What the head of a request says.
#[derive(Debug, Clone)]
pub(in crate::api) struct Admission {
    pub protocol: Protocol,
    pub deadline: CallDeadline,
}

/// A request that the layer passes on.
pub(in crate::api) struct AdmittedRequest {
    pub admission: Admission,
    pub request: Request<Body>,
}

impl AdmittedRequest {
    /// Reads the head of a request; otherwise the response that refuses it.
    fn new(ReadRequest { protocol, request }: ReadRequest, settings: &Settings) -> Result<Self, Box<Response<Body>>> {
        let refuse = |response| Box::new(settings.bytes.refusal(request.extensions(), response));
        let protocol = protocol.map_err(|refusal| {
            // An answer to HEAD has no body; over HTTP/2 one would break the protocol.
            let is_head = request.method() == Method::HEAD;
            refuse(if is_head { refusal.response().map(|_| Body::empty()) } else { refusal.response() })
        })?;
        let max = settings.request_timeout;
        let deadline = match protocol {
            Protocol::Grpc => CallDeadline::of(request.headers(), max),
            Protocol::Ofrep | Protocol::OfrepEvents => Ok(CallDeadline::after(max)),
        };
        let deadline = deadline.map_err(|error| refuse(protocol.refuse(error)))?;
        let admission = Admission { protocol, deadline };
        match admission.expire(Instant::now()) {
            Some(late) => Err(refuse(late)),
            None => Ok(Self { admission, request }),
        }
    }
}

impl Admission {
    /// The answer once the deadline has passed; see [`CallDeadline::expire`].
    fn expire(&self, now: Instant) -> Option<Response<Body>> {
        self.deadline.expire(now).map(|error| self.protocol.refuse(error))
    }
}

/// Puts [`Admit`] around a service.
#[derive(Clone)]
pub(in crate::api) struct AdmitLayer(Arc<Settings>);

/// What the layer's calls share.
struct Settings {
    request_timeout: Duration,
    bytes: Arc<ByteBudget>,
}

impl AdmitLayer {
    /// A layer that gives each call `request_timeout`; a shorter timeout of the caller applies first. What it refuses is charged to
    /// `bytes`.
    pub(in crate::api) fn new(request_timeout: Duration, bytes: Arc<ByteBudget>) -> Self {
        Self(Arc::new(Settings { request_timeout, bytes }))
    }
}

impl<S> Layer<S> for AdmitLayer {
    type Service = Admit<S>;

    fn layer(&self, inner: S) -> Admit<S> {
        Admit { settings: Arc::clone(&self.0), inner }
    }
}

/// A service inside the layer.
#[derive(Clone)]
pub(in crate::api) struct Admit<S> {
    settings: Arc<Settings>,
    inner: S,
}

impl<S> Service<ReadRequest> for Admit<S>
where
    S: Service<AdmittedRequest, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<Body>, S::Error>>, TimedAnswer<S::Future>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: ReadRequest) -> Self::Future {
        match AdmittedRequest::new(request, &self.settings) {
            Ok(admitted) => {
                let admission = admitted.admission.clone();
                Either::Right(TimedAnswer { answer: self.inner.call(admitted), admission, timer: None })
            }
            Err(refused) => Either::Left(future::ready(Ok(*refused))),
        }
    }
}

pin_project! {
    /// The future of an answer. At the deadline it returns an error; once a change has begun, only at the caller's own deadline. Not
    /// boxed: every read passes here.
    pub(in crate::api) struct TimedAnswer<F> {
        #[pin]
        answer: F,
        admission: Admission,
        // Created at the first wait: most reads never wait.
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F, E> Future for TimedAnswer<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        loop {
            let now = Instant::now();
            // The clock decides: the timer fires up to a millisecond late, and nothing may begin in between.
            let late = this.admission.expire(now);
            if (late.is_none() || this.admission.deadline.start.has_begun())
                && let Poll::Ready(answer) = this.answer.as_mut().poll(context)
            {
                return Poll::Ready(answer);
            }
            if let Some(late) = late {
                return Poll::Ready(Ok(late));
            }
            let Some(expiry) = this.admission.deadline.next_expiry(now) else { return Poll::Pending };
            let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(expiry)));
            if timer.deadline() != expiry {
                timer.as_mut().reset(expiry);
            }
            ready!(timer.as_mut().poll(context));
        }
    }
}
