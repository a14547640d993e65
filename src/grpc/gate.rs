//! Who calls, and may they: what the authorization layer asks of every request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::header::AUTHORIZATION;

use super::call::{Call, deadline, origin};
use super::incoming::Peer;
use crate::auth::last_used::LastUsed;
use crate::auth::policy::{Method, Policies, Policy};
use crate::auth::{Caller, bearer, hash};
use crate::domain::access::{Credential, Permission};
use crate::domain::error::Error;
use crate::domain::state::State;
use crate::domain::text::Email;
use crate::domain::time::{Clock, Timestamp};
use crate::mirror::Mirror;
use crate::tls::ClientCertificate;

/// How often an open stream looks at the clock, at the least: a clock that is set, rather than runs, wakes nobody.
const LOOK_AT_THE_CLOCK: Duration = Duration::from_secs(30);

/// What a request is let in as.
pub(super) enum Admission {
    /// Anybody's: health checks and reflection.
    Public,
    /// A call by somebody who may make it.
    Granted(Call, Arc<Method>),
    /// A call by somebody who lacks what it takes.
    Lacking(Call, Arc<Method>, Permission),
}

/// Decides on the users and tokens in the mirror, without ever asking the database.
pub(super) struct Gate {
    pub policies: Policies,
    pub mirror: Arc<Mirror>,
    pub clock: Arc<dyn Clock>,
    pub last_used: Arc<LastUsed>,
    /// Whom clients are taken for, by an alternative name of their certificate.
    pub certificate_users: HashMap<String, Email>,
}

impl Gate {
    /// What to let a request in as.
    pub fn admit<B>(&self, request: &Request<B>) -> Result<Admission, Error> {
        let method = self.policies.method(request.uri().path());
        if method.is_some_and(|method| method.policy == Policy::Public) {
            return Ok(Admission::Public);
        }
        let now = self.clock.now();
        let caller = self.mirror.read(|state| Caller::admit(state, self.credential(state, request)?, now));
        // Before the database has been read for the first time nobody is known.
        let caller = caller.ok_or(Error::DatabaseUnavailable)?.ok_or(Error::Unauthenticated)?;
        let Some(method) = method else {
            return Err(Error::UnknownMethod(request.uri().path().chars().take(200).collect()));
        };
        Ok(self.authorize(caller, Arc::clone(method), request, now))
    }

    fn authorize<B>(&self, caller: Caller, method: Arc<Method>, request: &Request<B>, now: Timestamp) -> Admission {
        if let Some(token) = caller.token_id() {
            self.last_used.note(token, now);
        }
        let permission = match method.policy {
            Policy::Permission(permission) => Some(permission),
            Policy::Authenticated | Policy::Public => None,
        };
        let missing = permission.filter(|permission| !caller.granted.permissions.contains(*permission));
        let call = Call {
            caller,
            permission,
            origin: origin(Arc::clone(&method.name), request),
            deadline: deadline(request.headers()),
            only_to_replay: missing.is_some(),
        };
        match missing {
            None => Admission::Granted(call, method),
            Some(missing) => Admission::Lacking(call, method, missing),
        }
    }

    /// Waits until a caller may no longer do what they were let in for, and says why. Woken by changes to users and tokens
    /// and by the clock.
    pub async fn lost(&self, credential: Credential, permission: Option<Permission>) -> Error {
        let mut changes = self.mirror.access_changes();
        loop {
            changes.borrow_and_update();
            let now = self.clock.now();
            let caller = self.mirror.read(|state| Caller::admit(state, credential.clone(), now)).flatten();
            let Some(caller) = caller else { return Error::Unauthenticated };
            if let Some(missing) = permission.filter(|p| !caller.granted.permissions.contains(*p)) {
                return Error::PermissionDenied(missing);
            }
            let left = caller.granted.until.map_or(LOOK_AT_THE_CLOCK, |end| now.until(end));
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return Error::Draining },
                () = tokio::time::sleep(left.min(LOOK_AT_THE_CLOCK)) => {}
            }
        }
    }

    /// What a request shows, if it is anything that is known: a token or, without one, its connection's certificate.
    fn credential<B>(&self, state: &State, request: &Request<B>) -> Option<Credential> {
        let mut headers = request.headers().get_all(AUTHORIZATION).iter();
        match (headers.next(), headers.next()) {
            (Some(header), None) => {
                let token = state.token_by_secret(&hash(bearer(header.as_bytes())?))?;
                Some(Credential::Token(token.id))
            }
            (None, _) => self.certificate(state, request.extensions().get::<Peer>()?.certificate.as_deref()?),
            // Which of two should count is not for us to guess.
            (Some(_), Some(_)) => None,
        }
    }

    fn certificate(&self, state: &State, certificate: &ClientCertificate) -> Option<Credential> {
        let mut users = certificate.names.iter().filter_map(|name| self.certificate_users.get(name));
        let email = users.next()?;
        // A certificate that stands for two users stands for none.
        let user = state.user_by_email(email).filter(|_| users.all(|other| other == email))?;
        Some(Credential::Certificate { user_id: user.id, expires_at: certificate.expires_at })
    }
}
