//! Clients that watch flags, thousands of them on a few connections. One thread drives them all, and takes from their messages only how
//! far each watch has come.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use prost::Message;
use toggled::api::pb::toggle_service_client::ToggleServiceClient;
use toggled::api::pb::{ToggleFeatureFlagResponse, WatchFeatureFlagsRequest, WatchFeatureFlagsResponse};
use toggled::domain::Revision;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::connection::{Connection, run_client};
use super::requests::{FLIP, GRPC_PREFIX, WATCH, connect, encode_grpc, flip_request, get_request, token, with_token};
use super::watch_messages::{WatchMessage, WatchMessages};
use crate::Result;

/// Watches on one connection.
const PER_CONNECTION: usize = 1_000;

/// The longest time until a change reaches all watchers, and until all watches are open.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// The pause before a lone flip, in which the work for the one before ends.
const PAUSE: Duration = Duration::from_millis(20);

/// The pause between two looks at how late the last watcher is.
const LATENESS_INTERVAL: Duration = Duration::from_millis(50);

/// Open watches. Dropping this closes them.
pub struct Watchers {
    address: SocketAddr,
    arrivals: mpsc::UnboundedSender<Arrival>,
}

/// A question: when have all watchers reached a revision?
struct Arrival {
    revision: Revision,
    answer: oneshot::Sender<Instant>,
}

/// How long flips took, shortest first.
pub struct LoneFlips {
    /// Until they were answered.
    pub answers: Vec<Duration>,
    /// Until the last watcher had them. From the request on: from the answer on, a server that answers late would look faster.
    pub last_watchers: Vec<Duration>,
}

impl Watchers {
    /// Opens this many watches of these flags, or of all flags if `keys` is empty. Returns when each of them has the flags' state.
    pub async fn open(address: SocketAddr, count: usize, keys: &[String]) -> Result<Self> {
        let request = encode_grpc(&WatchFeatureFlagsRequest { keys: keys.to_vec(), ..Default::default() })?;
        let (arrivals, asked) = mpsc::unbounded_channel();
        let (opened, open) = oneshot::channel();
        std::thread::spawn(move || {
            if let Err(problem) = run_client(watch_all(address, count, request, opened, asked)) {
                eprintln!("bench: the watchers ended: {problem}");
            }
        });
        timeout(DELIVERY_TIMEOUT, open).await.map_err(|_| "the watches do not open")??;
        Ok(Self { address, arrivals })
    }

    /// Waits until all watchers have reached this revision. Returns when the last one did, or the present if they had before.
    pub async fn reached(&self, revision: Revision) -> Result<Instant> {
        let (answer, arrived) = oneshot::channel();
        self.arrivals.send(Arrival { revision, answer }).map_err(|_| "the watchers have ended")?;
        Ok(timeout(DELIVERY_TIMEOUT, arrived).await.map_err(|_| "a change did not reach every watcher")??)
    }

    /// Flips `flag-1` this many times, each after all watchers have the one before.
    pub async fn lone_flips(&self, count: usize) -> Result<LoneFlips> {
        let (flip, mut flipped) = lone_flipper(self.address);
        let (mut answers, mut last_watchers) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for _ in 0..count {
            sleep(PAUSE).await;
            flip.send(()).map_err(|_| "the flips have ended")?;
            let Flipped { revision, began, took } = flipped.recv().await.ok_or("a flip failed")?;
            answers.push(took);
            last_watchers.push(self.reached(revision).await?.saturating_duration_since(began));
        }
        answers.sort_unstable();
        last_watchers.sort_unstable();
        Ok(LoneFlips { answers, last_watchers })
    }

    /// Runs a load. Returns its result and how late the last watcher was at most: a reader asks for the present revision again
    /// and again, and the watchers' time to reach it is taken from its answer on.
    pub async fn lateness_during<T>(&self, load: impl Future<Output = Result<T>>) -> Result<(T, Duration)> {
        let is_over = Cell::new(false);
        let load = async {
            let result = load.await;
            is_over.set(true);
            result
        };
        let look = async {
            let (mut most, token) = (Duration::ZERO, token()?);
            let mut client = ToggleServiceClient::new(connect(self.address).await?);
            while !is_over.get() {
                let revision = client.get_feature_flag(with_token(get_request(1), &token)).await?.into_inner().revision;
                let asked = Instant::now();
                most = most.max(self.reached(revision).await?.saturating_duration_since(asked));
                sleep(LATENESS_INTERVAL).await;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(most)
        };
        let (result, most) = tokio::join!(load, look);
        Ok((result?, most?))
    }
}

/// Opens the watches, then answers questions about them until nobody asks any more.
async fn watch_all(
    address: SocketAddr,
    count: usize,
    request: prost::bytes::Bytes,
    opened: oneshot::Sender<()>,
    mut asked: mpsc::UnboundedReceiver<Arrival>,
) -> Result<()> {
    let (failed, mut failure) = mpsc::unbounded_channel();
    let progress = Rc::new(Progress::new(count, opened));
    for first in (0..count).step_by(PER_CONNECTION) {
        let mut connection = Connection::open(address, WATCH).await?;
        for number in first..count.min(first + PER_CONNECTION) {
            let response = connection.begin(request.clone()).await?;
            let (progress, failed) = (Rc::clone(&progress), failed.clone());
            tokio::task::spawn_local(async move {
                let Err(problem) = watch(response, number, &progress).await;
                // Fails if the watchers have ended already.
                let _ = failed.send(problem);
            });
        }
    }
    loop {
        tokio::select! {
            Some(problem) = failure.recv() => return Err(problem),
            arrival = asked.recv() => match arrival {
                Some(arrival) => progress.wait(arrival),
                None => return Ok(()),
            },
        }
    }
}

async fn watch(
    response: h2::client::ResponseFuture,
    number: usize,
    progress: &Progress,
) -> Result<std::convert::Infallible> {
    let mut body = response.await?.into_body();
    let mut messages = WatchMessages::default();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        messages.add(&data, |message| progress.advance(number, message))?;
    }
    let trailers = body.trailers().await?;
    Err(format!("a watch ended: {trailers:?}").into())
}

