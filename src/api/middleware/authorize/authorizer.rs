//! Who calls, and may they: what the authorization layer asks of every request.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::header::AUTHORIZATION;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::api::Outsiders;
use crate::api::call::{Call, Source, deadline};
use crate::api::listener::Peer;
use crate::api::middleware::authenticate::{Failures, Why};
use crate::auth::jwt::{Rejected, SignOn};
use crate::auth::last_used::LastUsed;
use crate::auth::policy::{Method, Policies, Policy};
use crate::auth::{Caller, CallerKey, bearer, hash};
use crate::domain::access::{Credential, Permission, SecretHash};
use crate::domain::error::Error;
use crate::domain::state::State;
use crate::domain::time::{Clock, Timestamp};
use crate::mirror::Mirror;
use crate::telemetry::request::{self, note_caller};
use crate::tls::ClientCertificate;

/// How often an open stream looks at the clock, at the least: a clock that is set, rather than runs, wakes nobody.
const LOOK_AT_THE_CLOCK: Duration = Duration::from_secs(30);

/// What a request is let in as.
pub(super) enum Admission {
    /// Anybody's: health checks, reflection, and what is open to callers without credentials.
    Public(Arc<Method>),
    /// A call by somebody who may make it.
    Granted(Call, Arc<Method>),
    /// A call by somebody who lacks what it takes.
    Lacking(Call, Arc<Method>, Permission),
}

/// How far a request comes at once.
pub(super) enum Arrived {
    /// It is decided.
    Decided(Admission),
    /// Its token has to be verified first.
    Unverified(Unverified),
}

/// A call with a token of the single sign-on that was not seen before.
pub(super) struct Unverified {
    arrival: Arrival,
    token: Vec<u8>,
    hash: SecretHash,
}

/// All of a request but who makes it.
struct Arrival {
    /// What is called, or the path at which nothing is.
    method: Result<Arc<Method>, String>,
    source: Source,
    deadline: Instant,
}

/// What a request shows.
enum Shown {
    /// Something that works; of a token of the single sign-on the hash as well.
    Caller(Caller, Option<SecretHash>),
    /// What may be a token of the single sign-on.
    Unverified(Vec<u8>, SecretHash),
}

/// Decides on the users and tokens in the mirror, without ever asking the database.
pub(in crate::api) struct Gate {
    pub policies: Arc<Policies>,
    pub mirror: Arc<Mirror>,
    pub clock: Arc<dyn Clock>,
    pub last_used: Arc<LastUsed>,
    /// Who is let in besides our own users.
    pub outsiders: Outsiders,
    pub failures: Failures,
    /// How long a call may take that is not a stream.
    pub request_timeout: Duration,
    /// Cancelled when open streams have to end, since the server stops.
    pub closing: CancellationToken,
}

impl Gate {
    /// What to let a request in as.
    pub(super) fn admit<B>(&self, request: &Request<B>) -> Result<Arrived, Error> {
        let path = request.uri().path();
        let method = self.policies.method(path);
        if let Some(method) = method.filter(|method| method.policy == Policy::Public || self.is_open(method, request)) {
            return Ok(Arrived::Decided(Admission::Public(Arc::clone(method))));
        }
        // Before the database has been read for the first time nobody is known.
        let now = self.clock.now();
        let shown = self.mirror.read(|state| self.shown(state, request, now)).ok_or(Error::DatabaseUnavailable)?;
        let name = method.map_or_else(|| "".into(), |method| Arc::clone(&method.name));
        let arrival = Arrival {
            method: method.cloned().ok_or_else(|| path.chars().take(200).collect()),
            source: Source::of(name, request),
            deadline: deadline(request.headers(), self.request_timeout),
        };
        match shown {
            Ok(Shown::Caller(caller, signed)) => self.let_in(caller, signed, arrival, now).map(Arrived::Decided),
            Ok(Shown::Unverified(token, hash)) => Ok(Arrived::Unverified(Unverified { arrival, token, hash })),
            Err(why) => Err(self.refuse(why, &arrival)),
        }
    }

