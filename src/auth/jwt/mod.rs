//! Tokens of a single sign-on: JWTs (RFC 7519) signed by an OpenID Connect issuer.
//!
//! A token is checked in this order: form, key, signature, claims. The key determines the algorithm; the algorithm in the
//! token's header must match it, but never selects it (RFC 8725).

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

use super::jwks::{IssuerKey, Jwks, KeyFingerprint, KeyLookupError, KeySet};
use super::signature;
use crate::domain::access::{Identity, SecretHash};
use crate::domain::time::Timestamp;

pub use claims::{GroupPermissions, SignOnRules};

/// Maximum size of a token, in bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// How many verified tokens are cached.
const CACHE_CAPACITY: usize = 10_000;

/// Why a token was rejected, for the server's log and metrics. It contains no part of the token, and is not part of the
/// answer to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum JwtRejection {
    /// The token is not a JWT, is too long, or has a claim of the wrong type.
    #[error("the token is malformed")]
    Malformed,
    /// The algorithm is not accepted, or is not the algorithm of the key.
    #[error("the token's algorithm is not accepted or not that of its key")]
    Algorithm,
    /// The token has critical extensions (`crit`), which the server does not support and so must not ignore.
    #[error("the token has critical extensions")]
    Critical,
    /// The issuer has not answered since the server started, so the token cannot be checked.
    #[error("the issuer's keys have not been read yet")]
    KeysUnread,
    /// The issuer has no key with the token's key id.
    #[error("the issuer has no such key")]
    UnknownKey,
    /// The token names no key, or a key id that is not unique, and several keys match.
    #[error("several of the issuer's keys match the token")]
    AmbiguousKey,
    /// The token was altered, or signed with another key.
    #[error("the signature is invalid")]
    Signature,
    /// The token is from another issuer.
    #[error("the token is from another issuer")]
    Issuer,
    /// The token is meant for another service.
    #[error("the token is for another audience")]
    Audience,
    /// The token has no expiry.
    #[error("the token has no expiry")]
    NoExpiry,
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
    /// The token is not valid yet (`nbf`).
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The token was issued in the future (`iat`).
    #[error("the token was issued in the future")]
    IssuedInFuture,
    /// The token has no subject, or an invalid one.
    #[error("the token has no valid subject")]
    Subject,
    /// The token has no email address.
    #[error("the token has no email address")]
    Email,
    /// The token's email address is not one that a user may have: it is malformed, looks like another one, or is reserved.
    #[error("the token's email address is malformed, looks like another one, or is reserved")]
    EmailRefused,
    /// The issuer has not verified the email address.
    #[error("the token's email address is not verified")]
    EmailUnverified,
    /// The claim of the caller's own environment is not the key of an environment.
    #[error("the token's environment is not the key of an environment")]
    Environment,
}

impl JwtRejection {
    /// The label for metrics.
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
            Self::EmailRefused => "email_refused",
            Self::EmailUnverified => "email_unverified",
            Self::Environment => "environment",
        }
    }
}

impl From<KeyLookupError> for JwtRejection {
    fn from(error: KeyLookupError) -> Self {
        match error {
            KeyLookupError::Unread => Self::KeysUnread,
            KeyLookupError::Unknown => Self::UnknownKey,
            KeyLookupError::Algorithm => Self::Algorithm,
            KeyLookupError::Ambiguous => Self::AmbiguousKey,
        }
    }
}

impl From<jsonwebtoken::errors::Error> for JwtRejection {
    fn from(error: jsonwebtoken::errors::Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidSignature => Self::Signature,
            ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Self::Algorithm,
            _ => Self::Malformed,
        }
    }
}

/// What shows that the issuer has signed a caller's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignOnProof {
    /// The token, by its hash.
    Token(SecretHash),
    /// The key that signed it: what a ticket names.
    Key(KeyFingerprint),
}

/// A single sign-on: one issuer, and the rules for its tokens.
pub struct SignOn {
    rules: SignOnRules,
    jwks: Arc<Jwks>,
    verified: Cache<SecretHash, VerifiedToken>,
}

/// A verified token in the cache.
#[derive(Clone)]
struct VerifiedToken {
    identity: Arc<Identity>,
    /// The start of the token's validity; the end is in `identity`.
    valid_from: Timestamp,
    /// The key that signed the token. The token is valid only while the issuer publishes this key.
    key: Arc<IssuerKey>,
}

impl SignOn {
    /// A single sign-on with these rules and keys.
    pub fn new(rules: SignOnRules, jwks: Arc<Jwks>) -> Self {
        Self { rules, jwks, verified: Cache::new(CACHE_CAPACITY) }
    }

    /// Refreshes the issuer's keys periodically, forever.
    pub async fn refresh_keys(&self) {
        self.jwks.refresh_periodically().await;
    }

    /// A receiver that is notified when the issuer's keys are replaced. [`SignOn::cached`] can then return `None` for a token
    /// that it knew before. To miss no change, subscribe first and then look up the token.
    pub fn key_changes(&self) -> watch::Receiver<Arc<KeySet>> {
        self.jwks.changes()
    }

