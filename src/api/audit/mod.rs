//! AuditService: reading, following and trimming the audit log. It always reads the database: an answer is complete, or it is an
//! error.

mod checkpoints;
mod list;
mod stream;
mod trim;

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::call::Call;
use super::change::Changes;
use super::connection::Peer;
use super::errors::ApiError;
use super::middleware::limits::ByteAccount;
use super::pb;
use super::pb::audit_service_server::AuditService;
use super::reader::StateReader;
use super::validate::RequestValidator;
use crate::checkpoint::SigningKey;
use crate::domain::advance::{Command, TrimLog};
use crate::domain::error::Error;
use crate::domain::state::{EnvironmentScope, State};
use crate::domain::time::Clock;
use crate::mirror::Mirror;
use crate::store::Store;
use checkpoints::{CheckpointList, CheckpointSigner, VerifierKeyParser};
use list::AuditLogList;
use stream::{AuditStream, Messages};

/// AuditService.
pub struct Audit {
    changes: Changes,
    reader: StateReader,
    store: Arc<dyn Store>,
    mirror: Arc<Mirror>,
    signer: Option<CheckpointSigner>,
    key_parser: VerifierKeyParser,
}

impl Audit {
    /// A service that reads `store` and makes changes through `changes`. Without a `key` it signs no checkpoints.
    pub fn new(
        changes: Changes,
        reader: StateReader,
        store: Arc<dyn Store>,
        mirror: Arc<Mirror>,
        key: Option<Arc<SigningKey>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            changes,
            reader,
            store,
            mirror,
            signer: key.map(|key| CheckpointSigner { key, clock }),
            key_parser: VerifierKeyParser::default(),
        }
    }

    /// The environments whose entries the caller reads, of those that the request named.
    fn scope(&self, call: &Call, named: Option<&EnvironmentScope>) -> Result<EnvironmentScope, Error> {
        self.reader.read(|state| call.flag_access().log_scope(state, named))?
    }
}

#[tonic::async_trait]
impl AuditService for Audit {
    async fn list_audit_logs(
        &self,
        request: Request<pb::ListAuditLogsRequest>,
    ) -> Result<Response<pb::ListAuditLogsResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let list = AuditLogList::parse(request, call.own_environment())?;
        let scope = self.scope(&call, list.environments.as_ref())?;
        if let Some(time) = list.time_to_close() {
            self.reader.until_closed("to_date", time).await?;
        }
        list.in_scope(&scope).page(&*self.store).await.map(Response::new)
    }

    async fn get_audit_log(
        &self,
        request: Request<pb::GetAuditLogRequest>,
    ) -> Result<Response<pb::GetAuditLogResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let mut validator = RequestValidator::default();
        let id = validator.uuid("id", &request.id);
        let id = validator.finish(id)?;
        let entry = self.store.entry(id).await?.filter(|entry| call.flag_access().sees_entry(entry));
        let entry = entry.ok_or(Error::AuditLogNotFound(id))?;
        Ok(Response::new(pb::GetAuditLogResponse { audit_log: Some((&entry).into()) }))
    }

    async fn get_audit_checkpoint(
        &self,
        request: Request<pb::GetAuditCheckpointRequest>,
    ) -> Result<Response<pb::GetAuditCheckpointResponse>, Status> {
        let mut validator = RequestValidator::default();
        let revision = validator.at_least("revision", 1, request.get_ref().revision);
        validator.finish(Some(()))?;
        let signer = self.signer.as_ref().ok_or(ApiError::NoCheckpointKey)?;
        signer.checkpoint(&*self.store, &self.key_parser, revision).await.map(Response::new)
    }

    async fn list_audit_checkpoints(
        &self,
        request: Request<pb::ListAuditCheckpointsRequest>,
    ) -> Result<Response<pb::ListAuditCheckpointsResponse>, Status> {
        let list = CheckpointList::parse(request.get_ref())?;
        list.page(&*self.store, &self.key_parser).await.map(Response::new)
    }

    async fn trim_audit_logs(
        &self,
        request: Request<pb::TrimAuditLogsRequest>,
    ) -> Result<Response<pb::TrimAuditLogsResponse>, Status> {
        let with_hash = async |command: Command| match command {
            Command::TrimLog(trim) => {
                // Read before the entry: if the log is replaced in between, `advance` finds a later generation and refuses the change.
                let generation = self.mirror.read(State::generation).unwrap_or_default();
                let found_hash = self.store.entry_at(trim.through).await?.map(|(_, hash)| hash);
                Ok(Command::TrimLog(TrimLog { found_hash, generation, ..trim }))
            }
            command => Ok(command),
        };
        self.changes.make_with_lookup(request, trim::parse, with_hash).await
    }

    type StreamAuditLogsStream = Messages;

    async fn stream_audit_logs(
        &self,
        request: Request<pb::StreamAuditLogsRequest>,
    ) -> Result<Response<Messages>, Status> {
        let connection = Peer::connection(request.extensions());
        let account = request.extensions().get::<Arc<ByteAccount>>().cloned();
        let (call, request) = Call::take(request)?;
        let request = AuditStream::parse(request, call.own_environment())?;
        let scope = self.scope(&call, request.environments.as_ref())?;
        if let Some(time) = request.time_to_close() {
            self.reader.until_closed("to_date", time).await?;
        }
        let head = self.store.head().await?;
        let stream = request.in_scope(&scope).start(&*self.store, &head).await?;
        let messages = stream.messages(Arc::clone(&self.store), &self.mirror, connection, account);
        let mut response = Response::new(messages);
        response.extensions_mut().insert(scope);
        Ok(response)
    }
}

/// Parses the conditions that ListAuditLogs and StreamAuditLogs share.
macro_rules! conditions {
    ($validator:ident, $request:ident, $own:ident) => {{
        let filter = $validator.filter(&FilterFields {
            user_id: $request.user_id.as_deref(),
            user_email: $request.user_email.as_deref(),
            entity_type: $request.entity_type.as_deref(),
            entity_id: $request.entity_id.as_deref(),
            entity_key: $request.entity_key.as_deref(),
            key_prefix: $request.key_prefix.as_deref(),
            action_type: $request.action_type.as_deref(),
            action_types: &$request.action_types,
            without_reason: $request.without_reason,
        });
        let from = $validator.time("from_date", Edge::From, $request.from_date);
        let to = $validator.time("to_date", Edge::To, $request.to_date);
        let environments = $validator.environments($request.environment.as_deref(), $own);
        (environments, filter, Period { from, to })
    }};
}
use conditions;
