//! The body of an answer, tracked until it ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

use super::call::TrackedCall;
use super::code;
use crate::api::errors::{ApiError, last_frame, replace_final_status, replace_initial_status, status};

/// Tracks the answer to a call until it ends.
pub(super) fn track(mut call: TrackedCall, mut response: Response<Body>) -> Response<Body> {
    call.request_context().enter(|| replace_initial_status(response.headers_mut()));
    match call.early_code(&response) {
        Some(code) => {
            call.end(code);
            response
        }
        None => response.map(|body| Body::new(TrackedBody { body: Some(body), call })),
    }
}

/// A body that reports its end to the call; a panic in it ends it with an error.
struct TrackedBody {
    /// `None` once it has panicked.
    body: Option<Body>,
    call: TrackedCall,
}

impl TrackedBody {
    /// The last frame after a panic.
    fn panicked(&mut self) -> Result<Frame<<Body as http_body::Body>::Data>, Status> {
        self.body = None;
        let status = self.call.request_context().enter(|| status(ApiError::Panicked));
        self.call.end(status.code());
        last_frame(&status)
    }
}

impl http_body::Body for TrackedBody {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let Self { body, call } = &mut *self;
        let Some(body) = body else { return Poll::Ready(None) };
        let polled =
            catch_unwind(AssertUnwindSafe(|| call.request_context().enter(|| Pin::new(body).poll_frame(context))));
        let Ok(mut polled) = polled else { return Poll::Ready(Some(self.panicked())) };
        match &mut polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    call.request_context().enter(|| replace_final_status(&call.request_context().method, trailers));
                    call.end(code::of_headers(trailers).unwrap_or(Code::Unknown));
                }
            }
            Poll::Ready(Some(Err(status))) => self.call.end(status.code()),
            Poll::Ready(None) => self.call.end(Code::Unknown),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}
