//! Connections: accepted from the listener, through the TLS handshake where TLS is on, and read and written within limits.

mod accept;
mod arriving;
mod gather;
mod linger;
mod peer;
mod reading;
mod writing;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::either::Either;

use super::errors::{LimitName, millis};
use super::middleware::limits::{ByteBudget, ConnectionPermit};
use crate::mirror::WriteTime;
use crate::telemetry::metrics::GaugeGuard;
use crate::tls::TlsStream;
use gather::GatherBuffers;
use linger::Linger;
use reading::Reading;
use writing::Writing;

pub(super) use accept::incoming;
pub(super) use arriving::Arriving;
pub(super) use linger::{LINGER_BYTES, LINGER_TIME};
pub(super) use peer::Peer;

/// A connection ready for requests.
pub(super) struct Connection {
    stream: Either<TcpStream, Box<TlsStream>>,
    peer: Arc<Peer>,
    reading: Reading,
    writing: Writing,
    /// The rest of a request that was not read; from the end of the answer on.
    linger: Option<Linger>,
    _permit: ConnectionPermit,
    _open: GaugeGuard,
}

/// What connections share.
#[derive(Clone)]
struct Settings {
    timeouts: Timeouts,
    write_time: WriteTime,
    bytes: Arc<ByteBudget>,
    buffers: GatherBuffers,
}

/// The timeouts of a connection.
#[derive(Debug, Clone, Copy)]
struct Timeouts {
    /// How long the handshake may take, and then the preface.
    handshake: Duration,
    /// How long a client may leave unread what was sent.
    stall: Duration,
}

impl Connection {
    fn new(
        stream: Either<TcpStream, Box<TlsStream>>,
        peer: Arc<Peer>,
        permit: ConnectionPermit,
        Settings { timeouts, write_time, bytes, buffers }: Settings,
    ) -> Self {
        let reading = Reading::new(Arc::clone(&peer), Arc::clone(&bytes), timeouts.handshake);
        let writing = Writing::new(Arc::clone(&peer), bytes, write_time, buffers, timeouts.stall);
        let open = GaugeGuard::connection();
        Self { stream, peer, reading, writing, linger: None, _permit: permit, _open: open }
    }

    /// The other end.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, reading, writing, .. } = &mut *self;
        if writing.defers_read() {
            reading.check_end(cx)?;
            return Poll::Pending;
        }
        if let Some(kept_back) = reading.poll_kept_back(cx, buffer) {
            return kept_back;
        }
        if reading.defers_read(cx) {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(stream).poll_read(cx, buffer);
        reading.after_read(polled, before, cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, reading, writing, .. } = &mut *self;
        // While the client does not read, the transport may poll only writes. So the check of reads is made here too.
        reading.check_end(cx)?;
        writing.poll_write(stream, cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, reading, writing, .. } = &mut *self;
        reading.check_end(cx)?;
        writing.poll_flush(stream, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, writing, linger, peer, .. } = &mut *self;
        if linger.is_none() {
            ready!(writing.poll_gathered(stream, cx))?;
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
            if !peer.bytes.arriving().is_unread_request() {
                return Poll::Ready(Ok(()));
            }
        }
        linger.get_or_insert_with(Linger::new).poll(stream, cx)
    }
}

/// The error of a connection whose client takes too long.
fn timed_out(limit: LimitName, time: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the client takes too long ({})", limit.with(millis(time))))
}
