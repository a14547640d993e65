//! Calls by nobody who is known: counted, and logged now and then.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::api::call::Source;
use crate::auth::jwt::Rejected;

/// How often somebody is warned of them at the most.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Why somebody was not let in. For the log and for counting alone: the caller is told nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum Why {
    /// Nothing was shown.
    Missing,
    /// It is no bearer token.
    Malformed,
    /// Nobody has such a token.
    Unknown,
    /// It was revoked, or has expired, or its user is shut out.
    Ended,
    /// A token of the single sign-on is not good.
    Rejected(Rejected),
}

impl Why {
    fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Ended => "ended",
            Self::Rejected(why) => why.label(),
        }
    }
}

/// Notes failed authentications.
#[derive(Default)]
pub(in crate::api) struct Failures(Mutex<Quiet>);

/// Since when nothing was logged, and how much.
#[derive(Default)]
struct Quiet {
    since: Option<Instant>,
    unlogged: u64,
}

impl Failures {
    pub(in crate::api) fn note(&self, why: Why, source: &Source) {
        metrics::counter!(crate::telemetry::metrics::AUTHENTICATION_FAILURES, "reason" => why.label()).increment(1);
        let Some(unlogged) = self.0.lock().unwrap_or_else(PoisonError::into_inner).note(Instant::now()) else { return };
        let (reason, peer) = (why.label(), source.peer.map(|peer| peer.to_string()).unwrap_or_default());
        tracing::warn!(reason, peer, method = &*source.method, unlogged, "a call was not authenticated");
    }
}

impl Quiet {
    /// Whether to log one more, and how many were not since the last that was.
    fn note(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_some_and(|since| now < since + LOG_EVERY) {
            self.unlogged += 1;
            return None;
        }
        self.since = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_logged_now_and_then_with_how_many_were_not() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        assert_eq!(quiet.note(start), Some(0));
        assert_eq!((quiet.note(start), quiet.note(start + LOG_EVERY / 2)), (None, None));
        assert_eq!(quiet.note(start + LOG_EVERY), Some(2));
        assert_eq!(quiet.note(start + LOG_EVERY * 3), Some(0));
    }
}
