//! An issuer's keys, which sign tokens.
#![allow(dead_code, reason = "the unit tests share this file, and each side uses a part")]

use std::process::Command;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    RsaPublicKeyComponents,
};
use serde_json::{Value, json};

/// A key pair and its key id.
#[derive(Clone)]
pub struct Key {
    pub id: String,
    pair: Pair,
}

#[derive(Clone)]
enum Pair {
    Rsa(Arc<RsaKeyPair>),
    P256(Arc<EcdsaKeyPair>),
    Ed25519(Arc<Ed25519KeyPair>),
}

impl Key {
    /// A new key for ES256.
    pub fn p256(id: &str) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        Self { id: id.to_owned(), pair: Pair::P256(Arc::new(pair)) }
    }

    /// A new key for EdDSA.
    pub fn ed25519(id: &str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { id: id.to_owned(), pair: Pair::Ed25519(Arc::new(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())) }
    }

    /// The process's only key for RS256.
    pub fn rsa(id: &str) -> Self {
        let pair = RsaKeyPair::from_pkcs8(rsa_key()).unwrap();
        Self { id: id.to_owned(), pair: Pair::Rsa(Arc::new(pair)) }
    }

    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::P256(_) => "ES256",
            Pair::Ed25519(_) => "EdDSA",
        }
    }

    /// The modulus of an RSA key, or the point of an elliptic curve key.
    pub fn public(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair) => RsaPublicKeyComponents::<Vec<u8>>::from(pair.public()).n,
            Pair::P256(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    /// The public key, as the issuer publishes it.
    pub fn jwk(&self) -> Value {
        let public = self.public();
        let mut jwk = match &self.pair {
            Pair::Rsa(_) => json!({"kty": "RSA", "n": base64url(&public), "e": "AQAB"}),
            Pair::P256(_) => {
                json!({"kty": "EC", "crv": "P-256", "x": base64url(&public[1..33]), "y": base64url(&public[33..])})
            }
            Pair::Ed25519(_) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(&public)}),
        };
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(self.algorithm());
        jwk
    }

    /// A signed token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"typ": "JWT", "alg": self.algorithm(), "kid": self.id}), claims)
    }

    /// A token with a given header. It is signed with this key, whatever algorithm the header names.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message =
            format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()));
        let signature = self.sign(message.as_bytes());
        format!("{message}.{}", base64url(&signature))
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::P256(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}

/// A 2048-bit RSA key in PKCS #8, generated once per process. `ring` cannot generate RSA keys, and `openssl` takes a while.
pub fn rsa_key() -> &'static [u8] {
    static PKCS8: OnceLock<Vec<u8>> = OnceLock::new();
    PKCS8.get_or_init(|| {
        let arguments = ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
        let made = Command::new("openssl").args(arguments).output();
        let made = made.expect("openssl is not installed (Debian: apt-get install openssl)");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // With DER output, OpenSSL 3.0 writes PKCS #1 instead.
        let pem = String::from_utf8(made.stdout).unwrap();
        STANDARD.decode(pem.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap()
    })
}

/// Encodes as base64url without padding, as all parts of a token are.
pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The key document (JWKS) of these keys.
pub fn jwks<'a>(keys: impl IntoIterator<Item = &'a Key>) -> Value {
    json!({"keys": keys.into_iter().map(Key::jwk).collect::<Vec<_>>()})
}
