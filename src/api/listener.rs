//! The connections that are served: taken from the listener, and brought through the TLS handshake where there is TLS.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_util::either::Either;
use tonic::transport::server::Connected;

use crate::config::Limits;
use crate::telemetry::metrics::{Open, refused};
use crate::tls::{ClientCertificate, Tls, TlsStream};

/// How long to wait when the system gives us no connection: most likely it has no file descriptor left, and says so
/// again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often that is logged at the most.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// What a client of HTTP/2 says first, in bytes; one of HTTP/1.1 says more. With fewer nobody knows yet which it is, and
/// the transport would wait for the rest without end.
const FIRST_WORDS: usize = 24;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Their address.
    pub address: SocketAddr,
    /// Their certificate, which a CA of ours has issued; there where one is demanded.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// A connection that is ready for requests.
pub(super) struct Connection {
    stream: Either<TcpStream, Box<TlsStream>>,
    peer: Peer,
    /// Until its first words are read.
    opening: Option<Opening>,
    /// Whether what is to be written has let others go first.
    yielded: bool,
    _place: OwnedSemaphorePermit,
    _open: Open,
}

/// A connection that has yet to say what it is.
struct Opening {
    read: usize,
    late: Pin<Box<Sleep>>,
}

impl Connection {
    fn new(stream: Either<TcpStream, Box<TlsStream>>, peer: Peer, place: OwnedSemaphorePermit, by: Duration) -> Self {
        let opening = Some(Opening { read: 0, late: Box::pin(sleep(by)) });
        Self { stream, peer, opening, yielded: false, _place: place, _open: Open::connection() }
    }

    /// Lets the calls go first that are ready to be answered, once before each flush: what they answer goes with it. A call
    /// of the system takes as long as a fifth of a read, and an answer of its own each would need one.
    fn poll_gathered(&mut self, cx: &Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// The connections of a listener, without end. What is still in its handshake ends with the stream, and so does the
/// listener.
pub(super) fn incoming(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    limits: &Limits,
) -> impl Stream<Item = io::Result<Connection>> + use<> {
    let incoming = Incoming {
        acceptor: Acceptor { listener, pause: None, complained: None },
        tls,
        places: Arc::new(Semaphore::new(limits.max_connections)),
        patience: limits.handshake_timeout,
        most_handshakes: limits.max_handshakes,
        handshakes: JoinSet::new(),
        order: VecDeque::new(),
    };
    futures::stream::unfold(incoming, async |mut incoming| Some((Ok(incoming.next().await), incoming)))
}

struct Incoming {
    acceptor: Acceptor,
    tls: Option<Arc<Tls>>,
    /// As many as there may be connections.
    places: Arc<Semaphore>,
    /// How long a handshake may take, and then the first words. Over a bad line it is a few round trips; a client that
    /// takes longer is not going to call.
    patience: Duration,
    /// How many handshakes may be under way. Past it the oldest gives way to the newest: a few clients that connect and
    /// say nothing keep nobody else out, as a handshake that goes on is done long before it is the oldest.
    most_handshakes: usize,
    handshakes: JoinSet<Option<Connection>>,
    /// The handshakes, oldest first; also some that have ended.
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
                    let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                        refused("CONNECTION_LIMIT");
                        self.acceptor.complain("there are as many connections as there may be; closing more at once");
                        continue;
                    };
                    match &self.tls {
                        None => {
                            let peer = Peer { address, certificate: None };
                            return Connection::new(Either::Left(stream), peer, place, self.patience);
                        }
                        Some(tls) => {
                            let handshake = shake_hands(Arc::clone(tls), stream, address, place, self.patience);
                            self.begin(handshake);
                        }
                    }
                },
            }
        }
    }

    fn begin(&mut self, handshake: impl Future<Output = Option<Connection>> + Send + 'static) {
        self.order.retain(|task| !task.is_finished());
        if self.order.len() >= self.most_handshakes
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
        }
        self.order.push_back(self.handshakes.spawn(handshake));
    }
}

/// `None` if nothing comes of it. Whoever finds the port can cause that: it is no warning.
async fn shake_hands(
    tls: Arc<Tls>,
    stream: TcpStream,
    address: SocketAddr,
    place: OwnedSemaphorePermit,
    patience: Duration,
) -> Option<Connection> {
    let ended = timeout(patience, tls.accept(stream)).await;
    match ended.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok((stream, certificate)) => {
            let peer = Peer { address, certificate: certificate.map(Arc::new) };
            Some(Connection::new(Either::Right(Box::new(stream)), peer, place, patience))
        }
        Err(problem) => {
            tracing::debug!(%address, %problem, "no TLS connection came about");
            None
        }
    }
}

/// A listener that is never given up.
struct Acceptor {
    listener: TcpListener,
    pause: Option<Instant>,
    complained: Option<Instant>,
}

impl Acceptor {
    /// The next connection. Nothing is lost when this is dropped before it is ready.
    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            if let Some(until) = self.pause {
                sleep_until(until).await;
                self.pause = None;
            }
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    // Answers are small and must not wait for more to send.
                    if let Err(problem) = stream.set_nodelay(true) {
                        tracing::debug!(%address, %problem, "TCP_NODELAY");
                    }
                    return (stream, address);
                }
                Err(problem) => self.failed(&problem),
            }
        }
    }

    fn failed(&mut self, problem: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        // These say that one client has gone, not that the next cannot come.
        if matches!(problem.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            return;
        }
        self.complain(&format!("cannot take connections: {problem}; trying on"));
        self.pause = Some(Instant::now() + ACCEPT_PAUSE);
    }

    /// Logs it, unless something was logged a moment ago.
    fn complain(&mut self, words: &str) {
        let now = Instant::now();
        if self.complained.is_none_or(|at| now.duration_since(at) >= COMPLAIN_EVERY) {
            tracing::warn!("{words}");
            self.complained = Some(now);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some(opening) = &mut self.opening else { return polled };
        opening.read += buffer.filled().len() - before;
        if opening.read >= FIRST_WORDS {
            self.opening = None;
        } else if polled.is_pending() && opening.late.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_gathered(cx));
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_gathered(cx));
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.yielded = false;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
