//! What has arrived on a connection of something that is not complete: the head of an HTTP/1.1 request, an HTTP/2 frame, or a header
//! block. The transport keeps these bytes before any layer sees the call, so they are counted where they are read.

mod http1;
mod http2;

use http1::Http1;
use http2::Http2;

pub(super) use http2::Frames;

/// What an HTTP/2 client sends first.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The incomplete part of what a connection has sent.
#[derive(Debug)]
pub(in crate::api) enum Arriving {
    /// The protocol is not known yet: these many bytes are those of HTTP/2's preface.
    Preface(usize),
    Http1(Http1),
    Http2(Http2),
}

impl Default for Arriving {
    fn default() -> Self {
        Self::Preface(0)
    }
}

impl Arriving {
    /// Adds bytes that were read. Returns whether they completed something.
    pub fn add(&mut self, bytes: &[u8]) -> bool {
        match self {
            Self::Preface(matched) => {
                let expected = PREFACE.iter().skip(*matched);
                let equal = bytes.iter().zip(expected).take_while(|(byte, expected)| byte == expected).count();
                let known = &PREFACE[..*matched];
                *matched += equal;
                let (_, rest) = bytes.split_at(equal);
                if *matched == PREFACE.len() {
                    *self = Self::Http2(Http2::default());
                    self.add(rest);
                    return true;
                }
                if rest.is_empty() {
                    return false;
                }
                let mut http1 = Http1::default();
                http1.add(known);
                let is_complete = http1.add(bytes);
                *self = Self::Http1(http1);
                is_complete
            }
            Self::Http1(http1) => http1.add(bytes),
            Self::Http2(http2) => http2.add(bytes),
        }
    }

    /// Whether the client speaks HTTP/2, as far as is known.
    pub fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// The transport has taken the head of an HTTP/1.1 request, which has a body of this length, if that is known: only the transport
    /// knows where requests end. Returns whether it must close the connection after the answer.
    pub fn begin_request(&mut self, body: Option<u64>) -> bool {
        match self {
            Self::Http1(http1) => http1.begin_request(body),
            Self::Preface(_) | Self::Http2(_) => false,
        }
    }

    /// The HTTP/2 frames that calls may not have taken; see [`Self::forget_frames`].
    pub fn frames(&self) -> Frames {
        match self {
            Self::Preface(_) | Self::Http1(_) => Frames::default(),
            Self::Http2(http2) => http2.frames(),
        }
    }

    /// The calls that have begun have taken their frames. Of calls that nobody reads, the data is still there.
    pub fn forget_frames(&mut self, has_unread: bool) {
        if let Self::Http2(http2) = self {
            http2.forget_frames(has_unread);
        }
    }

    /// Whether part of the body of an HTTP/1.1 request is missing.
    pub fn is_inside_body(&self) -> bool {
        matches!(self, Self::Http1(http1) if http1.is_inside_body())
    }

    /// Whether the client of an HTTP/1.1 connection may still send a part of its last request.
    pub fn is_unread_request(&self) -> bool {
        matches!(self, Self::Http1(http1) if !http1.is_between_requests())
    }

    /// How many bytes of it have arrived.
    pub fn kept(&self) -> usize {
        match self {
            Self::Preface(matched) => *matched,
            Self::Http1(http1) => http1.kept(),
            Self::Http2(http2) => http2.kept(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(parts: &[&[u8]]) -> Arriving {
        let mut arriving = Arriving::default();
        for part in parts {
            arriving.add(part);
        }
        arriving
    }

    #[test]
    fn protocol_is_told_by_the_preface_however_it_is_split() {
        for at in 0..PREFACE.len() {
            let (first, rest) = PREFACE.split_at(at);
            assert_eq!(after(&[first]).kept(), at);
            assert!(matches!(after(&[first, rest]), Arriving::Http2(_)));
            let http1 = after(&[first, b"x"]);
            let is_http1 = matches!(http1, Arriving::Http1(_));
            assert!(is_http1 && (at >= 18 || http1.kept() == at + 1), "{at}: {}", http1.kept());
        }
        let settings = [PREFACE, &b"\0\0\0\x04\0\0\0\0\0"[..], b"\0\0"].concat();
        assert_eq!(after(&[&settings]).kept(), 2);
        assert_eq!(after(&[b"POST / HTTP/1.1\r\n"]).kept(), 17);
    }
}
