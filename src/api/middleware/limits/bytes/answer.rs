//! The body of an answer, until its client has read it: every byte that the transport keeps is charged.
//!
//! A frame carries its charge into the transport, which drops the frame when it is written. Before a stream produces its next message
//! it waits for the budget; if that takes too long, the stream ends. An answer of one message exists already: it is refused, unless it
//! is small or a change's.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::header::HeaderValue;
use http::{Extensions, HeaderMap, Response};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use prost::bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;
use tonic::body::Body;

use super::shared::{SharedAnswer, SharedMessages};
use super::unsent::{Unsent, UnsentFrame};
use super::{ByteAccount, ByteBudget, Charge, Direction, FRAME_BYTES, Owner};
use crate::api::connection::Peer;
use crate::api::errors::{ApiError, last_frame, status};
use crate::api::protocol::Protocol;

/// An answer up to this size is part of its call's charge. It is copied, so that it does not keep the larger buffer in which it was
/// encoded.
const SMALL_ANSWER: usize = 2 << 10;

/// How long a stream waits for the budget before it ends.
const BUDGET_TIMEOUT: Duration = Duration::from_secs(20);

/// The first pause before the budget is checked again; it doubles up to ...
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// ... this.
const MAX_PAUSE: Duration = Duration::from_secs(1);

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

/// What happens to an answer of one message while a budget is exhausted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum AnswerKind {
    /// A read is refused, unless its answer is small.
    Read,
    /// A change has been made, so its answer is sent. It is small.
    Change,
}

pin_project! {
    /// The future of an answer of one message, whose bytes are charged.
    pub struct ChargedAnswer<F> {
        #[pin]
        answer: F,
        protocol: Protocol,
        kind: AnswerKind,
        // `None` once the answer is ready.
        call: Option<Charge>,
    }
}

impl<F> ChargedAnswer<F> {
    /// The answer of a call with this charge.
    pub(in crate::api) fn new(answer: F, protocol: Protocol, kind: AnswerKind, call: Charge) -> Self {
        Self { answer, protocol, kind, call: Some(call) }
    }
}

impl<F, E> Future for ChargedAnswer<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let response = ready!(this.answer.poll(context))?;
        let Some(call) = this.call.take() else { return Poll::Ready(Ok(response)) };
        let (mut head, body) = response.into_parts();
        let source = Source::of(&mut head, body);
        if source.is_ended() {
            keep_in_head(&mut head.headers, call);
            return Poll::Ready(Ok(Response::from_parts(head, Body::empty())));
        }
        let mut body = ChargedBody::new(source, Arc::clone(&call.account));
        body.call = Some(call);
        let budget = body.account.check();
        body.prefetch(context);
        match budget {
            Err(error) if *this.kind == AnswerKind::Read && body.ready_bytes() > SMALL_ANSWER => {
                Poll::Ready(Ok(this.protocol.refuse(error)))
            }
            _ => Poll::Ready(Ok(Response::from_parts(head, Body::new(body)))),
        }
    }
}

impl ByteBudget {
    /// The answer to a call that is refused before it is charged: charged to its network until it is written.
    pub(in crate::api) fn refusal(self: &Arc<Self>, request: &Extensions, response: Response<Body>) -> Response<Body> {
        let Some(peer) = Peer::of(request) else { return response };
        let account = self.account(&peer.bytes, &Owner::unauthenticated(Some(peer.address.ip())));
        charged_refusal(response, account.refuse_call())
    }
}

/// An answer whose call is charged until it is written.
pub(in crate::api) fn charged_refusal(response: Response<Body>, call: Charge) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if http_body::Body::is_end_stream(&body) {
        keep_in_head(&mut head.headers, call);
        return Response::from_parts(head, body);
    }
    let mut body = ChargedBody::new(Source::Body(body), Arc::clone(&call.account));
    body.call = Some(call);
    // All of it is ready, so its length is known.
    body.prefetch(&mut Context::from_waker(Waker::noop()));
    Response::from_parts(head, Body::new(body))
}

