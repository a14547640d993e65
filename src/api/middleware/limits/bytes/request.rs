//! The body of a request, while it arrives: its bytes are charged, and it has a deadline.
//!
//! Without a deadline, a client that sends headers and part of a message would keep its call, and what has arrived, for ever.
//!
//! A method with one request message gets it when the whole request has arrived. If tonic got the first bytes earlier, it would reserve the
//! length that the message declares. It would also keep the decoded message, which may be many times larger, until the request ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use prost::bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;

use super::{ByteAccount, Charge, UnreadBody};
use crate::api::errors::{ApiError, Limit, millis, status};
use crate::config::STREAM_WINDOW;

/// The length of the header of a gRPC message: a byte that says whether it is compressed, and four of its length.
const HEADER_LENGTH: usize = 5;

/// How a request arrives, and when its bytes must have arrived.
pub(in crate::api) enum Arrival {
    /// One gRPC message of at most `max_bytes`, at `deadline`.
    Message { deadline: Instant, max_bytes: usize },
    /// The body of another protocol, at this time. Its reader limits its size.
    Other(Instant),
    /// gRPC messages, each this long after it began. Between messages a stream of requests may be idle.
    EachMessage(Duration),
}

/// The same body; it fails if it is late, or if a budget is exhausted.
pub(in crate::api) fn charged_request(body: Body, account: Arc<ByteAccount>, arrival: Arrival) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let (deadline, kind) = match arrival {
        Arrival::Message { deadline, max_bytes } => (Some(deadline), Kind::Message(HeldMessage::new(max_bytes))),
        Arrival::Other(deadline) => (Some(deadline), Kind::Other { kept: 0 }),
        Arrival::EachMessage(limit) => {
            (None, Kind::Stream(Messages { limit, position: Position::default(), kept: 0, window: None }))
        }
    };
    Body::new(ChargedRequestBody { body, account, kind, charge: None, deadline, timer: None })
}

struct ChargedRequestBody {
    body: Body,
    account: Arc<ByteAccount>,
    kind: Kind,
    /// The charge of what has arrived, from the first wait or the first full window on: most requests arrive together with their headers.
    charge: Option<Charge>,
    /// When the rest must have arrived; `None` between two messages.
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

enum Kind {
    Message(HeldMessage),
    Other { kept: usize },
    Stream(Messages),
}

/// The request of a method with one message, which is kept back until it has arrived.
struct HeldMessage {
    max_bytes: usize,
    bytes: Vec<u8>,
    /// Metadata after the message, which gRPC does not use for requests.
    trailers: Option<HeaderMap>,
    /// Whether frames are passed on, since the message is going to be refused.
    is_released: bool,
}

/// A stream of requests, which has a deadline for each message.
struct Messages {
    limit: Duration,
    position: Position,
    /// The bytes that have arrived of a message that has not ended.
    kept: usize,
    /// For data that may wait while the handler is not ready: from a frame on, until none follows.
    window: Option<UnreadWindow>,
}

/// Data that may wait in `h2`: its charge, and its count among the unread bodies of its connection.
struct UnreadWindow {
    _charge: Charge,
    _unread: UnreadBody,
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

impl HeldMessage {
    fn new(max_bytes: usize) -> Self {
        Self { max_bytes, bytes: Vec::new(), trailers: None, is_released: false }
    }

    /// The length of the message with its header, once the header has arrived.
    fn length(&self) -> Option<usize> {
        message_length(&self.bytes)
    }

    /// Whether this data is the whole message.
    fn is_whole(&self, data: &[u8]) -> bool {
        self.bytes.is_empty()
            && message_length(data) == Some(data.len())
            && data.len() - HEADER_LENGTH <= self.max_bytes
    }

