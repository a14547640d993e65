//! The body of a stream that ends when its caller may no longer have it.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use crate::api::errors::{last_frame, status};
use crate::domain::error::Error;

type Ended = Pin<Box<dyn Future<Output = Error> + Send>>;

/// A body that is cut off, between two messages, when `ended` says why. What the transport has taken of it by then is
/// still sent, as fast as the client takes it.
pub(super) fn guard(body: Body, ended: impl Future<Output = Error> + Send + 'static) -> Body {
    Body::new(Guard { state: Some((body, Box::pin(ended))) })
}

struct Guard {
    /// The stream and what ends it; `None` once it has ended.
    state: Option<(Body, Ended)>,
}

impl http_body::Body for Guard {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let Some((body, ended)) = &mut self.state else { return Poll::Ready(None) };
        // Asked first: of what is not yet taken, whoever may no longer have the stream gets nothing.
        if let Poll::Ready(error) = ended.as_mut().poll(context) {
            self.state = None;
            return Poll::Ready(Some(last_frame(&status(error))));
        }
        Pin::new(body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.state.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }
}
