//! Limits the rate of log lines that any client can cause.

use std::time::Duration;

use tokio::time::Instant;

/// The minimum time between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Lets one line through per interval.
#[derive(Default)]
pub struct LogThrottle {
    last: Option<Instant>,
    suppressed: u64,
}

impl LogThrottle {
    /// Whether to log now; if so, how many lines were suppressed since the last one.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + LOG_INTERVAL) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttle_counts_suppressed_lines() {
        let (mut throttle, start) = (LogThrottle::default(), Instant::now());
        assert_eq!(throttle.admit(start), Some(0));
        assert_eq!((throttle.admit(start), throttle.admit(start + LOG_INTERVAL / 2)), (None, None));
        assert_eq!(throttle.admit(start + LOG_INTERVAL), Some(2));
        assert_eq!(throttle.admit(start + LOG_INTERVAL * 3), Some(0));
    }
}
