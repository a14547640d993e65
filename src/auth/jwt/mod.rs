//! Tokens of a single sign-on: JWTs (RFC 7519) that an OpenID Connect issuer has signed.
//!
//! A token is judged in this order: its shape, the key that it names, its signature, and only then what it says. The
//! algorithm is the key's; the token's own word for it has to agree, and decides nothing (RFC 8725).

mod claims;
#[cfg(test)]
mod tests;

use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use jsonwebtoken::errors::ErrorKind;
use quick_cache::sync::Cache;
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::jwks::{Jwks, Key, KeySet, NoKey};
use super::signature;
use crate::domain::access::{Identity, SecretHash};
use crate::domain::time::Timestamp;

pub use claims::{Groups, Rules};

/// The longest token that is looked at, in bytes.
const LONGEST: usize = 16 * 1024;

/// How many verified tokens are remembered.
const REMEMBERED: usize = 10_000;

/// Why a token was refused, for the log of the server and for counting. It holds no part of the token, and the caller is
/// told none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejected {
    /// It is not a JWT, or too long, or what it says is not what the standard has there.
    #[error("it is malformed")]
    Malformed,
    /// It names an algorithm that is not accepted, or not the one of its key.
    #[error("its algorithm is not the one of its key")]
    Algorithm,
    /// It must not be accepted by anybody who does not know some extension.
    #[error("it has critical extensions")]
    Critical,
    /// The issuer has not answered since the server started: nobody can tell whether the token is good.
    #[error("the issuer's keys could not be read yet")]
    KeysUnread,
    /// The issuer has no such key.
    #[error("the issuer has no such key")]
    UnknownKey,
    /// It names no key, or one whose name is not unique, and several would do.
    #[error("it does not say which key it is signed with")]
    AmbiguousKey,
    /// It was changed, or signed by somebody else.
    #[error("its signature is wrong")]
    Signature,
    /// It comes from another issuer.
    #[error("it is from another issuer")]
    Issuer,
    /// It is for another service.
    #[error("it is for somebody else")]
    Audience,
    /// It does not say how long it works.
    #[error("it never expires")]
    NoExpiry,
    /// It does not work any more.
    #[error("it has expired")]
    Expired,
    /// It does not work yet.
    #[error("it is not valid yet")]
    NotYetValid,
    /// It comes from the future.
    #[error("it was issued in the future")]
    IssuedInFuture,
    /// It does not say whose it is.
    #[error("it has no usable subject")]
    Subject,
    /// It has no e-mail address that could stand in the log.
    #[error("it has no usable e-mail address")]
    Email,
    /// The issuer does not know whether the address is theirs.
    #[error("its e-mail address is not verified")]
    EmailUnverified,
}

impl Rejected {
    /// A word for it, for counting.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::Critical => "critical",
            Self::KeysUnread => "keys_unread",
            Self::UnknownKey => "unknown_key",
            Self::AmbiguousKey => "ambiguous_key",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::NoExpiry => "no_expiry",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuedInFuture => "issued_in_future",
            Self::Subject => "subject",
            Self::Email => "email",
            Self::EmailUnverified => "email_unverified",
        }
    }
}

impl From<NoKey> for Rejected {
    fn from(why: NoKey) -> Self {
        match why {
            NoKey::Unread => Self::KeysUnread,
            NoKey::Unknown => Self::UnknownKey,
            NoKey::Algorithm => Self::Algorithm,
            NoKey::Ambiguous => Self::AmbiguousKey,
        }
    }
}

impl From<jsonwebtoken::errors::Error> for Rejected {
    fn from(error: jsonwebtoken::errors::Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidSignature => Self::Signature,
            ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Self::Algorithm,
            _ => Self::Malformed,
        }
    }
}

/// The single sign-on: one issuer, and what its tokens allow here.
pub struct SignOn {
    rules: Rules,
    jwks: Arc<Jwks>,
    verified: Cache<SecretHash, Verified>,
}

/// A token that was good.
#[derive(Clone)]
struct Verified {
    identity: Arc<Identity>,
    /// From when on it is good; until when, the identity says.
    from: Timestamp,
    /// The key that vouches for it, as long as the issuer has it.
    key: Arc<Key>,
}

impl SignOn {
    /// The sign-on whose issuer has these keys.
    pub fn new(rules: Rules, jwks: Arc<Jwks>) -> Self {
        Self { rules, jwks, verified: Cache::new(REMEMBERED) }
    }

