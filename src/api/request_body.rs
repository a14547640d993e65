//! The body of a request as it arrives. Records that it broke off.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use prost::bytes::Bytes;

use crate::telemetry::request::record_incomplete;

/// The body of a request.
///
/// tonic reports a body that breaks off as a malformed or missing message, which would blame the caller. In fact the client cancelled, or
/// its connection broke or was closed for an error of the protocol.
pub(super) struct RequestBody {
    incoming: Incoming,
    is_http2: bool,
}

impl RequestBody {
    /// The same request with such a body.
    pub fn of(request: Request<Incoming>) -> Request<Self> {
        let is_http2 = request.version() == Version::HTTP_2;
        request.map(|incoming| Self { incoming, is_http2 })
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(context));
        let is_incomplete = match &frame {
            Some(frame) => frame.is_err(),
            // hyper reports the end, too, if the client resets the stream without an error.
            None => self.is_http2 && !self.incoming.is_end_stream(),
        };
        if is_incomplete {
            record_incomplete();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
