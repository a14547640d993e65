//! A thousand who watch flags.

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

/// Open streams, and the connections that they share.
pub const WATCHERS: usize = 1_000;
const CONNECTIONS: usize = 10;

/// How long a flip may be on its way before something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);

/// They watch for as long as this value lives.
pub struct Watchers {
    address: SocketAddr,
    deliveries: Arc<Deliveries>,
    _watching: JoinSet<Result<()>>,
}

/// How many deliveries there have been, and word when everybody has had another one.
#[derive(Default)]
struct Deliveries {
    count: AtomicUsize,
    everybody: Notify,
}

impl Watchers {
    /// Lets everybody watch these flags, or all if there are none.
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

    /// Flips so often, one after the other, each when everybody has the one before. How long it was, each time, from its
    /// answer until the last had it, shortest first.
    pub async fn flips(&self, count: usize) -> Result<Vec<Duration>> {
        let mut client = ToggleServiceClient::new(connect(self.address).await?);
        let mut lengths = Vec::with_capacity(count);
        for _ in 0..count {
            client.toggle_feature_flag(with_token(flip_request(1), &token()?)).await?;
            let answered = Instant::now();
            let everybody = timeout(PATIENCE, self.deliveries.everybody.notified());
            everybody.await.map_err(|_| "a flip did not reach every watcher")?;
            lengths.push(answered.elapsed());
        }
        lengths.sort_unstable();
        Ok(lengths)
    }

    /// Whether anything was delivered at all.
    pub fn delivered(&self) -> usize {
        self.deliveries.count.load(Ordering::Acquire)
    }
}

/// One change, as watchers are told of it.
pub async fn one_change(address: SocketAddr) -> Result<WatchFeatureFlagsResponse> {
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
        // An empty one is a heartbeat.
        if !next(&mut stream).await?.feature_flags.is_empty()
            && (deliveries.count.fetch_add(1, Ordering::AcqRel) + 1).is_multiple_of(WATCHERS)
        {
            deliveries.everybody.notify_one();
        }
    }
}
