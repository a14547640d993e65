//! The framing that gRPC and Connect's streams share: a byte of flags, four of the length, and the message.

use prost::bytes::{BufMut, Bytes, BytesMut};

use crate::api::errors::{ApiError, Limit};

/// The length of the prefix.
pub(in crate::api) const PREFIX_BYTES: usize = 5;

/// The flag of a compressed message.
pub(super) const COMPRESSED: u8 = 1;

/// The flag of the last message of a Connect stream, which holds the status.
pub(super) const END_STREAM: u8 = 2;

/// A message and its flags.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::api) struct Envelope {
    pub flags: u8,
    pub message: Bytes,
}

/// A message with its prefix.
pub(in crate::api) fn framed(flags: u8, message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    put_framed(&mut bytes, flags, message);
    bytes.freeze()
}

/// Appends a message with its prefix.
pub(super) fn put_framed(bytes: &mut BytesMut, flags: u8, message: &[u8]) {
    bytes.put_u8(flags);
    // No message is longer: requests and answers are limited to less.
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put_slice(message);
}

/// Takes messages from the parts of a body. It keeps at most one message that has not arrived completely.
#[derive(Debug)]
pub(in crate::api) struct Deframer {
    max_bytes: usize,
    bytes: BytesMut,
}

impl Deframer {
    /// For messages of at most `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, bytes: BytesMut::new() }
    }

    /// Adds the next part of the body.
    pub fn add(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }

    /// The next message that has arrived completely.
    ///
    /// # Errors
    /// When its prefix says that it is too long.
    pub fn next(&mut self) -> Result<Option<Envelope>, ApiError> {
        let Some(&[flags, a, b, c, d]) = self.bytes.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.max_bytes {
            return Err(Limit::RequestSize.reached(self.max_bytes).into());
        }
        if self.bytes.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        let message = self.bytes.split_to(PREFIX_BYTES + length).freeze().slice(PREFIX_BYTES..);
        Ok(Some(Envelope { flags, message }))
    }

    /// Whether part of a message is missing.
    pub fn is_inside_message(&self) -> bool {
        !self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(deframer: &mut Deframer) -> Vec<Envelope> {
        std::iter::from_fn(|| deframer.next().unwrap()).collect()
    }

    #[test]
    fn message_that_is_too_long_is_refused_at_its_prefix() {
        let mut deframer = Deframer::new(3);
        deframer.add(&[0, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0]);
        assert_eq!(all(&mut deframer).len(), 1);
        assert!(deframer.is_inside_message());
        deframer.add(&[4]);
        assert_eq!(deframer.next(), Err(Limit::RequestSize.reached(3).into()));
    }

    proptest! {
        #[test]
        fn messages_are_the_same_however_they_are_split(
            messages in proptest::collection::vec((0u8..4, proptest::collection::vec(any::<u8>(), 0..20)), 0..6),
            size in 1usize..40,
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|(flags, message)| framed(*flags, message)).collect();
            let mut deframer = Deframer::new(20);
            let mut found = Vec::new();
            for part in stream.chunks(size) {
                deframer.add(part);
                found.extend(all(&mut deframer));
            }
            let expected: Vec<_> = messages.into_iter().map(|(flags, message)| Envelope { flags, message: message.into() }).collect();
            prop_assert_eq!(found, expected);
            prop_assert!(!deframer.is_inside_message());
        }

        #[test]
        fn any_bytes_are_split_or_refused(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..8)) {
            let mut deframer = Deframer::new(1 << 10);
            let total: usize = parts.iter().map(Vec::len).sum();
            let mut taken = 0;
            'all: for part in parts {
                deframer.add(&part);
                loop {
                    match deframer.next() {
                        Ok(Some(envelope)) => taken += PREFIX_BYTES + envelope.message.len(),
                        Ok(None) => break,
                        Err(_) => break 'all,
                    }
                }
            }
            prop_assert!(taken <= total);
        }
    }
}
