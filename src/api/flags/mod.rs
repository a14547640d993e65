//! ToggleService: reading, watching and changing flags.

mod changes;
mod list;
mod watch;

use std::sync::Arc;

use futures::{StreamExt, stream};
use tonic::{Request, Response, Status};

use crate::api::call::Call;
use crate::api::change::Changes;
use crate::api::connection::Peer;
use crate::api::middleware::limits::{ByteAccount, SharedAnswer, Unsent};
use crate::api::pb;
use crate::api::pb::toggle_service_server::ToggleService;
use crate::api::reader::{AsOf, StateReader};
use crate::api::validate::RequestValidator;
use crate::domain::Revision;
use crate::domain::advance::{Command, Revert};
use crate::domain::error::Error;
use crate::domain::flag_access::FlagAccess;
use crate::domain::state::{FlagRef, State};
use crate::mirror::FlagSelection;
use list::FlagList;
use watch::{FlagWatch, WatchCache};

/// What a watched key takes besides its text, as long as its stream is open: its places in the stream and in the registry of
/// subscriptions, which are largest for a key that nobody else watches.
const WATCHED_KEY_BYTES: usize = 256;

/// ToggleService.
pub struct Flags {
    changes: Changes,
    reader: StateReader,
    /// The messages of watches.
    watched: Arc<WatchCache>,
}

impl Flags {
    /// A service that makes changes through `changes` and reads through `reader`.
    pub fn new(changes: Changes, reader: StateReader) -> Self {
        Self { changes, reader, watched: Arc::default() }
    }

    async fn get_as_of(
        &self,
        access: FlagAccess<'_>,
        flag: &FlagRef,
        revision: Revision,
    ) -> Result<pb::GetFeatureFlagResponse, Status> {
        let (found, known) = self.reader.read(|state| (access.find(state, flag).cloned(), *state.head()))?;
        let past = self.reader.flags_as_of(vec![found?], &known, revision).await?.pop();
        let past = past.ok_or_else(|| Error::FlagNotFound(flag.to_string()))?;
        Ok(pb::GetFeatureFlagResponse { feature_flag: Some((&past).into()), revision })
    }
}

#[tonic::async_trait]
impl ToggleService for Flags {
    async fn toggle_feature_flag(
        &self,
        request: Request<pb::ToggleFeatureFlagRequest>,
    ) -> Result<Response<pb::ToggleFeatureFlagResponse>, Status> {
        self.changes.make(request, changes::toggle).await
    }

    async fn enable_feature_flag(
        &self,
        request: Request<pb::EnableFeatureFlagRequest>,
    ) -> Result<Response<pb::EnableFeatureFlagResponse>, Status> {
        self.changes.make(request, changes::enable).await
    }

    async fn disable_feature_flag(
        &self,
        request: Request<pb::DisableFeatureFlagRequest>,
    ) -> Result<Response<pb::DisableFeatureFlagResponse>, Status> {
        self.changes.make(request, changes::disable).await
    }

    async fn batch_set_feature_flags(
        &self,
        request: Request<pb::BatchSetFeatureFlagsRequest>,
    ) -> Result<Response<pb::BatchSetFeatureFlagsResponse>, Status> {
        self.changes.make(request, changes::batch_set).await
    }

    async fn create_feature_flag(
        &self,
        request: Request<pb::CreateFeatureFlagRequest>,
    ) -> Result<Response<pb::CreateFeatureFlagResponse>, Status> {
        self.changes.make(request, changes::create).await
    }

    async fn batch_create_feature_flags(
        &self,
        request: Request<pb::BatchCreateFeatureFlagsRequest>,
    ) -> Result<Response<pb::BatchCreateFeatureFlagsResponse>, Status> {
        self.changes.make(request, changes::batch_create).await
    }

    async fn update_feature_flag(
        &self,
        request: Request<pb::UpdateFeatureFlagRequest>,
    ) -> Result<Response<pb::UpdateFeatureFlagResponse>, Status> {
        self.changes.make(request, changes::update).await
    }

    async fn archive_feature_flag(
        &self,
        request: Request<pb::ArchiveFeatureFlagRequest>,
    ) -> Result<Response<pb::ArchiveFeatureFlagResponse>, Status> {
        self.changes.make(request, changes::archive).await
    }

    async fn unarchive_feature_flag(
        &self,
        request: Request<pb::UnarchiveFeatureFlagRequest>,
    ) -> Result<Response<pb::UnarchiveFeatureFlagResponse>, Status> {
        self.changes.make(request, changes::unarchive).await
    }

