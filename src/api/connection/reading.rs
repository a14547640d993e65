//! What has arrived on a connection: what the transport keeps of it, and the memory that counts for it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::{Sleep, sleep};

use super::arriving::Frames;
use super::{Peer, timed_out};
use crate::api::errors::HANDSHAKE_TIME;
use crate::api::middleware::limits::{
    ByteBudget, CallSlots, ConnectionBytes, FRAMES_PER_SLOT, FREE_SLOTS, UnfinishedHead,
};

/// The length of HTTP/2's connection preface; a request of HTTP/1.1 is longer. With fewer bytes the protocol may not be
/// known, and the transport would wait for the rest without limit.
const PREFACE_LENGTH: usize = 24;

/// How many calls may have arrived and not begun before more is read. `h2` would read all that there is first, and keep the heads of all
/// calls in it, also of those that were cancelled meanwhile. Of these it allows so many that one read beyond this number has fewer
/// (`max_pending_resets`).
const MAX_UNTAKEN_CALLS: usize = 64;

/// The reading half.
pub(super) struct Reading {
    peer: Arc<Peer>,
    bytes: Arc<ByteBudget>,
    /// `None` once the preface has been read.
    preface: Option<Preface>,
    /// What the transport keeps of a head or frame, while it waits for the rest.
    unfinished: Option<UnfinishedHead>,
    frames: UntakenFrames,
    /// What `h2` makes for calls; `None` while the free ones suffice.
    slots: Option<CallSlots>,
    /// What has been read, but not passed to the transport, since it needs more slots.
    kept_back: Vec<u8>,
}

/// A preface that has not arrived completely.
struct Preface {
    /// How many bytes of it have been read.
    read: usize,
    timeout: Duration,
    /// When the rest must have arrived.
    deadline: Pin<Box<Sleep>>,
}

/// The frames that were passed to `h2` and that calls may not have taken. `h2` first reads all that has arrived. Then it begins the calls,
/// and reads after each of them. So all have begun when none begins between two reads that find nothing.
#[derive(Default)]
struct UntakenFrames {
    arrived: Frames,
    /// How many calls had begun when they began to arrive, and when a read last found nothing.
    begun: usize,
    begun_when_empty: Option<usize>,
    /// How many calls had begun when a read was last put off for others to begin.
    begun_when_deferred: Option<usize>,
}

impl UntakenFrames {
    /// Whether so many calls wait that some have to begin before more is read. Not twice in a row if none begins: then what has arrived
    /// begins none, such as the trailers of requests.
    fn defers_read(&mut self, begun: usize) -> bool {
        let untaken = self.arrived.headers.saturating_sub(begun.wrapping_sub(self.begun));
        untaken > MAX_UNTAKEN_CALLS && self.begun_when_deferred.replace(begun) != Some(begun)
    }

    /// The slots that `h2` needs for them and for the calls that are not over.
    fn slots(&self, bytes: &ConnectionBytes) -> usize {
        let begun = bytes.begun().wrapping_sub(self.begun);
        let Frames { headers, data } = self.arrived;
        (bytes.calls() + headers.saturating_sub(begun)).max((headers + data) / FRAMES_PER_SLOT)
    }
}

impl Reading {
    /// Of a connection that must begin with the preface within `handshake_time`.
    pub fn new(peer: Arc<Peer>, bytes: Arc<ByteBudget>, handshake_time: Duration) -> Self {
        let preface = Preface { read: 0, timeout: handshake_time, deadline: Box::pin(sleep(handshake_time)) };
        Self {
            peer,
            bytes,
            preface: Some(preface),
            unfinished: None,
            frames: UntakenFrames::default(),
            slots: None,
            kept_back: Vec::new(),
        }
    }

