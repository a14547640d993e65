//! Pages of lists, and the tokens that lead from one page to the next.
//!
//! A token is URL-safe base64 of a digest of the method and its filters, and of the position. The digest keeps a token from
//! being used with other filters by mistake. A token is not secret and not signed: a forged one reads nothing that its caller
//! could not read anyway.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use sha2::{Digest, Sha256};

use super::streams::MESSAGE_BYTES;
use super::validate::RequestValidator;
use crate::domain::Revision;
use crate::domain::text::Malformed;

const DEFAULT_SIZE: i32 = 100;
const MAX_SIZE: i32 = 1_000;

/// Longer texts are refused unread. The longest token that we make holds an e-mail address, of at most 254 characters in at most 1,016
/// bytes, after a digest of 8: 1,366 characters.
const MAX_TOKEN_LENGTH: usize = 1_366;

const MALFORMED: Malformed =
    Malformed("must be a next_page_token of this method, used with the same filters as the page that it came from");

/// Which page of a list sorted by a key to return.
pub(super) struct PageRequest<K> {
    /// The most objects on the page.
    pub size: usize,
    /// The page starts after this key.
    pub after: Option<K>,
    /// The method and filters that its token is valid for.
    scope: String,
}

impl<K> PageRequest<K> {
    /// Parses `page_size` and `page_token`. `key` parses the position in the token, which must have been made for `scope`.
    pub fn parse(
        validator: &mut RequestValidator,
        size: i32,
        token: &str,
        scope: String,
        key: fn(&str) -> Result<K, Malformed>,
    ) -> Option<Self> {
        let size = validator.between("page_size", 1, MAX_SIZE, if size == 0 { DEFAULT_SIZE } else { size });
        let after = Some(token).filter(|token| !token.is_empty()).and_then(|token| {
            let key = decode_key(&scope, token, key);
            key.map_or_else(|rule| validator.reject("page_token", rule.0), Some)
        });
        Some(Self { size: usize::try_from(size?).ok()?, after, scope })
    }

    /// How many objects to read: one more than the page holds, which tells whether there is a next page.
    pub fn read_limit(&self) -> i64 {
        i64::try_from(self.size).unwrap_or(i64::MAX).saturating_add(1)
    }

    /// The page of `objects`, which start after the request's key, and the token of the next page.
    pub fn page<'a, T: 'a, M: Message + From<&'a Arc<T>>>(
        &self,
        objects: impl Iterator<Item = &'a Arc<T>>,
        key: impl Fn(&T) -> String,
    ) -> (Vec<M>, String) {
        let mut bytes = 0;
        let mut page = Vec::new();
        let mut last: Option<&Arc<T>> = None;
        for object in objects {
            if let Some(last) = last.filter(|_| page.len() == self.size || bytes > MESSAGE_BYTES) {
                return (page, encode_key(&self.scope, &key(last)));
            }
            let message = M::from(object);
            bytes += message.encoded_len();
            page.push(message);
            last = Some(object);
        }
        (page, String::new())
    }
}

/// The token of the page that starts after this key.
pub fn encode_key(scope: &str, after: &str) -> String {
    let mut bytes = scope_digest(scope).to_vec();
    bytes.extend_from_slice(after.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The inverse of [`encode_key`].
///
/// # Errors
/// [`Malformed`] for any text that `encode_key` did not make for the same scope.
pub fn decode_key<K>(scope: &str, token: &str, key: fn(&str) -> Result<K, Malformed>) -> Result<K, Malformed> {
    let bytes = decode_in_scope(scope, token)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| MALFORMED)?;
    key(text).map_err(|_| MALFORMED)
}

/// Where the next page of the audit log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogCursor {
    /// The revision that all pages are anchored at, so that they do not shift while the log grows.
    pub as_of: Revision,
    /// The page holds entries before this revision.
    pub before: Revision,
    /// The page's number, from 2: no token leads to the first page.
    pub page: i32,
}

impl LogCursor {
    /// The cursor as a token.
    pub fn encode(self, scope: &str) -> String {
        let mut bytes = scope_digest(scope).to_vec();
        bytes.extend_from_slice(&self.as_of.to_be_bytes());
        bytes.extend_from_slice(&self.before.to_be_bytes());
        bytes.extend_from_slice(&self.page.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The inverse of [`LogCursor::encode`].
    ///
    /// # Errors
    /// [`Malformed`] for any text that `encode` did not make for the same scope.
    pub fn decode(scope: &str, token: &str) -> Result<Self, Malformed> {
        let bytes = decode_in_scope(scope, token)?;
        let (as_of, rest) = bytes.split_first_chunk().ok_or(MALFORMED)?;
        let (before, rest) = rest.split_first_chunk().ok_or(MALFORMED)?;
        let page: &[u8; 4] = rest.try_into().map_err(|_| MALFORMED)?;
        let cursor = Self {
            as_of: i64::from_be_bytes(*as_of),
            before: i64::from_be_bytes(*before),
            page: i32::from_be_bytes(*page),
        };
        if cursor.as_of < 0 || cursor.before < 1 || cursor.page < 2 { Err(MALFORMED) } else { Ok(cursor) }
    }
}

/// A short digest of `scope`, which names a method and its filters in any form that does not change.
pub fn scope_digest(scope: &str) -> [u8; 8] {
    let full: [u8; 32] = Sha256::digest(scope.as_bytes()).into();
    let mut short = [0; 8];
    short.copy_from_slice(&full[..8]);
    short
}

fn decode_in_scope(scope: &str, token: &str) -> Result<Vec<u8>, Malformed> {
    let bytes = if token.len() <= MAX_TOKEN_LENGTH { URL_SAFE_NO_PAD.decode(token).ok() } else { None };
    let bytes = bytes.ok_or(MALFORMED)?;
    let (found, position) = bytes.split_first_chunk::<8>().ok_or(MALFORMED)?;
    if *found == scope_digest(scope) { Ok(position.to_vec()) } else { Err(MALFORMED) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::text::FlagKey;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cursor_survives_its_token(as_of in 0i64.., before in 1i64.., page in 2i32..) {
            let cursor = LogCursor { as_of, before, page };
            prop_assert_eq!(LogCursor::decode("s", &cursor.encode("s")), Ok(cursor));
            prop_assert!(LogCursor::decode("t", &cursor.encode("s")).is_err());
        }

        #[test]
        fn garbage_token_is_refused(token in "\\PC*") {
            prop_assert!(LogCursor::decode("s", &token).is_err());
            prop_assert!(decode_key("s", &token, FlagKey::parse).is_err());
        }
    }

    #[test]
    fn key_token_is_valid_only_in_its_scope() {
        let key = FlagKey::parse("checkout").unwrap();
        let token = encode_key("flags", key.as_str());
        assert_eq!(decode_key("flags", &token, FlagKey::parse), Ok(key));
        assert!(decode_key("other", &token, FlagKey::parse).is_err());
    }

    #[test]
    fn token_of_longest_position_is_accepted() {
        let longest = "\u{1f600}".repeat(254);
        let token = encode_key("users", &longest);
        assert_eq!(token.len(), MAX_TOKEN_LENGTH);
        assert_eq!(decode_key("users", &token, |text| Ok(text.to_owned())), Ok(longest));
    }
}
