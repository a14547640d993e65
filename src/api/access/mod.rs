//! AccessService: users, tokens, and the caller's own identity.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::call::Call;
use super::change::{Changes, change};
use super::paging::PageRequest;
use super::pb::access_service_server::AccessService;
use super::protocol::grpc::REPLAYED;
use super::reader::StateReader;
use super::validate::{Edge, RequestValidator};
use super::{convert, pb};
use crate::auth;
use crate::auth::last_used::LastUsed;
use crate::auth::secret::Secret;
use crate::domain::access::{Credential, Directory, Permissions, User};
use crate::domain::advance::{Answer, Command, NewToken, Object};
use crate::domain::error::Error;
use crate::domain::text::{Email, Malformed, Name};
use crate::store::Store;

/// AccessService.
pub struct Access {
    changes: Changes,
    reader: StateReader,
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

// The stored answer lacks the secret, which is added only to the first answer.
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
    /// A service that makes changes through `changes` and reads through `reader`.
    pub fn new(changes: Changes, reader: StateReader, store: Arc<dyn Store>, last_used: Arc<LastUsed>) -> Self {
        Self { changes, reader, store, last_used }
    }

    /// Adds the last use of each token: the stored time, or a later use seen by this server.
    async fn add_last_used(&self, user_id: Uuid, tokens: &mut [pb::ApiToken]) -> Result<(), Status> {
        if tokens.is_empty() {
            return Ok(());
        }
        let stored: std::collections::HashMap<_, _> = self.store.last_used(user_id).await?.into_iter().collect();
        for token in tokens {
            let Ok(id) = Uuid::try_parse(&token.id) else { continue };
            let last = stored.get(&id).copied().max(self.last_used.get(id));
            token.last_used_at = last.map(convert::time);
        }
        Ok(())
    }
}

fn create_user(request: &pb::CreateUserRequest, validator: &mut RequestValidator) -> Option<Command> {
    let email = validator.parse("email", &request.email, Email::parse);
    let permissions = validator.permissions("permissions", &request.permissions);
    let account = validator.account(request.issuer.as_deref(), request.subject.as_deref());
    Some(Command::CreateUser { email: email?, account, permissions: permissions? })
}

fn update_user(request: &pb::UpdateUserRequest, validator: &mut RequestValidator) -> Option<Command> {
    let id = validator.uuid("id", &request.id);
    let permissions = validator.permissions("permissions", &request.permissions);
    let expected_revision = validator.expected_revision(request.expected_revision);
    let account = validator.account(request.issuer.as_deref(), request.subject.as_deref());
    let reactivate = request.reactivate;
    Some(Command::UpdateUser { id: id?, account, permissions: permissions?, reactivate, expected_revision })
}

