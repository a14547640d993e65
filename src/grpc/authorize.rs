//! The one layer that every call passes: who calls, and may they.
//!
//! It lies around all services at once, so that no service and no kind of method can be left out of it, and it lets
//! through only what the policies name.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{Either, Ready, ready};
use http::header::{AUTHORIZATION, USER_AGENT};
use http::{Request, Response};
use tokio::time::Instant;
use tower::{Layer, Service};

use super::incoming::Peer;
use super::status::status;
use crate::auth::policy::{Policies, Policy};
use crate::auth::{Caller, authenticate, bearer};
use crate::domain::access::Permission;
use crate::domain::advance::{Actor, Origin};
use crate::domain::error::Error;
use crate::domain::time::Clock;
use crate::mirror::Mirror;

/// As much of a `user-agent` as the log keeps, in characters.
const USER_AGENT_LIMIT: usize = 512;

/// The transport cuts a call off at its deadline without a word of explanation: what has to be explained is answered a
/// tenth of the time before, and this long at the most.
const ANSWER_AHEAD: Duration = Duration::from_millis(200);

/// A call that was let in, for the handler.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// Who calls.
    pub caller: Caller,
    /// What the method demands; `None` where any caller will do.
    permission: Option<Permission>,
    /// Where the call comes from.
    pub origin: Origin,
    /// By when the caller wants to know.
    pub deadline: Option<Instant>,
}

impl Call {
    /// The call that a request belongs to. A request that did not pass the layer belongs to none and is refused.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<&Self, Error> {
        let missing = || Error::Internal("a request came past the authorization layer".to_owned());
        request.extensions().get().ok_or_else(missing)
    }

    /// Who proposes a change. A method that changes something and demands no permission does not exist; if it did, it
    /// would be refused.
    pub fn actor(&self) -> Result<Actor, Error> {
        let permission = self.permission.ok_or_else(|| Error::Internal("a change without a permission".to_owned()))?;
        Ok(Actor::Token { token_id: self.caller.token.id, permission })
    }
}

/// Puts [`Authorize`] around a service.
#[derive(Clone)]
pub struct AuthorizeLayer {
    policies: Arc<Policies>,
    mirror: Arc<Mirror>,
    clock: Arc<dyn Clock>,
}

impl AuthorizeLayer {
    /// A layer that enforces `policies` on the users and tokens in `mirror`.
    pub fn new(policies: Arc<Policies>, mirror: Arc<Mirror>, clock: Arc<dyn Clock>) -> Self {
        Self { policies, mirror, clock }
    }

    /// What the handler is given with the request: a call, or nothing where no caller is needed.
    fn admit<B>(&self, request: &Request<B>) -> Result<Option<Call>, Error> {
        let method = self.policies.method(request.uri().path());
        if method.is_some_and(|method| method.policy == Policy::Public) {
            return Ok(None);
        }
        let token = request.headers().get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        let now = self.clock.now();
        let caller = self.mirror.read(|state| token.and_then(|token| authenticate(state, token, now)));
        // Before the database has been read for the first time nobody is known.
        let caller = caller.ok_or(Error::DatabaseUnavailable)?.ok_or(Error::Unauthenticated)?;
        let Some(method) = method else {
            return Err(Error::UnknownMethod(request.uri().path().chars().take(200).collect()));
        };
        let permission = match method.policy {
            Policy::Permission(permission) => Some(permission),
            Policy::Authenticated | Policy::Public => None,
        };
        if let Some(missing) = permission.filter(|p| !caller.permissions.contains(*p)) {
            return Err(Error::PermissionDenied(missing));
        }
        let deadline = request.headers().get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?));
        Ok(Some(Call {
            caller,
            permission,
            origin: origin(Arc::clone(&method.name), request),
            deadline: deadline.map(|timeout| Instant::now() + timeout - (timeout / 10).min(ANSWER_AHEAD)),
        }))
    }
}

/// A `grpc-timeout`: up to eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| plain)?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

fn origin<B>(method: Arc<str>, request: &Request<B>) -> Origin {
    let peer = request.extensions().get::<Peer>();
    let agent = request.headers().get(USER_AGENT).and_then(|value| value.to_str().ok());
    let agent = agent.map(|text| text.chars().take(USER_AGENT_LIMIT).collect::<String>());
    Origin {
        method,
        peer: peer.map(|peer| peer.address.to_string().into()),
        user_agent: agent.filter(|text| !text.is_empty()).map(Into::into),
    }
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize { layer: self.clone(), inner }
    }
}

/// A service behind the layer.
#[derive(Clone)]
pub struct Authorize<S> {
    layer: AuthorizeLayer,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Authorize<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<R>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.layer.admit(&request) {
            Ok(call) => {
                if let Some(call) = call {
                    request.extensions_mut().insert(call);
                }
                Either::Right(self.inner.call(request))
            }
            Err(error) => Either::Left(ready(Ok(status(error).into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(timeout("150m"), Some(Duration::from_millis(150)));
        for bad in ["", "S", "5", "5s", "-5S", "+5S", "123456789S", "5 S", "5ä"] {
            assert_eq!(timeout(bad), None, "{bad:?}");
        }
    }
}
