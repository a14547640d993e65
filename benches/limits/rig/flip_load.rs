//! A load of flips. It must cost little CPU, because clients share the machine with the server and the database. A tonic
//! client costs as much as the service itself, so each connection is one thread that drives `h2` directly.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use h2::client::SendRequest;
use prost::bytes::Bytes;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

use super::requests::{encode_grpc, flip_request};
use super::server::TOKEN;
use crate::Result;
use crate::scale::FLAGS;
use crate::stats::percentile;

/// Connections that carry the load. With fewer flips in flight, there are fewer connections.
const CONNECTIONS: usize = 4;

/// Time before flips are counted, or half of the measured time if that is less.
const WARM_UP: Duration = Duration::from_millis(500);

/// The longest time until a flip is answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// HTTP/2 window of a connection, the largest possible: flow control must not limit the load.
const WINDOW: u32 = i32::MAX as u32;

/// One round of flips: how many, of which flags, for how long.
#[derive(Clone)]
pub struct FlipLoad {
    /// Flips in flight at any moment.
    pub in_flight: usize,
    /// Numbers of the flags to flip, at random.
    pub flags: Range<usize>,
    /// Measured time, after the warm-up.
    pub length: Duration,
}

impl FlipLoad {
    /// Flips any of the [`FLAGS`].
    pub fn of_all_flags(in_flight: usize, length: Duration) -> Self {
        Self { in_flight, flags: 1..FLAGS + 1, length }
    }

    /// Runs the load with one thread per connection.
    pub fn run(&self, address: SocketAddr) -> Result<FlipResult> {
        let measured_from = Instant::now() + WARM_UP.min(self.length / 2);
        let window = Window { from: measured_from, until: measured_from + self.length };
        let connections = self.in_flight.min(CONNECTIONS);
        let mut total = Counts::default();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..connections)
                .map(|number| {
                    let in_flight = (self.in_flight + number) / connections;
                    scope.spawn(move || self.run_connection(address, number, in_flight, window))
                })
                .collect();
            for thread in threads {
                total.add(thread.join().map_err(|_| "a thread of the load panicked")??);
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        })?;
        Ok(FlipResult::new(total, self.length))
    }

    fn run_connection(&self, address: SocketAddr, number: usize, in_flight: usize, window: Window) -> Result<Counts> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, async {
            let connection = open(address).await?;
            let request = Rc::new(request_head(address)?);
            let mut callers = JoinSet::new();
            for caller in 0..in_flight {
                let caller = Caller {
                    connection: connection.clone(),
                    request: Rc::clone(&request),
                    flags: RandomFlags::new(self.flags.clone(), (number * 1_000 + caller) as u64),
                    window,
                    counts: Counts::default(),
                };
                callers.spawn_local(caller.run());
            }
            drop(connection);
            let mut total = Counts::default();
            while let Some(finished) = callers.join_next().await {
                total.add(finished??);
            }
            Ok(total)
        })
    }
}

/// Result of one round.
pub struct FlipResult {
    pub per_second: f64,
    /// Durations of the measured flips, shortest first.
    pub durations: Vec<Duration>,
    /// Successful flips, including those outside of the measured time.
    pub succeeded: i64,
    /// Refused flips, including those outside of the measured time.
    pub refused: i64,
}

impl FlipResult {
    fn new(mut counts: Counts, length: Duration) -> Self {
        counts.durations.sort_unstable();
        Self {
            per_second: counts.durations.len() as f64 / length.as_secs_f64(),
            durations: counts.durations,
            succeeded: counts.succeeded,
            refused: counts.refused,
        }
    }

    /// Median duration of a flip, in milliseconds.
    pub fn median_ms(&self) -> f64 {
        percentile(&self.durations, 0.5).as_secs_f64() * 1_000.0
    }
}

/// The measured time. Flips that are answered within it count; no flips start after it.
#[derive(Clone, Copy)]
struct Window {
    from: Instant,
    until: Instant,
}

#[derive(Default)]
struct Counts {
    durations: Vec<Duration>,
    succeeded: i64,
    refused: i64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.durations.extend(other.durations);
        self.succeeded += other.succeeded;
        self.refused += other.refused;
    }
}

/// Flips one flag after the other.
struct Caller {
    connection: SendRequest<Bytes>,
    request: Rc<http::Request<()>>,
    flags: RandomFlags,
    window: Window,
    counts: Counts,
}

impl Caller {
    async fn run(mut self) -> Result<Counts> {
        loop {
            let body = encode_grpc(&flip_request(self.flags.next()))?;
            let began = Instant::now();
            let succeeded = timeout(ANSWER_TIMEOUT, self.flip(body)).await.map_err(|_| "a flip was not answered")??;
            let now = Instant::now();
            if succeeded {
                self.counts.succeeded += 1;
                if now >= self.window.from && now < self.window.until {
                    self.counts.durations.push(now - began);
                }
            } else {
                self.counts.refused += 1;
            }
            if now >= self.window.until {
                return Ok(self.counts);
            }
        }
    }

    /// Whether the flip was made; false if the server refused it.
    async fn flip(&mut self, body: Bytes) -> Result<bool> {
        poll_fn(|context| self.connection.poll_ready(context)).await?;
        let (response, mut stream) = self.connection.send_request((*self.request).clone(), false)?;
        stream.send_data(body, true)?;
        let mut body = response.await?.into_body();
        let mut has_message = false;
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            // gRPC sends no message with an error.
            has_message |= !data.is_empty();
        }
        body.trailers().await?;
        Ok(has_message)
    }
}

/// An HTTP/2 connection, driven by a task of its own.
async fn open(address: SocketAddr) -> Result<SendRequest<Bytes>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).initial_connection_window_size(WINDOW);
    let (sender, connection) = builder.handshake(socket).await?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

fn request_head(address: SocketAddr) -> Result<http::Request<()>> {
    Ok(http::Request::post(format!("http://{address}/toggled.v1.ToggleService/ToggleFeatureFlag"))
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {TOKEN}"))
        // As long as that of a tonic client, since the log stores it.
        .header("user-agent", "quick tonic/0.14.9")
        .body(())?)
}

/// Numbers of flags, from Knuth's linear congruential generator. Its high bits are the random ones.
struct RandomFlags {
    flags: Range<usize>,
    state: u64,
}

impl RandomFlags {
    fn new(flags: Range<usize>, seed: u64) -> Self {
        Self { flags, state: seed }
    }

    fn next(&mut self) -> usize {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) as usize % self.flags.len() + self.flags.start
    }
}
