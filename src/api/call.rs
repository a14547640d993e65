//! An authorized call, as handlers see it: caller and origin.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::USER_AGENT;
use http::{Extensions, HeaderValue, Request};

use crate::api::connection::Peer;
use crate::auth::Caller;
use crate::auth::jwt::SignOnProof;
use crate::committer::ChangeStart;
use crate::domain::access::Permission;
use crate::domain::advance::{Actor, Origin};
use crate::domain::error::Error;
use crate::domain::flag_access::FlagAccess;
use crate::domain::text::EnvironmentKey;

/// How much of a `user-agent` the audit log keeps, in characters.
const USER_AGENT_LIMIT: usize = 512;

/// A call that passed authorization; the middleware puts it into the request's extensions.
#[derive(Debug, Clone)]
pub(in crate::api) struct Call {
    /// The caller.
    pub caller: Caller,
    /// What shows that the issuer signed the caller's single sign-on token, if they used one: it is valid only while the issuer keeps
    /// its key.
    pub sign_on: Option<SignOnProof>,
    /// The permission that the method requires; `None` if every caller may call it.
    pub permission: Option<Permission>,
    /// Where the call comes from.
    pub source: CallSource,
    /// The start of the change, if the call makes one.
    pub start: Arc<ChangeStart>,
}

/// Where a call comes from, unformatted: most calls are reads and never need it as text.
#[derive(Debug, Clone)]
pub(in crate::api) struct CallSource {
    /// For example `toggled.v1.ToggleService/ToggleFeatureFlag`.
    pub method: Arc<str>,
    /// The peer's address and port.
    pub peer: Option<SocketAddr>,
    user_agent: Option<HeaderValue>,
}

impl CallSource {
    /// The source of a request to this method.
    pub fn of<B>(method: Arc<str>, request: &Request<B>) -> Self {
        let peer = Peer::of(request.extensions()).map(|peer| peer.address);
        Self { method, peer, user_agent: request.headers().get(USER_AGENT).cloned() }
    }

    /// The source as the audit log records it.
    pub fn origin(&self) -> Origin {
        let agent = self.user_agent.as_ref().and_then(|value| value.to_str().ok());
        let agent = agent.map(|text| text.chars().take(USER_AGENT_LIMIT).collect::<String>());
        Origin {
            method: Arc::clone(&self.method),
            peer: self.peer.map(|peer| peer.to_string().into()),
            user_agent: agent.filter(|text| !text.is_empty()).map(Into::into),
        }
    }
}

impl Call {
    /// The call of a request. A request that bypassed the authorization layer has none and fails.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<&Self, Error> {
        Self::in_extensions(request.extensions())
    }

    /// The call, in the extensions of its request.
    pub fn in_extensions(extensions: &Extensions) -> Result<&Self, Error> {
        extensions.get().ok_or_else(missing)
    }

    /// The call and the message of a request.
    pub fn take<T>(request: tonic::Request<T>) -> Result<(Self, T), Error> {
        let (_, mut extensions, message) = request.into_parts();
        extensions.remove().map(|call| (call, message)).ok_or_else(missing)
    }

    /// What the caller may do with flags by this method.
    pub fn flag_access(&self) -> FlagAccess<'_> {
        FlagAccess::new(&self.caller.grant.permissions, self.permission)
    }

    /// The environment of the caller's credential: what a request is about that names none.
    pub fn own_environment(&self) -> Option<&EnvironmentKey> {
        self.caller.grant.environment.as_ref()
    }

    /// The actor of a change.
    ///
    /// # Errors
    /// When the method requires no permission: such a method must not change anything.
    pub fn actor(&self) -> Result<Actor, Error> {
        let permission = self.permission.ok_or_else(|| Error::internal("a changing method without a permission"))?;
        Ok(Actor::Caller { credential: self.caller.credential.clone(), permission })
    }
}

fn missing() -> Error {
    Error::internal("a request bypassed the authorization layer")
}
