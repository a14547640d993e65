//! Our side of flips: callers with a token, on a few connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use toggled::grpc::pb::toggle_service_client::ToggleServiceClient;
use toggled::grpc::pb::{
    CreateFeatureFlagRequest, GetFeatureFlagRequest, GetFeatureFlagResponse, ToggleFeatureFlagRequest,
    get_feature_flag_request, toggle_feature_flag_request,
};
use tokio::task::JoinSet;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::processes::TOKEN;
use crate::{FLAGS, Result};

type Token = MetadataValue<Ascii>;

/// Flips under way at any moment.
pub const IN_FLIGHT: usize = 64;

/// Connections that they share.
const CONNECTIONS: usize = 4;

/// How long a round runs before it counts, and while it counts.
const WARM_UP: Duration = Duration::from_millis(500);
const LENGTH: Duration = Duration::from_secs(3);

/// Everyone who flips.
pub struct Callers {
    address: SocketAddr,
    channels: Vec<Channel>,
}

/// What the callers of one round share.
#[derive(Default)]
struct Round {
    answered: AtomicI64,
    over: AtomicBool,
}

impl Callers {
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            channels.push(connect(address).await?);
        }
        Ok(Self { address, channels })
    }

    /// Creates so many flags, `flag-1` and on.
    pub async fn create_flags(&self, count: usize) -> Result<()> {
        let mut callers = JoinSet::new();
        for caller in 0..IN_FLIGHT {
            let (mut client, token) = (self.client(caller), token()?);
            callers.spawn(async move {
                for n in (1..=count).skip(caller).step_by(IN_FLIGHT) {
                    let (key, name) = (format!("flag-{n}"), format!("Flag {n}"));
                    let request = CreateFeatureFlagRequest { key, name, ..Default::default() };
                    client.create_feature_flag(with_token(request, &token)).await?;
                }
                Ok(())
            });
        }
        all(callers).await
    }

    /// One round; flips a second. All of them must be in the log afterwards, and nothing else.
    pub async fn flip(&self) -> Result<f64> {
        let before = get(self.address).await?.revision;
        let round = Arc::new(Round::default());
        let mut callers = JoinSet::new();
        for caller in 0..IN_FLIGHT {
            callers.spawn(flip_until_over(self.client(caller), caller as u64, Arc::clone(&round)));
        }
        tokio::time::sleep(WARM_UP).await;
        let (from, start) = (round.answered.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(LENGTH).await;
        let (to, length) = (round.answered.load(Ordering::Relaxed), start.elapsed());
        round.over.store(true, Ordering::Relaxed);
        all(callers).await?;
        let (answered, after) = (round.answered.load(Ordering::Relaxed), get(self.address).await?.revision);
        if after - before != answered {
            return Err(format!("{answered} flips were answered, and the log went from {before} to {after}").into());
        }
        Ok((to - from) as f64 / length.as_secs_f64())
    }

    fn client(&self, caller: usize) -> ToggleServiceClient<Channel> {
        ToggleServiceClient::new(self.channels[caller % CONNECTIONS].clone())
    }
}

/// What a server says of `flag-1`.
pub async fn get(address: SocketAddr) -> Result<GetFeatureFlagResponse> {
    let mut client = ToggleServiceClient::new(connect(address).await?);
    Ok(client.get_feature_flag(with_token(read_request(), &token()?)).await?.into_inner())
}

/// The request for `flag-1`.
pub fn read_request() -> GetFeatureFlagRequest {
    let flag = get_feature_flag_request::Flag::Key("flag-1".to_owned());
    GetFeatureFlagRequest { flag: Some(flag), ..Default::default() }
}

pub async fn connect(address: SocketAddr) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.user_agent("quick")?.connect().await?)
}

/// What every request shows.
pub fn token() -> Result<Token> {
    Ok(format!("Bearer {TOKEN}").parse()?)
}

pub fn with_token<T>(message: T, token: &Token) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", token.clone());
    request
}

/// One caller: flips one random flag after another.
async fn flip_until_over(mut client: ToggleServiceClient<Channel>, seed: u64, round: Arc<Round>) -> Result<()> {
    let (mut random, token) = (seed, token()?);
    while !round.over.load(Ordering::Relaxed) {
        // Knuth's generator; its high bits are the random ones.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let n = (random >> 33) as usize % FLAGS + 1;
        let request = ToggleFeatureFlagRequest {
            flag: Some(toggle_feature_flag_request::Flag::Key(format!("flag-{n}"))),
            reason: "quick benchmark".to_owned(),
            ..Default::default()
        };
        client.toggle_feature_flag(with_token(request, &token)).await?;
        round.answered.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Waits for all callers; the first failure is everyone's.
async fn all(mut callers: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    Ok(())
}
