//! Limits how many denials of each caller the audit log records.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::auth::CallerKey;
use crate::domain::time::Timestamp;

/// The most denials recorded for one caller in one window.
const MAX_PER_CALLER: u32 = 5;
/// The most denials recorded in one window for all single sign-on callers together who are not users yet. Their issuer may let anyone
/// open an account.
const MAX_UNPROVISIONED: u32 = 60;
/// The length of a window.
const WINDOW_SECONDS: i64 = 60;

/// The most callers that are tracked. Denials of further ones are not recorded until a window ends.
const MAX_CALLERS: usize = 10_000;

/// Limits the recorded denials of each caller.
#[derive(Default)]
pub(in crate::api) struct DenialLimiter(Mutex<Windows>);

#[derive(Default)]
struct Windows {
    callers: HashMap<CallerKey, Window>,
    unprovisioned: Window,
}

/// The denials of one caller in the current window.
#[derive(Default)]
struct Window {
    began: Timestamp,
    recorded: u32,
    /// Denials since the last recorded one.
    suppressed: u64,
}

/// A denial that may be recorded.
pub(in crate::api) struct AdmittedDenial {
    key: CallerKey,
    /// How many denials of the same caller were not recorded since the last recorded one.
    pub suppressed: u64,
}

impl DenialLimiter {
    /// Whether to record one more denial.
    pub fn admit(&self, key: CallerKey, now: Timestamp) -> Option<AdmittedDenial> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.callers.len() >= MAX_CALLERS && !all.callers.contains_key(&key) {
            all.callers.retain(|_, window| !window.is_over(now));
            if all.callers.len() >= MAX_CALLERS {
                return None;
            }
        }
        let Windows { callers, unprovisioned } = &mut *all;
        let window = callers.entry(key.clone()).or_default();
        let suppressed = window.admit(now, MAX_PER_CALLER)?;
        // Asked last, so that a denial which is not recorded uses up nothing that all of them share.
        if matches!(key, CallerKey::Account(_)) && unprovisioned.admit(now, MAX_UNPROVISIONED).is_none() {
            window.take_back(suppressed + 1);
            return None;
        }
        Some(AdmittedDenial { key, suppressed })
    }

    /// Undoes [`DenialLimiter::admit`]: the call was not denied after all.
    pub fn give_back(&self, admitted: &AdmittedDenial) {
        self.change(admitted, |window| window.take_back(admitted.suppressed));
    }

    /// Counts this denial as not recorded, since writing it failed.
    pub fn suppress(&self, admitted: &AdmittedDenial) {
        self.change(admitted, |window| window.suppressed += admitted.suppressed + 1);
    }

    fn change(&self, admitted: &AdmittedDenial, change: impl FnOnce(&mut Window)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = all.callers.get_mut(&admitted.key) {
            change(window);
        }
    }
}

impl Window {
    fn is_over(&self, now: Timestamp) -> bool {
        now >= self.began.plus_seconds(WINDOW_SECONDS) || now < self.began
    }

    fn admit(&mut self, now: Timestamp, max: u32) -> Option<u64> {
        if self.is_over(now) {
            (self.began, self.recorded) = (now, 0);
        }
        if self.recorded == max {
            self.suppressed += 1;
            return None;
        }
        self.recorded += 1;
        Some(std::mem::take(&mut self.suppressed))
    }

    /// Undoes [`admit`](Self::admit). So many denials are then counted as suppressed.
    fn take_back(&mut self, suppressed: u64) {
        self.recorded = self.recorded.saturating_sub(1);
        self.suppressed += suppressed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::access::Account;
    use uuid::Uuid;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(1_800_000_000_000_000).plus_seconds(seconds)
    }

    fn user(number: u128) -> CallerKey {
        CallerKey::User(Uuid::from_u128(number))
    }

    #[test]
    fn records_are_limited_and_count_suppressed_ones() {
        let limiter = DenialLimiter::default();
        let admit = |seconds| limiter.admit(user(1), at(seconds)).map(|admitted| admitted.suppressed);
        for _ in 0..MAX_PER_CALLER {
            assert_eq!(admit(1), Some(0));
        }
        assert_eq!((admit(2), admit(59)), (None, None));
        assert_eq!(limiter.admit(user(2), at(59)).map(|admitted| admitted.suppressed), Some(0));
        assert_eq!(admit(61), Some(2));
        assert_eq!(admit(62), Some(0));
        // A clock that is set back starts a new window.
        assert_eq!(admit(0), Some(0));
    }

    #[test]
    fn failed_record_counts_as_suppressed() {
        let limiter = DenialLimiter::default();
        let admitted = limiter.admit(user(1), at(0)).unwrap();
        limiter.suppress(&admitted);
        assert_eq!(limiter.admit(user(1), at(1)).unwrap().suppressed, 1);
        for _ in 0..100 {
            let admitted = limiter.admit(user(2), at(1)).unwrap();
            limiter.give_back(&admitted);
        }
    }

    fn account(number: usize) -> CallerKey {
        CallerKey::Account(Account { issuer: "issuer".into(), subject: number.to_string().into() })
    }

    #[test]
    fn one_unprovisioned_caller_leaves_records_to_others() {
        let limiter = DenialLimiter::default();
        let recorded = (0..1_000).filter(|_| limiter.admit(account(1), at(0)).is_some()).count();
        assert_eq!(recorded, MAX_PER_CALLER as usize);
        assert_eq!(limiter.admit(account(2), at(1)).map(|admitted| admitted.suppressed), Some(0));
    }

    #[test]
    fn unprovisioned_callers_share_one_window() {
        let limiter = DenialLimiter::default();
        let recorded = (0..1_000).filter(|number| limiter.admit(account(*number), at(0)).is_some()).count();
        assert_eq!(recorded, MAX_UNPROVISIONED as usize);
        for number in 0..MAX_CALLERS {
            limiter.admit(user(number as u128), at(1));
        }
        assert!(limiter.admit(user(u128::MAX), at(1)).is_none());
        assert_eq!(limiter.0.lock().unwrap().callers.len(), MAX_CALLERS);
        assert!(limiter.admit(user(u128::MAX), at(100)).is_some());
    }
}
