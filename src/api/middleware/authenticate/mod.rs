//! Authentication: who calls, by API token, single sign-on token or client certificate. Callers are looked up in the mirror, without I/O.
//! Only a single sign-on token that is not in the cache may need its issuer's keys.

mod failures;
mod ignored;
mod ticket;

use std::collections::HashMap;
use std::sync::Arc;

use http::Request;
use http::header::AUTHORIZATION;

use crate::api::call::CallSource;
use crate::api::connection::Peer;
use crate::api::errors::ApiError;
use crate::auth::jwt::{JwtRejection, SignOn, SignOnProof};
use crate::auth::last_used::LastUsed;
use crate::auth::ticket::SharedTicketKey;
use crate::auth::{AnonymousReads, Caller, CallerKey, bearer_token, hash_secret};
use crate::domain::access::{Credential, SecretHash};
use crate::domain::error::Error;
use crate::domain::state::State;
use crate::domain::text::Email;
use crate::domain::time::{Clock, Timestamp};
use crate::mirror::Mirror;
use crate::telemetry::request::{self, record_caller};
use crate::tls::ClientCertificate;

pub(in crate::api) use failures::{AuthFailure, AuthFailureLog};
pub(in crate::api) use ignored::IgnoredPermissionLog;

/// The ways to authenticate besides API tokens.
#[derive(Clone, Default)]
pub struct AuthMethods {
    /// The user that a client certificate stands for, by subject alternative name.
    pub certificate_users: HashMap<String, Email>,
    /// The issuer of single sign-on tokens.
    pub sign_on: Option<Arc<SignOn>>,
    /// What can be read without credentials through the services for flagd's clients, if anything.
    pub anonymous_reads: Option<Arc<AnonymousReads>>,
}

/// Identifies callers.
pub(in crate::api) struct Authenticator {
    pub mirror: Arc<Mirror>,
    pub clock: Arc<dyn Clock>,
    pub methods: AuthMethods,
    pub last_used: Arc<LastUsed>,
    pub failures: AuthFailureLog,
    pub ignored: IgnoredPermissionLog,
    /// The key of tickets for streams of events.
    pub ticket_key: SharedTicketKey,
}

/// What the credentials of a request say.
pub(in crate::api) enum Identification {
    /// They are valid.
    Caller(IdentifiedCaller),
    /// They may be a single sign-on token, whose signature has to be verified first.
    Unverified(UnverifiedToken),
}

/// A caller with valid credentials.
pub(in crate::api) struct IdentifiedCaller {
    pub caller: Caller,
    /// What shows that the issuer signed their single sign-on token, if they used one.
    pub sign_on: Option<SignOnProof>,
    /// When the credentials were checked.
    pub at: Timestamp,
}

/// A single sign-on token that is not in the cache of verified ones.
pub(in crate::api) struct UnverifiedToken {
    token: Vec<u8>,
    hash: SecretHash,
}

impl Authenticator {
    /// Identifies the caller of a request, as far as that needs no I/O.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`], or [`Error::DatabaseUnavailable`] before the database was read for the first time.
    pub fn identify<B>(&self, request: &Request<B>, source: &CallSource) -> Result<Identification, Error> {
        let now = self.clock.now();
        let identified = self.mirror.read(|state| self.read_credentials(state, request, now));
        let identification =
            identified.ok_or(Error::DatabaseUnavailable)?.map_err(|failure| self.failed(failure, source))?;
        if let Identification::Caller(caller) = &identification {
            self.record(caller);
        }
        Ok(identification)
    }

