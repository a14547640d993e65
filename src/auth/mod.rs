//! Who calls, and what their method demands: bearer tokens, those of a single sign-on as well, and the policies declared
//! in the .proto files.

pub mod jwks;
pub mod jwt;
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

use crate::domain::access::{Permissions, SecretHash, Token, User};
use crate::domain::state::State;
use crate::domain::time::Timestamp;

/// Somebody who has shown a token that works.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who they are.
    pub user: Arc<User>,
    /// The token that they showed.
    pub token: Arc<Token>,
    /// What they may do with it: the user's permissions, narrowed by the token's.
    pub permissions: Permissions,
}

/// The token in the value of an `authorization` header: `Bearer TOKEN`, the scheme in any case of letters.
pub fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

/// Who shows this token, if it works: known, neither revoked nor expired, its user active.
///
/// Only hashes are compared, by looking one up: how long that takes tells nothing about any secret.
pub fn authenticate(state: &State, token: &[u8], now: Timestamp) -> Option<Caller> {
    let token = state.token_by_secret(&hash(token)).filter(|token| token.is_live(now))?;
    let user = state.user(token.user_id).filter(|user| user.deactivated_at.is_none())?;
    Some(Caller { user: Arc::clone(user), token: Arc::clone(token), permissions: token.allowed(user) })
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
