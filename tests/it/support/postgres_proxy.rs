//! A proxy between a server and its PostgreSQL. It can delay and lose data as a network does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::{Backend, Database, with_timeout};

/// The delay that a slow link adds to each part.
const SLOW_LINK_DELAY: Duration = Duration::from_millis(20);

/// How the proxy treats data. "Requests" go to the database, "replies" come from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Forwards everything.
    Open,
    /// Forwards everything except notifications.
    DropNotifications,
    /// Forwards everything, with a delay.
    Slow,
    /// Holds everything back until the link changes. Connections stay open.
    Stalled,
    /// Drops requests.
    DropRequests,
    /// Drops replies.
    DropReplies,
    /// Closes the direction to the database, as if the server had; replies still arrive.
    HalfClosed,
    /// Closes all connections, and each new one at once.
    Closed,
}

/// A database behind a proxy.
pub struct PostgresProxy {
    /// The database, reached through the proxy.
    pub database: Database,
    state: Arc<State>,
}

struct State {
    link: watch::Sender<Link>,
    /// How many messages or chunks were dropped.
    dropped: watch::Sender<usize>,
    /// How many more rows arrive before the link stalls.
    rows: AtomicUsize,
    connections: TaskTracker,
}

impl PostgresProxy {
    pub async fn new(database: &Database) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = listener.local_addr().unwrap();
        let far: SocketAddr = database.url.split(['@', '/']).nth(3).unwrap().parse().unwrap();
        // Without TLS negotiation, all replies have the same message format.
        let url = format!("{}?sslmode=disable", database.url.replace(&far.to_string(), &near.to_string()));
        let state = Arc::new(State {
            link: watch::Sender::new(Link::Open),
            dropped: watch::Sender::new(0),
            rows: AtomicUsize::new(usize::MAX),
            connections: TaskTracker::new(),
        });
        tokio::spawn(accept(listener, far, Arc::clone(&state)));
        Self { database: Database::from_url(&url, Backend::Postgres), state }
    }

    pub fn set(&self, link: Link) {
        self.state.link.send_replace(link);
    }

    /// Stalls the link after this many more rows from the database.
    pub fn stall_after(&self, rows: usize) {
        self.state.rows.store(rows, Ordering::Relaxed);
    }

    /// Waits until the link has stalled.
    pub async fn wait_until_stalled(&self) {
        let mut link = self.state.link.subscribe();
        with_timeout("the link to stall", link.wait_for(|link| *link == Link::Stalled)).await.unwrap();
    }

    /// How many messages or chunks were dropped so far.
    pub fn dropped(&self) -> usize {
        *self.state.dropped.borrow()
    }

    /// Waits until more than this many were dropped.
    pub async fn wait_until_dropped(&self, more_than: usize) {
        let mut dropped = self.state.dropped.subscribe();
        with_timeout("data to be dropped", dropped.wait_for(|dropped| *dropped > more_than)).await.unwrap();
    }

    /// Closes all connections, and then opens the link again.
    pub async fn cut(&self) {
        self.set(Link::Closed);
        self.state.connections.close();
        with_timeout("connections to end", self.state.connections.wait()).await;
        self.state.connections.reopen();
        self.set(Link::Open);
    }
}

impl State {
    /// Waits while the link is stalled, and returns how to treat the next data. `None` closes the connection: after a
    /// link was closed no data gets through, even before the connection's task has noticed.
    async fn next_link(&self, link: &mut watch::Receiver<Link>) -> Option<Link> {
        let link = *link.wait_for(|link| *link != Link::Stalled).await.ok()?;
        if link == Link::Slow {
            sleep(SLOW_LINK_DELAY).await;
        }
        (link != Link::Closed).then_some(link)
    }

    fn count_dropped(&self) {
        self.dropped.send_modify(|dropped| *dropped += 1);
    }
}

async fn accept(listener: TcpListener, far: SocketAddr, state: Arc<State>) {
    loop {
        let (near, _) = listener.accept().await.unwrap();
        if *state.link.borrow() == Link::Closed {
            continue;
        }
        let (mut link, state) = (state.link.subscribe(), Arc::clone(&state));
        let connections = state.connections.clone();
        connections.spawn(async move {
            let Ok(far) = TcpStream::connect(far).await else { return };
            for end in [&near, &far] {
                let _ = end.set_nodelay(true);
            }
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::select! {
                _ = forward_requests(near_in, far_out, link.clone(), &state) => {}
                _ = forward_replies(far_in, near_out, link.clone(), &state) => {}
                _ = link.wait_for(|link| *link == Link::Closed) => {}
            }
        });
    }
}

/// Forwards bytes from the server as they arrive.
async fn forward_requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut link: watch::Receiver<Link>,
    state: &State,
) -> Option<()> {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut bytes).await.ok().filter(|length| *length > 0)?;
        match state.next_link(&mut link).await? {
            Link::DropRequests => state.count_dropped(),
            Link::HalfClosed => {
                to.shutdown().await.ok()?;
                state.count_dropped();
                // Until the database closes its side too.
                std::future::pending::<()>().await;
            }
            _ => to.write_all(&bytes[..length]).await.ok()?,
        }
    }
}

/// Forwards messages from the database: each is a letter, a length, and that many bytes.
async fn forward_replies(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut link: watch::Receiver<Link>,
    state: &State,
) -> Option<()> {
    loop {
        let mut message = vec![0; 5];
        from.read_exact(&mut message).await.ok()?;
        let length = u32::from_be_bytes(message[1..].try_into().unwrap()) as usize;
        message.resize(1 + length, 0);
        from.read_exact(&mut message[5..]).await.ok()?;
        if message[0] == b'D' && state.rows.fetch_sub(1, Ordering::Relaxed) == 0 {
            state.link.send_replace(Link::Stalled);
        }
        match state.next_link(&mut link).await? {
            Link::DropReplies => state.count_dropped(),
            Link::DropNotifications if message[0] == b'A' => state.count_dropped(),
            _ => to.write_all(&message).await.ok()?,
        }
    }
}