    /// Verifies a single sign-on token; may ask the issuer for its keys.
    pub async fn verify(&self, unverified: UnverifiedToken, source: &CallSource) -> Result<IdentifiedCaller, ApiError> {
        let UnverifiedToken { token, hash } = unverified;
        let Some(sign_on) = &self.methods.sign_on else {
            return Err(self.failed(AuthFailure::Unknown, source).into());
        };
        let verified = sign_on.verify(&token, &hash, self.clock.now()).await;
        let identity = verified.map_err(|reason| {
            let error = self.failed(AuthFailure::Rejected(reason), source);
            // Without the issuer's keys the token is neither valid nor invalid: the client should retry.
            if reason == JwtRejection::KeysUnread { ApiError::IssuerUnavailable } else { error.into() }
        })?;
        let now = self.clock.now();
        let caller = self.mirror.read(|state| {
            self.ignored.record(&identity.permissions, state);
            Caller::authenticate(state, Credential::SignOn(identity), now)
        });
        let caller = caller.flatten();
        let caller = caller.ok_or_else(|| self.failed(AuthFailure::NoLongerValid, source))?;
        let identified = IdentifiedCaller { caller, sign_on: Some(SignOnProof::Token(hash)), at: now };
        self.record(&identified);
        Ok(identified)
    }

    /// The token or, without one, the connection's client certificate.
    fn read_credentials<B>(
        &self,
        state: &State,
        request: &Request<B>,
        now: Timestamp,
    ) -> Result<Identification, AuthFailure> {
        let identified = |credential, sign_on| {
            let caller = Caller::authenticate(state, credential, now).ok_or(AuthFailure::NoLongerValid)?;
            Ok(Identification::Caller(IdentifiedCaller { caller, sign_on, at: now }))
        };
        let mut headers = request.headers().get_all(AUTHORIZATION).iter();
        let header = match (headers.next(), headers.next()) {
            (Some(header), None) => header,
            (None, _) => return identified(self.certificate(state, request).ok_or(AuthFailure::Missing)?, None),
            // Two credentials are ambiguous.
            (Some(_), Some(_)) => return Err(AuthFailure::Malformed),
        };
        let token = bearer_token(header.as_bytes()).ok_or(AuthFailure::Malformed)?;
        let hash = hash_secret(token);
        if let Some(token) = state.token_by_secret(&hash) {
            return identified(Credential::Token(token.id), None);
        }
        let sign_on = self.methods.sign_on.as_ref().filter(|_| SignOn::looks_like_jwt(token));
        match sign_on.ok_or(AuthFailure::Unknown)?.cached(&hash, now) {
            Some(identity) => identified(Credential::SignOn(identity), Some(SignOnProof::Token(hash))),
            None => Ok(Identification::Unverified(UnverifiedToken { token: token.to_owned(), hash })),
        }
    }

    fn certificate<B>(&self, state: &State, request: &Request<B>) -> Option<Credential> {
        let certificate: &ClientCertificate = Peer::of(request.extensions())?.certificate.as_ref()?;
        let mut users = certificate.names.iter().filter_map(|name| self.methods.certificate_users.get(name));
        let email = users.next()?;
        // A user with a single sign-on account may have chosen this address at the issuer. So a certificate never stands for them.
        let user = state.user_by_email(email).filter(|user| user.account.is_none())?;
        // A certificate that names two users is ambiguous.
        if !users.all(|other| other == email) {
            return None;
        }
        Some(Credential::Certificate { user_id: user.id, expires_at: certificate.expires_at })
    }

    fn failed(&self, failure: AuthFailure, source: &CallSource) -> Error {
        self.failures.record(failure, source);
        Error::Unauthenticated
    }

    fn record(&self, identified: &IdentifiedCaller) {
        let caller = &identified.caller;
        if let Some(key) = caller.key() {
            record_caller(pseudonym(&key));
        }
        if let Some(token) = caller.token_id() {
            self.last_used.record(token, identified.at);
        }
    }
}

/// The caller in the server's log, which must not reveal who they are.
fn pseudonym(key: &CallerKey) -> request::CallerId {
    match key {
        CallerKey::User(id) => request::CallerId::User(*id),
        CallerKey::Account(account) => {
            let hash = hash_secret(format!("{}\0{}", account.issuer, account.subject).as_bytes());
            let mut prefix = [0; 8];
            prefix.copy_from_slice(&hash[..8]);
            request::CallerId::Account(prefix)
        }
    }
}
