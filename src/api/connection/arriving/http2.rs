//! HTTP/2 frames and header blocks, as they arrive.

const HEADER_LENGTH: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// HEADERS, PUSH_PROMISE and CONTINUATION. `h2` refuses a client's PUSH_PROMISE only once its header block has ended.
const OF_HEADER_BLOCK: [u8; 3] = [1, 5, 9];

/// The flag of the last frame of a header block.
const END_HEADERS: u8 = 4;

/// `h2` decodes each frame of a header block at once. A short header takes 4 bytes in a frame and 200 decoded.
const DECODED_PER_BYTE: usize = 50;

/// The most that it decodes of one: a thousand short headers, which reach the limit of headers.
const MOST_DECODED: usize = 200 << 10;

/// The frame that is arriving, and the header block to which it belongs.
#[derive(Debug, Default)]
pub(in crate::api) struct Http2 {
    /// The header of the frame.
    header: [u8; HEADER_LENGTH],
    /// How much of it has arrived.
    header_length: usize,
    /// How much of the frame is missing after its header.
    missing: usize,
    /// The bytes in earlier frames of a header block that has not ended.
    block: usize,
    /// The frames that were completed since they were forgotten.
    frames: Frames,
}

/// Frames that the transport keeps until a call takes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::api) struct Frames {
    /// Those that begin a header block: a call, or the trailers of its request.
    pub headers: usize,
    pub data: usize,
}

impl Http2 {
    /// Adds bytes that were read. Returns whether they completed a frame, and with it a header block, if it belongs to one.
    pub fn add(&mut self, mut bytes: &[u8]) -> bool {
        let mut is_complete = false;
        while !bytes.is_empty() {
            bytes = if self.header_length < HEADER_LENGTH { self.add_header(bytes) } else { self.add_payload(bytes) };
            if self.header_length == HEADER_LENGTH && self.missing == 0 {
                is_complete |= self.end_frame();
            }
        }
        is_complete
    }

    /// Returns what follows the header.
    fn add_header<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let rest = match bytes.split_first_chunk() {
            // Nearly every header arrives at once, and copies of a fixed length are faster.
            Some((header, rest)) if self.header_length == 0 => {
                (self.header, self.header_length) = (*header, HEADER_LENGTH);
                rest
            }
            _ => {
                let missing = &mut self.header[self.header_length..];
                let (taken, rest) = bytes.split_at(missing.len().min(bytes.len()));
                missing[..taken.len()].copy_from_slice(taken);
                self.header_length += taken.len();
                rest
            }
        };
        if self.header_length == HEADER_LENGTH {
            self.missing = self.length();
        }
        rest
    }

    /// Returns what follows the payload.
    fn add_payload<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(self.missing.min(bytes.len()));
        self.missing -= taken.len();
        rest
    }

    fn length(&self) -> usize {
        let [high, middle, low, ..] = self.header;
        u32::from_be_bytes([0, high, middle, low]) as usize
    }

    fn end_frame(&mut self) -> bool {
        let [.., kind, flags, _, _, _, _] = self.header;
        let continues = OF_HEADER_BLOCK.contains(&kind) && flags & END_HEADERS == 0;
        self.block = if continues { self.block.saturating_add(self.length()) } else { 0 };
        self.header_length = 0;
        match kind {
            DATA => self.frames.data += 1,
            HEADERS => self.frames.headers += 1,
            _ => {}
        }
        !continues
    }

    pub fn frames(&self) -> Frames {
        self.frames
    }

    /// The calls have taken those with headers, and those with data too, unless `has_unread`.
    pub fn forget_frames(&mut self, has_unread: bool) {
        self.frames = Frames { headers: 0, data: if has_unread { self.frames.data } else { 0 } };
    }

    pub fn kept(&self) -> usize {
        let payload = if self.header_length == HEADER_LENGTH { self.length() - self.missing } else { 0 };
        let decoded = self.block.saturating_mul(DECODED_PER_BYTE).min(MOST_DECODED);
        self.block + decoded + self.header_length + payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u16) -> Vec<u8> {
        let [high, low] = length.to_be_bytes();
        [&[0, high, low, kind, flags, 0, 0, 0, 1][..], &vec![7; length.into()]].concat()
    }

    #[test]
    fn header_block_is_kept_until_its_last_frame() {
        for first in [1, 5] {
            let frames = [frame(0, 0, 300), frame(first, 0, 40), frame(9, 0, 0), frame(9, 0, 500)];
            let (bytes, decoded) = (frames.concat(), 540 * DECODED_PER_BYTE);
            for size in [1, 7, 9, 100, bytes.len()] {
                let mut http2 = Http2::default();
                for part in bytes.chunks(size) {
                    http2.add(part);
                }
                assert_eq!(http2.kept(), 540 + decoded, "{size}");
                assert!(!http2.add(&frame(9, END_HEADERS, 100)[..50]));
                assert_eq!(http2.kept(), 590 + decoded, "{size}");
                assert!(http2.add(&[7; 59]));
                assert_eq!(http2.kept(), 0, "{size}");
            }
        }
        let mut http2 = Http2::default();
        assert!(!http2.add(&frame(9, 0, 16_000).repeat(10)));
        assert_eq!(http2.kept(), 160_000 + MOST_DECODED);
    }

    #[test]
    fn frame_is_kept_until_it_ends() {
        let mut http2 = Http2::default();
        assert!(!http2.add(&frame(0, 0, 300)[..200]));
        assert_eq!(http2.kept(), 200);
        assert!(http2.add(&[&[7; 109][..], &[0, 0]].concat()));
        assert_eq!(http2.kept(), 2);
    }
}
