//! Time.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time, in microseconds since 1970-01-01T00:00:00Z: the resolution of both databases.
///
/// Stored with the sign bit inverted, which keeps the order and is never zero: an optional time takes 8 bytes, in each of a million flags.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(NonZeroU64);

impl Timestamp {
    /// 0001-01-01T00:00:00Z, the earliest that the wire format allows.
    pub const MIN: Self = Self::new(-62_135_596_800_000_000);
    /// 9999-12-30T21:59:59.999999Z, the latest that can be written in every time zone; the wire format's limit is 26
    /// hours later.
    pub const MAX: Self = Self::new(253_402_207_199_999_999);

    /// From microseconds since the Unix epoch, clamped to [`Timestamp::MIN`] and [`Timestamp::MAX`].
    pub fn from_micros(micros: i64) -> Self {
        Self::new(micros).clamp(Self::MIN, Self::MAX)
    }

    const fn new(micros: i64) -> Self {
        match NonZeroU64::new(micros.cast_unsigned() ^ SIGN_BIT) {
            Some(ordered) => Self(ordered),
            None => Self(NonZeroU64::MIN),
        }
    }

    /// Parses RFC 3339 text, as [`Display`](fmt::Display) writes it.
    pub fn parse(text: &str) -> Option<Self> {
        let time: jiff::Timestamp = text.parse().ok()?;
        Some(Self::from_micros(time.as_microsecond()))
    }

    /// Microseconds since the Unix epoch.
    pub fn micros(self) -> i64 {
        (self.0.get() ^ SIGN_BIT).cast_signed()
    }

    /// The time from here to `end`; zero if `end` has passed.
    pub fn until(self, end: Self) -> Duration {
        Duration::from_micros(u64::try_from(end.micros().saturating_sub(self.micros())).unwrap_or_default())
    }

    /// The next microsecond.
    pub fn next(self) -> Self {
        Self::from_micros(self.micros().saturating_add(1))
    }

    /// `duration` earlier.
    pub fn minus(self, duration: Duration) -> Self {
        Self::from_micros(self.micros().saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// `seconds` later.
    pub fn plus_seconds(self, seconds: i64) -> Self {
        Self::from_micros(self.micros().saturating_add(seconds.saturating_mul(1_000_000)))
    }
}

const SIGN_BIT: u64 = 1 << 63;

/// 1970-01-01T00:00:00Z.
impl Default for Timestamp {
    fn default() -> Self {
        Self::new(0)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timestamp").field(&self.micros()).finish()
    }
}

/// RFC 3339 in UTC, with as many fractional digits as needed.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.micros()) {
            Ok(time) => time.fmt(f),
            Err(_) => write!(f, "{} us", self.micros()),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not an RFC 3339 time"))
    }
}

/// A source of the present time, so that tests can control it.
pub trait Clock: Send + Sync {
    /// The present time.
    fn now(&self) -> Timestamp;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(jiff::Timestamp::now().as_microsecond())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_displays_as_rfc_3339() {
        assert_eq!(Timestamp::from_micros(1_700_000_000_000_001).to_string(), "2023-11-14T22:13:20.000001Z");
        assert_eq!(Timestamp::default().to_string(), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn timestamp_limits_have_a_text() {
        assert_eq!(Timestamp::MIN.to_string(), "0001-01-01T00:00:00Z");
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-30T21:59:59.999999Z");
        assert_eq!(Timestamp::from_micros(i64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::MAX.plus_seconds(1), Timestamp::MAX);
    }

    #[test]
    fn timestamps_before_and_after_1970_keep_order() {
        let micros = [i64::MIN, -62_135_596_800_000_000, -2, -1, 0, 1, 2, 253_402_207_199_999_999, i64::MAX];
        let times = micros.map(Timestamp::from_micros);
        assert!(times.is_sorted() && times[0] == Timestamp::MIN && times[4] == Timestamp::default());
        assert_eq!(times[1..8].iter().map(|time| time.micros()).collect::<Vec<_>>(), micros[1..8]);
        assert_eq!(format!("{:?}", times[3]), "Timestamp(-1)");
    }

    #[test]
    fn optional_timestamp_takes_8_bytes() {
        assert_eq!(size_of::<Option<Timestamp>>(), 8);
    }
}
