//! Our side of changes: callers with a token, on a few connections.

use std::net::SocketAddr;

use toggled::grpc::pb::toggle_service_client::ToggleServiceClient;
use toggled::grpc::pb::{CreateFeatureFlagRequest, GetFeatureFlagResponse};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::flipping::{self, Flipping, Flips};
use super::requests::{connect, read_request, token, with_token};
use crate::Result;

/// Connections that all callers of a server share.
const CONNECTIONS: usize = 8;

/// Callers who create flags.
const CREATORS: usize = 256;

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

/// What a server says of `flag-1`.
pub async fn flag_1(address: SocketAddr) -> Result<GetFeatureFlagResponse> {
    let mut client = ToggleServiceClient::new(connect(address).await?);
    Ok(client.get_feature_flag(with_token(read_request(), &token()?)).await?.into_inner())
}

/// Waits for all callers; the first failure is everyone's.
pub async fn all<T: 'static>(mut callers: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut came_of_it = Vec::new();
    while let Some(ended) = callers.join_next().await {
        came_of_it.push(ended??);
    }
    Ok(came_of_it)
}