    /// Keeps the issuer's keys up to date, for ever.
    pub async fn keep_fresh(&self) {
        self.jwks.keep_fresh().await;
    }

    /// Tells when the issuer's keys are replaced: [`SignOn::cached`] may then know a token no more. Whoever waits for that
    /// asks for this first, and then for the token.
    pub fn key_changes(&self) -> watch::Receiver<Arc<KeySet>> {
        self.jwks.changes()
    }

    /// Whether this could be a token of a single sign-on: three parts in base64url, of 16 KiB at the most.
    pub fn looks_like_jwt(token: &[u8]) -> bool {
        let base64url = |part: &[u8]| {
            !part.is_empty() && part.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        let mut parts = token.split(|byte| *byte == b'.');
        let three = parts.by_ref().take(3).filter(|part| base64url(part)).count() == 3;
        token.len() <= LONGEST && three && parts.next().is_none()
    }

    /// Whom the token with this hash was for, if it has been verified before and still works: by a clock that may have been
    /// set since, it is within its time, and the issuer still has its key. Of very many tokens some are forgotten, and have to
    /// be verified again.
    pub fn cached(&self, hash: &SecretHash, now: Timestamp) -> Option<Arc<Identity>> {
        let Verified { identity, from, key } = self.verified.get(hash)?;
        if (from..identity.expires_at).contains(&now) && self.jwks.holds(&key) {
            Some(identity)
        } else {
            self.verified.remove(hash);
            None
        }
    }

    /// Whom a token is for. `hash` is its SHA-256. Where the token may be signed with a key that is not known yet, this
    /// takes as long as the issuer does, once: 20 seconds at the most, 10 for a reading of the keys that is under way and
    /// 10 for one more.
    ///
    /// # Errors
    /// Why the token does not work.
    pub async fn verify(&self, token: &[u8], hash: &SecretHash, now: Timestamp) -> Result<Arc<Identity>, Rejected> {
        let header = Header::read(token)?;
        let keys = self.jwks.current();
        let mut vouched = header.vouched(token, &keys);
        if vouched.as_ref().is_err_and(|why| header.is_of_a_new_key(*why)) && self.jwks.look_again(&keys).await {
            vouched = header.vouched(token, &self.jwks.current());
        }
        let (key, claims) = vouched?;
        let (identity, from) = self.rules.identity(&claims, now)?;
        let identity = Arc::new(identity);
        self.verified.insert(*hash, Verified { identity: Arc::clone(&identity), from, key });
        Ok(identity)
    }
}

/// What a token says about its signature, before anybody has vouched for it.
struct Header {
    algorithm: Algorithm,
    key_id: Option<String>,
}

impl Header {
    fn read(token: &[u8]) -> Result<Self, Rejected> {
        if !SignOn::looks_like_jwt(token) {
            return Err(Rejected::Malformed);
        }
        let part = token.split(|byte| *byte == b'.').next().unwrap_or_default();
        let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| Rejected::Malformed)?;
        let fields: Map<String, Value> = serde_json::from_slice(&json).map_err(|_| Rejected::Malformed)?;
        if fields.contains_key("crit") {
            return Err(Rejected::Critical);
        }
        let key_id = match fields.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(Rejected::Malformed),
        };
        let algorithm = fields.get("alg").and_then(Value::as_str).and_then(|name| Algorithm::from_str(name).ok());
        let accepted = algorithm.filter(|algorithm| signature::ACCEPTED.contains(algorithm));
        Ok(Self { algorithm: accepted.ok_or(Rejected::Algorithm)?, key_id })
    }

    /// The key of the token, and what it says that this key has signed.
    fn vouched(&self, token: &[u8], keys: &KeySet) -> Result<(Arc<Key>, Value), Rejected> {
        let key = keys.find(self.key_id.as_deref(), self.algorithm)?;
        Ok((Arc::clone(key), key.claims(token)?))
    }

    /// Whether a token that was refused for this may have a key that is not known yet. One that names none is held against
    /// the only key of its kind, and the issuer may have replaced that.
    fn is_of_a_new_key(&self, why: Rejected) -> bool {
        match why {
            Rejected::UnknownKey | Rejected::KeysUnread => true,
            Rejected::Signature => self.key_id.is_none(),
            _ => false,
        }
    }
}
