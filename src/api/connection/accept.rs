//! Accepts connections from the listener, and takes them through the TLS handshake where TLS is on.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::either::Either;

use super::gather::GatherBuffers;
use super::{Connection, Peer, Settings, Timeouts, timed_out};
use crate::api::errors::{HANDSHAKE_TIME, HANDSHAKES};
use crate::api::middleware::limits::{ByteBudget, ConnectionLimiter, ConnectionPermit};
use crate::config::Limits;
use crate::mirror::WriteTime;
use crate::telemetry::log_throttle::LogThrottle;
use crate::telemetry::metrics::count_refusal;
use crate::tls::ServerTls;

/// The pause after a failed accept. Most likely the process has no file descriptor left, and the next accept would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections of a listener. The stream never ends; dropping it closes the listener and aborts open handshakes.
pub(in crate::api) fn incoming(
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
