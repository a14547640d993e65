//! The body of an answer, followed to its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

use super::code;
use super::watched::Watched;
use crate::api::errors::{last_frame, retell_end, retell_refusal, status};
use crate::domain::error::Error;

/// Follows the answer to a call to its end.
pub(super) fn follow(mut call: Watched, mut response: Response<Body>) -> Response<Body> {
    call.record().enter(|| retell_refusal(response.headers_mut()));
    match call.outcome(&response) {
        Some(code) => {
            call.end(code);
            response
        }
        None => response.map(|body| Body::new(Followed { body: Some(body), call })),
    }
}

/// A body that ends like the one in it, and with an error where that one panics.
struct Followed {
    /// `None` once it has panicked.
    body: Option<Body>,
    call: Watched,
}

impl Followed {
    /// What is sent in place of what a panic has kept from being sent.
    fn panicked(&mut self) -> Result<Frame<<Body as http_body::Body>::Data>, Status> {
        self.body = None;
        let status = self.call.record().enter(|| status(Error::Told));
        self.call.end(status.code());
        last_frame(&status)
    }
}

impl http_body::Body for Followed {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let Self { body, call } = &mut *self;
        let Some(body) = body else { return Poll::Ready(None) };
        let polled = catch_unwind(AssertUnwindSafe(|| call.record().enter(|| Pin::new(body).poll_frame(context))));
        let Ok(mut polled) = polled else { return Poll::Ready(Some(self.panicked())) };
        match &mut polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    call.record().enter(|| retell_end(trailers));
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
