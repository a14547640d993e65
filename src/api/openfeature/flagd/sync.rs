//! FlagSyncService: all flags at once.

use std::sync::Arc;

use futures::{Stream, stream};
use prost::Message;
use prost_types::Struct;
use tonic::{Request, Response, Status};

use super::configuration::ConfigurationCache;
use crate::api::listener::Peer;
use crate::api::middleware::limits::{SharedAnswer, SharedMessage, Unsent};
use crate::api::openfeature::default_environment;
use crate::api::pb::flagd::sync::v1 as pb;
use crate::api::streams::HEARTBEAT;
use crate::domain::error::Error;
use crate::mirror::{FlagSelection, Mirror, Position, Subscription};

/// FlagSyncService.
pub struct FlagSync {
    configurations: Arc<ConfigurationCache>,
    mirror: Arc<Mirror>,
    /// The largest message, in bytes.
    max_bytes: usize,
}

impl FlagSync {
    /// A service that reads `mirror` and sends messages of at most `max_bytes`.
    pub fn new(mirror: Arc<Mirror>, max_bytes: usize) -> Self {
        Self { configurations: Arc::new(ConfigurationCache::new(Arc::clone(&mirror))), mirror, max_bytes }
    }
}

#[tonic::async_trait]
impl pb::flag_sync_service_server::FlagSyncService for FlagSync {
    /// Always empty: the messages travel in the response's extensions, as a `SharedAnswer`.
    type SyncFlagsStream = stream::Empty<Result<pb::SyncFlagsResponse, Status>>;

    async fn sync_flags(
        &self,
        request: Request<pb::SyncFlagsRequest>,
    ) -> Result<Response<Self::SyncFlagsStream>, Status> {
        let subscription =
            self.mirror.subscribe(FlagSelection::all_in(default_environment()), Peer::connection(request.extensions()));
        let unsent = Unsent::default();
        let messages = messages(subscription, Arc::clone(&self.configurations), self.max_bytes, unsent.clone());
        Ok(SharedAnswer::with(unsent, messages).in_response(stream::empty()))
    }

    async fn fetch_all_flags(
        &self,
        request: Request<pb::FetchAllFlagsRequest>,
    ) -> Result<Response<pb::FetchAllFlagsResponse>, Status> {
        // Not used, and not kept while the configuration is made.
        drop(request);
        let now = self.mirror.read(Position::of).ok_or(Error::DatabaseUnavailable)?;
        let message = self.configurations.including(now).await?.message(&[], self.max_bytes)?;
        Ok(SharedAnswer::new(stream::iter([Ok(message)])).in_response(pb::FetchAllFlagsResponse::default()))
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
    mut subscription: Subscription,
    configurations: Arc<ConfigurationCache>,
    max_bytes: usize,
    unsent: Unsent,
) -> impl Stream<Item = Result<SharedMessage, Status>> {
    // Besides the flags, a message has an empty context.
    let fields = pb::SyncFlagsResponse { sync_context: Some(Struct::default()), ..Default::default() }.encode_to_vec();
    async_stream::try_stream! {
        let mut sent = None;
        loop {
            // Released before the client takes the message: slow clients must not keep old configurations in memory.
            let message = {
                let current = configurations.including(subscription.needed_position()).await?;
                let is_new = sent.replace(current.number) != Some(current.number);
                is_new.then(|| current.message(&fields, max_bytes)).transpose()?
            };
            if let Some(message) = message {
                yield message;
            }
            subscription.changed_within(HEARTBEAT).await;
            unsent.all_sent().await;
        }
    }
}
