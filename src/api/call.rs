//! A call as the handlers see it: who calls, from where, and until when they wait.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, Request};
use tokio::time::Instant;

use crate::api::listener::Peer;
use crate::auth::Caller;
use crate::domain::access::{Permission, SecretHash};
use crate::domain::advance::{Actor, Origin};
use crate::domain::error::Error;

/// As much of a `user-agent` as the log keeps, in characters.
const USER_AGENT_LIMIT: usize = 512;

/// The transport cuts a call off at its deadline without a word of explanation: what has to be explained is answered a
/// tenth of the time before, and this long at the most.
const ANSWER_AHEAD: Duration = Duration::from_millis(200);

/// A call that was let in, for the handler.
#[derive(Debug, Clone)]
pub(in crate::api) struct Call {
    /// Who calls.
    pub caller: Caller,
    /// The hash of their token, if it is one of the single sign-on: it works as long as its key is the issuer's.
    pub signed: Option<SecretHash>,
    /// What the method demands; `None` where any caller will do.
    pub permission: Option<Permission>,
    /// Where the call comes from.
    pub source: Source,
    /// By when the caller wants to know.
    pub deadline: Instant,
}

/// Where a call comes from, as it arrives: most calls read, and never need it as text.
#[derive(Debug, Clone)]
pub(in crate::api) struct Source {
    /// `toggled.v1.ToggleService/ToggleFeatureFlag`, for one.
    pub method: Arc<str>,
    /// Address and port.
    pub peer: Option<SocketAddr>,
    user_agent: Option<HeaderValue>,
}

impl Source {
    /// That of a request of this method.
    pub fn of<B>(method: Arc<str>, request: &Request<B>) -> Self {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
        Self { method, peer, user_agent: request.headers().get(USER_AGENT).cloned() }
    }

    /// The same, for the log.
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
    /// The call that a request belongs to. A request that did not pass the layer belongs to none and is refused.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<&Self, Error> {
        request.extensions().get().ok_or_else(missing)
    }

    /// The same, taken out of the request, and the message.
    pub fn take<T>(request: tonic::Request<T>) -> Result<(Self, T), Error> {
        let (_, mut extensions, message) = request.into_parts();
        extensions.remove().map(|call| (call, message)).ok_or_else(missing)
    }

    /// Who proposes a change. A method that changes something and demands no permission does not exist; if it did, it
    /// would be refused.
    pub fn actor(&self) -> Result<Actor, Error> {
        let permission = self.permission.ok_or_else(|| Error::Internal("a change without a permission".to_owned()))?;
        Ok(Actor::Caller { credential: self.caller.credential.clone(), permission })
    }
}

fn missing() -> Error {
    Error::Internal("a request came past the authorization layer".to_owned())
}

/// By when the caller wants to know, with time to tell them; `most` from now at the latest.
pub(in crate::api) fn deadline(headers: &HeaderMap, most: Duration) -> Instant {
    let wanted = headers.get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?));
    let wanted = wanted.map(|timeout| timeout - (timeout / 10).min(ANSWER_AHEAD));
    Instant::now() + wanted.map_or(most, |wanted| wanted.min(most))
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
