//! Lengths of time in settings.

use std::time::Duration;

use jiff::SignedDuration;

/// The longest that a setting takes.
const LONGEST: Duration = Duration::from_secs(86_400);

/// A length of time that something takes: 250ms, 1s, 1m 30s.
///
/// # Errors
/// The rule, in words.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse(text, Duration::from_millis(10)).ok_or_else(|| "must be a time from 10ms to 24h, like 250ms".to_owned())
}

/// The same, or none at all: 0s.
///
/// # Errors
/// The rule, in words.
pub fn duration_or_none(text: &str) -> Result<Duration, String> {
    parse(text, Duration::ZERO).ok_or_else(|| "must be a time from 0s to 24h, like 5s".to_owned())
}

fn parse(text: &str, shortest: Duration) -> Option<Duration> {
    let length = Duration::try_from(text.parse::<SignedDuration>().ok()?).ok()?;
    (shortest..=LONGEST).contains(&length).then_some(length)
}
