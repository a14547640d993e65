//! Clients that watch all flags and never read: they send their requests and leave every answer unread.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use toggled::api::pb::WatchFeatureFlagsRequest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::connection::{Connection, run_client};
use super::requests::{WATCH, encode_grpc};
use super::server::Server;
use crate::Result;

/// Watches on one connection.
const PER_CONNECTION: usize = 1_000;

/// The window of each watch: as much as it may be sent before it has to read.
const WINDOW: u32 = 16 << 20;

/// The gauge of open watches.
const OPEN: &str = "toggled_streams_open{method=\"toggled.v1.ToggleService/WatchFeatureFlags\"}";

/// The pause between two looks at the gauge, and how many looks must agree.
const PAUSE: Duration = Duration::from_millis(100);
const LOOKS: usize = 5;

/// Watches that never read. Dropping this closes their connections.
pub struct SilentWatchers {
    _close: oneshot::Sender<()>,
}

impl SilentWatchers {
    /// Opens this many watches of all flags on a server that exposes its metrics. Returns when the server has begun them all; it may end
    /// some at once.
    pub async fn open(server: &Server, count: usize) -> Result<Self> {
        let (address, request) = (server.address, encode_grpc(&WatchFeatureFlagsRequest::default())?);
        let (close, closed) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let watching = run_client(async {
                let mut answers = Vec::with_capacity(count);
                for first in (0..count).step_by(PER_CONNECTION) {
                    let mut connection = open(address).await?;
                    for _ in first..count.min(first + PER_CONNECTION) {
                        answers.push(connection.begin(request.clone()).await?);
                    }
                }
                // Fails when the sender is dropped.
                let _ = closed.await;
                Ok(())
            });
            if let Err(problem) = watching {
                eprintln!("bench: the silent watchers ended: {problem}");
            }
        });
        until_steady(server).await?;
        Ok(Self { _close: close })
    }
}

/// Waits until watches are open and their number no longer changes.
async fn until_steady(server: &Server) -> Result<()> {
    let (mut open, mut agreeing) = (0.0, 0);
    while agreeing < LOOKS {
        sleep(PAUSE).await;
        let now = server.metric(OPEN).await?;
        agreeing = if now > 0.0 && (now - open).abs() < 0.5 { agreeing + 1 } else { 0 };
        open = now;
    }
    println!("  {open:.0} watches that never read are open");
    Ok(())
}

async fn open(address: SocketAddr) -> Result<Connection> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Connection::over(WriteOnly(socket), address, WATCH, WINDOW).await
}

/// A socket from which nothing is read.
struct WriteOnly(TcpStream);

impl AsyncRead for WriteOnly {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for WriteOnly {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
