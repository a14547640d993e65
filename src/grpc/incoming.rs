//! The connections that are served: taken from the listener, and brought through the TLS handshake where there is TLS.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::either::Either;
use tonic::transport::server::Connected;

use crate::telemetry::metrics::Open;
use crate::tls::{ClientCertificate, Tls, TlsStream};

/// How long a TLS handshake may take. Over a bad line it takes a few round trips; a client that takes longer is not
/// going to call.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many handshakes may be under way. Past it the oldest gives way to the newest: a few clients that connect and say
/// nothing keep nobody else out, as a handshake that goes on is done long before it is the oldest.
const PENDING_HANDSHAKES: usize = 256;

/// How long to wait when the system gives us no connection: most likely it has no file descriptor left, and says so
/// again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often that is logged at the most.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

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
    _open: Open,
}

impl Connection {
    fn new(stream: Either<TcpStream, Box<TlsStream>>, peer: Peer) -> Self {
        Self { stream, peer, _open: Open::connection() }
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
pub(super) fn incoming(listener: TcpListener, tls: Option<Arc<Tls>>) -> impl Stream<Item = io::Result<Connection>> {
    let incoming = Incoming {
        acceptor: Acceptor { listener, pause: None, complained: None },
        tls,
        handshakes: JoinSet::new(),
        order: VecDeque::new(),
    };
    futures::stream::unfold(incoming, async |mut incoming| Some((Ok(incoming.next().await), incoming)))
}

struct Incoming {
    acceptor: Acceptor,
    tls: Option<Arc<Tls>>,
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
                (stream, address) = self.acceptor.accept() => match &self.tls {
                    None => {
                        let peer = Peer { address, certificate: None };
                        return Connection::new(Either::Left(stream), peer);
                    }
                    Some(tls) => {
                        let handshake = shake_hands(Arc::clone(tls), stream, address);
                        self.begin(handshake);
                    }
                },
            }
        }
    }

    fn begin(&mut self, handshake: impl Future<Output = Option<Connection>> + Send + 'static) {
        self.order.retain(|task| !task.is_finished());
        if self.order.len() >= PENDING_HANDSHAKES
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
        }
        self.order.push_back(self.handshakes.spawn(handshake));
    }
}

/// `None` if nothing comes of it. Whoever finds the port can cause that: it is no warning.
async fn shake_hands(tls: Arc<Tls>, stream: TcpStream, address: SocketAddr) -> Option<Connection> {
    let ended = timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await;
    match ended.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok((stream, certificate)) => {
            let peer = Peer { address, certificate: certificate.map(Arc::new) };
            Some(Connection::new(Either::Right(Box::new(stream)), peer))
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
        let now = Instant::now();
        if self.complained.is_none_or(|at| now.duration_since(at) >= COMPLAIN_EVERY) {
            tracing::warn!(%problem, "cannot take connections; trying on");
            self.complained = Some(now);
        }
        self.pause = Some(now + ACCEPT_PAUSE);
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
