//! An HTTP/2 connection of a light client. A tonic client costs as much CPU as the service itself, and both share the machine,
//! so the loads drive `h2` directly, each on a thread of its own.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;

use h2::client::{ResponseFuture, SendRequest};
use prost::bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::task::LocalSet;

use super::server::TOKEN;
use crate::Result;

/// The largest HTTP/2 window: flow control must not limit a load.
pub const MAX_WINDOW: u32 = i32::MAX as u32;

/// The most calls in progress on a connection, as the service allows.
pub const MAX_CALLS: usize = 1_024;

/// A connection for calls of one method.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    head: Rc<http::Request<()>>,
}

impl Connection {
    /// Opens a connection, which a local task drives.
    pub async fn open(address: SocketAddr, path: &str) -> Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Self::over(socket, address, path, MAX_WINDOW).await
    }

    /// The same on an open socket, with this window for each call.
    pub async fn over<S>(socket: S, address: SocketAddr, path: &str, window: u32) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let mut builder = h2::client::Builder::new();
        builder.enable_push(false).initial_window_size(window).initial_connection_window_size(MAX_WINDOW);
        builder.initial_max_send_streams(MAX_CALLS);
        let (sender, connection) = builder.handshake(socket).await?;
        tokio::task::spawn_local(connection);
        Ok(Self { sender, head: Rc::new(request_head(address, path)?) })
    }

    /// Begins a call.
    pub async fn begin(&mut self, request: Bytes) -> Result<ResponseFuture> {
        poll_fn(|context| self.sender.poll_ready(context)).await?;
        let (response, mut stream) = self.sender.send_request((*self.head).clone(), false)?;
        stream.send_data(request, true)?;
        Ok(response)
    }

    /// Makes a call that is answered with one message. Returns the message with gRPC's prefix; `None` if the server refused, because
    /// gRPC sends no message with an error.
    pub async fn call(&mut self, request: Bytes) -> Result<Option<Bytes>> {
        let mut body = self.begin(request).await?.await?.into_body();
        let mut message = Bytes::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            message =
                if message.is_empty() { data } else { BytesMut::from_iter(message.into_iter().chain(data)).freeze() };
        }
        body.trailers().await?;
        Ok(Some(message).filter(|message| !message.is_empty()))
    }
}

/// Runs a client on the current thread.
pub fn run_client<T>(client: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, client)
}

fn request_head(address: SocketAddr, path: &str) -> Result<http::Request<()>> {
    Ok(http::Request::post(format!("http://{address}{path}"))
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {TOKEN}"))
        // As long as that of a tonic client, since the log stores it.
        .header("user-agent", "quick tonic/0.14.9")
        .body(())?)
}
