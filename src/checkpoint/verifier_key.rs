//! The public half of a key: verifies the checkpoints of one log.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use super::{CheckpointKeyError, ED25519_ALGORITHM, ORIGIN_PREFIX};

/// The id of a key: the first four bytes of a hash of its name and the key, shown as eight hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; 4]);

impl KeyId {
    /// The bytes.
    pub fn bytes(self) -> [u8; 4] {
        self.0
    }
}

impl From<[u8; 4]> for KeyId {
    fn from(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A public key for the checkpoints of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key: [u8; 32],
}

impl VerifierKey {
    pub(super) fn new(name: String, key: [u8; 32]) -> Self {
        Self { name, key }
    }

    /// Parses `name+key_id+base64`.
    ///
    /// # Errors
    /// When the text is not a verifier key.
    pub fn parse(text: &str) -> Result<Self, CheckpointKeyError> {
        let parse = || {
            let mut parts = text.splitn(3, '+');
            let (name, id, key) = (parts.next()?, parts.next()?, STANDARD.decode(parts.next()?).ok()?);
            let (algorithm, key) = key.split_first()?;
            let key = Self { name: name.to_owned(), key: key.try_into().ok()? };
            (*algorithm == ED25519_ALGORITHM && name.starts_with(ORIGIN_PREFIX) && key.id().to_string() == id)
                .then_some(key)
        };
        parse().ok_or(CheckpointKeyError::NotVerifier)
    }

    /// The name of the key, which is the origin of its log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of the key.
    pub fn id(&self) -> KeyId {
        let hash =
            Sha256::new().chain_update(&self.name).chain_update([b'\n', ED25519_ALGORITHM]).chain_update(self.key);
        let hash: [u8; 32] = hash.finalize().into();
        KeyId([hash[0], hash[1], hash[2], hash[3]])
    }

    /// Whether `signature` is this key's signature of `text`.
    pub(super) fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.key).verify(text, signature).is_ok()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}+{}", self.name, self.id(), STANDARD.encode([&[ED25519_ALGORITHM], &self.key[..]].concat()))
    }
}
