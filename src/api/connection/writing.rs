//! What is written to a connection: frames are gathered, and a client that does not read them is waited for.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep, sleep};

use super::gather::{GatherBuffers, GatheredFrames};
use super::{Peer, timed_out};
use crate::api::errors::STALL_TIME;
use crate::api::middleware::limits::{ByteBudget, Charge};
use crate::mirror::WriteTime;

/// The writing half.
pub(super) struct Writing {
    peer: Arc<Peer>,
    bytes: Arc<ByteBudget>,
    write_time: WriteTime,
    /// Whether the first write since the last flush has yielded to other tasks.
    has_yielded: bool,
    buffers: GatherBuffers,
    /// Frames that were not written yet.
    gathered: Option<GatheredFrames>,
    /// Whether frames were gathered since the last flush.
    has_grown: bool,
    stall: Stall,
    /// What the transport keeps of answers while the client does not read.
    unread: Option<Charge>,
}

/// A client that does not read what was sent. Nothing more is read from it meanwhile, since every request makes an answer, and answers
/// without data have no flow control: a client that sends and never reads would fill the memory with them.
struct Stall {
    timeout: Duration,
    /// Whether the last write waits for the client to read.
    is_stalled: bool,
    /// Whether a read was put off.
    has_deferred_read: bool,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// Notes the outcome of a write; fails when the client has not read for too long.
    fn after_write<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.is_stalled = polled.is_pending();
        if !self.is_stalled {
            self.deadline = None;
            if std::mem::take(&mut self.has_deferred_read) {
                cx.waker().wake_by_ref();
            }
            return polled;
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(self.timeout)));
        deadline.as_mut().poll(cx).map(|()| Err(timed_out(STALL_TIME, self.timeout)))
    }
}

impl Writing {
    /// Of a connection whose client may leave unread what was sent for `stall_time`.
    pub fn new(
        peer: Arc<Peer>,
        bytes: Arc<ByteBudget>,
        write_time: WriteTime,
        buffers: GatherBuffers,
        stall_time: Duration,
    ) -> Self {
        Self {
            peer,
            bytes,
            write_time,
            has_yielded: false,
            buffers,
            gathered: None,
            has_grown: false,
            stall: Stall { timeout: stall_time, is_stalled: false, has_deferred_read: false, deadline: None },
            unread: None,
        }
    }

    /// Whether a read has to wait until the client has read; the write then wakes this task.
    pub fn defers_read(&mut self) -> bool {
        self.stall.has_deferred_read |= self.stall.is_stalled;
        self.stall.is_stalled
    }

