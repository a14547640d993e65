//! The body of a stream that the server ends: see `stream_end` for when.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::Frame;
use prost::bytes::Bytes;
use tokio::time::sleep;
use tonic::Status;
use tonic::body::Body;

use crate::api::errors::{ApiError, last_frame, status};
use crate::api::middleware::limits::ChargedBody;
use crate::api::transport::reset_when;

/// A body that ends between two messages with the error that `end` returns. Bytes that the transport has taken already are still
/// sent. If the client does not take them within `grace`, the stream is reset.
pub(super) fn end_when(
    body: ChargedBody,
    end: impl Future<Output = ApiError> + Send + 'static,
    grace: Duration,
) -> Body {
    let error = Arc::new(OnceLock::new());
    let ended = Arc::clone(&error);
    let reset = Box::pin(async move {
        // Fails only if it is set already, which happens nowhere else.
        let _ = ended.set(end.await);
        sleep(grace).await;
    });
    Body::new(EndingBody { body: Some(body), last: None, error, end: Some(reset) })
}

struct EndingBody {
    /// `None` once it has ended.
    body: Option<ChargedBody>,
    /// The last frame, until everything before it is sent.
    last: Option<Result<Frame<Bytes>, Status>>,
    /// Why it ends.
    error: Arc<OnceLock<ApiError>>,
    /// Sets `error`, and ends when the grace is over. `None` once the stream's task has taken it. HTTP/1.1 has no streams that could be
    /// reset: there, the body keeps it.
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl http_body::Body for EndingBody {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let Self { body: Some(body), last, error, end } = &mut *self else { return Poll::Ready(None) };
        // Polled before the body, here or by the stream's task: a caller without access gets no further message.
        let is_over = end.as_mut().is_some_and(|end| end.as_mut().poll(context).is_ready());
        if !is_over {
            *end = end.take().and_then(|end| reset_when(end).err());
        }
        if last.is_none() {
            let frame = match error.get() {
                Some(error) => body.finish().unwrap_or_else(|| last_frame(&status(error.clone()))),
                None => match ready!(Pin::new(&mut *body).poll_frame(context)) {
                    Some(frame) => frame,
                    None => {
                        self.body = None;
                        return Poll::Ready(None);
                    }
                },
            };
            if frame.as_ref().is_ok_and(Frame::is_data) {
                return Poll::Ready(Some(frame));
            }
            *last = Some(frame);
        }
        // With this frame the task of the stream ends, and nothing can reset it any more.
        if let Some(unsent) = body.unsent().filter(|_| !is_over) {
            ready!(unsent.poll_all_sent(context));
        }
        let last = last.take();
        self.body = None;
        Poll::Ready(last)
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none() && self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }
}
