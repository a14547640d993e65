//! Secrets of tokens: high in entropy, and recognisable when they turn up where they should not.
//!
//! `toggled_`, 43 random letters and digits (256 bits), and 6 of checksum: a scanner that knows the shape finds a leaked
//! secret and, by the checksum, does not cry wolf. An operator's own bootstrap token may look otherwise; what
//! authenticates is the hash alone.

use std::fmt;

/// What every secret of ours begins with.
pub const PREFIX: &str = "toggled_";

const RANDOM_DIGITS: usize = 43;
const CHECKSUM_DIGITS: usize = 6;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A secret, on its way to the one who will keep it. It does not show itself in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A fresh one.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut random = [0; 32];
        getrandom::fill(&mut random)?;
        let mut text = PREFIX.to_owned();
        text.push_str(&base62(&random, RANDOM_DIGITS));
        text.push_str(&checksum(&text));
        Ok(Self(text))
    }

    /// An operator's own: any text of 32 characters or more that a header can carry.
    ///
    /// # Errors
    /// The rule that it breaks, for a person. The text itself is not in it.
    pub fn own(text: String) -> Result<Self, &'static str> {
        if text.chars().count() < 32 {
            Err("must be 32 characters or more")
        } else if text.trim() != text || text.chars().any(char::is_control) {
            Err("must not begin or end with a space or contain control characters")
        } else {
            Ok(Self(text))
        }
    }

    /// The secret itself: to be shown to its owner, once.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// CRC-32 (IEEE) of everything before it.
fn checksum(text: &str) -> String {
    base62(&crc32fast::hash(text.as_bytes()).to_be_bytes(), CHECKSUM_DIGITS)
}

/// A big-endian number in so many digits of base 62.
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
    fn a_secret_has_its_prefix_its_length_and_its_checksum() {
        let secret = Secret::generate().unwrap();
        let text = secret.reveal();
        assert_eq!(text.len(), PREFIX.len() + RANDOM_DIGITS + CHECKSUM_DIGITS);
        assert!(text.starts_with(PREFIX) && text[PREFIX.len()..].bytes().all(|b| b.is_ascii_alphanumeric()));
        let (body, sum) = text.split_at(text.len() - CHECKSUM_DIGITS);
        assert_eq!(checksum(body), sum);
        assert_ne!(secret, Secret::generate().unwrap());
    }

    #[test]
    fn base_62_counts_as_numbers_do() {
        assert_eq!(base62(&[0, 0, 0, 61], 2), "0z");
        assert_eq!(base62(&[0, 0, 0, 62], 2), "10");
        assert_eq!(base62(&u32::MAX.to_be_bytes(), 6), "4gfFC3");
        // 256 bits fit in 43 digits.
        assert_ne!(&base62(&[0xff; 32], RANDOM_DIGITS)[..1], "0");
    }

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        let secret = Secret::own("x".repeat(32)).unwrap();
        assert!(!format!("{secret:?}").contains("xxx"));
    }

    #[test]
    fn an_operators_own_secret_has_32_characters_or_more() {
        assert!(Secret::own("a".repeat(31)).is_err());
        assert!(Secret::own("ä".repeat(32)).is_ok());
        assert!(Secret::own(format!("{}\n", "a".repeat(40))).is_err());
    }
}
