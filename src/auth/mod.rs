//! Authentication of callers, by bearer tokens of toggled and of a single sign-on, and the policies that the .proto files
//! declare for each method.

mod anonymous;
pub mod jwks;
pub mod jwt;
pub mod last_used;
pub mod policy;
pub mod secret;
mod signature;
pub mod ticket;

// Shared with the integration tests.
#[cfg(test)]
#[path = "../../tests/it/support/issuer.rs"]
mod issuer;
#[cfg(test)]
#[path = "../../tests/it/support/signing.rs"]
mod signing;

use std::sync::Arc;

pub use anonymous::AnonymousReads;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::domain::access::{Account, Credential, Grant, SecretHash, User, authenticate};
use crate::domain::state::State;
use crate::domain::time::Timestamp;

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The credential that the caller presented.
    pub credential: Credential,
    /// The caller's user, if there is one, and permissions.
    pub grant: Grant,
}

impl Caller {
    /// The caller with this credential, if the credential is valid at `now`.
    pub fn authenticate(state: &State, credential: Credential, now: Timestamp) -> Option<Self> {
        let grant = authenticate(state, &credential, now)?;
        Some(Self { credential, grant })
    }

    /// The id of the caller's API token; `None` for other credentials.
    pub fn token_id(&self) -> Option<Uuid> {
        match self.credential {
            Credential::Token(id) => Some(id),
            _ => None,
        }
    }

    /// Identifies the caller, whichever credential they use.
    pub fn key(&self) -> Option<CallerKey> {
        match (&self.grant.user, &self.credential) {
            (Some(user), _) => Some(CallerKey::User(user.id)),
            (None, Credential::SignOn(identity)) => Some(CallerKey::Account(identity.account())),
            (None, _) => None,
        }
    }

    /// The caller's user; `None` before a single sign-on account has one.
    pub fn user(&self) -> Option<&Arc<User>> {
        self.grant.user.as_ref()
    }
}

/// Identifies a caller, whichever credential they use. Limits are counted per key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CallerKey {
    /// A user.
    User(Uuid),
    /// A single sign-on account that has no user yet.
    Account(Account),
}

/// The token in an `authorization` header: `Bearer TOKEN`, with the scheme in upper or lower case.
pub fn bearer_token(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

/// The hash that is stored in place of a secret. Secrets are random enough that a plain hash withstands guessing.
pub fn hash_secret(secret: &[u8]) -> SecretHash {
    Sha256::digest(secret).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bearer_token_is_the_text_after_the_scheme() {
        assert_eq!(bearer_token(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer_token(b"bEARER  abc "), Some(&b"abc"[..]));
        for bad in [&b""[..], b"Bearer", b"Bearer ", b"Bearer   ", b"Basic abc", b"abc", b"Bearerabc"] {
            assert_eq!(bearer_token(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn bearer_token_never_panics(header in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(token) = bearer_token(&header) {
                prop_assert!(!token.is_empty() && token.len() <= header.len());
            }
        }
    }
}
