//! A thousand clients that watch flags.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use toggled::api::pb::toggle_service_client::ToggleServiceClient;
use toggled::api::pb::{WatchFeatureFlagsRequest, WatchFeatureFlagsResponse};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Streaming;

use super::requests::{connect, flip_request, token, with_token};
use crate::Result;

/// Open watches, and the connections that they share.
pub const WATCHERS: usize = 1_000;
const CONNECTIONS: usize = 10;

/// The longest time until a flip reaches all watchers.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Open watches. Dropping this closes them.
pub struct Watchers {
    address: SocketAddr,
    deliveries: Arc<Deliveries>,
    _watching: JoinSet<Result<()>>,
}

/// Counts deliveries and notifies each time all watchers have one more.
#[derive(Default)]
struct Deliveries {
    count: AtomicUsize,
    all_delivered: Notify,
}

impl Watchers {
    /// Opens watches of these flags, or of all flags if `keys` is empty.
    pub async fn open(address: SocketAddr, keys: &[String]) -> Result<Self> {
        let deliveries = Arc::new(Deliveries::default());
        let mut watching = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let mut client = ToggleServiceClient::new(connect(address).await?);
            for _ in 0..WATCHERS / CONNECTIONS {
                let request = WatchFeatureFlagsRequest { keys: keys.to_vec(), ..Default::default() };
                let mut stream = client.watch_feature_flags(with_token(request, &token()?)).await?.into_inner();
                while !next(&mut stream).await?.caught_up {}
                watching.spawn(watch(stream, Arc::clone(&deliveries)));
            }
        }
        Ok(Self { address, deliveries, _watching: watching })
    }

    /// Flips `flag-1` repeatedly. Each flip waits until all watchers have the one before. Returns the times from the answer
    /// of a flip until the last watcher has it, shortest first.
    pub async fn delivery_times(&self, count: usize) -> Result<Vec<Duration>> {
        let mut client = ToggleServiceClient::new(connect(self.address).await?);
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            client.toggle_feature_flag(with_token(flip_request(1), &token()?)).await?;
            let answered = Instant::now();
            let delivered = timeout(DELIVERY_TIMEOUT, self.deliveries.all_delivered.notified());
            delivered.await.map_err(|_| "a flip did not reach every watcher")?;
            times.push(answered.elapsed());
        }
        times.sort_unstable();
        Ok(times)
    }

    /// Number of deliveries so far.
    pub fn delivered(&self) -> usize {
        self.deliveries.count.load(Ordering::Acquire)
    }
}

/// Flips `flag-1` and returns the message that watchers get.
pub async fn observe_change(address: SocketAddr) -> Result<WatchFeatureFlagsResponse> {
    let mut client = ToggleServiceClient::new(connect(address).await?);
    let request = with_token(WatchFeatureFlagsRequest::default(), &token()?);
    let mut stream = client.watch_feature_flags(request).await?.into_inner();
    while !next(&mut stream).await?.caught_up {}
    client.toggle_feature_flag(with_token(flip_request(1), &token()?)).await?;
    next(&mut stream).await
}

async fn next(stream: &mut Streaming<WatchFeatureFlagsResponse>) -> Result<WatchFeatureFlagsResponse> {
    Ok(stream.message().await?.ok_or("a watch ended")?)
}

async fn watch(mut stream: Streaming<WatchFeatureFlagsResponse>, deliveries: Arc<Deliveries>) -> Result<()> {
    loop {
        // An empty message is a heartbeat.
        if !next(&mut stream).await?.feature_flags.is_empty()
            && (deliveries.count.fetch_add(1, Ordering::AcqRel) + 1).is_multiple_of(WATCHERS)
        {
            deliveries.all_delivered.notify_one();
        }
    }
}
