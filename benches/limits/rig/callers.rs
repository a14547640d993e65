//! Clients of a server: they create flags and run loads of flips.

use std::net::SocketAddr;

use toggled::api::pb::toggle_service_client::ToggleServiceClient;
use toggled::api::pb::{CreateFeatureFlagRequest, GetFeatureFlagResponse};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::call_load::{CallLoad, LoadResult};
use super::requests::{connect, read_request, token, with_token};
use crate::Result;

/// Connections that the clients of a server share.
const CONNECTIONS: usize = 8;

/// Flags that are created concurrently.
const CREATORS: usize = 256;

/// Clients of one server.
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

    /// Creates `flag-1` to `flag-COUNT`.
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
        join_all(callers).await.map(drop)
    }

    /// Runs a load. Fails unless the log grew by exactly these flips.
    pub async fn flip(&self, load: &CallLoad) -> Result<LoadResult> {
        let before = self.flag_1().await?.revision;
        let result = self.flip_with_other_changes(load).await?;
        let after = self.flag_1().await?.revision;
        if after - before != result.succeeded {
            let flips = result.succeeded;
            return Err(format!("{flips} flips succeeded, but the log went from {before} to {after}").into());
        }
        Ok(result)
    }

    /// Runs a load while other clients change flags. Fails if a flip is refused.
    pub async fn flip_with_other_changes(&self, load: &CallLoad) -> Result<LoadResult> {
        let result = self.flip_with_refusals(load).await?;
        if result.refused > 0 { Err(format!("{} flips were refused", result.refused).into()) } else { Ok(result) }
    }

    /// Runs a load of reads. Fails if one is refused.
    pub async fn read(&self, load: &CallLoad) -> Result<LoadResult> {
        let result = self.run(load).await?;
        if result.refused > 0 { Err(format!("{} reads were refused", result.refused).into()) } else { Ok(result) }
    }

    /// Runs a load in which the server may refuse flips.
    pub async fn flip_with_refusals(&self, load: &CallLoad) -> Result<LoadResult> {
        self.run(load).await
    }

    async fn run(&self, load: &CallLoad) -> Result<LoadResult> {
        let (address, load) = (self.address, load.clone());
        tokio::task::spawn_blocking(move || load.run(address)).await?
    }

    /// Reads `flag-1`.
    pub async fn flag_1(&self) -> Result<GetFeatureFlagResponse> {
        flag_1(self.address).await
    }

    /// The connection of a client.
    pub fn channel(&self, caller: usize) -> Channel {
        self.channels[caller % CONNECTIONS].clone()
    }

    fn client(&self, caller: usize) -> ToggleServiceClient<Channel> {
        ToggleServiceClient::new(self.channel(caller))
    }
}

/// Reads `flag-1` on a new connection.
pub async fn flag_1(address: SocketAddr) -> Result<GetFeatureFlagResponse> {
    let mut client = ToggleServiceClient::new(connect(address).await?);
    Ok(client.get_feature_flag(with_token(read_request(), &token()?)).await?.into_inner())
}

/// Waits for all tasks. Returns the first error.
pub async fn join_all<T: 'static>(mut callers: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut results = Vec::new();
    while let Some(finished) = callers.join_next().await {
        results.push(finished??);
    }
    Ok(results)
}
