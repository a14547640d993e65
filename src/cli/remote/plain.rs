//! Connections without TLS. They notice a server that speaks another protocol than HTTP/2, for example TLS.
//!
//! The error of a call does not show it reliably. Such a server answers and closes the connection at once. So the client's next write may
//! fail before the answer is read, and the call fails like one whose connection was lost.

use std::error::Error;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower::{Service, ServiceExt};

/// The first byte of an HTTP/2 server. It begins with a SETTINGS frame, which begins with its length, and that is below 64 KiB.
const FIRST_BYTE: u8 = 0;

/// Whether the server speaks another protocol than HTTP/2, by the first byte that it sent on its latest connection.
#[derive(Debug, Clone, Default)]
pub(super) struct OtherProtocol(Arc<AtomicBool>);

impl OtherProtocol {
    pub fn is_spoken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn record(&self, first_byte: u8) {
        self.0.store(first_byte != FIRST_BYTE, Ordering::Release);
    }

    /// Makes connections without TLS, and records here which protocol the server speaks.
    pub fn connector(
        &self,
        connect_timeout: Duration,
    ) -> impl Service<Uri, Response = TokioIo<PlainConnection>, Error: Error + Send + Sync, Future: Send> + Send + use<>
    {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(connect_timeout));
        let other_protocol = self.clone();
        connector.map_response(move |stream| {
            let other_protocol = other_protocol.clone();
            TokioIo::new(PlainConnection { stream: stream.into_inner(), other_protocol, has_first_byte: false })
        })
    }
}

/// A connection without TLS.
pub(super) struct PlainConnection {
    stream: TcpStream,
    other_protocol: OtherProtocol,
    /// Whether the server's first byte was recorded.
    has_first_byte: bool,
}

impl PlainConnection {
    fn record(&mut self, received: &[u8]) {
        if let (false, Some(first_byte)) = (self.has_first_byte, received.first()) {
            self.other_protocol.record(*first_byte);
            self.has_first_byte = true;
        }
    }

    /// Reports a failed write only after what the server sent was looked at. The failed connection is always readable, so this
    /// does not wait long.
    fn after_write(&mut self, written: io::Result<usize>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_err() && !self.has_first_byte {
            let mut byte = [0];
            // Of the two errors, the write's is reported.
            if let Ok(length) = ready!(self.stream.poll_peek(cx, &mut ReadBuf::new(&mut byte))) {
                self.record(&byte[..length]);
            }
        }
        Poll::Ready(written)
    }
}

impl AsyncRead for PlainConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.record(&buffer.filled()[before..]);
        polled
    }
}

impl AsyncWrite for PlainConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.after_write(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, parts));
        self.after_write(written, cx)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A TLS server's answer to anything else: the alert `unexpected_message`.
    const TLS_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 10];

    /// The beginning of an HTTP/2 server's SETTINGS frame.
    const SETTINGS: [u8; 5] = [0, 0, 12, 4, 0];

    /// A connection to a server that has sent these bytes, closed, and answers with a reset to what the client writes.
    async fn closed_connection(sent: &[u8]) -> (PlainConnection, OtherProtocol) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let other_protocol = OtherProtocol::default();
        let connector = other_protocol.connector(Duration::from_secs(60));
        let (connected, accepted) = tokio::join!(connector.oneshot(uri), listener.accept());
        accepted.unwrap().0.write_all(sent).await.unwrap();
        (connected.unwrap().into_inner(), other_protocol)
    }

    #[tokio::test]
    async fn other_protocol_is_noticed_when_read() {
        for (sent, is_other) in [(&TLS_ALERT[..], true), (b"HTTP/1.1 400 Bad Request", true), (&SETTINGS, false)] {
            let (mut connection, other_protocol) = closed_connection(sent).await;
            let mut received = Vec::new();
            connection.read_to_end(&mut received).await.unwrap();
            assert_eq!((received.as_slice(), other_protocol.is_spoken()), (sent, is_other));
        }
    }

    #[tokio::test]
    async fn other_protocol_is_noticed_when_write_fails() {
        for (sent, is_other) in [(&TLS_ALERT[..], true), (&SETTINGS, false), (&[], false)] {
            let (mut connection, other_protocol) = closed_connection(sent).await;
            while connection.write_all(b"PRI * HTTP/2.0").await.is_ok() {}
            assert_eq!(other_protocol.is_spoken(), is_other, "{sent:?}");
        }
    }

    #[tokio::test]
    async fn protocol_is_that_of_the_latest_connection() {
        let other_protocol = OtherProtocol::default();
        for (first_byte, is_other) in [(TLS_ALERT[0], true), (SETTINGS[0], false)] {
            other_protocol.record(first_byte);
            assert_eq!(other_protocol.is_spoken(), is_other);
        }
    }
}
