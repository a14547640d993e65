//! Fan-out: how long after a flip was acknowledged the last of a thousand watchers has it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use toggled::grpc::pb::toggle_service_client::ToggleServiceClient;
use toggled::grpc::pb::{
    ToggleFeatureFlagRequest, WatchFeatureFlagsRequest, WatchFeatureFlagsResponse, toggle_feature_flag_request,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Streaming;

use crate::Result;
use crate::flips::{connect, token, with_token};

/// Open streams, and the connections that they share.
const WATCHERS: usize = 1_000;
const CONNECTIONS: usize = 10;

/// Flips, one after the other, each when everybody has the one before.
const FLIPS: usize = 300;

/// How long a flip may be on its way before something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);

/// From the acknowledgement to the last watcher, of each flip, shortest first.
pub struct Fanout(Vec<Duration>);

/// How many deliveries there have been, and word when everybody has had another one.
#[derive(Default)]
struct Deliveries {
    count: AtomicUsize,
    round: Notify,
}

impl Fanout {
    pub async fn measure(address: SocketAddr) -> Result<Self> {
        let deliveries = Arc::new(Deliveries::default());
        let mut watchers = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let mut client = ToggleServiceClient::new(connect(address).await?);
            for _ in 0..WATCHERS / CONNECTIONS {
                let request = with_token(WatchFeatureFlagsRequest::default(), &token()?);
                let mut stream = client.watch_feature_flags(request).await?.into_inner();
                while !next(&mut stream).await?.caught_up {}
                watchers.spawn(watch(stream, Arc::clone(&deliveries)));
            }
        }
        let mut client = ToggleServiceClient::new(connect(address).await?);
        let mut lengths = Vec::with_capacity(FLIPS);
        for _ in 0..FLIPS {
            let flag = Some(toggle_feature_flag_request::Flag::Key("flag-1".to_owned()));
            let request = ToggleFeatureFlagRequest { flag, ..Default::default() };
            client.toggle_feature_flag(with_token(request, &token()?)).await?;
            let acknowledged = Instant::now();
            timeout(PATIENCE, deliveries.round.notified()).await.map_err(|_| "a flip did not reach every watcher")?;
            lengths.push(acknowledged.elapsed());
        }
        lengths.sort_unstable();
        Ok(Self(lengths))
    }

    /// Tells of it.
    pub fn tell(&self) {
        let at = |share: usize| self.0[self.0.len() * share / 100].as_secs_f64() * 1_000.0;
        let (median, p99) = (at(50), at(99));
        println!("\nflip acknowledged to last of {WATCHERS} watchers: median {median:.1} ms, p99 {p99:.1} ms");
    }
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
            deliveries.round.notify_one();
        }
    }
}
