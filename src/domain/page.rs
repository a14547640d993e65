//! Page tokens: where the next page of a list begins.
//!
//! A token is the URL-safe base64 of a few fields and of a digest of the filters that it was made for, so that it
//! cannot be used with others by mistake. It carries nothing secret and is not signed: a forged one reads
//! nothing that its caller could not read by asking.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::Revision;
use super::text::Malformed;

const MALFORMED: Malformed =
    Malformed("must be a next_page_token of this method, used with the same filters as the page that it came from");

/// A short digest of what a token was made for: the method's name and its filters, in any fixed form.
pub fn digest(scope: &str) -> [u8; 8] {
    let full: [u8; 32] = Sha256::digest(scope.as_bytes()).into();
    let mut short = [0; 8];
    short.copy_from_slice(&full[..8]);
    short
}

/// Where the next page of a sorted list begins: after this key.
pub fn encode_key(scope: &str, after: &str) -> String {
    let mut bytes = digest(scope).to_vec();
    bytes.extend_from_slice(after.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The inverse of [`encode_key`].
///
/// # Errors
/// [`Malformed`] for anything that `encode_key` did not make for the same scope.
pub fn decode_key<K>(scope: &str, token: &str, key: fn(&str) -> Result<K, Malformed>) -> Result<K, Malformed> {
    let bytes = unscoped(scope, token)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| MALFORMED)?;
    key(text).map_err(|_| MALFORMED)
}

/// Where the next page of the log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogCursor {
    /// The revision that all pages are anchored at.
    pub as_of: Revision,
    /// The page holds entries before this revision.
    pub before: Revision,
    /// Its number, from 1.
    pub page: i32,
}

impl LogCursor {
    /// The token of this cursor.
    pub fn encode(self, scope: &str) -> String {
        let mut bytes = digest(scope).to_vec();
        bytes.extend_from_slice(&self.as_of.to_be_bytes());
        bytes.extend_from_slice(&self.before.to_be_bytes());
        bytes.extend_from_slice(&self.page.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The inverse of [`LogCursor::encode`].
    ///
    /// # Errors
    /// [`Malformed`] for anything that `encode` did not make for the same scope.
    pub fn decode(scope: &str, token: &str) -> Result<Self, Malformed> {
        let bytes = unscoped(scope, token)?;
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

fn unscoped(scope: &str, token: &str) -> Result<Vec<u8>, Malformed> {
    // A token of ours is under 200 characters; a longer one is not worth decoding.
    let bytes = if token.len() <= 512 { URL_SAFE_NO_PAD.decode(token).ok() } else { None }.ok_or(MALFORMED)?;
    let (found, rest) = bytes.split_first_chunk::<8>().ok_or(MALFORMED)?;
    if *found == digest(scope) { Ok(rest.to_vec()) } else { Err(MALFORMED) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::text::FlagKey;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_survives_its_token(as_of in 0i64.., before in 1i64.., page in 2i32..) {
            let cursor = LogCursor { as_of, before, page };
            prop_assert_eq!(LogCursor::decode("s", &cursor.encode("s")), Ok(cursor));
            prop_assert!(LogCursor::decode("t", &cursor.encode("s")).is_err());
        }

        #[test]
        fn garbage_is_refused_without_a_panic(token in "\\PC*") {
            prop_assert!(LogCursor::decode("s", &token).is_err());
            prop_assert!(decode_key("s", &token, FlagKey::parse).is_err());
        }
    }

    #[test]
    fn a_key_survives_its_token_and_only_in_its_scope() {
        let key = FlagKey::parse("checkout").unwrap();
        let token = encode_key("flags", key.as_str());
        assert_eq!(decode_key("flags", &token, FlagKey::parse), Ok(key));
        assert!(decode_key("other", &token, FlagKey::parse).is_err());
    }
}
