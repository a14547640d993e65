//! A load of calls about single flags: flips, or reads.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use prost::bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connection::{Connection, run_client};
use super::requests::{FLIP, GET, NumberedFlag, encode_grpc, flip_request, get_request};
use crate::Result;
use crate::scale::FLAGS;
use crate::stats::percentile;

/// Connections that carry the load. With fewer calls in flight, there are fewer connections.
const CONNECTIONS: usize = 4;

/// Time before calls are counted, or half of the measured time if that is less.
const WARM_UP: Duration = Duration::from_millis(500);

/// The longest time until a call is answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What a load calls.
#[derive(Clone, Copy)]
pub enum Method {
    Flip,
    Read,
}

impl Method {
    fn path(self) -> &'static str {
        match self {
            Self::Flip => FLIP,
            Self::Read => GET,
        }
    }

    fn request(self, flag: NumberedFlag) -> Result<Bytes> {
        match self {
            Self::Flip => encode_grpc(&flip_request(flag)),
            Self::Read => encode_grpc(&get_request(flag)),
        }
    }
}

/// One round of calls: how many, about which flags, for how long.
#[derive(Clone)]
pub struct CallLoad {
    pub method: Method,
    /// Calls in flight at any moment.
    pub in_flight: usize,
    /// Numbers of the flags, at random.
    pub flags: Range<usize>,
    /// The environments over which they are spread. `None` if all are in `default`.
    pub environments: Option<usize>,
    /// Measured time, after the warm-up.
    pub length: Duration,
}

impl CallLoad {
    /// Flips any of the [`FLAGS`].
    pub fn flips(in_flight: usize, length: Duration) -> Self {
        Self::flips_of(1..FLAGS + 1, in_flight, length)
    }

    /// Flips any of these flags.
    pub fn flips_of(flags: Range<usize>, in_flight: usize, length: Duration) -> Self {
        Self { method: Method::Flip, in_flight, flags, environments: None, length }
    }

    /// Reads any of these flags.
    pub fn reads_of(flags: Range<usize>, in_flight: usize, length: Duration) -> Self {
        Self { method: Method::Read, in_flight, flags, environments: None, length }
    }

    /// Runs the load with one thread per connection.
    pub fn run(&self, address: SocketAddr) -> Result<LoadResult> {
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
        Ok(LoadResult::new(total, self.length))
    }

    fn run_connection(&self, address: SocketAddr, number: usize, in_flight: usize, window: Window) -> Result<Counts> {
        run_client(async {
            let connection = Connection::open(address, self.method.path()).await?;
            let mut callers = JoinSet::new();
            for caller in 0..in_flight {
                let caller = Caller {
                    method: self.method,
                    connection: connection.clone(),
                    flags: RandomFlags::new(self.flags.clone(), (number * 1_000 + caller) as u64),
                    environments: self.environments,
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
pub struct LoadResult {
    pub per_second: f64,
    /// Durations of the measured calls, shortest first.
    pub durations: Vec<Duration>,
    /// Successful calls, including those outside of the measured time.
    pub succeeded: i64,
    /// Refused calls, including those outside of the measured time.
    pub refused: i64,
}

impl LoadResult {
    fn new(mut counts: Counts, length: Duration) -> Self {
        counts.durations.sort_unstable();
        Self {
            per_second: counts.durations.len() as f64 / length.as_secs_f64(),
            durations: counts.durations,
            succeeded: counts.succeeded,
            refused: counts.refused,
        }
    }

    /// Median duration of a call, in milliseconds.
    pub fn median_ms(&self) -> f64 {
        percentile(&self.durations, 0.5).as_secs_f64() * 1_000.0
    }
}

/// The measured time. Calls that are answered within it count; no calls start after it.
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

/// Makes one call after the other.
struct Caller {
    method: Method,
    connection: Connection,
    flags: RandomFlags,
    environments: Option<usize>,
    window: Window,
    counts: Counts,
}

impl Caller {
    async fn run(mut self) -> Result<Counts> {
        loop {
            let number = self.flags.next();
            let flag = match self.environments {
                Some(environments) => NumberedFlag::among(environments, number),
                None => NumberedFlag::from(number),
            };
            let request = self.method.request(flag)?;
            let began = Instant::now();
            let answer = timeout(ANSWER_TIMEOUT, self.connection.call(request)).await;
            let succeeded = answer.map_err(|_| "a call was not answered")??.is_some();
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
