//! Secrets of API tokens.
//!
//! The form is `toggled_`, 43 random letters and digits (256 bits), and a checksum of 6. Secret scanners find a leaked token
//! by its form, and the checksum rules out false positives. A bootstrap token that the operator chooses may have another
//! form: only the hash authenticates.

use std::fmt;

/// The prefix of every generated secret.
pub const PREFIX: &str = "toggled_";

const RANDOM_DIGITS: usize = 43;
const CHECKSUM_DIGITS: usize = 6;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The secret of a token. Its debug output hides the value.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Generates a secret.
    ///
    /// # Errors
    /// When the operating system provides no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut random = [0; 32];
        getrandom::fill(&mut random)?;
        let mut text = PREFIX.to_owned();
        text.push_str(&base62(&random, RANDOM_DIGITS));
        text.push_str(&checksum(&text));
        Ok(Self(text))
    }

    /// Parses a secret that the operator chose: any text of 32 characters or more that a header can carry.
    ///
    /// # Errors
    /// The rule that the text breaks. The message does not contain the text.
    pub fn parse(text: String) -> Result<Self, &'static str> {
        if text.chars().count() < 32 {
            Err("must be 32 characters or more")
        } else if text.trim() != text || text.chars().any(char::is_control) {
            Err("must not begin or end with a space or contain control characters")
        } else {
            Ok(Self(text))
        }
    }

    /// The secret itself. Show it to its owner, once.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The CRC-32 (IEEE) of the text before the checksum.
fn checksum(text: &str) -> String {
    base62(&crc32fast::hash(text.as_bytes()).to_be_bytes(), CHECKSUM_DIGITS)
}

/// Encodes a big-endian number in base 62 with this many digits.
fn base62(bytes: &[u8], digits: usize) -> String {
    let mut number = bytes.to_vec();
    let mut text: Vec<char> = (0..digits)
        .map(|_| {
            let mut remainder = 0u32;
            for byte in &mut number {
                let value = remainder << 8 | u32::from(*byte);
                *byte = (value / 62) as u8;
                remainder = value % 62;
            }
            char::from(ALPHABET[remainder as usize])
        })
        .collect();
    text.reverse();
    text.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_secret_has_prefix_length_and_checksum() {
        let secret = Secret::generate().unwrap();
        let text = secret.reveal();
        assert_eq!(text.len(), PREFIX.len() + RANDOM_DIGITS + CHECKSUM_DIGITS);
        assert!(text.starts_with(PREFIX) && text[PREFIX.len()..].bytes().all(|b| b.is_ascii_alphanumeric()));
        let (body, sum) = text.split_at(text.len() - CHECKSUM_DIGITS);
        assert_eq!(checksum(body), sum);
        assert_ne!(secret, Secret::generate().unwrap());
    }

    #[test]
    fn base62_encodes_known_values() {
        assert_eq!(base62(&[0, 0, 0, 61], 2), "0z");
        assert_eq!(base62(&[0, 0, 0, 62], 2), "10");
        assert_eq!(base62(&u32::MAX.to_be_bytes(), 6), "4gfFC3");
        // 256 bits need all 43 digits, and no more.
        assert_ne!(&base62(&[0xff; 32], RANDOM_DIGITS)[..1], "0");
        assert_eq!(&base62(&[0xff; 32], RANDOM_DIGITS + 1)[..1], "0");
    }

    #[test]
    fn debug_output_hides_secret() {
        let secret = Secret::parse("x".repeat(32)).unwrap();
        assert!(!format!("{secret:?}").contains("xxx"));
    }

    #[test]
    fn chosen_secret_requires_32_characters() {
        assert!(Secret::parse("a".repeat(31)).is_err());
        assert!(Secret::parse("ä".repeat(32)).is_ok());
        assert!(Secret::parse(format!("{}\n", "a".repeat(40))).is_err());
    }
}