    async fn revert_feature_flag(
        &self,
        request: Request<pb::RevertFeatureFlagRequest>,
    ) -> Result<Response<pb::RevertFeatureFlagResponse>, Status> {
        let parse = |request: &pb::RevertFeatureFlagRequest, validator: &mut RequestValidator| {
            let id = validator.uuid("audit_log_id", &request.audit_log_id);
            let environment = validator.environment(request.environment.as_deref());
            let expected_revision = validator.expected_revision(request.expected_revision);
            Some(Command::Revert(Revert { id: id?, environment, entry: None, generation: 0, expected_revision }))
        };
        let with_entry = async |command: Command| match command {
            Command::Revert(revert) => {
                // Read before the entry: if the log is replaced in between, `advance` finds a later generation and refuses the change.
                let generation = self.reader.read(State::generation)?;
                // A missing entry is no error here: `advance` decides, since this may be a retry whose entry was trimmed.
                let entry = self.reader.entry(revert.id).await?.map(Box::new);
                Ok(Command::Revert(Revert { entry, generation, ..revert }))
            }
            command => Ok(command),
        };
        self.changes.make_with_lookup(request, parse, with_entry).await
    }

    async fn get_feature_flag(
        &self,
        request: Request<pb::GetFeatureFlagRequest>,
    ) -> Result<Response<pb::GetFeatureFlagResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let mut validator = RequestValidator::default();
        let flag = validator.flag(request.flag, request.environment.as_deref());
        let min_revision = validator.at_least("min_revision", 0, request.min_revision);
        let as_of = AsOf::parse(&mut validator, request.as_of_revision, request.as_of_time, min_revision);
        let flag = validator.finish(flag)?.or_in(call.own_environment());
        let access = call.flag_access();
        self.reader.wait_for_revision(min_revision).await?;
        if let Some(as_of) = as_of {
            let revision = self.reader.resolve(as_of).await?;
            return self.get_as_of(access, &flag, revision).await.map(Response::new);
        }
        let read = |state: &State| access.find(state, &flag).map(|flag| (Arc::clone(flag), state.head().revision));
        let (found, revision) = self.reader.read(read)??;
        Ok(Response::new(pb::GetFeatureFlagResponse { feature_flag: Some((&found).into()), revision }))
    }

    async fn list_feature_flags(
        &self,
        request: Request<pb::ListFeatureFlagsRequest>,
    ) -> Result<Response<pb::ListFeatureFlagsResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let list = FlagList::parse(request, call.own_environment())?;
        let access = call.flag_access();
        self.reader.wait_for_revision(list.min_revision).await?;
        if let Some(as_of) = list.as_of {
            let revision = self.reader.resolve(as_of).await?;
            let scope = self.reader.read(|state| access.scope(state, list.environments.as_ref()))??;
            return list.page_as_of(&self.reader, &scope, revision).await.map(Response::new);
        }
        let page = |state: &State| {
            let scope = access.scope(state, list.environments.as_ref())?;
            Ok::<_, Error>(list.page(state, &scope))
        };
        Ok(Response::new(self.reader.read(page)??))
    }

    /// Always empty: the messages travel in the response's extensions, as a `SharedAnswer`.
    type WatchFeatureFlagsStream = stream::Empty<Result<pb::WatchFeatureFlagsResponse, Status>>;

    async fn watch_feature_flags(
        &self,
        request: Request<pb::WatchFeatureFlagsRequest>,
    ) -> Result<Response<Self::WatchFeatureFlagsStream>, Status> {
        let connection = Peer::connection(request.extensions());
        let account = request.extensions().get::<Arc<ByteAccount>>().cloned();
        let (call, request) = Call::take(request)?;
        let watch = FlagWatch::parse(request, call.own_environment())?;
        let bytes =
            watch.keys.iter().flat_map(|keys| keys.iter()).map(|key| key.as_str().len() + WATCHED_KEY_BYTES).sum();
        let charge = account.filter(|_| bytes > 0).map(|account| account.charge_request(bytes)).transpose()?;
        self.reader.wait_for_revision(watch.after).await?;
        let scope = self.reader.read(|state| call.flag_access().scope(state, watch.environments.as_ref()))??;
        // Subscribed before the flags are read, so that no change in between is lost.
        let subscription =
            self.reader.subscribe(FlagSelection { scope: scope.clone(), keys: watch.keys.clone() }, connection);
        watch.check_cursor(&self.reader).await?;
        let unsent = Unsent::default();
        let messages = watch.messages(subscription, Arc::clone(&self.watched), unsent.clone());
        // The keys are charged until the stream is dropped.
        let messages = messages.inspect(move |_| {
            let _held = &charge;
        });
        let mut response = SharedAnswer::with(unsent, messages).in_response(stream::empty());
        response.extensions_mut().insert(scope);
        Ok(response)
    }
}
