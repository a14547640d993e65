//! A client that begins calls and neither finishes nor reads them. No client library would: it speaks HTTP/2 itself.

use std::future::poll_fn;
use std::io::Write;
use std::net::SocketAddr;

use flate2::Compression;
use flate2::write::GzEncoder;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::bytes::Bytes;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::with_timeout;

/// A message that a client has begun: it declares 4 MiB, the largest size, and lacks the last byte.
pub fn unfinished_message() -> Bytes {
    let length = 4 << 20;
    let mut message = vec![0; 5 + length - 1];
    message[1..5].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
    message.into()
}

/// A compressed message.
pub fn gzip_message(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(vec![1, 0, 0, 0, 0], Compression::best());
    encoder.write_all(bytes).unwrap();
    let mut message = encoder.finish().unwrap();
    let length = u32::try_from(message.len() - 5).unwrap();
    message[1..5].copy_from_slice(&length.to_be_bytes());
    message.into()
}

/// An empty message, which asks for everything.
pub const EMPTY_MESSAGE: Bytes = Bytes::from_static(b"\0\0\0\0\0");

/// A connection. It answers pings until it is dropped.
pub struct HostileConnection {
    send: SendRequest<Bytes>,
    _driver: AbortOnDropHandle<()>,
}

/// An open call. It is cancelled on drop.
pub struct HostileCall {
    response: ResponseFuture,
    request: SendStream<Bytes>,
}

impl HostileConnection {
    /// Connects. Streams have this window: with 0, the server can send no data.
    pub async fn open(address: SocketAddr, window: u32) -> Self {
        let stream = with_timeout("a connection", TcpStream::connect(address)).await.unwrap();
        // Otherwise a small frame waits until the one before it is acknowledged, for 40 ms.
        stream.set_nodelay(true).unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_max_send_streams(1_024);
        let (send, connection) = with_timeout("the handshake", builder.handshake(stream)).await.unwrap();
        let driver = tokio::spawn(async move { drop(connection.await) });
        Self { send, _driver: AbortOnDropHandle::new(driver) }
    }

    /// Begins a call. `None` if the server has closed the connection.
    pub async fn call(&mut self, path: &str, token: Option<&str>) -> Option<HostileCall> {
        self.call_encoded(path, token, None).await
    }

    /// Like [`Self::call`], with a `grpc-encoding`.
    pub async fn call_encoded(
        &mut self,
        path: &str,
        token: Option<&str>,
        encoding: Option<&str>,
    ) -> Option<HostileCall> {
        let mut headers = vec![("content-type", "application/grpc")];
        headers.extend(encoding.map(|encoding| ("grpc-encoding", encoding)));
        self.call_with(path, token, &headers).await
    }

    /// Like [`Self::call`], with all headers but the token's.
    pub async fn call_with(
        &mut self,
        path: &str,
        token: Option<&str>,
        headers: &[(&str, &str)],
    ) -> Option<HostileCall> {
        let mut request = Request::post(format!("http://localhost{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.begin(request, false).await
    }

    /// Sends a GET request without a token. `None` if the server has closed the connection.
    pub async fn get(&mut self, path: &str) -> Option<HostileCall> {
        self.begin(Request::get(format!("http://localhost{path}")), true).await
    }

    async fn begin(&mut self, request: http::request::Builder, is_whole: bool) -> Option<HostileCall> {
        with_timeout("a free stream", poll_fn(|context| self.send.poll_ready(context))).await.ok()?;
        let (response, request) = self.send.send_request(request.body(()).unwrap(), is_whole).ok()?;
        Some(HostileCall { response, request })
    }
}

impl HostileCall {
    /// Sends data. Returns whether the server took all of it, rather than ending the call.
    pub async fn send(&mut self, mut data: Bytes, is_last: bool) -> bool {
        while !data.is_empty() {
            self.request.reserve_capacity(data.len());
            let capacity = with_timeout("the server to read", poll_fn(|context| self.request.poll_capacity(context)));
            let Some(Ok(capacity)) = capacity.await else { return false };
            let part = data.split_to(capacity.min(data.len()));
            if self.request.send_data(part, is_last && data.is_empty()).is_err() {
                return false;
            }
        }
        true
    }

    /// Waits for the headers of the answer.
    pub async fn headers(self) -> Result<(HeaderMap, RecvStream), h2::Error> {
        let (head, body) = with_timeout("an answer", self.response).await?.into_parts();
        Ok((head.headers, body))
    }

    /// The status that ends the call, and the number of bytes before it.
    pub async fn status(self) -> (Status, usize) {
        let (headers, mut body) = self.headers().await.unwrap();
        if let Some(status) = Status::from_header_map(&headers) {
            return (status, 0);
        }
        let mut length = 0;
        while let Some(data) = with_timeout("the answer's data", body.data()).await {
            let data = data.unwrap();
            length += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        let trailers = with_timeout("the answer's end", body.trailers()).await.unwrap().unwrap();
        (Status::from_header_map(&trailers).unwrap(), length)
    }
}