    /// Whether a call may be anybody's. Whoever sends a token, even one that does not work, means to be somebody.
    fn is_open<B>(&self, method: &Method, request: &Request<B>) -> bool {
        self.outsiders.anonymous_flagd_reads
            && method.anonymous_on_request
            && !request.headers().contains_key(AUTHORIZATION)
    }

    /// What to let a request in as whose token has to be verified; `sign_on` may have to ask its issuer for new keys.
    pub(super) async fn verify(&self, unverified: Unverified) -> Result<Admission, Error> {
        let Unverified { arrival, token, hash } = unverified;
        let Some(sign_on) = &self.outsiders.sign_on else { return Err(self.refuse(Why::Unknown, &arrival)) };
        let verified = sign_on.verify(&token, &hash, self.clock.now());
        let verified = timeout_at(arrival.deadline, verified).await.map_err(|_| Error::DeadlineExceeded)?;
        let identity = verified.map_err(|why| {
            let unauthenticated = self.refuse(Why::Rejected(why), &arrival);
            // Nobody can tell yet whether the token is good: that passes.
            if why == Rejected::KeysUnread { Error::IssuerUnavailable } else { unauthenticated }
        })?;
        let now = self.clock.now();
        let caller = self.mirror.read(|state| Caller::admit(state, Credential::SignOn(identity), now)).flatten();
        let caller = caller.ok_or_else(|| self.refuse(Why::Ended, &arrival))?;
        self.let_in(caller, Some(hash), arrival, now)
    }

    fn let_in(
        &self,
        caller: Caller,
        signed: Option<SecretHash>,
        arrival: Arrival,
        now: Timestamp,
    ) -> Result<Admission, Error> {
        if let Some(key) = caller.key() {
            note_caller(nameless(&key));
        }
        if let Some(token) = caller.token_id() {
            self.last_used.note(token, now);
        }
        let Arrival { method, source, deadline } = arrival;
        let method = method.map_err(Error::UnknownMethod)?;
        let permission = match method.policy {
            Policy::Permission(permission) => Some(permission),
            Policy::Authenticated | Policy::Public => None,
        };
        let missing = caller.granted.lacks(permission);
        // Nor can it be recorded now that somebody was refused a change.
        if (missing.is_none() || method.changes) && !method.reads_memory() && !self.mirror.is_fresh() {
            return Err(Error::Stale);
        }
        let call = Call { caller, signed, permission, source, deadline };
        Ok(match missing {
            None => Admission::Granted(call, method),
            Some(missing) => Admission::Lacking(call, method, missing),
        })
    }

    fn refuse(&self, why: Why, arrival: &Arrival) -> Error {
        self.failures.note(why, &arrival.source);
        Error::Unauthenticated
    }

    /// What a request shows: a token or, without one, its connection's certificate.
    fn shown<B>(&self, state: &State, request: &Request<B>, now: Timestamp) -> Result<Shown, Why> {
        let caller = |credential, signed| {
            let caller = Caller::admit(state, credential, now).ok_or(Why::Ended)?;
            Ok(Shown::Caller(caller, signed))
        };
        let mut headers = request.headers().get_all(AUTHORIZATION).iter();
        let header = match (headers.next(), headers.next()) {
            (Some(header), None) => header,
            (None, _) => return caller(self.certificate(state, request).ok_or(Why::Missing)?, None),
            // Which of two should count is not for us to guess.
            (Some(_), Some(_)) => return Err(Why::Malformed),
        };
        let token = bearer(header.as_bytes()).ok_or(Why::Malformed)?;
        let hash = hash(token);
        if let Some(token) = state.token_by_secret(&hash) {
            return caller(Credential::Token(token.id), None);
        }
        let sign_on = self.outsiders.sign_on.as_ref().filter(|_| SignOn::looks_like_jwt(token)).ok_or(Why::Unknown)?;
        match sign_on.cached(&hash, now) {
            Some(identity) => caller(Credential::SignOn(identity), Some(hash)),
            None => Ok(Shown::Unverified(token.to_owned(), hash)),
        }
    }

