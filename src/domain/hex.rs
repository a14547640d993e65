//! Hashes as hexadecimal text.

use super::Hash;

/// A hash as 64 lower-case hexadecimal digits.
pub fn hex_digits(hash: &Hash) -> String {
    hex::encode(hash)
}

/// The inverse of [`hex_digits`]; takes digits of either case.
pub fn parse_hex(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(hash)
}
