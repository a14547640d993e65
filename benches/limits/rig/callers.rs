//! Our side of changes: callers with a token, on a few connections.

use std::net::SocketAddr;
use std::time::Duration;

use toggled::api::pb::toggle_service_client::ToggleServiceClient;
use toggled::api::pb::{
    CreateFeatureFlagRequest, GetFeatureFlagRequest, GetFeatureFlagResponse, ToggleFeatureFlagRequest,
    get_feature_flag_request, toggle_feature_flag_request,
};
use tokio::task::JoinSet;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use super::flipping::{self, Flipping, Flips};
use super::server::TOKEN;
use crate::Result;

type Token = MetadataValue<Ascii>;

/// Connections that all callers of a server share.
const CONNECTIONS: usize = 8;

/// Callers who create flags.
const CREATORS: usize = 256;

/// The length that this share of all is not longer than. They are sorted.
pub fn at(lengths: &[Duration], share: f64) -> Duration {
    let index = (lengths.len() as f64 * share) as usize;
    lengths.get(index.min(lengths.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Everyone who calls a server.
pub struct Callers {
    pub address: SocketAddr,
    channels: Vec<Channel>,
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
        for caller in 0..CREATORS {
            let (mut client, token) = (self.client(caller), token()?);
            callers.spawn(async move {
                for n in (1..=count).skip(caller).step_by(CREATORS) {
                    let (key, name) = (format!("flag-{n}"), format!("Flag {n}"));
                    let request = CreateFeatureFlagRequest { key, name, ..Default::default() };
                    client.create_feature_flag(with_token(request, &token)).await?;
                }
                Ok(())
            });
        }
        all(callers).await.map(drop)
    }

    /// One turn. All flips must be in the log afterwards, and nothing else.
    pub async fn flip(&self, flipping: &Flipping) -> Result<Flips> {
        let before = self.flag_1().await?.revision;
        let flips = self.flip_beside_others(flipping).await?;
        let after = self.flag_1().await?.revision;
        if after - before != flips.answered {
            return Err(
                format!("{} flips were answered, and the log went from {before} to {after}", flips.answered).into()
            );
        }
        Ok(flips)
    }

    /// One turn, while others change something as well.
    pub async fn flip_beside_others(&self, flipping: &Flipping) -> Result<Flips> {
        let flips = self.flip_too_much(flipping).await?;
        if flips.refused > 0 { Err(format!("{} flips were turned away", flips.refused).into()) } else { Ok(flips) }
    }

    /// One turn, in which flips may be turned away.
    pub async fn flip_too_much(&self, flipping: &Flipping) -> Result<Flips> {
        let (address, flipping) = (self.address, flipping.clone());
        tokio::task::spawn_blocking(move || flipping::flip(address, &flipping)).await?
    }

    /// What the server says of `flag-1`.
    pub async fn flag_1(&self) -> Result<GetFeatureFlagResponse> {
        flag_1(self.address).await
    }

    /// The connection that a caller shares.
    pub fn channel(&self, caller: usize) -> Channel {
        self.channels[caller % CONNECTIONS].clone()
    }

    fn client(&self, caller: usize) -> ToggleServiceClient<Channel> {
        ToggleServiceClient::new(self.channel(caller))
    }
}

/// The request to flip a flag.
pub fn flip_request(number: usize) -> ToggleFeatureFlagRequest {
    ToggleFeatureFlagRequest {
        flag: Some(toggle_feature_flag_request::Flag::Key(format!("flag-{number}"))),
        reason: "quick benchmark".to_owned(),
        ..Default::default()
    }
}

/// The request for `flag-1`.
pub fn read_request() -> GetFeatureFlagRequest {
    let flag = get_feature_flag_request::Flag::Key("flag-1".to_owned());
    GetFeatureFlagRequest { flag: Some(flag), ..Default::default() }
}

/// What a server says of `flag-1`.
pub async fn flag_1(address: SocketAddr) -> Result<GetFeatureFlagResponse> {
    let mut client = ToggleServiceClient::new(connect(address).await?);
    Ok(client.get_feature_flag(with_token(read_request(), &token()?)).await?.into_inner())
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

/// Waits for all callers; the first failure is everyone's.
pub async fn all<T: 'static>(mut callers: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut came_of_it = Vec::new();
    while let Some(ended) = callers.join_next().await {
        came_of_it.push(ended??);
    }
    Ok(came_of_it)
}
