//! The deadline of a call, from its `grpc-timeout` and the server's own limit.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use crate::api::errors::{ApiError, Limit, millis};
use crate::committer::ChangeStart;
use crate::domain::error::Error;

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A client stops waiting at its own deadline. To reach it before that with the reason, we answer earlier: by a tenth of the
/// timeout, but by no more than this.
const ANSWER_MARGIN: Duration = Duration::from_millis(200);

/// The deadline of a call. After it, nothing is begun.
#[derive(Debug, Clone)]
pub(in crate::api) struct CallDeadline {
    /// When to answer at the latest, and to begin a change or a stream: `requested` or the server's limit, whichever comes first.
    pub answer_by: Instant,
    /// The caller's deadline, less the margin, at which a stream ends; `None` if they set none.
    pub requested: Option<Instant>,
    /// The server's own limit.
    max: Duration,
    /// Tells whether the change that this call may make has begun.
    pub start: Arc<ChangeStart>,
}

impl CallDeadline {
    /// The deadline that these headers ask for, or `max` from now if that is earlier.
    ///
    /// # Errors
    /// [`ApiError::MalformedTimeout`].
    pub(super) fn of(headers: &HeaderMap, max: Duration) -> Result<Self, ApiError> {
        let now = Instant::now();
        let timeout = timeout(headers)?.map(|timeout| timeout - (timeout / 10).min(ANSWER_MARGIN));
        Ok(Self::new(now, max, timeout.and_then(|timeout| now.checked_add(timeout))))
    }

    /// The deadline of a protocol without timeouts.
    pub(super) fn after(max: Duration) -> Self {
        Self::new(Instant::now(), max, None)
    }

    fn new(now: Instant, max: Duration, requested: Option<Instant>) -> Self {
        let answer_by = requested.map_or(now + max, |requested| requested.min(now + max));
        Self { answer_by, requested, max, start: ChangeStart::before(answer_by) }
    }

    /// If the deadline has passed, prevents a change that has not begun, and returns the error to answer. A change that has begun is
    /// answered with its outcome, unless the caller's own deadline has passed.
    pub(super) fn expire(&self, now: Instant) -> Option<ApiError> {
        if now < self.answer_by {
            return None;
        }
        if self.start.prevent() {
            let limit = |limit: Limit| limit.reached(millis(self.max)).into();
            return Some(match (self.start.is_proposed(), self.requested == Some(self.answer_by)) {
                (true, true) => Error::DeadlineBeforeStart.into(),
                (true, false) => limit(Limit::ChangeStart),
                (false, true) => ApiError::DeadlineExceeded,
                (false, false) => limit(Limit::CallTime),
            });
        }
        let is_over = self.requested.is_some_and(|requested| now >= requested);
        is_over.then(|| Error::DeadlineDuringChange.into())
    }

    /// When to call [`expire`](Self::expire) again: at the deadline, and after it, for a change that has begun, at the caller's own
    /// deadline. `None` if the caller set none: then the change takes as long as it needs.
    pub(super) fn next_expiry(&self, now: Instant) -> Option<Instant> {
        if now < self.answer_by { Some(self.answer_by) } else { self.requested }
    }
}

/// The only `grpc-timeout`.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let mut values = headers.get_all(&GRPC_TIMEOUT).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(only), None) => {
            let parsed = only.to_str().ok().and_then(parse);
            parsed.map(Some).ok_or(ApiError::MalformedTimeout)
        }
        (Some(_), Some(_)) => Err(ApiError::MalformedTimeout),
    }
}

/// Parses a timeout: up to eight digits and a unit. Clients send 0 when their deadline has passed already.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeout_is_parsed() {
        assert_eq!(parse("2S"), Some(Duration::from_secs(2)));
        assert_eq!(parse("0n"), Some(Duration::ZERO));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(parse("150m"), Some(Duration::from_millis(150)));
        for bad in ["", "S", "5", "5s", "-5S", "+5S", "123456789S", "5 S", "5ä"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn two_timeouts_are_malformed() {
        let headers = |values: &[&'static str]| -> HeaderMap {
            values.iter().map(|value| (http::HeaderName::from_static("grpc-timeout"), value.parse().unwrap())).collect()
        };
        assert_eq!(timeout(&headers(&["1S"])), Ok(Some(Duration::from_secs(1))));
        assert_eq!(timeout(&headers(&["1S", "1S"])), Err(ApiError::MalformedTimeout));
        assert_eq!(timeout(&headers(&[])), Ok(None));
    }

    #[test]
    fn error_tells_whether_the_change_may_be_written() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let (at, later) = (now + second, now + 2 * second);
        assert_eq!(CallDeadline::new(now, second, None).expire(now), None);
        let limit = ApiError::from(Limit::CallTime.reached(1_000));
        assert_eq!(CallDeadline::new(now, second, None).expire(at), Some(limit.clone()));
        assert_eq!(CallDeadline::new(now, second, Some(later)).expire(at), Some(limit));
        assert_eq!(CallDeadline::new(now, 2 * second, Some(at)).expire(at), Some(ApiError::DeadlineExceeded));

        let begun = CallDeadline::new(now, second, Some(later));
        assert!(begun.start.begin());
        assert_eq!((begun.expire(at), begun.next_expiry(at)), (None, Some(later)));
        assert_eq!(begun.expire(later), Some(Error::DeadlineDuringChange.into()));

        // Without a deadline of the caller, a change that has begun is answered with its outcome.
        let begun = CallDeadline::new(now, second, None);
        assert!(begun.start.begin());
        assert_eq!((begun.expire(later), begun.next_expiry(later)), (None, None));

        // The committer found that it was too late.
        let late = CallDeadline::new(now, 2 * second, Some(at));
        assert!(late.start.prevent() && !late.start.begin());
        assert_eq!(late.expire(at), Some(ApiError::DeadlineExceeded));
    }
}
