//! The private half of a key: signs checkpoints with Ed25519, by `ring`.

use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use uuid::Uuid;

use super::{Checkpoint, CheckpointKeyError, Note, VerifierKey, key_file, origin};

/// The bytes before the 32 bytes of the secret in a PKCS #8 file (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// The permission bits that a key's file must not have: all of group and others. If its owner is not the user of this process, the
/// group may read it, since Kubernetes mounts secrets that way (`root`, 0440).
fn forbidden_bits(owner: u32) -> u32 {
    let is_own = fs::metadata("/proc/self").map_or(true, |process| process.uid() == owner);
    if is_own { 0o077 } else { 0o037 }
}

/// A private key. Its debug output hides the key.
pub struct SigningKey {
    pkcs8: Vec<u8>,
    pair: Ed25519KeyPair,
    file: Option<PathBuf>,
}

impl SigningKey {
    /// Generates a key.
    ///
    /// # Errors
    /// When the operating system provides no randomness.
    pub fn generate() -> Result<Self, CheckpointKeyError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Self::from_der([&PKCS8_PREFIX[..], &secret].concat())
    }

    /// Parses a key: PKCS #8 in PEM.
    ///
    /// # Errors
    /// When the text is not a private Ed25519 key.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CheckpointKeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| CheckpointKeyError::NotPrivate)?;
        Self::from_der(der.secret_pkcs8_der().to_vec())
    }

    fn from_der(pkcs8: Vec<u8>) -> Result<Self, CheckpointKeyError> {
        // "Maybe unchecked": some tools leave the public half out of the file, and then `ring` computes it.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).map_err(|_| CheckpointKeyError::NotPrivate)?;
        Ok(Self { pkcs8, pair, file: None })
    }

    /// Reads a key from a file, and logs a warning if other users have access to the file.
    ///
    /// # Errors
    /// When the file cannot be read or contains no key.
    pub fn read(path: &Path) -> Result<Self, CheckpointKeyError> {
        let mut file = File::open(path)?;
        let (metadata, mut pem) = (file.metadata()?, Vec::new());
        file.read_to_end(&mut pem)?;
        let key = Self::from_pem(&pem)?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & forbidden_bits(metadata.uid()) != 0 {
            tracing::warn!(
                file = %path.display(),
                mode = %format!("{mode:o}"),
                "other users have access to the checkpoint key; restrict the file to its owner (0600), and replace the key if it may have leaked"
            );
        }
        Ok(Self { file: Some(path.to_owned()), ..key })
    }

    /// Reads a key from a file, or creates the file with a new key that only its owner may read. Concurrent calls end up
    /// with the same key.
    ///
    /// # Errors
    /// When the file cannot be read or written, or contains no key. An existing file is never overwritten, not even an
    /// incomplete one, which an interrupted start can leave on a file system without hard links: delete it, and start again.
    pub fn read_or_create(path: &Path) -> Result<Self, CheckpointKeyError> {
        match Self::read(path) {
            Err(CheckpointKeyError::Io(error)) if error.kind() == ErrorKind::NotFound => {}
            read => return read,
        }
        match key_file::create(path, &Self::generate()?.to_pem()) {
            Ok(()) => tracing::info!(file = %path.display(), "checkpoint key created"),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        key_file::sync_directory_of(path)?;
        Self::read(path)
    }

    /// The file that the key was read from; `None` for a key that was generated or parsed.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The key as PKCS #8 in PEM.
    pub fn to_pem(&self) -> String {
        // The base64 of an Ed25519 key fits in one line.
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(&self.pkcs8))
    }

    /// The verifier key for this log.
    pub fn verifier(&self, log_id: Uuid) -> VerifierKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.pair.public_key().as_ref());
        VerifierKey::new(origin(log_id), key)
    }

    /// Signs a checkpoint.
    pub fn sign(&self, checkpoint: Checkpoint) -> Note {
        let signature = self.pair.sign(checkpoint.to_string().as_bytes());
        Note::new(checkpoint, &self.verifier(checkpoint.log_id), signature.as_ref())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{LOG, PEM};
    use super::*;
    use tempfile::TempDir;

    fn file_names(folder: &TempDir) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn group_may_read_a_key_of_another_owner() {
        let own = fs::metadata("/proc/self").unwrap().uid();
        assert_eq!(0o440 & forbidden_bits(own), 0o040);
        assert_eq!(0o440 & forbidden_bits(own + 1), 0);
        assert_eq!(0o460 & forbidden_bits(own + 1), 0o020);
        assert_eq!(0o444 & forbidden_bits(own + 1), 0o004);
    }

    #[test]
    fn incomplete_key_is_rejected_and_kept() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("key");
        let key = SigningKey::generate().unwrap().to_pem();
        for length in [0, 1, 30, key.len() - 20] {
            fs::write(&path, &key[..length]).unwrap();
            assert!(matches!(SigningKey::read_or_create(&path), Err(CheckpointKeyError::NotPrivate)));
            assert_eq!(fs::read_to_string(&path).unwrap(), key[..length]);
        }
        assert_eq!(file_names(&folder), ["key"]);
    }

    #[test]
    fn key_knows_the_file_it_was_read_from() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("key");
        let created = SigningKey::read_or_create(&path).unwrap();
        assert_eq!((created.file(), file_names(&folder)), (Some(&*path), vec!["key".to_owned()]));
        assert_eq!(SigningKey::from_pem(created.to_pem().as_bytes()).unwrap().file(), None);
    }

    #[test]
    fn concurrent_creations_yield_the_same_key() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a.key");
        let create = || SigningKey::read_or_create(&path).unwrap().to_pem();
        let keys: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(create)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left behind");
    }

    #[test]
    fn written_keys_parse() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pem(key.to_pem().as_bytes()).unwrap();
        assert_eq!(again.verifier(LOG), key.verifier(LOG));
        let text = key.verifier(LOG).to_string();
        assert_eq!(VerifierKey::parse(&text).unwrap(), key.verifier(LOG));
        assert!(SigningKey::from_pem(b"hello").is_err());
        for broken in ["", "hello", &text[1..], &text[..text.len() - 4], &text.replace('+', " ")] {
            assert!(VerifierKey::parse(broken).is_err(), "{broken}");
        }
        // The public half of the key, from RFC 8032.
        let known = SigningKey::from_pem(PEM.as_bytes()).unwrap().verifier(LOG).to_string();
        assert!(known.ends_with("+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea"), "{known}");
        assert!(!format!("{key:?}").contains(key.to_pem().lines().nth(1).unwrap()));
    }
}
