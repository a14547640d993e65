//! FlagSyncService: all flags at once.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use prost_types::Struct;
use tonic::{Request, Response, Status};

use super::configuration::Configurations;
use crate::api::errors::status;
use crate::api::feed::Feed;
use crate::api::pb::flagd::sync::v1 as pb;
use crate::mirror::Mirror;

/// FlagSyncService.
pub struct FlagSync {
    configurations: Arc<Configurations>,
    mirror: Arc<Mirror>,
}

impl FlagSync {
    /// The service on this mirror.
    pub fn new(mirror: Arc<Mirror>) -> Self {
        Self { configurations: Arc::new(Configurations::new(Arc::clone(&mirror))), mirror }
    }
}

#[tonic::async_trait]
impl pb::flag_sync_service_server::FlagSyncService for FlagSync {
    type SyncFlagsStream = Pin<Box<dyn Stream<Item = Result<pb::SyncFlagsResponse, Status>> + Send>>;

    async fn sync_flags(
        &self,
        _request: Request<pb::SyncFlagsRequest>,
    ) -> Result<Response<Self::SyncFlagsStream>, Status> {
        // All flags have a pace of their own, whoever asks for them.
        let feed = Feed::new(&self.mirror, None, Duration::ZERO);
        Ok(Response::new(Box::pin(messages(feed, Arc::clone(&self.configurations)))))
    }

    async fn fetch_all_flags(
        &self,
        _request: Request<pb::FetchAllFlagsRequest>,
    ) -> Result<Response<pb::FetchAllFlagsResponse>, Status> {
        let flag_configuration = self.configurations.current().await.map_err(status)?.json.clone();
        Ok(Response::new(pb::FetchAllFlagsResponse { flag_configuration }))
    }

    async fn get_metadata(
        &self,
        _request: Request<pb::GetMetadataRequest>,
    ) -> Result<Response<pb::GetMetadataResponse>, Status> {
        Ok(Response::new(pb::GetMetadataResponse { metadata: Some(Struct::default()) }))
    }
}

/// All flags now, and again after changes.
fn messages(
    feed: Feed,
    configurations: Arc<Configurations>,
) -> impl Stream<Item = Result<pb::SyncFlagsResponse, Status>> {
    async_stream::try_stream! {
        let mut sent = None;
        loop {
            // Not held on to while the client takes its time: that would keep the old ones of all slow clients.
            let message = {
                let current = configurations.current().await.map_err(status)?;
                let is_new = sent.replace(current.number) != Some(current.number);
                is_new.then(|| message(current.json.clone()))
            };
            if let Some(message) = message {
                yield message;
            }
            feed.changed().await;
        }
    }
}

fn message(flag_configuration: String) -> pb::SyncFlagsResponse {
    pb::SyncFlagsResponse { flag_configuration, sync_context: Some(Struct::default()) }
}
