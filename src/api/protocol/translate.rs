//! The outermost layer: which protocol a request speaks, and the answer in its terms. Inside it, every call of a service is a gRPC call.
//!
//! It maps heads, timeouts, statuses and trailers, and reads no body: see [`super::connect`] for the other half.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::{BoxFuture, Either, FutureExt};
use http::{Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::connect::{Codec, ConnectCall, HeadError, read_head, read_query, response};
use super::ofrep::EventsQuery;
use super::{Dialect, Expected, Protocol, ReadRequest, Refusal, Shape, grpc_web};
use crate::auth::policy::Policies;

/// Puts [`Translate`] around a service.
#[derive(Clone)]
pub(in crate::api) struct TranslateLayer {
    methods: Arc<Policies>,
}

impl TranslateLayer {
    /// A layer that knows these methods.
    pub fn new(methods: Arc<Policies>) -> Self {
        Self { methods }
    }
}

impl<S> Layer<S> for TranslateLayer {
    type Service = Translate<S>;

    fn layer(&self, inner: S) -> Translate<S> {
        Translate { methods: Arc::clone(&self.methods), inner }
    }
}

/// A service inside the layer.
#[derive(Clone)]
pub(in crate::api) struct Translate<S> {
    methods: Arc<Policies>,
    inner: S,
}

/// How the answer to a call is written.
enum Answer {
    GrpcWeb,
    Connect(ConnectCall),
    /// Server-sent events, which have no trailers.
    Events,
    /// An error, since the head has one.
    Error(Shape, Codec),
    /// An error, since no such method is served.
    UnknownMethod(Shape, Codec),
}

impl<S> Service<Request<Body>> for Translate<S>
where
    S: Service<ReadRequest, Response = Response<Body>>,
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
        let (protocol, answer) = match Dialect::of(&request) {
            Ok(Dialect::Grpc) => (Ok(Protocol::Grpc), None),
            Ok(Dialect::Ofrep) => (Ok(Protocol::Ofrep), None),
            Ok(Dialect::OfrepEvents) => {
                let query = EventsQuery::take_from(&mut request);
                request.extensions_mut().insert(query);
                (Ok(Protocol::OfrepEvents), Some(Answer::Events))
            }
            Ok(Dialect::Connect(shape, codec)) => self.connect(&mut request, shape, codec),
            Ok(Dialect::GrpcWeb) => {
                grpc_web::read_head(&mut request);
                (Ok(Protocol::Grpc), Some(Answer::GrpcWeb))
            }
            Err(Refusal::Method(expected)) if request.method() == Method::GET => self.get(&mut request, expected),
            Err(refusal) => (Err(refusal), None),
        };
        let is_get = request.method() == Method::GET;
        let called = self.inner.call(ReadRequest { protocol, request });
        match answer {
            None => Either::Left(called),
            Some(answer) => {
                let answer = async move {
                    let response = called.await?;
                    let mut response = answer.write(response).await;
                    if is_get {
                        response::keep_from_caches(response.headers_mut());
                    }
                    Ok(response)
                };
                Either::Right(answer.boxed())
            }
        }
    }
}

type Translated = (Result<Protocol, Refusal>, Option<Answer>);

impl<S> Translate<S> {
    fn connect(&self, request: &mut Request<Body>, shape: Shape, codec: Codec) -> Translated {
        let Some(method) = self.methods.method(request.uri().path()) else {
            return (Ok(Protocol::Grpc), Some(Answer::UnknownMethod(shape, codec)));
        };
        let read = read_head(request, &Arc::clone(method), shape, codec);
        called(request, read, (shape, codec))
    }

    /// A GET request of a method without side effects. Other methods take no GET.
    fn get(&self, request: &mut Request<Body>, expected: Expected) -> Translated {
        match self.methods.method(request.uri().path()) {
            Some(method) if method.has_no_side_effects && Shape::of(method) == Shape::Unary => {
                let read = read_query(request, &Arc::clone(method));
                called(request, read, (Shape::Unary, Codec::Json))
            }
            _ => (Err(Refusal::Method(expected)), None),
        }
    }
}

/// The call of a head that was read.
fn called(
    request: &mut Request<Body>,
    read: Result<ConnectCall, HeadError>,
    (shape, codec): (Shape, Codec),
) -> Translated {
    match read {
        Ok(call) => {
            request.extensions_mut().insert(call.clone());
            (Ok(Protocol::Grpc), Some(Answer::Connect(call)))
        }
        Err(HeadError::Shape(needed)) => (Err(Refusal::shape(needed)), None),
        Err(HeadError::Call(error)) => (Err(Refusal::Call(error)), Some(Answer::Error(shape, codec))),
    }
}

impl Answer {
    async fn write(self, response: Response<Body>) -> Response<Body> {
        match self {
            Self::GrpcWeb => grpc_web::response(response),
            Self::Connect(call) => response::of_call(&call, response).await,
            Self::Events => response.map(|body| Body::new(WithoutTrailers(body))),
            Self::Error(shape, codec) => response::of_error(shape, codec, response).await,
            Self::UnknownMethod(shape, codec) => {
                let mut response = response::of_error(shape, codec, response).await;
                if response.status() == StatusCode::NOT_IMPLEMENTED {
                    *response.status_mut() = StatusCode::NOT_FOUND;
                }
                response
            }
        }
    }
}

/// A body that ends where its trailers would begin.
struct WithoutTrailers(Body);

impl http_body::Body for WithoutTrailers {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let frame = ready!(Pin::new(&mut self.0).poll_frame(context));
        Poll::Ready(frame.filter(|frame| !frame.as_ref().is_ok_and(Frame::is_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
