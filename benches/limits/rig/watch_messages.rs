//! Reads the messages of a watch as they arrive, without keeping or decoding the flags in them: with thousands of watchers, a client
//! that decodes would be what is measured.

use toggled::domain::Revision;

/// Field numbers of `WatchFeatureFlagsResponse`.
const FLAGS: u64 = 1;
const REVISION: u64 = 2;
const CAUGHT_UP: u64 = 3;

/// Protobuf's wire types.
const VARINT: u64 = 0;
const LENGTH_DELIMITED: u64 = 2;

/// What a message says besides its flags.
#[derive(Debug, Clone, Copy, Default)]
pub struct WatchMessage {
    pub flags: usize,
    pub revision: Revision,
    pub is_caught_up: bool,
}

/// The messages of one watch, whose bytes arrive in parts of any length.
#[derive(Default)]
pub struct WatchMessages {
    next: Next,
    message: WatchMessage,
    /// Bytes of the message that have not arrived.
    missing: usize,
}

/// What the next byte belongs to.
enum Next {
    /// gRPC's prefix: a byte for no compression, then the length. Some bytes of it have arrived.
    Prefix {
        arrived: usize,
        length: u32,
    },
    Tag(Varint),
    Value(u64, Varint),
    /// The length of a field's content.
    Length(u64, Varint),
    /// Bytes to pass over.
    Content(usize),
}

impl Default for Next {
    fn default() -> Self {
        Self::Prefix { arrived: 0, length: 0 }
    }
}

#[derive(Clone, Copy, Default)]
struct Varint {
    value: u64,
    shift: u32,
}

impl Varint {
    /// The value once its last byte has arrived.
    fn add(&mut self, byte: u8) -> Option<u64> {
        self.value |= u64::from(byte & 0x7f).checked_shl(self.shift).unwrap_or_default();
        self.shift += 7;
        (byte < 0x80).then_some(self.value)
    }
}

impl WatchMessages {
    /// Takes bytes, and calls `on_message` for each message that they complete. Fails if they are no messages of a watch.
    pub fn add(&mut self, mut bytes: &[u8], mut on_message: impl FnMut(WatchMessage)) -> Result<(), &'static str> {
        while let Some((&byte, rest)) = bytes.split_first() {
            match &mut self.next {
                Next::Content(left) => {
                    let passed = (*left).min(bytes.len());
                    *left -= passed;
                    let is_over = *left == 0;
                    bytes = &bytes[passed..];
                    self.arrived(passed)?;
                    if is_over {
                        self.next = Next::Tag(Varint::default());
                    }
                }
                Next::Prefix { arrived, length } => {
                    bytes = rest;
                    *length = if *arrived == 0 { 0 } else { *length << 8 | u32::from(byte) };
                    *arrived += 1;
                    if *arrived < super::requests::GRPC_PREFIX {
                        continue;
                    }
                    self.missing = *length as usize;
                    self.message = WatchMessage::default();
                    self.next = Next::Tag(Varint::default());
                }
                _ => {
                    bytes = rest;
                    self.arrived(1)?;
                    self.add_byte(byte)?;
                }
            }
            if self.missing == 0 && matches!(self.next, Next::Tag(_)) {
                on_message(self.message);
                self.next = Next::default();
            }
        }
        Ok(())
    }

    fn arrived(&mut self, bytes: usize) -> Result<(), &'static str> {
        self.missing =
            self.missing.checked_sub(bytes).ok_or("a field of a watch's message is longer than the message")?;
        Ok(())
    }

    fn add_byte(&mut self, byte: u8) -> Result<(), &'static str> {
        match &mut self.next {
            Next::Tag(tag) => {
                let Some(tag) = tag.add(byte) else { return Ok(()) };
                self.next = match tag & 7 {
                    VARINT => Next::Value(tag >> 3, Varint::default()),
                    LENGTH_DELIMITED => Next::Length(tag >> 3, Varint::default()),
                    _ => return Err("a message of a watch has a field of an unknown type"),
                };
            }
            Next::Value(field, value) => {
                let Some(value) = value.add(byte) else { return Ok(()) };
                match *field {
                    REVISION => self.message.revision = value.cast_signed(),
                    CAUGHT_UP => self.message.is_caught_up = value != 0,
                    _ => {}
                }
                self.next = Next::Tag(Varint::default());
            }
            Next::Length(field, length) => {
                let Some(length) = length.add(byte) else { return Ok(()) };
                self.message.flags += usize::from(*field == FLAGS);
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                self.next = if length == 0 { Next::Tag(Varint::default()) } else { Next::Content(length) };
            }
            Next::Prefix { .. } | Next::Content(_) => {}
        }
        Ok(())
    }
}
