//! Whether a failed call is repeated, and after how long.

use std::time::{Duration, Instant};

use tonic::Status;
use tonic_types::StatusExt;

use super::failure::{CallFailure, is_connection_refused, is_rate_limited, is_transient};

/// How long a server that refuses connections is retried: it may be starting.
const CONNECTION_REFUSED_TIMEOUT: Duration = Duration::from_secs(2);

/// How many attempts a call has under the bounded policy.
const MAX_ATTEMPTS: u32 = 6;

/// After how long no further attempt is made under the bounded policy.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// The wait after the first failure, unless the server says how long. It doubles with each failure.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// The longest wait between two attempts, before jitter, unless the server says how long.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// The longest delay that is accepted from a server. The strictest rate limit delays the largest batch by 1,000 seconds.
const MAX_SERVER_DELAY: Duration = Duration::from_hours(1);

/// How long a call is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetryPolicy {
    /// Up to `MAX_ATTEMPTS` attempts within `RETRY_TIMEOUT`.
    Bounded,
    /// Like `Bounded`, but rate limits are waited for: neither the limited attempt nor the wait after it counts. After another failure
    /// with a retry delay, the wait counts towards `RETRY_TIMEOUT`, and the attempt does not count.
    WaitForRateLimits,
    /// For as long as the failures are transient.
    Unbounded,
}

/// The attempts of one call.
pub(super) struct Retries {
    policy: RetryPolicy,
    failures: u32,
    started: Instant,
    /// Whether a connection was made by this or an earlier call.
    connected: bool,
}

impl Retries {
    pub fn new(policy: RetryPolicy, connected: bool) -> Self {
        Self { policy, failures: 0, started: Instant::now(), connected }
    }

    /// Records that the server has accepted the call, which from now on has this policy.
    pub fn mark_accepted(&mut self, policy: RetryPolicy) {
        (self.connected, self.policy) = (true, policy);
    }

    pub fn is_unbounded(&self) -> bool {
        self.policy == RetryPolicy::Unbounded
    }

    /// Whether exactly one attempt has failed.
    pub fn is_first_failure(&self) -> bool {
        self.failures == 1
    }

    /// How long to wait before the next attempt; `None` if there is no further attempt.
    pub fn wait_after(&mut self, status: &Status) -> Option<Duration> {
        let retry_delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let waits_for_rate_limits = self.policy == RetryPolicy::WaitForRateLimits;
        if waits_for_rate_limits && is_rate_limited(status) {
            let delay = retry_delay.filter(|delay| *delay <= MAX_SERVER_DELAY)?;
            self.started = Instant::now() + delay;
            return Some(with_jitter(delay));
        }
        // A server that says when to call again is working, so its refusals do not use up attempts.
        self.failures += u32::from(!(waits_for_rate_limits && retry_delay.is_some()));
        let doubled = FIRST_WAIT.saturating_mul(1 << self.failures.saturating_sub(1).min(10)).min(MAX_WAIT);
        let wait = with_jitter(retry_delay.unwrap_or(doubled).min(MAX_SERVER_DELAY));
        let may_succeed = match CallFailure::of(status) {
            CallFailure::Status => is_transient(status),
            CallFailure::Unreachable => self.connected || self.may_be_starting(status, wait),
            CallFailure::ConnectionLost | CallFailure::TimedOut | CallFailure::Unresponsive => true,
            CallFailure::NotHttp2 => false,
        };
        self.connected |= CallFailure::of(status) != CallFailure::Unreachable;
        let is_within_bounds = self.failures < MAX_ATTEMPTS && self.started.elapsed() + wait < RETRY_TIMEOUT;
        (may_succeed && (self.is_unbounded() || is_within_bounds)).then_some(wait)
    }

    fn may_be_starting(&self, status: &Status, wait: Duration) -> bool {
        is_connection_refused(status) && self.started.elapsed() + wait < CONNECTION_REFUSED_TIMEOUT
    }
}

