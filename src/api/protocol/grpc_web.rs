//! gRPC-Web: gRPC with the trailers as the last part of the body, so that browsers and HTTP/1.1 can read them. Requests and messages are
//! gRPC's own.

use std::fmt::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::Full;
use prost::bytes::Bytes;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::GRPC_CONTENT_TYPE;

use super::connect::{framed, response::kept};
use crate::api::errors::last_frame;

/// The flag of trailers in the body.
const TRAILERS: u8 = 0x80;

/// Turns the head of a request into that of a gRPC request.
pub(super) fn read_head(request: &mut Request<Body>) {
    request.headers_mut().remove(CONTENT_LENGTH);
    request.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
}

/// The answer to a call, from that to the gRPC call.
pub(super) fn response(mut response: Response<Body>) -> Response<Body> {
    if response.status() != StatusCode::OK {
        return response;
    }
    if response.headers().contains_key(Status::GRPC_STATUS) {
        // An answer without messages has its status in the headers.
        let charged = std::mem::take(response.headers_mut());
        let mut trailers = charged.clone();
        trailers.remove(CONTENT_TYPE);
        let text = text(&trailers);
        *response.body_mut() = Body::new(Full::new(kept(framed(TRAILERS, text.as_bytes()), charged)));
    } else {
        response = response.map(|body| Body::new(Answer(Some(body))));
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc-web+proto"));
    response
}

/// The body of an answer. `None` once it has ended.
struct Answer(Option<Body>);

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let frame = match ready!(Pin::new(body).poll_frame(context)) {
            Some(Ok(frame)) => Some(frame),
            Some(Err(status)) => last_frame(&status).ok(),
            None => None,
        };
        let trailers = match frame.map(Frame::into_data) {
            Some(Ok(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Err(frame)) => frame.into_trailers().unwrap_or_default(),
            None => {
                self.0 = None;
                return Poll::Ready(None);
            }
        };
        self.0 = None;
        Poll::Ready(Some(Ok(Frame::data(framed(TRAILERS, text(&trailers).as_bytes())))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(http_body::Body::is_end_stream)
    }
}

/// Trailers as the head of an HTTP/1.1 request has them.
fn text(trailers: &HeaderMap) -> String {
    trailers.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a text does not fail.
        let _ = write!(text, "{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes()));
        text
    })
}
