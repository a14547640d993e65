//! Connections: accepted from the listener, through the TLS handshake where TLS is on.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_util::either::Either;

use super::arriving::Frames;
use super::errors::{HANDSHAKE_TIME, HANDSHAKES, LimitName, STALL_TIME, millis};
use super::gather::{GatherBuffers, GatheredFrames};
use super::linger::Linger;
use super::middleware::limits::{
    ByteBudget, CallSlots, Charge, ConnectionBytes, ConnectionLimiter, ConnectionPermit, FRAMES_PER_SLOT, FREE_SLOTS,
    UnfinishedHead,
};
use crate::config::Limits;
use crate::mirror::{ClientConnection, WriteTime};
use crate::telemetry::log_throttle::LogThrottle;
use crate::telemetry::metrics::{GaugeGuard, count_refusal};
use crate::tls::{ClientCertificate, ServerTls, TlsStream};

/// The pause after a failed accept. Most likely the process has no file descriptor left, and the next accept would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The length of HTTP/2's connection preface; a request of HTTP/1.1 is longer. With fewer bytes the protocol may not be
/// known, and the transport would wait for the rest without limit.
const PREFACE_LENGTH: usize = 24;

/// The other end of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    /// The peer's address.
    pub address: SocketAddr,
    /// The client certificate, verified against the configured CA; only where client certificates are required.
    pub certificate: Option<ClientCertificate>,
    /// What the connection has buffered.
    pub bytes: ConnectionBytes,
    /// Its identity, by which fan-out counts the time spent writing to it.
    connection: ClientConnection,
}

impl Peer {
    fn new(address: SocketAddr, certificate: Option<ClientCertificate>) -> Arc<Self> {
        let (bytes, connection) = (ConnectionBytes::default(), ClientConnection::default());
        Arc::new(Self { address, certificate, bytes, connection })
    }

    /// The peer of a request with these extensions.
    pub fn of(extensions: &http::Extensions) -> Option<&Self> {
        extensions.get::<Arc<Self>>().map(|peer| &**peer)
    }

    /// The identity of the connection on which a request with these extensions arrived; a new one without a [`Peer`].
    pub fn connection(extensions: &http::Extensions) -> ClientConnection {
        Self::of(extensions).map(|peer| peer.connection.clone()).unwrap_or_default()
    }
}

/// A connection ready for requests.
pub(super) struct Connection {
    stream: Either<TcpStream, Box<TlsStream>>,
    peer: Arc<Peer>,
    /// `None` once the preface has been read.
    preface: Option<Preface>,
    /// What the transport keeps of a head or frame, while it waits for the rest.
    unfinished: Option<UnfinishedHead>,
    frames: UntakenFrames,
    /// What `h2` makes for calls; `None` while the free ones suffice.
    slots: Option<CallSlots>,
    /// What has been read, but not passed to the transport, since it needs more slots.
    kept_back: Vec<u8>,
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
    /// The rest of a request that was not read; from the end of the answer on.
    linger: Option<Linger>,
    write_time: WriteTime,
    bytes: Arc<ByteBudget>,
    _permit: ConnectionPermit,
    _open: GaugeGuard,
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
}

