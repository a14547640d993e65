//! Durations as people write them: `500ms`, `30s`, `1h 30m`, `7d`. The one parser of the program; the syntax is jiff's.

use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// The longest duration that a setting accepts.
const MAX: Duration = Duration::from_secs(86_400);

/// A span of the calendar, which may hold months and years: `1mo`, `2h`. Only positive spans.
pub fn parse_span(text: &str) -> Option<Span> {
    text.parse().ok().filter(|span: &Span| span.is_positive())
}

/// A duration within these limits. A day has 24 hours; months and years are refused.
///
/// # Errors
/// The rule: `must be a duration from ..., like ...`.
pub fn parse_within(text: &str, limits: RangeInclusive<Duration>, example: &str) -> Result<Duration, String> {
    parse(text).filter(|duration| limits.contains(duration)).ok_or_else(|| {
        let (min, max) = limits.into_inner();
        format!("must be a duration from {} to {}, like {example}", written(min), written(max))
    })
}

fn parse(text: &str) -> Option<Duration> {
    let span: Span = text.parse().ok()?;
    Duration::try_from(span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?).ok()
}

fn written(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_millis()) {
        (0, millis) if millis > 0 => format!("{millis}ms"),
        (seconds, _) if seconds >= 3_600 => format!("{}h", seconds / 3_600),
        (seconds, _) => format!("{seconds}s"),
    }
}

/// The value of a setting, from 10 ms to 24 h.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_within(text, Duration::from_millis(10)..=MAX, "250ms")
}

/// The value of a setting that may be `0s`.
pub(super) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    parse_within(text, Duration::ZERO..=MAX, "5s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_in_any_unit_is_parsed() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("1h 30m", 5_400_000),
            ("1m30s", 90_000),
            ("7d", 604_800_000),
            ("2w", 1_209_600_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "-1s", "soon", "1mo", "1y", "99999999999d"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn duration_outside_its_limits_is_refused() {
        assert_eq!(duration("10ms"), Ok(Duration::from_millis(10)));
        assert_eq!(duration("24h"), Ok(MAX));
        assert_eq!(duration_or_zero("0s"), Ok(Duration::ZERO));
        for bad in ["9ms", "25h", "0s"] {
            assert_eq!(duration(bad).unwrap_err(), "must be a duration from 10ms to 24h, like 250ms", "{bad}");
        }
        assert_eq!(duration_or_zero("2d").unwrap_err(), "must be a duration from 0s to 24h, like 5s");
    }

    #[test]
    fn span_may_hold_months_and_must_be_positive() {
        assert!(["1mo", "1y", "2h", "1d 12h"].into_iter().all(|text| parse_span(text).is_some()));
        assert!(["", "90", "-1d", "0s", "tomorrow"].into_iter().all(|text| parse_span(text).is_none()));
    }
}