fn new_token(request: &pb::CreateTokenRequest, secret: &Secret, validator: &mut RequestValidator) -> Option<Command> {
    let user_id = validator.uuid("user_id", &request.user_id);
    let name = validator.parse("name", &request.name, Name::parse);
    let narrowed = validator.permissions("permissions", &request.permissions);
    let environment = validator.environment(request.environment.as_deref());
    let expires_at = validator.time("expires_at", Edge::To, request.expires_at);
    Some(Command::CreateToken(NewToken {
        user_id: user_id?,
        name: name?,
        permissions: narrowed.filter(|_| !request.permissions.is_empty()),
        environment,
        expires_at,
        secret_hash: auth::hash_secret(secret.reveal().as_bytes()),
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
        let request = request.into_inner();
        let mut validator = RequestValidator::default();
        let id = validator.uuid("id", &request.id);
        let min_revision = validator.at_least("min_revision", 0, request.min_revision);
        let id = validator.finish(id)?;
        self.reader.wait_for_revision(min_revision).await?;
        let (found, revision) = self.reader.read(|state| (state.user(id).cloned(), state.head().revision))?;
        let found = found.ok_or(Error::UserNotFound(id))?;
        Ok(Response::new(pb::GetUserResponse { user: Some((&found).into()), revision }))
    }

    async fn list_users(
        &self,
        request: Request<pb::ListUsersRequest>,
    ) -> Result<Response<pb::ListUsersResponse>, Status> {
        let request = request.into_inner();
        let mut validator = RequestValidator::default();
        let min_revision = validator.at_least("min_revision", 0, request.min_revision);
        let scope = format!("users {}", request.include_deactivated);
        let email = |text: &str| Ok::<_, Malformed>(Email::stored(text));
        let paging = PageRequest::parse(&mut validator, request.page_size, &request.page_token, scope, email);
        let paging = validator.finish(paging)?;
        self.reader.wait_for_revision(min_revision).await?;
        let page = self.reader.read(|state| {
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
        let parse = |request: &pb::DeactivateUserRequest, validator: &mut RequestValidator| {
            let id = validator.uuid("id", &request.id);
            let expected_revision = validator.expected_revision(request.expected_revision);
            Some(Command::DeactivateUser { id: id?, expected_revision })
        };
        self.changes.make(request, parse).await
    }

    async fn create_token(
        &self,
        request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        let secret = Secret::generate().map_err(Error::internal)?;
        let mut response =
            self.changes.make(request, |request, validator| new_token(request, &secret, validator)).await?;
        let is_new = response.get_ref().audit_log.is_some() && !response.metadata().contains_key(REPLAYED);
        if is_new {
            secret.reveal().clone_into(&mut response.get_mut().secret);
        }
        Ok(response)
    }

    async fn list_tokens(
        &self,
        request: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensResponse>, Status> {
        let request = request.into_inner();
        let mut validator = RequestValidator::default();
        let user_id = validator.uuid("user_id", &request.user_id);
        let min_revision = validator.at_least("min_revision", 0, request.min_revision);
        let id = |text: &str| Uuid::try_parse(text).map_err(|_| Malformed("must be a UUID"));
        let scope = format!("tokens {user_id:?}");
        let paging = PageRequest::parse(&mut validator, request.page_size, &request.page_token, scope, id);
        let (user_id, paging) = validator.finish(user_id.zip(paging))?;
        self.reader.wait_for_revision(min_revision).await?;
        let page = self.reader.read(|state| {
            state.user(user_id)?;
            let (tokens, next_page_token) =
                paging.page(state.tokens_of(user_id, paging.after), |token| token.id.to_string());
            Some(pb::ListTokensResponse { tokens, next_page_token, revision: state.head().revision })
        })?;
        let mut page = page.ok_or(Error::UserNotFound(user_id))?;
        self.add_last_used(user_id, &mut page.tokens).await?;
        Ok(Response::new(page))
    }

    async fn revoke_token(
        &self,
        request: Request<pb::RevokeTokenRequest>,
    ) -> Result<Response<pb::RevokeTokenResponse>, Status> {
        let parse = |request: &pb::RevokeTokenRequest, validator: &mut RequestValidator| {
            let id = validator.uuid("id", &request.id);
            let expected_revision = validator.expected_revision(request.expected_revision);
            Some(Command::RevokeToken { id: id?, expected_revision })
        };
        self.changes.make(request, parse).await
    }

    async fn who_am_i(&self, request: Request<pb::WhoAmIRequest>) -> Result<Response<pb::WhoAmIResponse>, Status> {
        let call = Call::of(&request)?;
        let caller = &call.caller;
        let user = match (caller.user(), &caller.credential) {
            (Some(user), _) => Some(shown_user(user, &caller.grant.permissions)),
            (None, Credential::SignOn(identity)) => Some((&**identity).into()),
            (None, _) => None,
        };
        Ok(Response::new(pb::WhoAmIResponse {
            user,
            permissions: caller.grant.permissions.names(),
            token_id: caller.token_id().map(|id| id.to_string()).unwrap_or_default(),
            environment: call.own_environment().map(ToString::to_string),
        }))
    }
}

/// The user of a credential with these permissions. A token with a list may be one for a service that should not know of other
/// environments: what the user may do there is left out.
fn shown_user(user: &Arc<User>, held: &Permissions) -> pb::User {
    let permissions = user.permissions.in_known_environments(|environment| held.holds_any_in(environment)).names();
    pb::User { permissions, ..user.into() }
}
