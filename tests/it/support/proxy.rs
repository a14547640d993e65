//! A proxy between a server and its PostgreSQL, which can lose what a network loses.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{Backend, Database};

/// What becomes of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// It arrives.
    Open,
    /// All but notifications arrive.
    Muted,
    /// Nothing arrives any more, and nobody is told.
    Silent,
    /// Connections end, and new ones come to nothing.
    Closed,
}

/// A database behind a proxy.
pub struct Proxy {
    /// The database, by way of the proxy.
    pub database: Database,
    line: watch::Sender<Line>,
    muted: Arc<AtomicUsize>,
}

impl Proxy {
    pub async fn new(database: &Database) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = listener.local_addr().unwrap();
        let far: SocketAddr = database.url.split(['@', '/']).nth(3).unwrap().parse().unwrap();
        // Without the question whether to encrypt, all that the database says is in messages of one form.
        let url = format!("{}?sslmode=disable", database.url.replace(&far.to_string(), &near.to_string()));
        let (line, state) = watch::channel(Line::Open);
        let muted = Arc::new(AtomicUsize::new(0));
        tokio::spawn(relay(listener, far, state, Arc::clone(&muted)));
        Self { database: Database { url, backend: Backend::Postgres, _folder: None }, line, muted }
    }

    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// How many notifications have been lost.
    pub fn muted(&self) -> usize {
        self.muted.load(Ordering::Relaxed)
    }
}

async fn relay(listener: TcpListener, far: SocketAddr, line: watch::Receiver<Line>, muted: Arc<AtomicUsize>) {
    loop {
        let (near, _) = listener.accept().await.unwrap();
        if *line.borrow() == Line::Closed {
            continue;
        }
        let (mut line, muted) = (line.clone(), Arc::clone(&muted));
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(far).await else { return };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::select! {
                _ = asked(near_in, far_out, line.clone()) => {}
                _ = answered(far_in, near_out, line.clone(), muted) => {}
                _ = line.wait_for(|line| *line == Line::Closed) => {}
            }
        });
    }
}

/// Passes on what the server says, as it comes.
async fn asked(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut line: watch::Receiver<Line>) -> Option<()> {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut bytes).await.ok().filter(|length| *length > 0)?;
        line.wait_for(|line| *line != Line::Silent).await.ok()?;
        to.write_all(&bytes[..length]).await.ok()?;
    }
}

/// Passes on what the database says, message by message: a letter, a length, and so many bytes.
async fn answered(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
    muted: Arc<AtomicUsize>,
) -> Option<()> {
    loop {
        let mut message = vec![0; 5];
        from.read_exact(&mut message).await.ok()?;
        let length = u32::from_be_bytes(message[1..].try_into().unwrap()) as usize;
        message.resize(1 + length, 0);
        from.read_exact(&mut message[5..]).await.ok()?;
        let line = *line.wait_for(|line| *line != Line::Silent).await.ok()?;
        if line == Line::Muted && message[0] == b'A' {
            muted.fetch_add(1, Ordering::Relaxed);
        } else {
            to.write_all(&message).await.ok()?;
        }
    }
}
