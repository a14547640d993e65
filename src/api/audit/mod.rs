//! AuditService: reading, following and trimming the log. It is read from the database, always: an answer is complete or
//! it is an error.

mod checkpoint;
mod list;
mod tail;
mod trim;

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::change::Changes;
use super::errors::{read_failed, status};
use super::pb;
use super::pb::audit_service_server::AuditService;
use super::validate::Fields;
use crate::checkpoint::SigningKey;
use crate::domain::error::Error;
use crate::domain::state::State;
use crate::domain::time::Clock;
use crate::mirror::Mirror;
use crate::store::Store;
use checkpoint::{Keys, Signer};
use list::List;
use tail::{Messages, Tail};

/// AuditService.
pub struct Audit {
    changes: Changes,
    store: Arc<dyn Store>,
    mirror: Arc<Mirror>,
    signer: Option<Signer>,
    keys: Keys,
}

impl Audit {
    /// The service on these parts. Without a `key` it signs no checkpoints.
    pub fn new(
        changes: Changes,
        store: Arc<dyn Store>,
        mirror: Arc<Mirror>,
        key: Option<Arc<SigningKey>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { changes, store, mirror, signer: key.map(|key| Signer { key, clock }), keys: Keys::default() }
    }
}

#[tonic::async_trait]
impl AuditService for Audit {
    async fn list_audit_logs(
        &self,
        request: Request<pb::ListAuditLogsRequest>,
    ) -> Result<Response<pb::ListAuditLogsResponse>, Status> {
        let list = List::parse(request.into_inner()).map_err(status)?;
        list.page(&*self.store).await.map(Response::new)
    }

    async fn get_audit_log(
        &self,
        request: Request<pb::GetAuditLogRequest>,
    ) -> Result<Response<pb::GetAuditLogResponse>, Status> {
        let mut fields = Fields::default();
        let id = fields.uuid("id", &request.get_ref().id);
        let id = fields.finish(id).map_err(status)?;
        let entry = self.store.entry(id).await.map_err(read_failed)?;
        let entry = entry.ok_or_else(|| status(Error::AuditLogNotFound(id)))?;
        Ok(Response::new(pb::GetAuditLogResponse { audit_log: Some((&entry).into()) }))
    }

    async fn get_audit_checkpoint(
        &self,
        request: Request<pb::GetAuditCheckpointRequest>,
    ) -> Result<Response<pb::GetAuditCheckpointResponse>, Status> {
        let mut fields = Fields::default();
        let revision = fields.at_least("revision", 1, request.get_ref().revision);
        fields.finish(Some(())).map_err(status)?;
        let signer = self.signer.as_ref().ok_or_else(|| status(Error::NoCheckpointKey))?;
        signer.checkpoint(&*self.store, &self.keys, revision).await.map(Response::new)
    }

    async fn list_audit_checkpoints(
        &self,
        request: Request<pb::ListAuditCheckpointsRequest>,
    ) -> Result<Response<pb::ListAuditCheckpointsResponse>, Status> {
        let list = checkpoint::List::parse(request.get_ref()).map_err(status)?;
        list.page(&*self.store, &self.keys).await.map(Response::new)
    }

    async fn trim_audit_logs(
        &self,
        request: Request<pb::TrimAuditLogsRequest>,
    ) -> Result<Response<pb::TrimAuditLogsResponse>, Status> {
        // Asked before: what is read next may be of a later log, but not of an earlier one.
        let log = self.mirror.read(State::log).unwrap_or_default();
        let there = self.store.entry_at(request.get_ref().through_revision).await.map_err(read_failed)?;
        let there = there.map(|(_, hash)| hash);
        self.changes.make(request, |request, fields| trim::parse(request, fields, there, log)).await
    }

    type StreamAuditLogsStream = Messages;

    async fn stream_audit_logs(
        &self,
        request: Request<pb::StreamAuditLogsRequest>,
    ) -> Result<Response<Messages>, Status> {
        let request = Tail::parse(request.into_inner()).map_err(status)?;
        let head = self.store.head().await.map_err(read_failed)?;
        let tail = request.start(&*self.store, &head).await?;
        Ok(Response::new(tail.messages(Arc::clone(&self.store), self.mirror.revisions())))
    }
}

/// The conditions that both requests have, under the same names.
macro_rules! conditions {
    ($fields:ident, $request:ident) => {{
        let filter = $fields.filter(
            $request.user_id.as_deref(),
            $request.user_email.as_deref(),
            $request.entity_type.as_deref(),
            $request.entity_id.as_deref(),
            $request.action_type.as_deref(),
        );
        let from = $fields.time("from_date", Edge::From, $request.from_date);
        let to = $fields.time("to_date", Edge::To, $request.to_date);
        (filter, Period { from, to })
    }};
}
use conditions;
