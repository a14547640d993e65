//! The keys in a document: which of them can be used, and for what.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;

use super::KeysError;
use crate::auth::signature;

/// The fewest bits of an RSA key. The most are 8,192: longer ones verify nothing.
const RSA_BITS: usize = 2_048;

/// The keys of an issuer at one time: none before they have been read, which is not the same as read and empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct KeySet(Option<Vec<Arc<Key>>>);

/// A public key.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::auth) struct Key {
    id: Option<String>,
    public: Public,
}

#[derive(Debug, PartialEq, Eq)]
enum Public {
    /// The modulus and the exponent, without leading zeros.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The point, uncompressed.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Why there is no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::auth) enum NoKey {
    /// The issuer's keys have never been read.
    Unread,
    /// None is called so; perhaps a newer set has one.
    Unknown,
    /// The key of that name has another algorithm.
    Algorithm,
    /// More than one would do.
    Ambiguous,
}

impl KeySet {
    /// Reads a JWKS document (RFC 7517). Keys that cannot be used are passed over: an issuer may have others for others.
    /// None may be left, which is how an issuer withdraws them all.
    ///
    /// # Errors
    /// When it is no such document.
    pub fn parse(document: &[u8]) -> Result<Self, KeysError> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document = serde_json::from_slice(document).map_err(|e| KeysError::Document(e.to_string()))?;
        let fields = document.keys.into_iter().filter_map(|key| serde_json::from_value::<Fields>(key).ok());
        Ok(Self(Some(fields.filter_map(Fields::key).map(Arc::new).collect())))
    }

    /// The key for a token with this in its header. A token without a key's name is for the only one that can be meant.
    pub(in crate::auth) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&Arc<Key>, NoKey> {
        let keys = self.0.as_ref().ok_or(NoKey::Unread)?;
        let mut named = keys.iter().filter(|key| id.is_none() || key.id.as_deref() == id).peekable();
        let known = named.peek().is_some();
        let mut fitting = named.filter(|key| key.algorithm() == algorithm);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(NoKey::Ambiguous),
            (None, _) if known && id.is_some() => Err(NoKey::Algorithm),
            (None, _) => Err(NoKey::Unknown),
        }
    }

    /// Whether this key is one of them, by the same name.
    pub(super) fn holds(&self, key: &Arc<Key>) -> bool {
        self.0.iter().flatten().any(|one| one == key)
    }

    /// Whether they come from a document.
    pub(super) fn is_read(&self) -> bool {
        self.0.is_some()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, Vec::len)
    }
}

impl Key {
    /// The one algorithm that it is used with.
    fn algorithm(&self) -> Algorithm {
        match self.public {
            Public::Rsa { .. } => Algorithm::RS256,
            Public::P256(_) => Algorithm::ES256,
            Public::Ed25519(_) => Algorithm::EdDSA,
        }
    }

    /// What a token says that this key has signed, with the algorithm of the key. Nothing that it says has been judged.
    pub(in crate::auth) fn claims(&self, token: &[u8]) -> jsonwebtoken::errors::Result<Value> {
        signature::install();
        let mut validation = Validation::new(self.algorithm());
        // The library's rules are looser than ours, and it reads a clock of its own.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let key = match &self.public {
            Public::Rsa { n, e } => DecodingKey::from_rsa_raw_components(n, e),
            Public::P256(point) => DecodingKey::from_ec_der(point),
            Public::Ed25519(point) => DecodingKey::from_ed_der(point),
        };
        jsonwebtoken::decode(token, &key, &validation).map(|token| token.claims)
    }
}

/// A key as the document has it.
#[derive(Deserialize)]
struct Fields {
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

impl Fields {
    /// The key, if it can be used.
    fn key(self) -> Option<Key> {
        let verifies = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|o| o == "verify"));
        let (public, algorithm) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => (rsa(&self.n?, &self.e?)?, "RS256"),
            ("EC", Some("P-256")) => {
                (Public::P256([&[4], &*coordinate(&self.x?)?, &*coordinate(&self.y?)?].concat()), "ES256")
            }
            ("OKP", Some("Ed25519")) => (Public::Ed25519(coordinate(&self.x?)?), "EdDSA"),
            _ => return None,
        };
        let fits = self.alg.as_deref().is_none_or(|alg| alg == algorithm);
        (verifies && fits).then_some(Key { id: self.kid, public })
    }
}

fn rsa(n: &str, e: &str) -> Option<Public> {
    let [n, e] = [number(n)?, number(e)?];
    let bits = (n.len() * 8).saturating_sub(n.first()?.leading_zeros() as usize);
    (bits >= RSA_BITS && !e.is_empty()).then_some(Public::Rsa { n, e })
}

/// A number without the leading zeros that some issuers write, and `ring` does not read.
fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Some(bytes[zeros..].to_vec())
}

fn coordinate(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == 32)
}
