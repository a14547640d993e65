//! AccessService: users, tokens, and who the caller is.

use tonic::{Request, Response, Status};

use super::authorize::Call;
use super::change::{Changes, REPLAYED, change};
use super::fields::{Edge, Fields};
use super::pb::access_service_server::AccessService;
use super::status::status;
use super::{convert, pb};
use crate::auth;
use crate::auth::secret::Secret;
use crate::domain::advance::{Answer, Command, NewToken, Object};
use crate::domain::error::Error;
use crate::domain::text::{Email, Name};

/// AccessService.
pub struct Access {
    changes: Changes,
}

change!(CreateUserRequest => CreateUserResponse, answer => pb::CreateUserResponse {
    user: user(answer),
    audit_log: answer.entry.as_deref().map(Into::into),
    revision: answer.revision,
});

// The secret is not in the answer that is stored: it is put into the first one alone, on its way out.
change!(CreateTokenRequest => CreateTokenResponse, answer => pb::CreateTokenResponse {
    token: token(answer),
    secret: String::new(),
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
    pub fn new(changes: Changes) -> Self {
        Self { changes }
    }
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
        let parse = |request: &pb::CreateUserRequest, fields: &mut Fields| {
            let email = fields.parse("email", &request.email, Email::parse);
            let permissions = fields.permissions("permissions", &request.permissions);
            Some(Command::CreateUser { email: email?, permissions: permissions? })
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

    async fn who_am_i(&self, request: Request<pb::WhoAmIRequest>) -> Result<Response<pb::WhoAmIResponse>, Status> {
        let caller = &Call::of(&request).map_err(status)?.caller;
        Ok(Response::new(pb::WhoAmIResponse {
            user: Some((&caller.user).into()),
            permissions: convert::names(caller.permissions),
            token_id: caller.token.id.to_string(),
        }))
    }
}
