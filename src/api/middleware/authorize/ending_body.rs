//! The body of a stream that the server ends: see `stream_end` for when.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use crate::api::errors::{ApiError, last_frame, status};

type StreamEnd = Pin<Box<dyn Future<Output = ApiError> + Send>>;

/// A body that ends between two messages with the error that `end` returns. Bytes that the transport has taken already are
/// still sent.
pub(super) fn end_when(body: Body, end: impl Future<Output = ApiError> + Send + 'static) -> Body {
    Body::new(EndingBody { state: Some((body, Box::pin(end))) })
}

struct EndingBody {
    /// The stream and its end; `None` once it has ended.
    state: Option<(Body, StreamEnd)>,
}

impl http_body::Body for EndingBody {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let Some((body, end)) = &mut self.state else { return Poll::Ready(None) };
        // Polled first: a caller without access gets no further message.
        if let Poll::Ready(error) = end.as_mut().poll(context) {
            self.state = None;
            return Poll::Ready(Some(last_frame(&status(error))));
        }
        Pin::new(body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.state.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }
}
