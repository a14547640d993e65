//! The keys: Ed25519, by `ring`. The private one signs and is the server's alone; the public one is for everybody who
//! wants to verify.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Checkpoint, Note, Signature, origin};

/// What tells a signed note that a key is of Ed25519.
const ALGORITHM: u8 = 1;

/// What is before the 32 bytes of the secret in a PKCS #8 file (RFC 8410, section 7).
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is something else.
    #[error("it is no private Ed25519 key in PEM, as `openssl genpkey -algorithm ed25519` makes one")]
    NotPrivate,
    /// It is something else.
    #[error("it is no verifier key of a log of toggled's, name+key_id+base64")]
    NotVerifier,
    /// The operating system has no randomness to give.
    #[error("no randomness for a key: {0}")]
    Random(#[from] getrandom::Error),
    /// It cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl PartialEq for KeyError {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// Which key: the first bytes of a hash over its name and itself. Eight hexadecimal digits.
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
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The public half of a key, for one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key: [u8; 32],
}

impl VerifierKey {
    /// Reads one: `name+key_id+base64`.
    ///
    /// # Errors
    /// That it is none.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let parse = || {
            let mut parts = text.splitn(3, '+');
            let (name, id, key) = (parts.next()?, parts.next()?, STANDARD.decode(parts.next()?).ok()?);
            let (algorithm, key) = key.split_first()?;
            let key = Self { name: name.to_owned(), key: key.try_into().ok()? };
            (*algorithm == ALGORITHM && name.starts_with("toggled/") && key.id().to_string() == id).then_some(key)
        };
        parse().ok_or(KeyError::NotVerifier)
    }

    /// What it is called: the origin of its log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is told by in short.
    pub fn id(&self) -> KeyId {
        let hash = Sha256::new().chain_update(&self.name).chain_update([b'\n', ALGORITHM]).chain_update(self.key);
        let hash: [u8; 32] = hash.finalize().into();
        KeyId([hash[0], hash[1], hash[2], hash[3]])
    }

    pub(super) fn has_signed(&self, text: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.key).verify(text, signature).is_ok()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}+{}", self.name, self.id(), STANDARD.encode([&[ALGORITHM], &self.key[..]].concat()))
    }
}

/// Writes a new file that only its owner may read.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The private half. It does not show itself in logs.
pub struct SigningKey {
    pkcs8: Vec<u8>,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// A fresh one.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn generate() -> Result<Self, KeyError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Self::from_der([&PKCS8[..], &secret].concat())
    }

    /// Reads one: PKCS #8 in PEM.
    ///
    /// # Errors
    /// That it is none.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| KeyError::NotPrivate)?;
        Self::from_der(der.secret_pkcs8_der().to_vec())
    }

    fn from_der(pkcs8: Vec<u8>) -> Result<Self, KeyError> {
        // Not every tool writes the public half into the file; it is computed then.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).map_err(|_| KeyError::NotPrivate)?;
        Ok(Self { pkcs8, pair })
    }

    /// Reads one from a file.
    ///
    /// # Errors
    /// That there is none.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        Self::from_pem(&fs::read(path)?)
    }

    /// Reads one from a file, or makes one there that only its owner may read. Whoever else makes one at the same time
    /// ends up with the same.
    ///
    /// # Errors
    /// That there is none.
    pub fn read_or_make(path: &Path) -> Result<Self, KeyError> {
        match Self::read(path) {
            Err(KeyError::Io(error)) if error.kind() == ErrorKind::NotFound => {}
            read => return read,
        }
        // Whole before it has its name: nobody reads half a key.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}.part", Uuid::now_v7().simple()));
        let named = write(Path::new(&fresh), &Self::generate()?.to_pem()).and_then(|()| fs::hard_link(&fresh, path));
        let _ = fs::remove_file(&fresh);
        match named {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Self::read(path)
    }

    /// As a file holds it.
    pub fn to_pem(&self) -> String {
        // Such a key fits in one line.
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(&self.pkcs8))
    }

    /// The public half, for this log.
    pub fn verifier(&self, log_id: Uuid) -> VerifierKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.pair.public_key().as_ref());
        VerifierKey { name: origin(log_id), key }
    }

    /// Signs a checkpoint.
    pub fn sign(&self, checkpoint: Checkpoint) -> Note {
        let key = self.verifier(checkpoint.log_id);
        let bytes = self.pair.sign(checkpoint.to_string().as_bytes()).as_ref().to_vec();
        let signature = Signature { name: key.name().to_owned(), key_id: key.id(), bytes };
        Note { checkpoint, signatures: vec![signature] }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}
