//! The keys: Ed25519, by `ring`. The private one signs and is the server's alone; the public one is for everybody who
//! wants to verify.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

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

/// Writes a new file that only its owner may read, all of it or none.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

/// As [`write`], but whole before it has its name: nobody reads half a key. `link` gives a file a second name; where the
/// file system knows no such thing, the file is written under its own name at once.
fn write_whole(path: &Path, text: &str, link: impl FnOnce(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}.part", Uuid::now_v7().simple()));
    let fresh = Path::new(&fresh);
    let linked = write(fresh, text).map(|()| link(fresh, path));
    let _ = fs::remove_file(fresh);
    match linked? {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => write(path, text),
        linked => linked,
    }
}

/// The permission bits of other users on a key that this user owns. A key of another owner is read by way of its group, as
/// Kubernetes mounts secrets (`root`, 0440), so its group may read it.
fn others(owner: u32) -> u32 {
    let is_ours = fs::metadata("/proc/self").map_or(true, |process| process.uid() == owner);
    if is_ours { 0o077 } else { 0o037 }
}

/// Has the names in a folder outlast a crash, as far as the file system can do that.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// The private half. It does not show itself in logs.
pub struct SigningKey {
    pkcs8: Vec<u8>,
    pair: Ed25519KeyPair,
    file: Option<PathBuf>,
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
        Ok(Self { pkcs8, pair, file: None })
    }

    /// Reads a key from a file. Logs a warning if other users may read the file.
    ///
    /// # Errors
    /// The file cannot be read, or holds no key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let mut file = File::open(path)?;
        let (metadata, mut pem) = (file.metadata()?, Vec::new());
        file.read_to_end(&mut pem)?;
        let key = Self::from_pem(&pem)?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & others(metadata.uid()) != 0 {
            tracing::warn!(
                file = %path.display(),
                mode = %format!("{mode:o}"),
                "others may read the key that checkpoints are signed with: take that from them (chmod 600), and replace \
                 the key if somebody may have read it"
            );
        }
        Ok(Self { file: Some(path.to_owned()), ..key })
    }

    /// Reads one from a file, or makes one there that only its owner may read, which the log is told. Whoever else makes
    /// one at the same time ends up with the same.
    ///
    /// # Errors
    /// That there is none. What is there and is no key, as when a start was cut off while it was written where the file
    /// system knows no hard links, is left as it is.
    pub fn read_or_make(path: &Path) -> Result<Self, KeyError> {
        match Self::read(path) {
            Err(KeyError::Io(error)) if error.kind() == ErrorKind::NotFound => {}
            read => return read,
        }
        match write_whole(path, &Self::generate()?.to_pem(), |from, to| fs::hard_link(from, to)) {
            Ok(()) => tracing::info!(file = %path.display(), "made a new key to sign checkpoints of the log with"),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        sync_folder(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        Self::read(path)
    }

    /// The file that it was read from; `None` where it was given itself.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
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

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// What file systems without hard links say, among others.
    const NO_LINKS: [ErrorKind; 4] =
        [ErrorKind::PermissionDenied, ErrorKind::Unsupported, ErrorKind::TooManyLinks, ErrorKind::Other];

    fn left_in(folder: &TempDir) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn where_there_are_no_hard_links_the_key_is_written_all_the_same() {
        for kind in NO_LINKS {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("key");
            let key = SigningKey::generate().unwrap().to_pem();
            write_whole(&path, &key, |_, _| Err(kind.into())).unwrap();
            assert_eq!(SigningKey::read(&path).unwrap().to_pem(), key);
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            // Whoever comes second takes what is there.
            let again = write_whole(&path, "another", |_, _| Err(kind.into()));
            assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
            assert_eq!((fs::read_to_string(&path).unwrap(), left_in(&folder)), (key, vec!["key".to_owned()]));
        }
    }

    #[test]
    fn half_a_key_is_none_and_is_left_as_it_is() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("key");
        let key = SigningKey::generate().unwrap().to_pem();
        for length in [0, 1, 30, key.len() - 20] {
            fs::write(&path, &key[..length]).unwrap();
            assert_eq!(SigningKey::read_or_make(&path).unwrap_err(), KeyError::NotPrivate);
            assert_eq!(fs::read_to_string(&path).unwrap(), key[..length]);
        }
        assert_eq!(left_in(&folder), ["key"]);
    }

    #[test]
    fn group_may_read_a_key_of_another_owner() {
        let own = fs::metadata("/proc/self").unwrap().uid();
        assert_eq!(0o440 & others(own), 0o040);
        assert_eq!(0o440 & others(own + 1), 0);
        assert_eq!(0o460 & others(own + 1), 0o020);
        assert_eq!(0o444 & others(own + 1), 0o004);
    }

    #[test]
    fn a_key_knows_its_file() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("key");
        let made = SigningKey::read_or_make(&path).unwrap();
        assert_eq!((made.file(), left_in(&folder)), (Some(&*path), vec!["key".to_owned()]));
        assert_eq!(SigningKey::from_pem(made.to_pem().as_bytes()).unwrap().file(), None);
    }
}
