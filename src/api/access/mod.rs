//! AccessService: users, tokens, and who the caller is.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::call::Call;
use super::change::{Changes, change};
use super::errors::{read_failed, status};
use super::middleware::idempotency::REPLAYED;
use super::paging::Paging;
use super::pb::access_service_server::AccessService;
use super::reader::Reads;
use super::validate::{Edge, Fields};
use super::{convert, pb};
use crate::auth;
use crate::auth::last_used::LastUsed;
use crate::auth::secret::Secret;
use crate::domain::access::{Credential, Directory};
use crate::domain::advance::{Answer, Command, NewToken, Object};
use crate::domain::error::Error;
use crate::domain::text::{Email, Malformed, Name};
use crate::store::Store;

/// AccessService.
pub struct Access {
    changes: Changes,
    reads: Reads,
    store: Arc<dyn Store>,
    last_used: Arc<LastUsed>,
}

macro_rules! user_change {
    ($request:ident => $response:ident) => {
        change!($request => $response, answer => pb::$response {
            user: user(answer),
            audit_log: answer.entry.as_deref().map(Into::into),
            revision: answer.revision,
        });
    };
}

user_change!(CreateUserRequest => CreateUserResponse);
user_change!(UpdateUserRequest => UpdateUserResponse);
user_change!(DeactivateUserRequest => DeactivateUserResponse);

// The secret is not in the answer that is stored: it is put into the first one alone, on its way out.
change!(CreateTokenRequest => CreateTokenResponse, answer => pb::CreateTokenResponse {
    token: token(answer),
    secret: String::new(),
    audit_log: answer.entry.as_deref().map(Into::into),
    revision: answer.revision,
});

change!(RevokeTokenRequest => RevokeTokenResponse, answer => pb::RevokeTokenResponse {
    token: token(answer),
    audit_log: answer.entry.as_deref().map(Into::into),
    revision: answer.revision,
});

fn user(answer: &Answer) -> Option<pb::User> {
    match &answer.object {
        Object::User(user) => Some(user.into()),
        _ => None,
    }
}

fn token(answer: &Answer) -> Option<pb::ApiToken> {
    match &answer.object {
        Object::Token(token) => Some(token.into()),
        _ => None,
    }
}

impl Access {
    /// The service on these parts.
    pub fn new(changes: Changes, reads: Reads, store: Arc<dyn Store>, last_used: Arc<LastUsed>) -> Self {
        Self { changes, reads, store, last_used }
    }

    /// Says when each of a user's tokens was last used: what was written down, by whichever server, or what this one
    /// knows since.
    async fn tell_last_used(&self, user_id: Uuid, tokens: &mut [pb::ApiToken]) -> Result<(), Status> {
        if tokens.is_empty() {
            return Ok(());
        }
        let written = self.store.last_used(user_id).await.map_err(read_failed)?;
        let written: std::collections::HashMap<_, _> = written.into_iter().collect();
        for token in tokens {
            let Ok(id) = Uuid::try_parse(&token.id) else { continue };
            let last = written.get(&id).copied().max(self.last_used.of(id));
            token.last_used_at = last.map(convert::time);
        }
        Ok(())
    }
}

fn create_user(request: &pb::CreateUserRequest, fields: &mut Fields) -> Option<Command> {
    let email = fields.parse("email", &request.email, Email::parse);
    let permissions = fields.permissions("permissions", &request.permissions);
    let account = fields.account(request.issuer.as_deref(), request.subject.as_deref());
    Some(Command::CreateUser { email: email?, account, permissions: permissions? })
}

fn update_user(request: &pb::UpdateUserRequest, fields: &mut Fields) -> Option<Command> {
    let id = fields.uuid("id", &request.id);
    let permissions = fields.permissions("permissions", &request.permissions);
    let expected_revision = fields.at_least("expected_revision", 1, request.expected_revision);
    let account = fields.account(request.issuer.as_deref(), request.subject.as_deref());
    let reactivate = request.reactivate;
    Some(Command::UpdateUser { id: id?, account, permissions: permissions?, reactivate, expected_revision })
}

fn new_token(request: &pb::CreateTokenRequest, secret: &Secret, fields: &mut Fields) -> Option<Command> {
    let user_id = fields.uuid("user_id", &request.user_id);
    let name = fields.parse("name", &request.name, Name::parse);
    let narrowed = fields.permissions("permissions", &request.permissions);
    let expires_at = fields.time("expires_at", Edge::To, request.expires_at);
    Some(Command::CreateToken(NewToken {
        user_id: user_id?,
        name: name?,
        permissions: narrowed.filter(|_| !request.permissions.is_empty()),
        expires_at,
        secret_hash: auth::hash(secret.reveal().as_bytes()),
    }))
}

#[tonic::async_trait]
impl AccessService for Access {
    async fn create_user(
        &self,
        request: Request<pb::CreateUserRequest>,
    ) -> Result<Response<pb::CreateUserResponse>, Status> {
        self.changes.make(request, create_user).await
    }

