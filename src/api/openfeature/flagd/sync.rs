//! FlagSyncService: all flags at once.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use prost_types::Struct;
use tonic::{Request, Response, Status};

use super::configuration::ConfigurationCache;
use crate::api::pb::flagd::sync::v1 as pb;
use crate::api::streams::HEARTBEAT;
use crate::mirror::{Mirror, Subscription};

/// FlagSyncService.
pub struct FlagSync {
    configurations: Arc<ConfigurationCache>,
    mirror: Arc<Mirror>,
}

impl FlagSync {
    /// A service that reads `mirror`.
    pub fn new(mirror: Arc<Mirror>) -> Self {
        Self { configurations: Arc::new(ConfigurationCache::new(Arc::clone(&mirror))), mirror }
    }
}

#[tonic::async_trait]
impl pb::flag_sync_service_server::FlagSyncService for FlagSync {
    type SyncFlagsStream = Pin<Box<dyn Stream<Item = Result<pb::SyncFlagsResponse, Status>> + Send>>;

    async fn sync_flags(
        &self,
        _request: Request<pb::SyncFlagsRequest>,
    ) -> Result<Response<Self::SyncFlagsStream>, Status> {
        let subscription = self.mirror.subscribe(None);
        Ok(Response::new(Box::pin(messages(subscription, Arc::clone(&self.configurations)))))
    }

    async fn fetch_all_flags(
        &self,
        _request: Request<pb::FetchAllFlagsRequest>,
    ) -> Result<Response<pb::FetchAllFlagsResponse>, Status> {
        let flag_configuration = self.configurations.current().await?.json.clone();
        Ok(Response::new(pb::FetchAllFlagsResponse { flag_configuration }))
    }

    async fn get_metadata(
        &self,
        _request: Request<pb::GetMetadataRequest>,
    ) -> Result<Response<pb::GetMetadataResponse>, Status> {
        Ok(Response::new(pb::GetMetadataResponse { metadata: Some(Struct::default()) }))
    }
}

/// All flags now, and again after each change. The cache limits how often.
fn messages(
    subscription: Subscription,
    configurations: Arc<ConfigurationCache>,
) -> impl Stream<Item = Result<pb::SyncFlagsResponse, Status>> {
    async_stream::try_stream! {
        let mut sent = None;
        loop {
            // Released before the client takes the message: slow clients must not keep old configurations in memory.
            let message = {
                let current = configurations.current().await?;
                let is_new = sent.replace(current.number) != Some(current.number);
                is_new.then(|| message(current.json.clone()))
            };
            if let Some(message) = message {
                yield message;
            }
            subscription.changed_within(HEARTBEAT, Duration::ZERO).await;
        }
    }
}

fn message(flag_configuration: String) -> pb::SyncFlagsResponse {
    pb::SyncFlagsResponse { flag_configuration, sync_context: Some(Struct::default()) }
}
