//! The end of a connection whose client may still send.
//!
//! When a socket with unread data is closed, the kernel resets the connection, and the client may lose an answer that it has not read. So
//! what still comes of an unread request is read and dropped first.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long the rest of a request is read and dropped ...
pub(in crate::api) const LINGER_TIME: Duration = Duration::from_secs(5);

/// ... and how much of it, in bytes: twice the largest request.
pub(in crate::api) const LINGER_BYTES: usize = 8 << 20;

/// Reads and drops what a client sends after its answer, until it closes its half of the connection.
pub(super) struct Linger {
    left: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Linger {
    pub fn new() -> Self {
        Self { left: LINGER_BYTES, deadline: Box::pin(sleep(LINGER_TIME)) }
    }

    /// Ready when the connection can be closed.
    pub fn poll<S: AsyncRead + Unpin>(&mut self, stream: &mut S, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; 8 << 10];
        while self.left > 0 && self.deadline.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                break;
            }
            self.left = self.left.saturating_sub(buffer.filled().len());
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt;
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rest_is_dropped_until_client_closes_or_limit() {
        let (mut client, mut server) = duplex(1 << 20);
        let mut linger = Linger::new();
        client.write_all(&[1; 100_000]).await.unwrap();
        assert!(poll_fn(|cx| linger.poll(&mut server, cx)).now_or_never().is_none(), "the client may send more");
        client.shutdown().await.unwrap();
        poll_fn(|cx| linger.poll(&mut server, cx)).await.unwrap();

        let (client, mut server) = duplex(1 << 20);
        let mut linger = Linger::new();
        poll_fn(|cx| linger.poll(&mut server, cx)).await.unwrap();
        drop(client);

        let (mut client, mut server) = duplex(1 << 20);
        let mut linger = Linger { left: 10_000, ..Linger::new() };
        client.write_all(&[1; 100_000]).await.unwrap();
        poll_fn(|cx| linger.poll(&mut server, cx)).now_or_never().unwrap().unwrap();
    }
}
