//! EnvironmentService. A caller sees the environments in which they hold any permission.

mod changes;

use tonic::{Request, Response, Status};

use super::call::Call;
use super::change::Changes;
use super::paging::PageRequest;
use super::pb;
use super::pb::environment_service_server::EnvironmentService;
use super::reader::StateReader;
use super::validate::RequestValidator;
use crate::domain::flag_access::seen_environment;
use crate::domain::text::EnvironmentKey;

/// EnvironmentService.
pub struct Environments {
    changes: Changes,
    reader: StateReader,
}

impl Environments {
    /// A service that makes changes through `changes` and reads through `reader`.
    pub fn new(changes: Changes, reader: StateReader) -> Self {
        Self { changes, reader }
    }
}

#[tonic::async_trait]
impl EnvironmentService for Environments {
    async fn create_environment(
        &self,
        request: Request<pb::CreateEnvironmentRequest>,
    ) -> Result<Response<pb::CreateEnvironmentResponse>, Status> {
        self.changes.make(request, changes::create).await
    }

    async fn update_environment(
        &self,
        request: Request<pb::UpdateEnvironmentRequest>,
    ) -> Result<Response<pb::UpdateEnvironmentResponse>, Status> {
        self.changes.make(request, changes::update).await
    }

    async fn archive_environment(
        &self,
        request: Request<pb::ArchiveEnvironmentRequest>,
    ) -> Result<Response<pb::ArchiveEnvironmentResponse>, Status> {
        self.changes.make(request, changes::archive).await
    }

    async fn unarchive_environment(
        &self,
        request: Request<pb::UnarchiveEnvironmentRequest>,
    ) -> Result<Response<pb::UnarchiveEnvironmentResponse>, Status> {
        self.changes.make(request, changes::unarchive).await
    }

    async fn get_environment(
        &self,
        request: Request<pb::GetEnvironmentRequest>,
    ) -> Result<Response<pb::GetEnvironmentResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let mut validator = RequestValidator::default();
        let named = validator.named_environment(request.environment);
        let min_revision = validator.at_least("min_revision", 0, request.min_revision);
        let named = validator.finish(named)?;
        self.reader.wait_for_revision(min_revision).await?;
        let permissions = &call.caller.grant.permissions;
        let (found, revision) = self
            .reader
            .read(|state| (seen_environment(state, permissions, &named).map(Into::into), state.head().revision))?;
        Ok(Response::new(pb::GetEnvironmentResponse { environment: Some(found?), revision }))
    }

    async fn list_environments(
        &self,
        request: Request<pb::ListEnvironmentsRequest>,
    ) -> Result<Response<pb::ListEnvironmentsResponse>, Status> {
        let (call, request) = Call::take(request)?;
        let mut validator = RequestValidator::default();
        let min_revision = validator.at_least("min_revision", 0, request.min_revision);
        let scope = format!("environments {}", request.include_archived);
        let (size, token) = (request.page_size, &request.page_token);
        let paging = PageRequest::parse(&mut validator, size, token, scope, EnvironmentKey::parse);
        let paging = validator.finish(paging)?;
        self.reader.wait_for_revision(min_revision).await?;
        let permissions = &call.caller.grant.permissions;
        let page = self.reader.read(|state| {
            let environments = state.environments(paging.after.as_ref()).filter(|environment| {
                let is_listed = request.include_archived || environment.archived_at.is_none();
                is_listed && permissions.holds_any_in(&environment.key)
            });
            let (environments, next_page_token) = paging.page(environments, |environment| environment.key.to_string());
            pb::ListEnvironmentsResponse { environments, next_page_token, revision: state.head().revision }
        })?;
        Ok(Response::new(page))
    }
}
