//! The end of an answer in Connect's terms. Its messages are Connect's already, see [`super::answer`].

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use prost::bytes::Bytes;
use tonic::body::Body;
use tonic::{Code, Status};

use super::envelope::{END_STREAM, framed};
use super::{Codec, ConnectCall, error};
use crate::api::protocol::Shape;

/// The prefix of trailers among headers.
const TRAILER: &str = "trailer-";

/// The answer to a Connect call, from that to the gRPC call.
pub(in crate::api::protocol) async fn of_call(call: &ConnectCall, response: Response<Body>) -> Response<Body> {
    match call.0.shape {
        Shape::Unary => unary(call.0.codec, response).await,
        Shape::Stream => stream(call.0.codec, response),
    }
}

/// Keeps an answer to GET out of caches, and browsers from taking it for something else than JSON or protobuf.
pub(in crate::api::protocol) fn keep_from_caches(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// The answer to a request of this shape, from that to a gRPC call which fails before it reaches a service.
pub(in crate::api::protocol) async fn of_error(shape: Shape, codec: Codec, response: Response<Body>) -> Response<Body> {
    match shape {
        Shape::Unary => unary(codec, response).await,
        Shape::Stream => stream(codec, response),
    }
}

async fn unary(codec: Codec, response: Response<Body>) -> Response<Body> {
    let (mut head, mut body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Response::from_parts(head, body);
    }
    let (mut frames, mut trailers) = (VecDeque::new(), HeaderMap::new());
    // The answer has one message, which the inner half keeps whole. Its frames carry what they are charged.
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => frames.push_back(data),
            Ok(Err(frame)) => trailers = frame.into_trailers().unwrap_or_default(),
            Err(status) => return failed(&status, HeaderMap::new(), HeaderMap::new()),
        }
    }
    let status = status(&head.headers, &trailers);
    let charged = head.headers.clone();
    remove_grpc(&mut head.headers);
    for (name, value) in trailers.iter().filter(|(name, _)| !error::is_grpc(name.as_str())) {
        if let Ok(name) = HeaderName::try_from(format!("{TRAILER}{name}")) {
            head.headers.append(name, value.clone());
        }
    }
    if status.code() != Code::Ok {
        return failed(&status, head.headers, charged);
    }
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(codec.content_type(Shape::Unary)));
    Response::from_parts(head, Body::new(Frames(frames)))
}

/// The answer with an error, instead of one whose headers carry what it is charged.
fn failed(status: &Status, mut metadata: HeaderMap, charged: HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(kept(error::body(status), charged))));
    *response.status_mut() = error::http_status(status.code());
    metadata.remove(CONTENT_ENCODING);
    metadata.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status.code() == Code::Unauthenticated {
        metadata.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    *response.headers_mut() = metadata;
    response
}

fn stream(codec: Codec, response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Response::from_parts(head, body);
    }
    let body = match Status::from_header_map(&head.headers) {
        // It failed before the first message.
        Some(status) => {
            let charged = std::mem::take(&mut head.headers);
            let end = error::end_of_stream(&status, &without_http(charged.clone()));
            Body::new(Full::new(kept(framed(END_STREAM, &end), charged)))
        }
        None => Body::new(StreamAnswer(Some(body))),
    };
    remove_grpc(&mut head.headers);
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(codec.content_type(Shape::Stream)));
    Response::from_parts(head, body)
}

/// Removes what belongs to gRPC's protocol. The rest is metadata.
fn remove_grpc(headers: &mut HeaderMap) {
    let grpc: Vec<_> = headers.keys().filter(|name| error::is_grpc(name.as_str())).cloned().collect();
    for name in grpc {
        headers.remove(name);
    }
    headers.remove(CONTENT_LENGTH);
}

/// Bytes that keep headers until they are written: an answer without data carries what its call is charged in its headers.
pub(in crate::api::protocol) fn kept(data: impl AsRef<[u8]> + Send + 'static, charged: HeaderMap) -> Bytes {
    Bytes::from_owner(Kept { data, _charged: charged })
}

struct Kept<D> {
    data: D,
    _charged: HeaderMap,
}

impl<D: AsRef<[u8]>> AsRef<[u8]> for Kept<D> {
    fn as_ref(&self) -> &[u8] {
        self.data.as_ref()
    }
}

/// Metadata without headers of HTTP.
fn without_http(mut headers: HeaderMap) -> HeaderMap {
    headers.remove(CONTENT_TYPE);
    headers.remove(CONTENT_LENGTH);
    headers
}

fn status(headers: &HeaderMap, trailers: &HeaderMap) -> Status {
    let status = Status::from_header_map(trailers).or_else(|| Status::from_header_map(headers));
    status.unwrap_or_else(|| Status::unknown("the answer has no status"))
}

/// The data of a unary answer. Its length is known.
struct Frames(VecDeque<Bytes>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|data| data.len() as u64).sum())
    }
}

/// The body of a stream, whose last message holds the status. `None` once it has ended.
struct StreamAnswer(Option<Body>);

impl http_body::Body for StreamAnswer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let (status, trailers) = match ready!(Pin::new(body).poll_frame(context)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    (status(&HeaderMap::new(), &trailers), trailers)
                }
            },
            Some(Err(status)) => (status, HeaderMap::new()),
            None => (status(&HeaderMap::new(), &HeaderMap::new()), HeaderMap::new()),
        };
        self.0 = None;
        Poll::Ready(Some(Ok(Frame::data(framed(END_STREAM, &error::end_of_stream(&status, &trailers))))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}
