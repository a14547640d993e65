//! A proxy between a server and its PostgreSQL, which can lose what a network loses.

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

use super::{Backend, Database, soon};

/// How much later things arrive on a slow line.
const LATER: Duration = Duration::from_millis(20);

/// What becomes of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// It arrives.
    Open,
    /// All but notifications arrive.
    Muted,
    /// It arrives, each part of it some time later.
    Slow,
    /// Nothing arrives any more, and nobody is told.
    Silent,
    /// What the server says is lost.
    Deaf,
    /// What the database says is lost.
    Mute,
    /// The server has hung up and still listens.
    HalfClosed,
    /// Connections end, and new ones come to nothing.
    Closed,
}

/// A database behind a proxy.
pub struct Proxy {
    /// The database, by way of the proxy.
    pub database: Database,
    state: Arc<State>,
}

struct State {
    line: watch::Sender<Line>,
    /// How much has been lost, in notifications or in whatever else was said.
    lost: watch::Sender<usize>,
    /// How many rows arrive before nothing does.
    rows: AtomicUsize,
    connections: TaskTracker,
}

impl Proxy {
    pub async fn new(database: &Database) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = listener.local_addr().unwrap();
        let far: SocketAddr = database.url.split(['@', '/']).nth(3).unwrap().parse().unwrap();
        // Without the question whether to encrypt, all that the database says is in messages of one form.
        let url = format!("{}?sslmode=disable", database.url.replace(&far.to_string(), &near.to_string()));
        let (line, lost, rows) = (watch::Sender::new(Line::Open), watch::Sender::new(0), AtomicUsize::new(usize::MAX));
        let state = Arc::new(State { line, lost, rows, connections: TaskTracker::new() });
        tokio::spawn(relay(listener, far, Arc::clone(&state)));
        Self { database: Database::at(&url, Backend::Postgres), state }
    }

    pub fn set(&self, line: Line) {
        self.state.line.send_replace(line);
    }

    /// Falls silent by itself: of the rows that the database sends from now on only so many arrive.
    pub fn silence_after(&self, rows: usize) {
        self.state.rows.store(rows, Ordering::Relaxed);
    }

    /// Waits until it has.
    pub async fn until_silent(&self) {
        let mut line = self.state.line.subscribe();
        soon("the line to fall silent", line.wait_for(|line| *line == Line::Silent)).await.unwrap();
    }

    /// How much has been lost, in notifications or in whatever else was said.
    pub fn lost(&self) -> usize {
        *self.state.lost.borrow()
    }

    /// Waits until more has been than this.
    pub async fn until_more_is_lost(&self, than: usize) {
        let mut lost = self.state.lost.subscribe();
        soon("something to be lost", lost.wait_for(|lost| *lost > than)).await.unwrap();
    }

    /// Ends all connections; those that come next are as new.
    pub async fn cut(&self) {
        self.set(Line::Closed);
        self.state.connections.close();
        soon("connections to end", self.state.connections.wait()).await;
        self.state.connections.reopen();
        self.set(Line::Open);
    }
}

impl State {
    /// What becomes of what has come; as long as the line is silent, nothing. `None` ends the connection: once the line is
    /// closed nothing gets through, be it before the connection has noticed.
    async fn fate(&self, line: &mut watch::Receiver<Line>) -> Option<Line> {
        let fate = *line.wait_for(|line| *line != Line::Silent).await.ok()?;
        if fate == Line::Slow {
            sleep(LATER).await;
        }
        (fate != Line::Closed).then_some(fate)
    }

    fn lose(&self) {
        self.lost.send_modify(|lost| *lost += 1);
    }
}

async fn relay(listener: TcpListener, far: SocketAddr, state: Arc<State>) {
    loop {
        let (near, _) = listener.accept().await.unwrap();
        if *state.line.borrow() == Line::Closed {
            continue;
        }
        let (mut line, state) = (state.line.subscribe(), Arc::clone(&state));
        let connections = state.connections.clone();
        connections.spawn(async move {
            let Ok(far) = TcpStream::connect(far).await else { return };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::select! {
                _ = asked(near_in, far_out, line.clone(), &state) => {}
                _ = answered(far_in, near_out, line.clone(), &state) => {}
                _ = line.wait_for(|line| *line == Line::Closed) => {}
            }
        });
    }
}

/// Passes on what the server says, as it comes.
async fn asked(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
    state: &State,
) -> Option<()> {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut bytes).await.ok().filter(|length| *length > 0)?;
        match state.fate(&mut line).await? {
            Line::Deaf => state.lose(),
            Line::HalfClosed => {
                to.shutdown().await.ok()?;
                state.lose();
                // Until the database hangs up as well.
                std::future::pending::<()>().await;
            }
            _ => to.write_all(&bytes[..length]).await.ok()?,
        }
    }
}

/// Passes on what the database says, message by message: a letter, a length, and so many bytes.
async fn answered(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
    state: &State,
) -> Option<()> {
    loop {
        let mut message = vec![0; 5];
        from.read_exact(&mut message).await.ok()?;
        let length = u32::from_be_bytes(message[1..].try_into().unwrap()) as usize;
        message.resize(1 + length, 0);
        from.read_exact(&mut message[5..]).await.ok()?;
        if message[0] == b'D' && state.rows.fetch_sub(1, Ordering::Relaxed) == 0 {
            state.line.send_replace(Line::Silent);
        }
        match state.fate(&mut line).await? {
            Line::Mute => state.lose(),
            Line::Muted if message[0] == b'A' => state.lose(),
            _ => to.write_all(&message).await.ok()?,
        }
    }
}