    /// Writes, or gathers what `h2` writes.
    pub fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(gathered) = self.gather(parts) {
            return Poll::Ready(Ok(gathered));
        }
        ready!(self.poll_yield(cx));
        if self.gathered.is_some() {
            // The buffer is full.
            ready!(self.poll_gathered(stream, cx))?;
            if let Some(gathered) = self.gather(parts) {
                return Poll::Ready(Ok(gathered));
            }
        }
        let begun = Instant::now();
        let polled = Pin::new(stream).poll_write_vectored(cx, parts);
        self.write_time.add(&self.peer.connection, begun.elapsed());
        self.after_write(polled, cx)
    }

    /// `h2` flushes after each frame with a payload. So the first flush after a gathered frame does nothing but have the transport polled
    /// again, which always ends with a flush. What is ready meanwhile is gathered too.
    pub fn poll_flush<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.has_grown) {
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_gathered(stream, cx))?;
        self.has_yielded = false;
        let polled = Pin::new(stream).poll_flush(cx);
        self.after_write(polled, cx)
    }

    /// Yields once before the first write after a flush, so that all answers that are ready go out in one system call. That call
    /// takes a fifth of the CPU time of answering a read.
    fn poll_yield(&mut self, cx: &Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.has_yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Notes the outcome of a write. While the client does not read, what the transport keeps is charged.
    fn after_write<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let polled = self.stall.after_write(polled, cx);
        if !self.stall.is_stalled {
            self.unread = None;
        } else if self.unread.is_none() {
            self.unread = self.bytes.hold_unread(&self.peer.bytes);
        }
        polled
    }

    /// Gathers a frame, and anything after it. Returns its length, or `None` if it must be written.
    fn gather(&mut self, parts: &[IoSlice<'_>]) -> Option<usize> {
        if self.gathered.is_none() {
            // Not for HTTP/1.1: `hyper` joins its writes itself, and closes the connection of a client that has closed its half once it
            // has no unfinished write, so what is gathered would be lost.
            self.gathered = self.buffers.take_for(parts).filter(|_| self.peer.bytes.arriving().is_http2());
        }
        let gathered = self.gathered.as_mut()?;
        let begun = Instant::now();
        let length = gathered.add(parts)?;
        self.has_grown = true;
        self.write_time.add(&self.peer.connection, begun.elapsed());
        Some(length)
    }

    /// Writes what was gathered.
    pub fn poll_gathered<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(gathered) = &mut self.gathered {
            if gathered.unwritten().is_empty() {
                self.gathered = None;
                self.has_yielded = false;
                break;
            }
            let begun = Instant::now();
            let polled = Pin::new(&mut *stream).poll_write(cx, gathered.unwritten());
            self.write_time.add(&self.peer.connection, begun.elapsed());
            let written = ready!(self.after_write(polled, cx))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if let Some(gathered) = &mut self.gathered {
                gathered.advance(written);
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use futures::{FutureExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::yield_now;

    use super::*;
    use crate::api::connection::arriving::PREFACE;
    use crate::api::connection::{Connection, incoming};
    use crate::api::middleware::limits::Owner;
    use crate::config::Limits;

    const FRAME: [&[u8]; 2] = [&[1; 9], &[2; 16 << 10]];

    /// A connection whose client has sent these bytes.
    async fn connect(sent: &[u8]) -> (Connection, TcpStream) {
        let (listener, limits) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Limits::defaults());
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(sent).await.unwrap();
        let mut connections = pin!(incoming(listener, None, &limits, WriteTime::default(), ByteBudget::new(&limits)));
        let mut connection = connections.next().await.unwrap();
        connection.read_exact(&mut vec![0; sent.len()]).await.unwrap();
        (connection, client)
    }

    /// Writes and flushes frames, as `h2` does while it has more.
    async fn write(connection: &mut Connection, frames: usize) {
        let parts = FRAME.map(IoSlice::new);
        for _ in 0..frames {
            let written = poll_fn(|cx| Pin::new(&mut *connection).poll_write_vectored(cx, &parts)).await.unwrap();
            assert_eq!(written, FRAME.concat().len());
            connection.flush().await.unwrap();
        }
    }

    fn unwritten(connection: &Connection) -> usize {
        connection.writing.gathered.as_ref().map_or(0, |gathered| gathered.unwritten().len() / FRAME.concat().len())
    }

    #[tokio::test]
    async fn large_frames_are_written_together() {
        let (mut connection, mut client) = connect(PREFACE).await;
        write(&mut connection, 3).await;
        assert_eq!(unwritten(&connection), 3);
        connection.flush().await.unwrap();
        assert_eq!(unwritten(&connection), 0, "nothing came after the last flush");
        write(&mut connection, 10).await;
        assert_eq!(unwritten(&connection), 2, "four at a time fill the buffer");
        connection.flush().await.unwrap();
        drop(connection);
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        assert!(read == FRAME.concat().repeat(13));
    }

    #[tokio::test]
    async fn writes_of_http1_are_not_gathered() {
        let (mut connection, _client) = connect(b"POST / HTTP/1.1\r\n").await;
        write(&mut connection, 1).await;
        assert!(connection.writing.gathered.is_none());
    }

    #[tokio::test]
    async fn what_is_kept_for_a_client_that_does_not_read_is_charged() {
        let (mut connection, mut client) = connect(b"POST / HTTP/1.1\r\n").await;
        let owner = Owner::Unauthenticated(None);
        let account = connection.writing.bytes.account(&connection.peer.bytes, &owner);
        while !connection.writing.stall.is_stalled {
            assert_eq!(account.charged(), 0, "the client reads, as far as is known");
            let _ = connection.write(&[1; 16 << 10]).now_or_never();
            yield_now().await;
        }
        assert!(account.charged() >= 16 << 10);
        let mut read = vec![0; 1 << 20];
        while connection.writing.stall.is_stalled {
            assert!(client.read(&mut read).await.unwrap() > 0);
            let _ = connection.write(&[1; 16 << 10]).now_or_never();
        }
        assert_eq!(account.charged(), 0);
    }

    #[tokio::test]
    async fn shutdown_writes_what_was_gathered() {
        let (mut connection, mut client) = connect(PREFACE).await;
        write(&mut connection, 1).await;
        connection.shutdown().await.unwrap();
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        assert!(read == FRAME.concat());
    }
}
