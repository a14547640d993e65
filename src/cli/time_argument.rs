//! Parses the times in options such as `--from`: a timestamp, a date, or how long ago.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::config::duration::parse_span;

/// From the first to the last moment of a day. The log has times in microseconds.
const DAY: SignedDuration = SignedDuration::from_micros(86_399_999_999);

/// The moment that a date without a time stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum DayBoundary {
    Start,
    End,
}

/// RFC 3339, a date (UTC), or a time before `now`: 2h, 7d.
pub(in crate::cli) fn parse(
    text: &str,
    boundary: DayBoundary,
    now: Timestamp,
) -> Result<prost_types::Timestamp, String> {
    let time = text.parse::<Timestamp>().ok().or_else(|| date(text, boundary)).or_else(|| before(text, now));
    let time =
        time.ok_or("must be a time like 2026-01-31T12:00:00Z, a date like 2026-01-31 (UTC), or 2h for two hours ago")?;
    let micros = time.as_microsecond();
    let nanos = i32::try_from(micros.rem_euclid(1_000_000)).unwrap_or_default() * 1_000;
    Ok(prost_types::Timestamp { seconds: micros.div_euclid(1_000_000), nanos })
}

fn date(text: &str, boundary: DayBoundary) -> Option<Timestamp> {
    // The parser also accepts a date with a time but no zone, which is ambiguous.
    let date = text.parse::<Date>().ok().filter(|date| date.to_string() == text)?;
    let start = date.to_zoned(TimeZone::UTC).ok()?.timestamp();
    match boundary {
        DayBoundary::Start => Some(start),
        DayBoundary::End => start.checked_add(DAY).ok(),
    }
}

fn before(text: &str, now: Timestamp) -> Option<Timestamp> {
    let span = parse_span(text.trim_end_matches(" ago"))?;
    Some(now.to_zoned(TimeZone::UTC).checked_sub(span).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(text: &str, boundary: DayBoundary) -> String {
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        let time = parse(text, boundary, now).unwrap();
        Timestamp::new(time.seconds, time.nanos).unwrap().to_string()
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, from, to) in [
            ("2026-01-31T12:00:00.5+01:00", "2026-01-31T11:00:00.5Z", "2026-01-31T11:00:00.5Z"),
            ("2026-01-31", "2026-01-31T00:00:00Z", "2026-01-31T23:59:59.999999Z"),
            ("2h", "2026-03-01T10:00:00Z", "2026-03-01T10:00:00Z"),
            ("90m ago", "2026-03-01T10:30:00Z", "2026-03-01T10:30:00Z"),
            ("1d 12h", "2026-02-28T00:00:00Z", "2026-02-28T00:00:00Z"),
            ("1mo", "2026-02-01T12:00:00Z", "2026-02-01T12:00:00Z"),
        ] {
            assert_eq!(
                (normalized(text, DayBoundary::Start), normalized(text, DayBoundary::End)),
                (from.to_owned(), to.to_owned()),
                "{text}"
            );
        }
        let now = Timestamp::now();
        for bad in ["", "yesterday", "2", "-2h", "0s", "2026-02-30", "2026-01-31T12:00:00", "99999y"] {
            assert!(parse(bad, DayBoundary::Start, now).unwrap_err().starts_with("must be a time"), "{bad}");
        }
    }
}
