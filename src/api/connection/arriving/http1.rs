//! The head of an HTTP/1.1 request, as it arrives.

/// Where the bytes of an HTTP/1.1 connection belong.
#[derive(Debug)]
pub(in crate::api) enum Http1 {
    /// To a head, of which these many have arrived.
    Head { kept: usize, line: Line },
    /// To a head that has arrived, of which the transport was not seen to take notice; `after` of them came after it.
    Arrived { kept: usize, after: usize },
    /// To a body, of which these many are missing.
    Body { missing: u64 },
    /// To the last request, whose end is not known here: its body has no length, or more was sent with it. The connection is closed after
    /// its answer, so that nothing unfinished stays uncounted.
    Last,
}

/// The position in a line of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum Line {
    /// Before the first line. Empty ones are skipped here.
    First,
    /// At the beginning of another line. An empty one ends the head.
    Start,
    Inside,
}

impl Default for Http1 {
    fn default() -> Self {
        Self::Head { kept: 0, line: Line::First }
    }
}

impl Http1 {
    /// Returns whether a head or a body became complete.
    pub fn add(&mut self, bytes: &[u8]) -> bool {
        match self {
            Self::Head { kept, line } => {
                let end = bytes.iter().position(|byte| line.ends_head(*byte));
                *kept += bytes.len();
                if let Some(end) = end {
                    *self = Self::Arrived { kept: *kept, after: bytes.len() - end - 1 };
                }
                end.is_some()
            }
            Self::Arrived { kept, after } => {
                (*kept, *after) = (*kept + bytes.len(), *after + bytes.len());
                false
            }
            Self::Body { missing } => {
                let of_body = usize::try_from(*missing).map_or(bytes.len(), |missing| missing.min(bytes.len()));
                *missing -= of_body as u64;
                if *missing > 0 {
                    return false;
                }
                *self = Self::default();
                self.add(&bytes[of_body..]);
                true
            }
            Self::Last => false,
        }
    }

    /// The transport has taken a head. Returns whether it must close the connection after the answer.
    pub fn begin_request(&mut self, body: Option<u64>) -> bool {
        *self = match (&*self, body) {
            (Self::Arrived { after, .. }, Some(body)) => match body.checked_sub(*after as u64) {
                Some(0) => Self::default(),
                Some(missing) => Self::Body { missing },
                None => Self::Last,
            },
            _ => Self::Last,
        };
        matches!(self, Self::Last)
    }

    /// Whether part of a body is missing.
    pub fn is_inside_body(&self) -> bool {
        matches!(self, Self::Body { .. })
    }

    /// Whether everything that has arrived belongs to requests that the transport has taken, and nothing of them is missing.
    pub fn is_between_requests(&self) -> bool {
        matches!(self, Self::Head { kept: 0, .. })
    }

    pub fn kept(&self) -> usize {
        match self {
            Self::Head { kept, .. } | Self::Arrived { kept, .. } => *kept,
            Self::Body { .. } | Self::Last => 0,
        }
    }
}

impl Line {
    fn ends_head(&mut self, byte: u8) -> bool {
        let is_end = matches!((*self, byte), (Self::Start, b'\n'));
        *self = match (*self, byte) {
            (Self::First, b'\r' | b'\n') => Self::First,
            (Self::Start, b'\r') | (_, b'\n') => Self::Start,
            _ => Self::Inside,
        };
        is_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"\r\nPOST /a HTTP/1.1\r\nhost: b\r\n\r\n";

    #[test]
    fn head_is_kept_until_its_request_begins() {
        for size in 1..=HEAD.len() {
            let mut http1 = Http1::default();
            for (number, part) in HEAD.chunks(size).enumerate() {
                assert_eq!(http1.kept(), number * size);
                http1.add(part);
            }
            assert!(!http1.begin_request(Some(0)));
            assert_eq!(http1.kept(), 0, "{size}");
            http1.add(b"GET");
            assert_eq!(http1.kept(), 3, "{size}");
        }
    }

    #[test]
    fn body_is_not_kept_but_the_next_head_is() {
        let mut http1 = Http1::default();
        assert!(http1.add(&[HEAD, b"abc"].concat()));
        assert!(!http1.begin_request(Some(5)));
        assert_eq!(http1.kept(), 0);
        assert!(!http1.is_between_requests());
        assert!(http1.add(b"deGET"));
        assert_eq!(http1.kept(), 3);
        assert!(!http1.add(b" / HTTP/1.1\r\n") && http1.add(b"\n"));
    }

    #[test]
    fn request_of_unknown_end_is_the_last() {
        for body in [Some(1), None] {
            let mut http1 = Http1::default();
            http1.add(&[HEAD, b"abc"].concat());
            assert!(http1.begin_request(body));
            assert!(!http1.add(HEAD) && http1.kept() == 0);
            assert!(http1.begin_request(Some(0)), "also if the transport begins another");
        }
    }
}
