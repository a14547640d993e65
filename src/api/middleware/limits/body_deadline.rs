//! A deadline for the body of a request. Without it, a client that sends headers and nothing more would keep its call open for
//! ever.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;

use crate::api::errors::{ApiError, status};

/// The same body; it fails if it has not arrived completely at the deadline.
pub(in crate::api) fn with_deadline(body: Body, deadline: Instant) -> Body {
    if http_body::Body::is_end_stream(&body) { body } else { Body::new(DeadlineBody { body, deadline, timer: None }) }
}

struct DeadlineBody {
    body: Body,
    deadline: Instant,
    /// Created at the first wait: most bodies arrive together with their headers.
    timer: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for DeadlineBody {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let deadline = self.deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        timer.as_mut().poll(context).map(|()| Some(Err(status(ApiError::DeadlineExceeded))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