/// Keeps the charge of a call in the first header of its answer. An answer without data has nothing else that the transport keeps until
/// it is written. Marked as sensitive, the header stays out of the table of HPACK, which keeps values for later answers.
fn keep_in_head(headers: &mut HeaderMap, call: Charge) {
    let Some(value) = headers.values_mut().next() else { return };
    let data = Bytes::copy_from_slice(value.as_bytes());
    let data = Bytes::from_owner(ChargedBytes { data, _charges: [Some(call), None], _unsent: None });
    if let Ok(mut charged) = HeaderValue::from_maybe_shared(data) {
        charged.set_sensitive(true);
        *value = charged;
    }
}

/// The same stream, with its bytes charged to `account`.
pub(in crate::api) fn charged_body(response: Response<Body>, account: Arc<ByteAccount>) -> Response<ChargedBody> {
    let (mut head, body) = response.into_parts();
    let source = Source::of(&mut head, body);
    let mut body = ChargedBody::new(source, account);
    body.waits_for_budget = true;
    body.unsent.get_or_insert_default();
    Response::from_parts(head, body)
}

/// Where frames come from.
enum Source {
    Body(Body),
    Shared(SharedMessages, Unsent),
}

impl Source {
    /// The messages that the handler shares, or else the body.
    fn of(head: &mut http::response::Parts, body: Body) -> Self {
        match head.extensions.remove::<SharedAnswer>().and_then(SharedAnswer::into_messages) {
            Some((messages, unsent)) => Self::Shared(messages, unsent),
            None => Self::Body(body),
        }
    }

    fn is_ended(&self) -> bool {
        matches!(self, Self::Body(body) if http_body::Body::is_end_stream(body))
    }
}

/// The body of an answer whose bytes are charged.
pub(in crate::api) struct ChargedBody {
    /// `None` once it has ended.
    source: Option<Source>,
    /// Frames that were taken from the source already.
    ready: [Option<Result<Frame<Bytes>, Status>>; 2],
    account: Arc<ByteAccount>,
    /// The charge of the call. It goes with the data.
    call: Option<Charge>,
    /// Whether the next message waits while the budget is exhausted.
    waits_for_budget: bool,
    /// The wait that has begun.
    budget_wait: Option<BudgetWait>,
    /// What the transport has not sent of a stream. `None` for an answer of one message: nobody waits until that is sent.
    unsent: Option<Unsent>,
    /// Whether its messages are shared.
    is_shared: bool,
}

impl ChargedBody {
    fn new(source: Source, account: Arc<ByteAccount>) -> Self {
        let (unsent, is_shared) = match &source {
            Source::Body(_) => (None, false),
            Source::Shared(_, unsent) => (Some(unsent.clone()), true),
        };
        let source = Some(source);
        Self {
            source,
            ready: [None, None],
            account,
            call: None,
            waits_for_budget: false,
            budget_wait: None,
            unsent,
            is_shared,
        }
    }

    /// What the transport has not sent of a stream.
    pub fn unsent(&self) -> Option<&Unsent> {
        self.unsent.as_ref()
    }

    /// Whether each message holds the current state, so that it is made only when the client has taken the one before.
    pub fn sends_latest_state(&self) -> bool {
        self.is_shared
    }

    fn unsent_frame(&self, bytes: usize) -> Option<UnsentFrame> {
        self.unsent.as_ref().map(|unsent| unsent.frame(bytes))
    }

    /// Takes no further message. Returns the rest of the last one.
    pub fn finish(&mut self) -> Option<Result<Frame<Bytes>, Status>> {
        self.source = None;
        self.ready.iter_mut().find_map(Option::take)
    }

    /// Takes the message and what follows it, so that nothing but the message is kept, and its size is known.
    fn prefetch(&mut self, context: &mut Context<'_>) {
        if let Poll::Ready(frame) = self.fetch(context) {
            let second = self.ready[0].take();
            let second = second.or_else(|| match self.fetch(context) {
                Poll::Ready(next) => next,
                Poll::Pending => None,
            });
            self.ready = [frame, second];
        }
    }

    fn ready_bytes(&self) -> usize {
        let data = |frame: &Result<Frame<Bytes>, Status>| Some(frame.as_ref().ok()?.data_ref()?.len());
        self.ready.iter().flatten().filter_map(data).sum()
    }

