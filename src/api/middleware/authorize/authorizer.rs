//! The decision on a request: what it may do, or why not.

use std::sync::Arc;

use http::Request;
use http::header::AUTHORIZATION;
use tokio_util::sync::CancellationToken;

use crate::api::call::{Call, CallSource};
use crate::api::errors::ApiError;
use crate::api::middleware::admit::CallDeadline;
use crate::api::middleware::authenticate::{Authenticator, Identification, IdentifiedCaller, UnverifiedToken};
use crate::api::protocol::ofrep::EventsQuery;
use crate::auth::AnonymousReads;
use crate::auth::policy::{Policies, Policy, ServedMethod};
use crate::committer::ChangeStart;
use crate::domain::access::Permission;
use crate::domain::error::Error;

/// What a request may do.
pub(super) enum Authorization {
    /// The method is public: health checks and reflection.
    Public(Arc<ServedMethod>),
    /// The method is open to callers without credentials, for these reads.
    Anonymous(Arc<AnonymousReads>, Arc<ServedMethod>),
    /// The caller holds the permission.
    Granted(Call, Arc<ServedMethod>),
    /// The caller lacks this permission.
    Denied(Call, Arc<ServedMethod>, Permission),
}

/// The decision, or what it still needs.
pub(super) enum EarlyDecision {
    Made(Authorization),
    /// The token has to be verified first.
    Pending(PendingCall),
}

/// A call whose single sign-on token has to be verified.
pub(super) struct PendingCall {
    call: IncomingCall,
    token: UnverifiedToken,
}

/// A request whose caller is not known yet.
struct IncomingCall {
    /// The method, or the path if there is no such method.
    method: Result<Arc<ServedMethod>, String>,
    source: CallSource,
    start: Arc<ChangeStart>,
}

/// Decides on requests by the policies of methods and the permissions of callers.
pub(in crate::api) struct Authorizer {
    pub policies: Arc<Policies>,
    pub authenticator: Authenticator,
    /// Cancelled when the server stops and open streams have to end.
    pub closing: CancellationToken,
}

impl Authorizer {
    /// Decides on a request, as far as that needs no I/O.
    pub(super) fn decide<B>(&self, request: &Request<B>, deadline: &CallDeadline) -> Result<EarlyDecision, ApiError> {
        let path = request.uri().path();
        let method = self.policies.method(path);
        if let Some(method) = method.filter(|method| method.policy == Policy::Public) {
            return Ok(EarlyDecision::Made(Authorization::Public(Arc::clone(method))));
        }
        if let Some((method, reads)) = method.and_then(|method| Some((method, self.anonymous_reads(method, request)?)))
        {
            let (method, reads) = (Arc::clone(method), Arc::clone(reads));
            return Ok(EarlyDecision::Made(Authorization::Anonymous(reads, method)));
        }
        let name = method.map_or_else(|| "".into(), |method| Arc::clone(&method.name));
        let source = CallSource::of(name, request);
        let identification = match request.extensions().get::<EventsQuery>() {
            Some(query) => Identification::Caller(self.authenticator.identify_by_ticket(query, &source)?),
            None => self.authenticator.identify(request, &source)?,
        };
        let call = IncomingCall {
            method: method.cloned().ok_or_else(|| path.chars().take(200).collect()),
            source,
            start: Arc::clone(&deadline.start),
        };
        match identification {
            Identification::Caller(caller) => self.authorize(caller, call).map(EarlyDecision::Made),
            Identification::Unverified(token) => Ok(EarlyDecision::Pending(PendingCall { call, token })),
        }
    }

    /// Decides on a call after verifying its token.
    pub(super) async fn decide_pending(&self, pending: PendingCall) -> Result<Authorization, ApiError> {
        let PendingCall { call, token } = pending;
        let caller = self.authenticator.verify(token, &call.source).await?;
        self.authorize(caller, call)
    }

    /// What an anonymous caller may read by this call, if it is one. A request that carries a token, even an invalid one, is not
    /// anonymous.
    fn anonymous_reads<B>(&self, method: &ServedMethod, request: &Request<B>) -> Option<&Arc<AnonymousReads>> {
        let reads = self.authenticator.methods.anonymous_reads.as_ref();
        reads.filter(|_| method.anonymous_on_request && !request.headers().contains_key(AUTHORIZATION))
    }

    fn authorize(&self, identified: IdentifiedCaller, call: IncomingCall) -> Result<Authorization, ApiError> {
        let IdentifiedCaller { caller, sign_on, .. } = identified;
        let IncomingCall { method, source, start } = call;
        let method = method.map_err(ApiError::UnknownMethod)?;
        let required = method.policy.permission();
        let missing = required.filter(|(permission, scope)| !caller.grant.holds(*permission, *scope));
        let (permission, missing) = (required.map(|(permission, _)| permission), missing.map(|(missing, _)| missing));
        // A denied change is recorded in the log, and so needs the database like a granted one.
        let needs_database = missing.is_none() || method.makes_changes;
        if needs_database && !method.is_served_from_memory() && !self.authenticator.mirror.is_fresh() {
            return Err(Error::Stale.into());
        }
        let call = Call { caller, sign_on, permission, source, start };
        Ok(match missing {
            None => Authorization::Granted(call, method),
            Some(missing) => Authorization::Denied(call, method, missing),
        })
    }
}