impl UntakenFrames {
    /// The slots that `h2` needs for them and for the calls that are not over.
    fn slots(&self, bytes: &ConnectionBytes) -> usize {
        let begun = bytes.begun().wrapping_sub(self.begun);
        let Frames { headers, data } = self.arrived;
        (bytes.calls() + headers.saturating_sub(begun)).max((headers + data) / FRAMES_PER_SLOT)
    }
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
        let preface =
            Some(Preface { read: 0, timeout: timeouts.handshake, deadline: Box::pin(sleep(timeouts.handshake)) });
        let stall = Stall { timeout: timeouts.stall, is_stalled: false, has_deferred_read: false, deadline: None };
        let _open = GaugeGuard::connection();
        Self {
            stream,
            peer,
            preface,
            unfinished: None,
            frames: UntakenFrames::default(),
            slots: None,
            kept_back: Vec::new(),
            has_yielded: false,
            buffers,
            gathered: None,
            has_grown: false,
            stall,
            unread: None,
            linger: None,
            write_time,
            bytes,
            _permit: permit,
            _open,
        }
    }

    /// The other end.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
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
    fn check_end(&self, cx: &Context<'_>) -> io::Result<()> {
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
    fn poll_kept_back(&mut self, cx: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.watch_slots(cx)?;
        ready!(self.poll_slots(cx));
        let (passed, rest) = self.kept_back.split_at(self.kept_back.len().min(buffer.remaining()));
        buffer.put_slice(passed);
        self.kept_back = rest.to_vec();
        Poll::Ready(Ok(()))
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
    fn poll_write_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(gathered) = &mut self.gathered {
            if gathered.unwritten().is_empty() {
                self.gathered = None;
                self.has_yielded = false;
                break;
            }
            let begun = Instant::now();
            let polled = Pin::new(&mut self.stream).poll_write(cx, gathered.unwritten());
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

/// The connections of a listener. The stream never ends; dropping it closes the listener and aborts open handshakes.
pub(super) fn incoming(
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    limits: &Limits,
    write_time: WriteTime,
    bytes: Arc<ByteBudget>,
) -> impl Stream<Item = Connection> + use<> {
    let incoming = Incoming {
        acceptor: Acceptor { listener, pause: None, warnings: LogThrottle::default() },
        tls,
        connections: ConnectionLimiter::new(limits.max_connections),
        settings: Settings {
            timeouts: Timeouts {
                handshake: limits.fixed.handshake_timeout,
                stall: limits.fixed.keepalive_interval + limits.fixed.keepalive_timeout,
            },
            write_time,
            bytes,
            buffers: GatherBuffers::default(),
        },
        max_handshakes: limits.fixed.max_handshakes,
        handshakes: JoinSet::new(),
        order: VecDeque::new(),
    };
    futures::stream::unfold(incoming, async |mut incoming| Some((incoming.next().await, incoming)))
}

struct Incoming {
    acceptor: Acceptor,
    tls: Option<Arc<ServerTls>>,
    connections: Arc<ConnectionLimiter>,
    settings: Settings,
    /// How many handshakes may run at the same time. When this limit is reached, the oldest is aborted: silent clients cannot keep
    /// others out, and an honest handshake ends long before it is the oldest.
    max_handshakes: usize,
    handshakes: JoinSet<Option<Connection>>,
    /// The handshakes, oldest first, and some that have ended.
    order: VecDeque<AbortHandle>,
}

impl Incoming {
    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                biased;
                Some(ended) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = ended {
                        return connection;
                    }
                }
                (stream, address) = self.acceptor.accept() => {
                    let permit = match self.connections.open(address.ip()) {
                        Ok(permit) => permit,
                        Err(limit) => {
                            count_refusal("CONNECTION_LIMIT");
                            self.acceptor.log(&format!("connection limit reached; closing new connections ({limit})"));
                            continue;
                        }
                    };
                    match &self.tls {
                        None => {
                            let peer = Peer::new(address, None);
                            return Connection::new(Either::Left(stream), peer, permit, self.settings.clone());
                        }
                        Some(tls) => {
                            let settings = self.settings.clone();
                            self.begin(handshake(Arc::clone(tls), stream, address, permit, settings));
                        }
                    }
                },
            }
        }
    }

    fn begin(&mut self, handshake: impl Future<Output = Option<Connection>> + Send + 'static) {
        self.order.retain(|task| !task.is_finished());
        if self.order.len() >= self.max_handshakes
            && let Some(oldest) = self.order.pop_front()
        {
            let limit = HANDSHAKES.with(self.max_handshakes);
            self.acceptor.log(&format!("too many TLS handshakes at once; closing the oldest ({limit})"));
            oldest.abort();
        }
        self.order.push_back(self.handshakes.spawn(handshake));
    }
}

