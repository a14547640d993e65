//! The database's clock, which all servers on it share.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use crate::domain::time::{Clock, SystemClock, Timestamp};

/// A difference of the machine's clock that is worth a line in the log, in microseconds.
const WORTH_LOGGING: i64 = 1_000_000;

/// The clock of the database: a monotonic clock of the machine, corrected by readings of `clock_timestamp()`. Until the first
/// reading it is the machine's clock. After that, setting the machine's clock has no effect.
pub(super) struct DatabaseClock {
    start: Instant,
    /// The database's time at `start`, in microseconds; [`UNKNOWN`] before the first reading.
    at_start: AtomicI64,
}

/// No time that a database can have.
const UNKNOWN: i64 = i64::MIN;

impl Default for DatabaseClock {
    fn default() -> Self {
        Self { start: Instant::now(), at_start: AtomicI64::new(UNKNOWN) }
    }
}

impl DatabaseClock {
    /// Corrects the clock by a reading that was asked for at `asked` and has just arrived. It was taken at some moment in between. A
    /// clock that fits any of these moments stays as it is, so a slow answer changes little.
    pub fn correct(&self, reading: Timestamp, asked: Instant) {
        self.correct_between(reading, self.micros(asked), self.micros(Instant::now()));
    }

    fn correct_between(&self, reading: Timestamp, asked: i64, arrived: i64) {
        let (earliest, latest) = (reading.micros().saturating_sub(arrived), reading.micros().saturating_sub(asked));
        let correct = |known| match known {
            UNKNOWN => Some(earliest.midpoint(latest)),
            known => Some(known.clamp(earliest, latest.max(earliest))),
        };
        if self.at_start.fetch_update(Ordering::Relaxed, Ordering::Relaxed, correct) == Ok(UNKNOWN) {
            let difference = SystemClock.now().micros().saturating_sub(reading.micros());
            if difference.saturating_abs() > WORTH_LOGGING + (arrived - asked) {
                let seconds = difference / 1_000_000;
                tracing::warn!(seconds, "this machine's clock differs from the database's; entries use the database's");
            }
        }
    }

    fn micros(&self, at: Instant) -> i64 {
        i64::try_from(at.saturating_duration_since(self.start).as_micros()).unwrap_or(i64::MAX)
    }
}

impl Clock for DatabaseClock {
    fn now(&self) -> Timestamp {
        match self.at_start.load(Ordering::Relaxed) {
            UNKNOWN => SystemClock.now(),
            at_start => Timestamp::from_micros(at_start.saturating_add(self.micros(Instant::now()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_start(clock: &DatabaseClock) -> i64 {
        clock.at_start.load(Ordering::Relaxed)
    }

    #[test]
    fn reading_corrects_only_what_it_contradicts() {
        let clock = DatabaseClock::default();
        // Far from the machine's clock. Each time in microseconds: the reading, when it was asked for, when it arrived.
        for (reading, asked, arrived, expected) in [
            (1_000_000, 0, 100, 999_950),
            // The reading took between 0 and 10 seconds: any of these moments fits.
            (5_000_000, 1_000, 10_001_000, 999_950),
            (11_000_000, 10_000_000, 10_000_020, 999_980),
            // The database's clock was set back, then forward.
            (1_000_000, 12_000_000, 12_000_010, -11_000_000),
            (90_000_000, 13_000_000, 13_000_010, 76_999_990),
        ] {
            clock.correct_between(Timestamp::from_micros(reading), asked, arrived);
            assert_eq!(at_start(&clock), expected, "reading {reading}");
        }
    }

    #[test]
    fn database_time_counts_after_first_reading() {
        let clock = DatabaseClock::default();
        let (machine, hour) = (SystemClock.now(), 3_600);
        assert!(clock.now() >= machine);
        clock.correct(machine.plus_seconds(hour), Instant::now());
        assert!(clock.now() > machine.plus_seconds(hour - 1));
        let before = clock.now();
        assert!(clock.now() >= before);
    }
}
