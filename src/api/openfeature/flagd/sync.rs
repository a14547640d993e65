//! FlagSyncService: all flags of an environment at once.

use std::borrow::Cow;
use std::sync::Arc;

use futures::{Stream, stream};
use prost::Message;
use prost_types::Struct;
use tonic::{Request, Response, Status};

use super::configuration::ConfigurationCache;
use crate::api::connection::Peer;
use crate::api::middleware::limits::{SharedAnswer, SharedMessage, Unsent};
use crate::api::openfeature::{Metadata, SELECTOR_HEADER, environment};
use crate::api::pb::flagd::sync::v1 as pb;
use crate::api::streams::HEARTBEAT;
use crate::domain::error::Error;
use crate::domain::state::EnvironmentScope;
use crate::domain::text::EnvironmentKey;
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
        let environment = selected(&request, &request.get_ref().selector)?;
        let scope = EnvironmentScope::One(environment.clone());
        let selection = FlagSelection::all_in(scope.clone());
        let subscription = self.mirror.subscribe(selection, Peer::connection(request.extensions()));
        let unsent = Unsent::default();
        let configurations = Arc::clone(&self.configurations);
        let messages = messages(environment, subscription, configurations, self.max_bytes, unsent.clone());
        let mut response = SharedAnswer::with(unsent, messages).in_response(stream::empty());
        response.extensions_mut().insert(scope);
        Ok(response)
    }

    async fn fetch_all_flags(
        &self,
        request: Request<pb::FetchAllFlagsRequest>,
    ) -> Result<Response<pb::FetchAllFlagsResponse>, Status> {
        let environment = selected(&request, &request.get_ref().selector)?;
        // Not kept while the configuration is made.
        drop(request);
        let now = self.mirror.read(Position::of).ok_or(Error::DatabaseUnavailable)?;
        let message = self.configurations.including(&environment, now).await?.message(&[], self.max_bytes)?;
        Ok(SharedAnswer::new(stream::iter([Ok(message)])).in_response(pb::FetchAllFlagsResponse::default()))
    }

    async fn get_metadata(
        &self,
        request: Request<pb::GetMetadataRequest>,
    ) -> Result<Response<pb::GetMetadataResponse>, Status> {
        let metadata = match selected(&request, "") {
            Ok(environment) => self.mirror.read(|state| Metadata::of(state, &environment).into()),
            // Some clients send their selector only when they sync, and give up if this call fails.
            Err(Error::PermissionDenied(_)) if !request.metadata().contains_key(SELECTOR_HEADER) => {
                Some(Struct::default())
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Response::new(pb::GetMetadataResponse { metadata: Some(metadata.ok_or(Error::DatabaseUnavailable)?) }))
    }
}

/// The environment that a request is about.
fn selected<T>(request: &Request<T>, selector: &str) -> Result<EnvironmentKey, Error> {
    environment(request.extensions(), request.metadata().as_ref(), selector).map(Cow::into_owned)
}

/// All flags of an environment now, and again after each change. The cache limits how often.
fn messages(
    environment: EnvironmentKey,
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
                let current = configurations.including(&environment, subscription.needed_position()).await?;
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