    fn certificate<B>(&self, state: &State, request: &Request<B>) -> Option<Credential> {
        let certificate: &ClientCertificate = request.extensions().get::<Peer>()?.certificate.as_deref()?;
        let mut users = certificate.names.iter().filter_map(|name| self.outsiders.certificate_users.get(name));
        let email = users.next()?;
        // A certificate that stands for two users stands for none; and whoever has chosen this address at the issuer of the
        // single sign-on before its user was created is not meant.
        let user = state.user_by_email(email).filter(|user| user.account.is_none())?;
        if !users.all(|other| other == email) {
            return None;
        }
        Some(Credential::Certificate { user_id: user.id, expires_at: certificate.expires_at })
    }

    /// Waits until an open stream has to end, and says why. The caller is absent where it is anybody's.
    pub(super) async fn ended(&self, call: Option<Call>, method: &Method) -> Error {
        let lost = async {
            match call {
                Some(call) => self.lost(call, method).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.closing.cancelled() => Error::Draining,
            error = lost => error,
        }
    }

    /// Waits until the caller of an open stream may no longer have it, and says why. Woken by changes to users and tokens, by
    /// other keys of the issuer, by the clock, and when the database is lost, for a stream that needs it.
    async fn lost(&self, call: Call, method: &Method) -> Error {
        let stale = async {
            if method.reads_memory() { std::future::pending().await } else { self.mirror.until_stale().await }
        };
        tokio::select! {
            () = stale => Error::Stale,
            error = self.shut_out(call) => error,
        }
    }

    async fn shut_out(&self, call: Call) -> Error {
        let mut changes = self.mirror.access_changes();
        let mut keys =
            self.outsiders.sign_on.as_ref().filter(|_| call.signed.is_some()).map(|sign_on| sign_on.key_changes());
        let mut other_keys = true;
        loop {
            changes.borrow_and_update();
            let now = self.clock.now();
            // Asked only where the answer may be another: of very many tokens, some are forgotten.
            if std::mem::take(&mut other_keys) && !self.vouched(&call, now) {
                return Error::Unauthenticated;
            }
            let caller = self.mirror.read(|state| Caller::admit(state, call.caller.credential.clone(), now)).flatten();
            let Some(caller) = caller else { return Error::Unauthenticated };
            if let Some(missing) = caller.granted.lacks(call.permission) {
                return Error::PermissionDenied(missing);
            }
            let left = caller.granted.until.map_or(LOOK_AT_THE_CLOCK, |end| now.until(end));
            let new_keys = async {
                match &mut keys {
                    Some(keys) => keys.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return Error::Draining },
                changed = new_keys => if changed.is_ok() { other_keys = true } else { return Error::Draining },
                () = tokio::time::sleep(left.min(LOOK_AT_THE_CLOCK)) => {}
            }
        }
    }

    /// Whether the issuer still has the key of a caller's token; nobody else has to vouch for theirs.
    fn vouched(&self, call: &Call, now: Timestamp) -> bool {
        match call.signed.as_ref().zip(self.outsiders.sign_on.as_ref()) {
            Some((hash, sign_on)) => sign_on.cached(hash, now).is_some(),
            None => true,
        }
    }
}

/// What a caller is called in the log, which is not to say who they are.
fn nameless(key: &CallerKey) -> request::Caller {
    match key {
        CallerKey::User(id) => request::Caller::User(*id),
        CallerKey::Account(account) => {
            let hash = hash(format!("{}\0{}", account.issuer, account.subject).as_bytes());
            let mut beginning = [0; 8];
            beginning.copy_from_slice(&hash[..8]);
            request::Caller::Account(beginning)
        }
    }
}
