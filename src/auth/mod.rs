//! Who calls, and what their method demands: bearer tokens, those of a single sign-on as well, and the policies declared
//! in the .proto files.

pub mod jwks;
pub mod jwt;
pub mod last_used;
pub mod policy;
pub mod secret;
mod signature;

// Made for the tests of the whole program, and of use here too.
#[cfg(test)]
#[path = "../../tests/it/support/issuer.rs"]
mod issuer;
#[cfg(test)]
#[path = "../../tests/it/support/signing.rs"]
mod signing;

use std::sync::Arc;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::domain::access::{Account, Credential, Grant, SecretHash, User, authenticate};
use crate::domain::state::State;
use crate::domain::time::Timestamp;

/// Somebody who has shown something that works.
#[derive(Debug, Clone)]
pub struct Caller {
    /// What they have shown.
    pub credential: Credential,
    /// Who they are, and what it lets them do.
    pub granted: Grant,
}

impl Caller {
    /// Who shows this credential, if it works.
    pub fn authenticate(state: &State, credential: Credential, now: Timestamp) -> Option<Self> {
        let granted = authenticate(state, &credential, now)?;
        Some(Self { credential, granted })
    }

    /// The token that they have shown, if it is one of ours.
    pub fn token_id(&self) -> Option<Uuid> {
        match self.credential {
            Credential::Token(id) => Some(id),
            _ => None,
        }
    }

    /// What tells them from other callers.
    pub fn key(&self) -> Option<CallerKey> {
        match (&self.granted.user, &self.credential) {
            (Some(user), _) => Some(CallerKey::User(user.id)),
            (None, Credential::SignOn(identity)) => Some(CallerKey::Account(identity.account())),
            (None, _) => None,
        }
    }

    /// The user that they are, if they are one already.
    pub fn user(&self) -> Option<&Arc<User>> {
        self.granted.user.as_ref()
    }
}

/// What tells one caller from another, whatever they show.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CallerKey {
    /// A user.
    User(Uuid),
    /// Somebody who came by single sign-on and is no user yet.
    Account(Account),
}

/// The token in the value of an `authorization` header: `Bearer TOKEN`, the scheme in any case of letters.
pub fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

/// What is kept of a secret. Secrets are random enough that a plain hash cannot be searched for them.
pub fn hash(secret: &[u8]) -> SecretHash {
    Sha256::digest(secret).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bearer_token_is_what_follows_the_scheme() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bEARER  abc "), Some(&b"abc"[..]));
        for bad in [&b""[..], b"Bearer", b"Bearer ", b"Bearer   ", b"Basic abc", b"abc", b"Bearerabc"] {
            assert_eq!(bearer(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(header in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(token) = bearer(&header) {
                prop_assert!(!token.is_empty() && token.len() <= header.len());
            }
        }
    }
}
