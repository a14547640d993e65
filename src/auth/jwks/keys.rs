//! Parses a JWKS document and finds the key for a token.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::JwksError;
use crate::auth::signature;

/// The minimum size of an RSA key. The maximum is 8,192 bits: `ring` verifies nothing with longer keys.
const MIN_RSA_BITS: usize = 2_048;

/// The issuer's keys at one point in time. `None` before the first read, which differs from an empty document.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct KeySet(Option<Vec<Arc<IssuerKey>>>);

/// Names one key of an issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFingerprint(Arc<str>);

impl KeyFingerprint {
    /// The fingerprint of a key with this id and these public bytes.
    pub(in crate::auth) fn of(id: &[u8], public: &[u8]) -> Self {
        // 128 bits of hashes: nobody finds two keys with the same.
        let hash = Sha256::new().chain_update(Sha256::digest(id)).chain_update(Sha256::digest(public)).finalize();
        Self(hex::encode(&hash[..16]).into())
    }
}

/// A public key of the issuer.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::auth) struct IssuerKey {
    id: Option<String>,
    public: PublicKey,
}

#[derive(Debug, PartialEq, Eq)]
enum PublicKey {
    /// The modulus and the exponent, without leading zeros.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The uncompressed point.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Why no key was found for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::auth) enum KeyLookupError {
    /// The issuer's keys have never been read.
    Unread,
    /// No key has this id. A newer key set may have one.
    Unknown,
    /// The key with this id has another algorithm.
    Algorithm,
    /// Several keys match.
    Ambiguous,
}

impl KeySet {
    /// Parses a JWKS document (RFC 7517). Unusable keys are skipped, since an issuer may publish keys for other uses. The
    /// result may be empty: that is how an issuer withdraws all its keys.
    ///
    /// # Errors
    /// When the document is not a JWKS document.
    pub fn parse(document: &[u8]) -> Result<Self, JwksError> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document = serde_json::from_slice(document).map_err(JwksError::Document)?;
        let fields = document.keys.into_iter().filter_map(|key| serde_json::from_value::<JwkFields>(key).ok());
        Ok(Self(Some(fields.filter_map(JwkFields::key).map(Arc::new).collect())))
    }

    /// The key for a token whose header has this key id and algorithm. A token without a key id matches only if exactly one
    /// key has its algorithm.
    pub(in crate::auth) fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<&Arc<IssuerKey>, KeyLookupError> {
        let keys = self.0.as_ref().ok_or(KeyLookupError::Unread)?;
        let mut with_id = keys.iter().filter(|key| id.is_none() || key.id.as_deref() == id).peekable();
        let known = with_id.peek().is_some();
        let mut matching = with_id.filter(|key| key.algorithm() == algorithm);
        match (matching.next(), matching.next()) {
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(KeyLookupError::Ambiguous),
            (None, _) if known && id.is_some() => Err(KeyLookupError::Algorithm),
            (None, _) => Err(KeyLookupError::Unknown),
        }
    }

    /// Whether the set contains this key under the same id.
    pub(super) fn contains(&self, key: &Arc<IssuerKey>) -> bool {
        self.0.iter().flatten().any(|other| other == key)
    }

    /// Whether the set contains a key with this fingerprint.
    pub(in crate::auth) fn has(&self, fingerprint: &KeyFingerprint) -> bool {
        self.0.iter().flatten().any(|key| key.fingerprint() == *fingerprint)
    }

    /// Whether the keys have been read from a document.
    pub(in crate::auth) fn is_read(&self) -> bool {
        self.0.is_some()
    }

    /// The number of keys.
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, Vec::len)
    }
}

impl IssuerKey {
    /// The one algorithm that the key is used with.
    fn algorithm(&self) -> Algorithm {
        match self.public {
            PublicKey::Rsa { .. } => Algorithm::RS256,
            PublicKey::P256(_) => Algorithm::ES256,
            PublicKey::Ed25519(_) => Algorithm::EdDSA,
        }
    }

    /// Names the key: its id and what is public of it.
    pub(in crate::auth) fn fingerprint(&self) -> KeyFingerprint {
        let (kind, public) = match &self.public {
            PublicKey::Rsa { n, e } => ("rsa", [&n.len().to_be_bytes()[..], n, e].concat()),
            PublicKey::P256(point) => ("p256", point.clone()),
            PublicKey::Ed25519(point) => ("ed25519", point.clone()),
        };
        let id = self.id.as_ref().map(|id| format!("{kind} {id}"));
        KeyFingerprint::of(id.as_deref().unwrap_or(kind).as_bytes(), &public)
    }

    /// Verifies a token's signature with this key and its algorithm, and returns the token's claims without checking them.
    pub(in crate::auth) fn verify(&self, token: &[u8]) -> jsonwebtoken::errors::Result<Value> {
        signature::install();
        let mut validation = Validation::new(self.algorithm());
        // `SignOnRules` checks the claims: the library's rules are looser, and it reads the system clock.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let key = match &self.public {
            PublicKey::Rsa { n, e } => DecodingKey::from_rsa_raw_components(n, e),
            PublicKey::P256(point) => DecodingKey::from_ec_der(point),
            PublicKey::Ed25519(point) => DecodingKey::from_ed_der(point),
        };
        jsonwebtoken::decode(token, &key, &validation).map(|token| token.claims)
    }
}

/// A key in the document.
#[derive(Deserialize)]
struct JwkFields {
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl JwkFields {
    /// The key, if it can be used to verify a token.
    fn key(self) -> Option<IssuerKey> {
        let verifies = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|o| o == "verify"));
        let (public, algorithm) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => (rsa(&self.n?, &self.e?)?, "RS256"),
            ("EC", Some("P-256")) => {
                (PublicKey::P256([&[4], &*coordinate(&self.x?)?, &*coordinate(&self.y?)?].concat()), "ES256")
            }
            ("OKP", Some("Ed25519")) => (PublicKey::Ed25519(coordinate(&self.x?)?), "EdDSA"),
            _ => return None,
        };
        let algorithm_matches = self.alg.as_deref().is_none_or(|alg| alg == algorithm);
        (verifies && algorithm_matches).then_some(IssuerKey { id: self.kid, public })
    }
}

fn rsa(n: &str, e: &str) -> Option<PublicKey> {
    let [n, e] = [number(n)?, number(e)?];
    let bits = (n.len() * 8).saturating_sub(n.first()?.leading_zeros() as usize);
    (bits >= MIN_RSA_BITS && !e.is_empty()).then_some(PublicKey::Rsa { n, e })
}

/// Decodes a number and removes leading zeros, which some issuers write and `ring` does not accept.
fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Some(bytes[zeros..].to_vec())
}

fn coordinate(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == 32)
}