    /// Passes on what was kept back; `None` if nothing is.
    pub fn poll_kept_back(&mut self, cx: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Option<Poll<io::Result<()>>> {
        (!self.kept_back.is_empty()).then(|| self.poll_pass_on(cx, buffer))
    }

    /// Whether calls have to begin before more is read. Then has this task polled again, which lets them.
    pub fn defers_read(&mut self, cx: &Context<'_>) -> bool {
        let defers = self.frames.defers_read(self.peer.bytes.begun());
        if defers {
            cx.waker().wake_by_ref();
        }
        defers
    }

    /// Notes what a read found, after the first `before` bytes of the buffer, and keeps it back if it needs more slots.
    pub fn after_read(
        &mut self,
        polled: Poll<io::Result<()>>,
        before: usize,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = &buffer.filled()[before..];
        self.charge_unfinished(read, cx, polled.is_pending())?;
        if let Some(preface) = &mut self.preface {
            preface.read += read.len();
            if preface.read >= PREFACE_LENGTH {
                self.preface = None;
            } else if polled.is_pending() && preface.deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(timed_out(HANDSHAKE_TIME, preface.timeout)));
            }
        }
        if polled.is_pending() {
            // The calls that have begun may have shown that the caller is authenticated. They need no more slots than what was read.
            _ = self.poll_slots(cx);
            self.watch_slots(cx)?;
        } else if !read.is_empty() && self.poll_slots(cx).is_pending() {
            self.kept_back = read.to_vec();
            buffer.set_filled(before);
            return Poll::Pending;
        }
        polled
    }

    /// Charges what the transport keeps of a head or frame that has not arrived completely, once it waits for the rest.
    ///
    /// # Errors
    /// When such heads take too much memory, and this one has waited longest.
    fn charge_unfinished(&mut self, read: &[u8], cx: &Context<'_>, must_wait: bool) -> io::Result<()> {
        let kept = {
            let mut arriving = self.peer.bytes.arriving();
            let begun = self.peer.bytes.begun();
            if self.frames.begun_when_empty == Some(begun) {
                arriving.forget_frames(self.peer.bytes.has_unread_body());
                self.frames.begun = begun;
            }
            self.frames.begun_when_empty = must_wait.then_some(begun);
            let was_kept = arriving.kept() > 0;
            let has_completed = arriving.add(read);
            // What is kept now has waited since before only if it continues what was kept then.
            if has_completed || !was_kept {
                self.unfinished = None;
            }
            self.frames.arrived = arriving.frames();
            arriving.kept()
        };
        if kept == 0 || !must_wait {
            return Ok(());
        }
        match &mut self.unfinished {
            Some(unfinished) => unfinished.grow_to(kept),
            none => *none = Some(self.bytes.hold_head(&self.peer.bytes, self.peer.address.ip(), kept)),
        }
        self.check_end(cx)
    }

    /// # Errors
    /// When unfinished heads or slots take too much memory, and those of this connection are the oldest.
    pub fn check_end(&self, cx: &Context<'_>) -> io::Result<()> {
        match self.unfinished.as_ref().map(|unfinished| unfinished.poll_end(cx)) {
            Some(Poll::Ready(())) => {
                Err(io::Error::other("too many unfinished heads of requests, of which this is the oldest"))
            }
            _ if self.slots.as_ref().is_some_and(CallSlots::is_ended) => {
                Err(io::Error::other("too many calls at once on too many connections, of which this is the oldest"))
            }
            _ => Ok(()),
        }
    }

    /// Gets the slots that `h2` needs for what was read. They belong to unauthenticated callers until the connection has another.
    fn poll_slots(&mut self, cx: &Context<'_>) -> Poll<()> {
        let bytes = &self.peer.bytes;
        let needed = self.frames.slots(bytes).min(self.bytes.max_slots());
        let held = self.slots.as_ref().map_or(FREE_SLOTS, CallSlots::count);
        let is_authenticated =
            || self.slots.as_ref().is_some_and(CallSlots::is_unauthenticated) && bytes.is_authenticated();
        if needed <= held && !is_authenticated() {
            return Poll::Ready(());
        }
        self.poll_more_slots(needed.max(held), cx)
    }

    fn poll_more_slots(&mut self, needed: usize, cx: &Context<'_>) -> Poll<()> {
        let bytes = &self.peer.bytes;
        if self.slots.as_ref().is_none_or(|slots| slots.is_unauthenticated() && bytes.is_authenticated()) {
            let mut new = self.bytes.call_slots(bytes);
            let polled = new.poll_grow(needed, cx);
            if polled.is_ready() || self.slots.is_none() {
                self.slots = Some(new);
                return polled;
            }
        }
        self.slots.as_mut().map_or(Poll::Ready(()), |slots| slots.poll_grow(needed, cx))
    }

    /// Has this task woken when the connection has to close.
    fn watch_slots(&self, cx: &Context<'_>) -> io::Result<()> {
        if let Some(slots) = &self.slots {
            _ = slots.poll_end(cx);
        }
        self.check_end(cx)
    }

    /// Passes on what was kept back, once there are slots for it.
    fn poll_pass_on(&mut self, cx: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.watch_slots(cx)?;
        ready!(self.poll_slots(cx));
        let (passed, rest) = self.kept_back.split_at(self.kept_back.len().min(buffer.remaining()));
        buffer.put_slice(passed);
        self.kept_back = rest.to_vec();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_waits_while_calls_begin() {
        let arrived = Frames { headers: 100, data: 0 };
        let mut frames = UntakenFrames { arrived, begun: 7, ..UntakenFrames::default() };
        for begun in 7..100 {
            assert_eq!(frames.defers_read(begun), begun < 7 + 100 - MAX_UNTAKEN_CALLS, "{begun}");
        }
        assert!(frames.defers_read(8) && !frames.defers_read(8), "none begins");
        assert!(frames.defers_read(9));
    }
}