    async fn get_user(&self, request: Request<pb::GetUserRequest>) -> Result<Response<pb::GetUserResponse>, Status> {
        let deadline = Call::of(&request).map_err(status)?.deadline;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let id = fields.uuid("id", &request.id);
        let min_revision = fields.at_least("min_revision", 0, request.min_revision);
        let id = fields.finish(id).map_err(status)?;
        self.reads.fresh(min_revision, deadline).await?;
        let (found, revision) = self.reads.read(|state| (state.user(id).cloned(), state.head().revision))?;
        let found = found.ok_or_else(|| status(Error::UserNotFound(id)))?;
        Ok(Response::new(pb::GetUserResponse { user: Some((&found).into()), revision }))
    }

    async fn list_users(
        &self,
        request: Request<pb::ListUsersRequest>,
    ) -> Result<Response<pb::ListUsersResponse>, Status> {
        let deadline = Call::of(&request).map_err(status)?.deadline;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let min_revision = fields.at_least("min_revision", 0, request.min_revision);
        let scope = format!("users {}", request.include_deactivated);
        let paging = Paging::parse(&mut fields, request.page_size, &request.page_token, scope, Email::parse);
        let paging = fields.finish(paging).map_err(status)?;
        self.reads.fresh(min_revision, deadline).await?;
        let page = self.reads.read(|state| {
            let users =
                state.users(paging.after.as_ref()).filter(|user| request.include_deactivated || user.is_active());
            let (users, next_page_token) = paging.page(users, |user| user.email.to_string());
            pb::ListUsersResponse { users, next_page_token, revision: state.head().revision }
        })?;
        Ok(Response::new(page))
    }

    async fn update_user(
        &self,
        request: Request<pb::UpdateUserRequest>,
    ) -> Result<Response<pb::UpdateUserResponse>, Status> {
        self.changes.make(request, update_user).await
    }

    async fn deactivate_user(
        &self,
        request: Request<pb::DeactivateUserRequest>,
    ) -> Result<Response<pb::DeactivateUserResponse>, Status> {
        let parse = |request: &pb::DeactivateUserRequest, fields: &mut Fields| {
            let id = fields.uuid("id", &request.id);
            let expected_revision = fields.at_least("expected_revision", 1, request.expected_revision);
            Some(Command::DeactivateUser { id: id?, expected_revision })
        };
        self.changes.make(request, parse).await
    }

    async fn create_token(
        &self,
        request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        let secret = Secret::generate().map_err(|e| status(Error::Internal(format!("no randomness: {e}"))))?;
        let mut response = self.changes.make(request, |request, fields| new_token(request, &secret, fields)).await?;
        let written = response.get_ref().audit_log.is_some() && !response.metadata().contains_key(REPLAYED);
        if written {
            secret.reveal().clone_into(&mut response.get_mut().secret);
        }
        Ok(response)
    }

    async fn list_tokens(
        &self,
        request: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensResponse>, Status> {
        let deadline = Call::of(&request).map_err(status)?.deadline;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let user_id = fields.uuid("user_id", &request.user_id);
        let min_revision = fields.at_least("min_revision", 0, request.min_revision);
        let id = |text: &str| Uuid::try_parse(text).map_err(|_| Malformed("must be a UUID"));
        let scope = format!("tokens {user_id:?}");
        let paging = Paging::parse(&mut fields, request.page_size, &request.page_token, scope, id);
        let (user_id, paging) = fields.finish(user_id.zip(paging)).map_err(status)?;
        self.reads.fresh(min_revision, deadline).await?;
        let page = self.reads.read(|state| {
            state.user(user_id)?;
            let (tokens, next_page_token) =
                paging.page(state.tokens_of(user_id, paging.after), |token| token.id.to_string());
            Some(pb::ListTokensResponse { tokens, next_page_token, revision: state.head().revision })
        })?;
        let mut page = page.ok_or_else(|| status(Error::UserNotFound(user_id)))?;
        self.tell_last_used(user_id, &mut page.tokens).await?;
        Ok(Response::new(page))
    }

    async fn revoke_token(
        &self,
        request: Request<pb::RevokeTokenRequest>,
    ) -> Result<Response<pb::RevokeTokenResponse>, Status> {
        let parse = |request: &pb::RevokeTokenRequest, fields: &mut Fields| {
            let id = fields.uuid("id", &request.id);
            let expected_revision = fields.at_least("expected_revision", 1, request.expected_revision);
            Some(Command::RevokeToken { id: id?, expected_revision })
        };
        self.changes.make(request, parse).await
    }

    async fn who_am_i(&self, request: Request<pb::WhoAmIRequest>) -> Result<Response<pb::WhoAmIResponse>, Status> {
        let caller = &Call::of(&request).map_err(status)?.caller;
        let user = match (caller.user(), &caller.credential) {
            (Some(user), _) => Some(user.into()),
            (None, Credential::SignOn(identity)) => Some((&**identity).into()),
            (None, _) => None,
        };
        Ok(Response::new(pb::WhoAmIResponse {
            user,
            permissions: convert::names(caller.granted.permissions),
            token_id: caller.token_id().map(|id| id.to_string()).unwrap_or_default(),
        }))
    }
}
