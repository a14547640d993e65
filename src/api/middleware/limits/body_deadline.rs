//! The body of a request that has to arrive in time: a client that says what it calls and then nothing more would
//! otherwise keep its call under way for good.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;

use crate::api::errors::status;
use crate::domain::error::Error;

/// The same body, which fails if it has not arrived whole by then.
pub(in crate::api) fn arriving(body: Body, by: Instant) -> Body {
    if http_body::Body::is_end_stream(&body) { body } else { Body::new(Arriving { body, by, late: None }) }
}

struct Arriving {
    body: Body,
    by: Instant,
    /// Set once there is something to wait for: most bodies come along with their headers.
    late: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Arriving {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let by = self.by;
        let late = self.late.get_or_insert_with(|| Box::pin(sleep_until(by)));
        late.as_mut().poll(context).map(|()| Some(Err(status(Error::DeadlineExceeded))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