/// `None` if the handshake fails. Any client can cause that, so it is no warning.
async fn handshake(
    tls: Arc<ServerTls>,
    stream: TcpStream,
    address: SocketAddr,
    permit: ConnectionPermit,
    settings: Settings,
) -> Option<Connection> {
    let handshake_time = settings.timeouts.handshake;
    let accepted = timeout(handshake_time, tls.accept(stream)).await;
    match accepted.unwrap_or_else(|_| Err(timed_out(HANDSHAKE_TIME, handshake_time))) {
        Ok((stream, certificate)) => {
            let peer = Peer::new(address, certificate);
            Some(Connection::new(Either::Right(Box::new(stream)), peer, permit, settings))
        }
        Err(error) => {
            tracing::debug!(%address, %error, "TLS handshake failed");
            None
        }
    }
}

/// The error of a connection whose client takes too long.
fn timed_out(limit: LimitName, time: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the client takes too long ({})", limit.with(millis(time))))
}

/// A listener that survives failed accepts.
struct Acceptor {
    listener: TcpListener,
    pause: Option<Instant>,
    warnings: LogThrottle,
}

impl Acceptor {
    /// The next connection. Cancel safe.
    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            if let Some(until) = self.pause {
                sleep_until(until).await;
                self.pause = None;
            }
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    // Answers are small and must not wait for more data.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%address, %error, "TCP_NODELAY not set");
                    }
                    return (stream, address);
                }
                Err(error) => self.accept_failed(&error),
            }
        }
    }

    fn accept_failed(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        // These concern one client only.
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            return;
        }
        self.log(&format!("accept failed: {error}; retrying"));
        self.pause = Some(Instant::now() + ACCEPT_PAUSE);
    }

    /// Logs a warning, unless one was logged shortly before.
    fn log(&mut self, message: &str) {
        if self.warnings.admit(Instant::now()).is_some() {
            tracing::warn!("{message}");
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stall.is_stalled {
            self.check_end(cx)?;
            // The write wakes this task.
            self.stall.has_deferred_read = true;
            return Poll::Pending;
        }
        if !self.kept_back.is_empty() {
            return self.poll_kept_back(cx, buffer);
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
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
        // While the client does not read, the transport may poll only writes. So the check of reads is made here too.
        self.check_end(cx)?;
        if let Some(gathered) = self.gather(parts) {
            return Poll::Ready(Ok(gathered));
        }
        ready!(self.poll_yield(cx));
        if self.gathered.is_some() {
            // The buffer is full.
            ready!(self.poll_write_gathered(cx))?;
            if let Some(gathered) = self.gather(parts) {
                return Poll::Ready(Ok(gathered));
            }
        }
        let begun = Instant::now();
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.write_time.add(&self.peer.connection, begun.elapsed());
        self.after_write(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// `h2` flushes after each frame with a payload. So the first flush after a gathered frame does nothing but have the transport polled
    /// again, which always ends with a flush. What is ready meanwhile is gathered too.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_end(cx)?;
        if std::mem::take(&mut self.has_grown) {
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_write_gathered(cx))?;
        self.has_yielded = false;
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.after_write(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(self.poll_write_gathered(cx))?;
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if !self.peer.bytes.arriving().is_unread_request() {
                return Poll::Ready(Ok(()));
            }
        }
        let Self { linger, stream, .. } = &mut *self;
        linger.get_or_insert_with(Linger::new).poll(stream, cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use futures::{FutureExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::yield_now;

    use super::*;
    use crate::api::arriving::PREFACE;
    use crate::api::middleware::limits::Owner;

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
        connection.gathered.as_ref().map_or(0, |gathered| gathered.unwritten().len() / FRAME.concat().len())
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
        assert!(connection.gathered.is_none());
    }

    #[tokio::test]
    async fn what_is_kept_for_a_client_that_does_not_read_is_charged() {
        let (mut connection, mut client) = connect(b"POST / HTTP/1.1\r\n").await;
        let owner = Owner::Unauthenticated(None);
        let account = connection.bytes.account(&connection.peer.bytes, &owner);
        while !connection.stall.is_stalled {
            assert_eq!(account.charged(), 0, "the client reads, as far as is known");
            let _ = connection.write(&[1; 16 << 10]).now_or_never();
            yield_now().await;
        }
        assert!(account.charged() >= 16 << 10);
        let mut read = vec![0; 1 << 20];
        while connection.stall.is_stalled {
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
