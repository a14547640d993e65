//! Connections that are lost during an append, on PostgreSQL: SQLite has no connection to lose.
//!
//! Whatever happened to the append, the same step can be appended again, and that outcome shows what happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use toggled::domain::advance::Step;
use toggled::store::{AppendOutcome, StoreError, Writer, open};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::hold::waiting;
use super::raw::Raw;
use super::world::*;
use crate::support::{Backend, with_timeout};

/// Everything passes.
const WHOLE: u8 = 0;
/// Requests are cut off: the database does not receive the append.
const DEAF: u8 = 1;
/// Answers are cut off: the database has appended, and the writer does not learn of it.
const MUTE: u8 = 2;

/// A proxy to the test's database whose connections can be cut.
struct Line {
    state: Arc<AtomicU8>,
    url: String,
}

impl Line {
    async fn to(url: &str) -> Self {
        let (host, database) = url.rsplit_once('/').unwrap();
        let address = host.rsplit_once('@').unwrap().1.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(AtomicU8::new(WHOLE));
        let line = Self { state: Arc::clone(&state), url: format!("postgres://postgres@127.0.0.1:{port}/{database}") };
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = TcpStream::connect(&address).await.unwrap();
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    let ((hear, say), (far_hear, far_say)) = (near.into_split(), far.into_split());
                    // Whichever direction is cut, both ends of the line are closed.
                    tokio::select! {
                        () = pass(hear, far_say, &state, DEAF) => {}
                        () = pass(far_hear, say, &state, MUTE) => {}
                    }
                });
            }
        });
        line
    }

    /// Appends while the line is in this state, then restores it.
    async fn append(&self, state: u8, writer: &mut dyn Writer, step: &Step) -> Result<AppendOutcome, StoreError> {
        self.state.store(state, Ordering::SeqCst);
        let outcome = with_timeout("an append on a line that is cut", writer.append(step)).await;
        self.state.store(WHOLE, Ordering::SeqCst);
        outcome
    }
}

/// Forwards bytes until the line is cut in this direction.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &AtomicU8, cut: u8) {
    let mut buffer = vec![0; 65_536];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if read == 0 || state.load(Ordering::SeqCst) == cut || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Ends every connection to the test's database except the test's own.
async fn terminate(world: &mut World) {
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'toggled'";
    assert!(world.raw.number(terminate).await > 0);
}

fn is_unknown(outcome: &Result<AppendOutcome, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::OutcomeUnknown(_)))
}

#[tokio::test]
async fn append_with_lost_answer_is_not_repeated() {
    let mut world = World::new(Backend::Postgres).await;
    world.commit(&[service(create("a"))]).await;
    let line = Line::to(&world.database.url).await;
    let mut writer = open(&line.url).unwrap().writer();
    // The first flip of a connection also prepares the statement, which is an answer of its own.
    let step = world.decide(&[service(toggle("a"))]);
    assert_eq!(writer.append(&step).await.unwrap(), AppendOutcome::Appended, "the line is good");
    world.appended(&step);
    let step = world.decide(&[in_full(world.by_admin(toggle("a")), "r")]);

    let outcome = line.append(MUTE, &mut *writer, &step).await;

    assert!(is_unknown(&outcome), "{outcome:?}");
    world.appended(&step);
    world.verify().await;
    assert_eq!(writer.append(&step).await.unwrap(), AppendOutcome::HeadMoved);
    let (first, there) = (&step.entries[0], world.store.entry_at(step.entries[0].revision).await.unwrap());
    assert_eq!(there, Some((first.id, first.hash)), "by which the writer knows that it was its own");
    world.verify().await;
}

#[tokio::test]
async fn append_that_never_arrived_can_be_repeated() {
    let mut world = World::new(Backend::Postgres).await;
    world.commit(&[service(create("a"))]).await;
    let line = Line::to(&world.database.url).await;
    let mut writer = open(&line.url).unwrap().writer();
    assert_eq!(writer.append(&world.decide(&[])).await.unwrap(), AppendOutcome::Appended, "the line is good");
    let step = world.decide(&[in_full(world.by_admin(toggle("a")), "r")]);

    let outcome = line.append(DEAF, &mut *writer, &step).await;

    assert!(is_unknown(&outcome), "{outcome:?}");
    world.verify().await;
    assert_eq!(writer.append(&step).await.unwrap(), AppendOutcome::Appended);
    world.appended(&step);
    world.verify().await;
}

/// An operator ends the connection, or the server shuts down: its error does not say whether it committed.
#[tokio::test]
async fn connection_ended_by_server_leaves_outcome_unknown() {
    let mut world = World::new(Backend::Postgres).await;
    world.commit(&[service(create("a"))]).await;

    // While the connection is idle: the next append fails.
    terminate(&mut world).await;
    let step = world.decide(&[service(toggle("a"))]);
    let outcome = world.writer.append(&step).await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    world.append(&step).await;

    // While the statement waits for its turn.
    let mut holder = Raw::connect(&world.database).await;
    holder.run("BEGIN; SELECT * FROM log_head FOR UPDATE").await;
    let step = world.decide(&[service(toggle("a"))]);
    let append = waiting(&mut world, &step).await;
    terminate(&mut world).await;
    let (mut second, outcome) = with_timeout("the lost append", append).await.unwrap();
    assert!(is_unknown(&outcome), "{outcome:?}");
    holder.run("ROLLBACK").await;
    world.verify().await;
    assert_eq!(second.append(&step).await.unwrap(), AppendOutcome::Appended);
    assert_eq!(second.append(&step).await.unwrap(), AppendOutcome::HeadMoved);
    world.appended(&step);
    world.verify().await;
}