    /// Whether the token has the form of a JWT: three parts in base64url, 16 KiB at most.
    pub fn looks_like_jwt(token: &[u8]) -> bool {
        let base64url = |part: &[u8]| {
            !part.is_empty() && part.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        let mut parts = token.split(|byte| *byte == b'.');
        let has_three_parts = parts.by_ref().take(3).filter(|part| base64url(part)).count() == 3;
        token.len() <= MAX_TOKEN_BYTES && has_three_parts && parts.next().is_none()
    }

    /// The identity of the token with this hash, if the cache has it and the token is still valid: `now` is within its
    /// validity, and the issuer still publishes its key. The cache drops tokens when it is full; they are then verified again.
    pub fn cached(&self, hash: &SecretHash, now: Timestamp) -> Option<Arc<Identity>> {
        let VerifiedToken { identity, valid_from, key } = self.verified.get(hash)?;
        if (valid_from..identity.expires_at).contains(&now) && self.jwks.contains(&key) {
            Some(identity)
        } else {
            self.verified.remove(hash);
            None
        }
    }

    /// The key that signed the token with this hash, if the cache has the token.
    pub fn signing_key(&self, hash: &SecretHash) -> Option<KeyFingerprint> {
        self.verified.get(hash).map(|token| token.key.fingerprint())
    }

    /// Whether the issuer still publishes the key that a proof is made with.
    pub fn is_signed(&self, proof: &SignOnProof, now: Timestamp) -> bool {
        match proof {
            SignOnProof::Token(hash) => self.cached(hash, now).is_some(),
            SignOnProof::Key(key) => self.jwks.current().has(key),
        }
    }

    /// Whether the issuer's keys have been read since the server started.
    pub fn has_read_keys(&self) -> bool {
        self.jwks.current().is_read()
    }

    /// Verifies a token and returns its identity. `hash` is the token's SHA-256. If the token may be signed with a key that is
    /// not known yet, this waits for the issuer, for 20 seconds at most: 10 for a read of the keys in progress, and 10 for
    /// the next one.
    ///
    /// # Errors
    /// Why the token is rejected.
    pub async fn verify(&self, token: &[u8], hash: &SecretHash, now: Timestamp) -> Result<Arc<Identity>, JwtRejection> {
        let header = JwtHeader::parse(token)?;
        let keys = self.jwks.current();
        let mut verified = header.verify(token, &keys);
        let may_use_new_key = verified.as_ref().is_err_and(|rejection| header.may_use_new_key(*rejection));
        if may_use_new_key && self.jwks.refresh_if_unchanged_since(&keys).await {
            verified = header.verify(token, &self.jwks.current());
        }
        let (key, claims) = verified?;
        let (identity, valid_from) = self.rules.identity(&claims, now)?;
        let identity = Arc::new(identity);
        self.verified.insert(*hash, VerifiedToken { identity: Arc::clone(&identity), valid_from, key });
        Ok(identity)
    }
}

/// The header of a token. Nothing in it is verified.
struct JwtHeader {
    algorithm: Algorithm,
    key_id: Option<String>,
}

impl JwtHeader {
    fn parse(token: &[u8]) -> Result<Self, JwtRejection> {
        if !SignOn::looks_like_jwt(token) {
            return Err(JwtRejection::Malformed);
        }
        let part = token.split(|byte| *byte == b'.').next().unwrap_or_default();
        let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtRejection::Malformed)?;
        let fields: Map<String, Value> = serde_json::from_slice(&json).map_err(|_| JwtRejection::Malformed)?;
        if fields.contains_key("crit") {
            return Err(JwtRejection::Critical);
        }
        let key_id = match fields.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(JwtRejection::Malformed),
        };
        let algorithm = fields.get("alg").and_then(Value::as_str).and_then(|name| Algorithm::from_str(name).ok());
        let accepted = algorithm.filter(|algorithm| signature::ACCEPTED_ALGORITHMS.contains(algorithm));
        Ok(Self { algorithm: accepted.ok_or(JwtRejection::Algorithm)?, key_id })
    }

    /// Finds the token's key and verifies the signature. Returns the key and the claims, which are not checked yet.
    fn verify(&self, token: &[u8], keys: &KeySet) -> Result<(Arc<IssuerKey>, Value), JwtRejection> {
        let key = keys.find(self.key_id.as_deref(), self.algorithm)?;
        Ok((Arc::clone(key), key.verify(token)?))
    }

    /// Whether a rejected token may be signed with a key that is not known yet. A token without a key id was checked with the
    /// only key of its algorithm, which the issuer may have replaced.
    fn may_use_new_key(&self, rejection: JwtRejection) -> bool {
        match rejection {
            JwtRejection::UnknownKey | JwtRejection::KeysUnread => true,
            JwtRejection::Signature => self.key_id.is_none(),
            _ => false,
        }
    }
}