    /// Keeps bytes. They are copied, so that small frames do not keep the large buffers that they were read into.
    ///
    /// # Errors
    /// When there is more than one message.
    fn add(&mut self, data: &[u8]) -> Result<(), ApiError> {
        let needed = self.bytes.len() + data.len();
        if needed > self.bytes.capacity() {
            let most = self.length().unwrap_or(usize::MAX);
            let capacity = needed.max((2 * self.bytes.capacity()).min(most));
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        match self.length() {
            // tonic refuses it.
            Some(length) if length - HEADER_LENGTH > self.max_bytes => self.is_released = true,
            Some(length) if length < self.bytes.len() => {
                return Err(ApiError::MalformedMessage("more than one message".to_owned()));
            }
            _ => {}
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Frame<Bytes>> {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.is_empty() { self.trailers.take().map(Frame::trailers) } else { Some(Frame::data(bytes.into())) }
    }
}

/// The length of the message that begins here, with its header.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let (_, length) = bytes.first_chunk::<HEADER_LENGTH>()?.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
    Some(HEADER_LENGTH.saturating_add(length))
}

impl Messages {
    /// Counts bytes that the handler is about to keep. Returns whether a message has begun with them.
    fn add(&mut self, bytes: &[u8]) -> bool {
        let was_between = self.position.is_between_messages();
        let unfinished = self.position.advance(bytes);
        let has_begun = unfinished > 0 && (was_between || unfinished < bytes.len());
        self.kept = if has_begun || unfinished == 0 { unfinished } else { self.kept + unfinished };
        has_begun
    }
}

impl ChargedRequestBody {
    /// The bytes that are kept, or reserved, for what has not arrived completely.
    fn kept(&self) -> usize {
        match &self.kind {
            Kind::Message(held) => held.bytes.capacity(),
            Kind::Other { kept } => *kept,
            // What is longer than the limit is refused at once.
            Kind::Stream(messages) => messages.kept + messages.position.missing,
        }
    }

    /// The frame to pass on, if there is one after this one has arrived.
    fn receive(&mut self, frame: Frame<Bytes>) -> Result<Option<Frame<Bytes>>, ApiError> {
        match &mut self.kind {
            Kind::Message(held) if !held.is_released => match frame.into_data() {
                // Nearly every request arrives at once.
                Ok(data) if self.body.is_end_stream() && held.is_whole(&data) => Ok(Some(Frame::data(data))),
                Ok(data) => {
                    held.add(&data)?;
                    Ok(if held.is_released { held.take() } else { None })
                }
                Err(frame) => {
                    held.trailers = frame.into_trailers().ok();
                    Ok(None)
                }
            },
            Kind::Message(_) => Ok(Some(frame)),
            Kind::Other { kept } => {
                *kept += frame.data_ref().map_or(0, Bytes::len);
                Ok(Some(frame))
            }
            Kind::Stream(messages) => {
                let has_begun = frame.data_ref().is_some_and(|data| messages.add(data));
                if has_begun || messages.kept == 0 {
                    (self.charge, self.timer) = (None, None);
                    self.deadline = has_begun.then(|| Instant::now() + messages.limit);
                }
                if messages.window.is_none() && !self.body.is_end_stream() {
                    let _charge = self.account.charge_request(STREAM_WINDOW as usize)?;
                    messages.window = Some(UnreadWindow { _charge, _unread: self.account.unread_body() });
                }
                Ok(Some(frame))
            }
        }
    }

    /// Ends the charge for data that may wait for the handler: none does.
    fn close_window(&mut self) {
        if let Kind::Stream(messages) = &mut self.kind {
            messages.window = None;
        }
    }

    /// Waits for more bytes: what has arrived is charged, and the deadline applies.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<ApiError> {
        self.close_window();
        let Some(deadline) = self.deadline else { return Poll::Pending };
        if let Err(error) = self.charge() {
            return Poll::Ready(error);
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        timer.as_mut().poll(context).map(|()| match &self.kind {
            Kind::Stream(messages) => Limit::CallTime.reached(millis(messages.limit)).into(),
            Kind::Message(_) | Kind::Other { .. } => ApiError::DeadlineExceeded,
        })
    }

    /// Charges what has arrived, also while more arrives without a wait.
    fn charge_arrived(&mut self) -> Result<(), ApiError> {
        let is_charged = self.charge.is_some() || self.kept() > STREAM_WINDOW as usize;
        if is_charged { self.charge() } else { Ok(()) }
    }

    fn charge(&mut self) -> Result<(), ApiError> {
        let kept = self.kept();
        match &mut self.charge {
            Some(charge) if kept > charge.bytes => charge.grow(kept - charge.bytes),
            None if kept > 0 => {
                self.charge = Some(self.account.charge_first(kept)?);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl http_body::Body for ChargedRequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    let passed = self.receive(frame).and_then(|passed| self.charge_arrived().map(|()| passed));
                    if let Some(passed) = passed.map_err(status).transpose() {
                        return Poll::Ready(Some(passed));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {
                    self.close_window();
                    let Kind::Message(held) = &mut self.kind else { return Poll::Ready(None) };
                    return Poll::Ready(held.take().map(Ok));
                }
                Poll::Pending => return self.wait(context).map(|error| Some(Err(status(error)))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_held = matches!(&self.kind, Kind::Message(held) if !held.bytes.is_empty() || held.trailers.is_some());
        !is_held && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Message(_) => SizeHint::default(),
            _ => self.body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use http_body_util::{BodyExt, StreamBody};

    use super::super::{ByteBudget, ConnectionBytes, Owner};
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

    /// A body to send frames to, as a method with one message of at most `max_bytes` sees it.
    fn message(max_bytes: usize) -> (tokio::sync::mpsc::UnboundedSender<Frame<Bytes>>, Body, Arc<ByteAccount>) {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let frames = futures::stream::poll_fn(move |context| receiver.poll_recv(context)).map(Ok::<_, Status>);
        let account = ByteBudget::of(64 << 20).account(&ConnectionBytes::default(), &Owner::Unauthenticated(None));
        let arrival = Arrival::Message { deadline: Instant::now() + Duration::from_secs(9), max_bytes };
        let body = charged_request(Body::new(StreamBody::new(frames)), Arc::clone(&account), arrival);
        (sender, body, account)
    }

    #[tokio::test]
    async fn message_is_passed_on_when_it_has_arrived() {
        let (sender, mut body, account) = message(1_000);
        for part in [&b"\0\0\0"[..], b"\x03\xe8abc", &[7; 900]] {
            sender.send(Frame::data(Bytes::copy_from_slice(part))).unwrap();
            assert!(body.frame().now_or_never().is_none(), "passed on after {part:?}");
        }
        assert!((908..=1_005).contains(&account.charged()), "charged");
        sender.send(Frame::data(vec![7; 97].into())).unwrap();
        assert!(body.frame().now_or_never().is_none(), "the request has not ended");
        drop(sender);
        let whole = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((whole.len(), &whole[..8]), (1_005, &b"\0\0\0\x03\xe8abc"[..]));
        assert!(body.frame().await.is_none());
        drop(body);
        assert_eq!(account.charged(), 0);
    }

    #[tokio::test]
    async fn unacceptable_message_is_not_kept() {
        let (sender, mut body, _account) = message(1_000);
        sender.send(Frame::data(Bytes::from_static(b"\0\0\0\x03\xe9a"))).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 6, "tonic refuses its length");
        let (sender, mut body, _account) = message(1_000);
        sender.send(Frame::data(Bytes::from_static(b"\0\0\0\0\x01ab"))).unwrap();
        assert!(body.frame().await.unwrap().is_err(), "more than one message");
    }
}