    /// The next frame of the source. A second one may be ready after it.
    fn fetch(&mut self, context: &mut Context<'_>) -> Polled {
        let frame = match &mut self.source {
            None => None,
            Some(Source::Body(body)) => match ready!(http_body::Body::poll_frame(Pin::new(body), context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Poll::Ready(Some(Ok(Frame::data(self.charged(data))))),
                    Err(trailers) => Some(Ok(trailers)),
                },
                ended => ended,
            },
            Some(Source::Shared(messages, _)) => match ready!(messages.as_mut().poll_next(context)) {
                Some(Ok(message)) => {
                    let unsent = self.unsent_frame(message.shared.len());
                    let rest = message.shared.lend(&self.account, self.call.take(), unsent);
                    if message.head.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(rest))));
                    }
                    self.ready[0] = Some(Ok(Frame::data(rest)));
                    return Poll::Ready(Some(Ok(Frame::data(message.head))));
                }
                Some(Err(status)) => Some(last_frame(&status)),
                None => Some(last_frame(&Status::ok(""))),
            },
        };
        self.source = None;
        Poll::Ready(frame)
    }

    /// The same bytes with their charge.
    fn charged(&mut self, data: Bytes) -> Bytes {
        let data = if data.len() <= SMALL_ANSWER { Bytes::copy_from_slice(&data) } else { data };
        let call = self.call.take();
        let is_covered = call.is_some() && data.len() <= SMALL_ANSWER;
        let own = (!is_covered).then(|| self.account.take(Direction::Response, data.len() + FRAME_BYTES));
        let unsent = self.unsent_frame(data.len());
        Bytes::from_owner(ChargedBytes { data, _charges: [call, own], _unsent: unsent })
    }

    /// Waits until no budget is exhausted; fails if that takes too long.
    fn poll_budget(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ApiError>> {
        loop {
            let Err(error) = self.account.check() else {
                self.budget_wait = None;
                return Poll::Ready(Ok(()));
            };
            let wait = self.budget_wait.get_or_insert_with(BudgetWait::new);
            if Instant::now() >= wait.until {
                return Poll::Ready(Err(error));
            }
            ready!(wait.timer.as_mut().poll(context));
            wait.pause = (wait.pause * 2).min(MAX_PAUSE);
            wait.timer.as_mut().reset(Instant::now() + wait.pause);
        }
    }
}

/// A wait for the budget.
struct BudgetWait {
    until: Instant,
    pause: Duration,
    timer: Pin<Box<Sleep>>,
}

impl BudgetWait {
    fn new() -> Self {
        Self { until: Instant::now() + BUDGET_TIMEOUT, pause: MIN_PAUSE, timer: Box::pin(sleep(MIN_PAUSE)) }
    }
}

struct ChargedBytes {
    data: Bytes,
    _charges: [Option<Charge>; 2],
    _unsent: Option<UnsentFrame>,
}

impl AsRef<[u8]> for ChargedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl http_body::Body for ChargedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        if let Some(frame) = self.ready.iter_mut().find_map(Option::take) {
            return Poll::Ready(Some(frame));
        }
        if self.waits_for_budget
            && self.source.is_some()
            && let Err(error) = ready!(self.poll_budget(context))
        {
            self.source = None;
            return Poll::Ready(Some(last_frame(&status(error))));
        }
        self.fetch(context)
    }

    fn is_end_stream(&self) -> bool {
        self.ready.iter().all(Option::is_none) && self.source.as_ref().is_none_or(Source::is_ended)
    }

    /// Known for an answer without trailers: OFREP's clients get a `content-length`.
    fn size_hint(&self) -> SizeHint {
        match (&self.source, &self.ready) {
            (None, [Some(Ok(frame)), None]) => frame.data_ref().map(|data| SizeHint::with_exact(data.len() as u64)),
            _ => None,
        }
        .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::ConnectionBytes;
    use super::*;

    #[test]
    fn refused_call_counts_until_its_answer_is_written() {
        let (budget, connection) = (ByteBudget::of(64 << 20), ConnectionBytes::default());
        let account = budget.account(&connection, &Owner::Unauthenticated(None));
        let answer = || Response::builder().header("content-type", "application/grpc").header("grpc-status", 16);
        for body in [Body::empty(), Body::new(http_body_util::Full::new(Bytes::from_static(b"{}")))] {
            let answer = charged_refusal(answer().body(body).unwrap(), account.refuse_call());
            assert_eq!(answer.headers()["content-type"], "application/grpc");
            assert!(connection.calls() == 1 && account.charged() > 0);
            drop(answer);
            assert_eq!((connection.calls(), account.charged()), (0, 0));
        }
    }
}
