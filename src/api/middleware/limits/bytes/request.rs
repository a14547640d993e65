//! The body of a request, while it arrives: its bytes are charged, and it has a deadline.
//!
//! Without a deadline, a client that sends headers and part of a message would keep its call, and what has arrived, for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;

use super::{Account, Charge};
use crate::api::errors::{ApiError, Limit, millis, status};
use crate::config::STREAM_WINDOW;

/// The length of the header of a gRPC message: a byte that says whether it is compressed, and four of its length.
const HEADER_LENGTH: usize = 5;

/// When the bytes of a request must have arrived.
pub(in crate::api) enum Arrival {
    /// All of them, at this time.
    Whole(Instant),
    /// Each message this long after it began. Between messages a stream of requests may be idle.
    EachMessage(Duration),
}

/// The same body; it fails if it is late, or if a budget is exhausted.
pub(in crate::api) fn charged_request(body: Body, account: Arc<Account>, arrival: Arrival) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let (deadline, messages) = match arrival {
        Arrival::Whole(deadline) => (Some(deadline), None),
        Arrival::EachMessage(limit) => (None, Some(Messages { limit, position: Position::default() })),
    };
    Body::new(RequestBody { body, account, kept: 0, charge: None, window: None, deadline, messages, timer: None })
}

struct RequestBody {
    body: Body,
    account: Arc<Account>,
    /// The bytes that have arrived of an unfinished request or message.
    kept: usize,
    /// Their charge, from the first wait on: most requests arrive together with their headers.
    charge: Option<Charge>,
    /// The charge of a stream of requests for data that may wait while its handler is not ready: from a frame on, until none follows.
    window: Option<Charge>,
    /// When the rest must have arrived; `None` between two messages.
    deadline: Option<Instant>,
    /// For a stream of requests, which has a deadline for each message.
    messages: Option<Messages>,
    timer: Option<Pin<Box<Sleep>>>,
}

struct Messages {
    limit: Duration,
    position: Position,
}

/// The position in a stream of gRPC messages.
#[derive(Default)]
struct Position {
    header: [u8; HEADER_LENGTH],
    /// How much of the header has arrived.
    header_length: usize,
    /// How much of the message is missing after its header.
    missing: usize,
}

impl Position {
    /// Moves over bytes. Returns how many of them belong to the message that has not ended.
    fn advance(&mut self, mut bytes: &[u8]) -> usize {
        let mut unfinished = 0;
        while !bytes.is_empty() {
            let is_header = self.header_length < HEADER_LENGTH;
            let wanted = if is_header { HEADER_LENGTH - self.header_length } else { self.missing };
            let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
            unfinished += taken.len();
            bytes = rest;
            if is_header {
                self.header[self.header_length..][..taken.len()].copy_from_slice(taken);
                self.header_length += taken.len();
                if self.header_length == HEADER_LENGTH {
                    let [_, length @ ..] = self.header;
                    self.missing = u32::from_be_bytes(length) as usize;
                }
            } else {
                self.missing -= taken.len();
            }
            if self.header_length == HEADER_LENGTH && self.missing == 0 {
                (*self, unfinished) = (Self::default(), 0);
            }
        }
        unfinished
    }

    fn is_between_messages(&self) -> bool {
        self.header_length == 0
    }
}

impl RequestBody {
    /// Notes bytes that the handler is about to keep.
    fn keep(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        let Some(messages) = &mut self.messages else { return self.add(bytes.len()) };
        let was_between = messages.position.is_between_messages();
        let unfinished = messages.position.advance(bytes);
        if messages.position.is_between_messages() {
            self.finish_message();
            return Ok(());
        }
        let is_new = was_between || unfinished < bytes.len();
        let deadline = Instant::now() + messages.limit;
        if is_new {
            self.finish_message();
            self.deadline = Some(deadline);
        }
        self.add(unfinished)
    }

    fn add(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.kept += bytes;
        self.charge.as_mut().map_or(Ok(()), |charge| charge.grow(bytes))
    }

    fn finish_message(&mut self) {
        (self.kept, self.charge, self.deadline, self.timer) = (0, None, None, None);
    }

    /// Charges what may arrive before the handler asks for more.
    fn expect_more(&mut self) -> Result<(), ApiError> {
        if self.messages.is_some() && self.window.is_none() && !self.body.is_end_stream() {
            self.window = Some(self.account.charge_request(STREAM_WINDOW as usize)?);
        }
        Ok(())
    }

    /// Waits for more bytes: what has arrived is charged, and the deadline applies.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<ApiError> {
        self.window = None;
        let Some(deadline) = self.deadline else { return Poll::Pending };
        if self.charge.is_none() && self.kept > 0 {
            match self.account.charge_first(self.kept) {
                Ok(charge) => self.charge = Some(charge),
                Err(error) => return Poll::Ready(error),
            }
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        timer.as_mut().poll(context).map(|()| match &self.messages {
            Some(messages) => Limit::CallTime.reached(millis(messages.limit)).into(),
            None => ApiError::DeadlineExceeded,
        })
    }
}

impl http_body::Body for RequestBody {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let kept = frame.data_ref().map_or(Ok(()), |data| self.keep(data));
                let kept = kept.and_then(|()| self.expect_more());
                Poll::Ready(Some(kept.map(|()| frame).map_err(status)))
            }
            Poll::Ready(ended) => {
                self.window = None;
                Poll::Ready(ended)
            }
            Poll::Pending => self.wait(context).map(|error| Some(Err(status(error)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_tells_messages_apart_however_they_are_split() {
        let stream = [&b"\0\0\0\0\x03abc"[..], b"\0\0\0\0\0", b"\0\0\0\x01\x00", &[7; 256]].concat();
        for size in 1..=stream.len() {
            let mut position = Position::default();
            let mut kept = 0;
            for part in stream.chunks(size) {
                let unfinished = position.advance(part);
                kept = if unfinished < part.len() { unfinished } else { kept + unfinished };
                assert_eq!(position.is_between_messages(), kept == 0, "{size}");
            }
            assert!(position.is_between_messages(), "{size}");
        }
        let mut position = Position::default();
        assert_eq!(position.advance(b"\0\0\0\0\x03abc\0\0\0"), 3);
        assert_eq!(position.advance(b"\0\x04de"), 4);
        assert_eq!(position.advance(b"fg"), 0);
    }
}