/// How far each watch has come. All of them run on one thread.
struct Progress {
    /// The revision that each watch has reached; -1 before its first message.
    reached: Vec<Cell<Revision>>,
    /// Watches that have not caught up for the first time, and the channel that reports when all have.
    opening: RefCell<Option<(usize, oneshot::Sender<()>)>>,
    has_caught_up: Vec<Cell<bool>>,
    /// The present question, and how many watchers have not reached its revision.
    waiting: RefCell<Option<(usize, Arrival)>>,
}

impl Progress {
    fn new(count: usize, opened: oneshot::Sender<()>) -> Self {
        Self {
            reached: vec![Cell::new(-1); count],
            opening: RefCell::new(Some((count, opened))),
            has_caught_up: vec![Cell::new(false); count],
            waiting: RefCell::default(),
        }
    }

    fn advance(&self, number: usize, message: WatchMessage) {
        let before = self.reached[number].replace(message.revision);
        if message.is_caught_up && !self.has_caught_up[number].replace(true) {
            count_down(&self.opening, |opened| {
                // Fails if the watches took too long to open.
                let _ = opened.send(());
            });
        }
        let was_awaited = self
            .waiting
            .borrow()
            .as_ref()
            .is_some_and(|(_, Arrival { revision, .. })| before < *revision && message.revision >= *revision);
        if was_awaited {
            count_down(&self.waiting, answer);
        }
    }

    fn wait(&self, arrival: Arrival) {
        match self.reached.iter().filter(|reached| reached.get() < arrival.revision).count() {
            0 => answer(arrival),
            missing => *self.waiting.borrow_mut() = Some((missing, arrival)),
        }
    }
}

fn answer(arrival: Arrival) {
    // Fails if the question was dropped.
    let _ = arrival.answer.send(Instant::now());
}

/// Counts one down. At 0, takes the value out and passes it on.
fn count_down<T>(counted: &RefCell<Option<(usize, T)>>, at_zero: impl FnOnce(T)) {
    let mut counted = counted.borrow_mut();
    if let Some((left, _)) = &mut *counted {
        *left -= 1;
        if *left == 0
            && let Some((_, value)) = counted.take()
        {
            at_zero(value);
        }
    }
}

/// A flip that was answered.
struct Flipped {
    revision: Revision,
    began: Instant,
    took: Duration,
}

/// Flips `flag-1` at each message on the channel, on a thread of its own, so that it does not wait for the watchers' messages.
fn lone_flipper(address: SocketAddr) -> (mpsc::UnboundedSender<()>, mpsc::UnboundedReceiver<Flipped>) {
    let (flip, mut flips) = mpsc::unbounded_channel();
    let (report, flipped) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let result = run_client(async {
            let mut connection = Connection::open(address, FLIP).await?;
            let request = encode_grpc(&flip_request(1))?;
            while let Some(()) = flips.recv().await {
                let began = Instant::now();
                let answer = connection.call(request.clone()).await?.ok_or("a flip was refused")?;
                let took = began.elapsed();
                let revision = ToggleFeatureFlagResponse::decode(answer.slice(GRPC_PREFIX..))?.revision;
                report.send(Flipped { revision, began, took })?;
            }
            Ok(())
        });
        if let Err(problem) = result {
            eprintln!("bench: the flips ended: {problem}");
        }
    });
    (flip, flipped)
}

/// Flips `flag-1` and returns the message that watchers get.
pub async fn observe_change(address: SocketAddr) -> Result<WatchFeatureFlagsResponse> {
    let mut client = ToggleServiceClient::new(connect(address).await?);
    let request = with_token(WatchFeatureFlagsRequest::default(), &token()?);
    let mut stream = client.watch_feature_flags(request).await?.into_inner();
    while !stream.message().await?.ok_or("a watch ended")?.caught_up {}
    client.toggle_feature_flag(with_token(flip_request(1), &token()?)).await?;
    Ok(stream.message().await?.ok_or("a watch ended")?)
}