/// Lengthens a wait by up to half, and at most by half of `MAX_WAIT`, so that clients that were refused together do not return together.
fn with_jitter(wait: Duration) -> Duration {
    let random = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    wait + wait.min(MAX_WAIT).mul_f64(random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::{Code, ConnectError};
    use tonic_types::ErrorDetails;

    fn unreachable() -> Status {
        Status::from_error(Box::new(ConnectError("refused".into())))
    }

    fn unavailable(delay: Option<Duration>) -> Status {
        let mut details = ErrorDetails::with_error_info("QUEUE_FULL", "toggled", []);
        if let Some(delay) = delay {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(Code::Unavailable, "not now", details)
    }

    #[test]
    fn unreachable_server_is_retried_only_after_contact() {
        assert_eq!(Retries::new(RetryPolicy::Bounded, false).wait_after(&unreachable()), None);
        assert!(Retries::new(RetryPolicy::Bounded, true).wait_after(&unreachable()).is_some());
        let mut retries = Retries::new(RetryPolicy::Bounded, false);
        assert!(retries.wait_after(&unavailable(None)).is_some());
        assert!(retries.wait_after(&unreachable()).is_some(), "it has answered before");
    }

    #[test]
    fn refused_connection_is_retried_briefly() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let refused = Status::from_error(Box::new(ConnectError(refused.into())));
        let mut retries = Retries::new(RetryPolicy::Bounded, false);
        assert!(retries.wait_after(&refused).is_some());
        retries.started = retries.started.checked_sub(CONNECTION_REFUSED_TIMEOUT).unwrap();
        assert_eq!(retries.wait_after(&refused), None);
    }

    #[test]
    fn rate_limit_is_waited_for_without_bounds() {
        let details = ErrorDetails::with_retry_info(Some(RETRY_TIMEOUT * 10));
        let limited = Status::with_error_details(Code::ResourceExhausted, "too much", details);
        let mut retries = Retries::new(RetryPolicy::WaitForRateLimits, true);
        for _ in 0..10 * MAX_ATTEMPTS {
            let wait = retries.wait_after(&limited).unwrap();
            assert!((RETRY_TIMEOUT * 10..=RETRY_TIMEOUT * 10 + MAX_WAIT).contains(&wait), "{wait:?}");
        }
        let busy = unavailable(Some(FIRST_WAIT));
        for _ in 0..10 * MAX_ATTEMPTS {
            assert!(retries.wait_after(&busy).is_some());
        }
        retries.started = Instant::now().checked_sub(RETRY_TIMEOUT).unwrap();
        assert_eq!(retries.wait_after(&busy), None, "any other wait is bounded");
        assert_eq!(
            Retries::new(RetryPolicy::Bounded, true).wait_after(&limited),
            None,
            "the bounded policy does not wait for minutes"
        );
    }

    /// A server may name any delay.
    #[test]
    fn endless_delay_is_not_waited_for() {
        for delay in [MAX_SERVER_DELAY + FIRST_WAIT, Duration::MAX] {
            let seconds = i64::try_from(delay.as_secs()).unwrap_or(i64::MAX);
            let delay = Duration::from_secs(seconds.unsigned_abs());
            let details = || ErrorDetails::with_retry_info(Some(delay + FIRST_WAIT));
            let limited = Status::with_error_details(Code::ResourceExhausted, "too much", details());
            let busy = Status::with_error_details(Code::Unavailable, "not now", details());
            assert_eq!(Retries::new(RetryPolicy::WaitForRateLimits, true).wait_after(&limited), None);
            for policy in [RetryPolicy::Bounded, RetryPolicy::WaitForRateLimits] {
                assert_eq!(Retries::new(policy, true).wait_after(&busy), None);
            }
            let wait = Retries::new(RetryPolicy::Unbounded, true).wait_after(&busy).unwrap();
            assert!(wait <= MAX_SERVER_DELAY + MAX_WAIT, "{wait:?}");
        }
    }

    #[test]
    fn wait_is_server_delay_or_doubles() {
        let delay = Duration::from_secs(2);
        let wait = Retries::new(RetryPolicy::Bounded, true).wait_after(&unavailable(Some(delay))).unwrap();
        assert!((delay..=delay.mul_f64(1.5)).contains(&wait), "{wait:?}");
        let mut retries = Retries::new(RetryPolicy::Unbounded, true);
        for doubled in [1, 2, 4, 8, 16, 25, 25].map(|n| FIRST_WAIT * n) {
            let wait = retries.wait_after(&unavailable(None)).unwrap();
            assert!((doubled..=doubled.mul_f64(1.5)).contains(&wait), "{wait:?}");
        }
    }

    #[test]
    fn attempts_are_bounded_unless_unbounded_policy() {
        let mut retries = Retries::new(RetryPolicy::Bounded, true);
        for _ in 1..MAX_ATTEMPTS {
            assert!(retries.wait_after(&unavailable(None)).is_some());
        }
        assert_eq!(retries.wait_after(&unavailable(None)), None);
        assert_eq!(Retries::new(RetryPolicy::Bounded, true).wait_after(&unavailable(Some(RETRY_TIMEOUT))), None);
        assert!(Retries::new(RetryPolicy::Unbounded, true).wait_after(&unavailable(Some(RETRY_TIMEOUT))).is_some());
    }

    /// The server's timer and the client's fire at the same time.
    #[test]
    fn deadline_of_the_server_is_retried_too() {
        for details in [ErrorDetails::with_error_info("DEADLINE_DURING_CHANGE", "toggled", []), ErrorDetails::new()] {
            let late = Status::with_error_details(Code::DeadlineExceeded, "too late", details);
            let mut retries = Retries::new(RetryPolicy::Bounded, true);
            assert_eq!((0..2 * MAX_ATTEMPTS).filter(|_| retries.wait_after(&late).is_some()).count(), 5);
        }
    }

    #[test]
    fn only_transient_failures_are_retried() {
        for code in [Code::PermissionDenied, Code::NotFound, Code::Aborted, Code::Internal, Code::Unknown] {
            assert_eq!(Retries::new(RetryPolicy::Unbounded, true).wait_after(&Status::new(code, "no")), None, "{code}");
        }
        let details = ErrorDetails::with_error_info("COMMIT_OUTCOME_UNKNOWN", "toggled", []);
        let unknown = Status::with_error_details(Code::Unknown, "the outcome is unknown", details);
        assert!(Retries::new(RetryPolicy::Bounded, true).wait_after(&unknown).is_some());
        let limited = |details| Status::with_error_details(Code::ResourceExhausted, "too much", details);
        assert_eq!(Retries::new(RetryPolicy::Unbounded, true).wait_after(&limited(ErrorDetails::new())), None);
        let soon = ErrorDetails::with_retry_info(Some(Duration::from_millis(1)));
        assert!(Retries::new(RetryPolicy::Bounded, true).wait_after(&limited(soon)).is_some());
    }
}
