//! How often who was refused lately.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::auth::CallerKey;
use crate::domain::time::Timestamp;

/// Refusals of one caller that are recorded ...
const RECORDED: u32 = 5;
/// ... and of all together who are no users: an issuer of a single sign-on may let anybody open accounts ...
const RECORDED_OF_NEWCOMERS: u32 = 60;
/// ... in so many seconds.
const WINDOW_SECONDS: i64 = 60;

/// Callers that are remembered at the most.
const REMEMBERED: usize = 10_000;

/// The refusals of each caller.
#[derive(Default)]
pub(in crate::api) struct Windows(Mutex<All>);

#[derive(Default)]
struct All {
    callers: HashMap<CallerKey, Window>,
    newcomers: Window,
}

/// What was refused to one caller lately.
#[derive(Default)]
struct Window {
    began: Timestamp,
    recorded: u32,
    /// Not recorded since the last that was.
    suppressed: u64,
}

/// A refusal that may be recorded.
pub(in crate::api) struct Admitted {
    key: CallerKey,
    /// How many of the same caller were not, since the last that was.
    pub suppressed: u64,
}

impl Windows {
    /// Whether to record another refusal.
    pub fn admit(&self, key: CallerKey, now: Timestamp) -> Option<Admitted> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.callers.len() >= REMEMBERED && !all.callers.contains_key(&key) {
            all.callers.retain(|_, window| !window.is_over(now));
            if all.callers.len() >= REMEMBERED {
                return None;
            }
        }
        let All { callers, newcomers } = &mut *all;
        let window = callers.entry(key.clone()).or_default();
        let crowded = matches!(key, CallerKey::Account(_)) && newcomers.admit(now, RECORDED_OF_NEWCOMERS).is_none();
        if crowded {
            window.suppressed += 1;
            return None;
        }
        let suppressed = window.admit(now, RECORDED)?;
        Some(Admitted { key, suppressed })
    }

    /// It was no refusal after all.
    pub fn give_back(&self, admitted: &Admitted) {
        self.change(admitted, |window| {
            window.recorded = window.recorded.saturating_sub(1);
            window.suppressed += admitted.suppressed;
        });
    }

    /// It could not be recorded.
    pub fn suppress(&self, admitted: &Admitted) {
        self.change(admitted, |window| window.suppressed += admitted.suppressed + 1);
    }

    fn change(&self, admitted: &Admitted, change: impl FnOnce(&mut Window)) {
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

    fn admit(&mut self, now: Timestamp, most: u32) -> Option<u64> {
        if self.is_over(now) {
            (self.began, self.recorded) = (now, 0);
        }
        if self.recorded == most {
            self.suppressed += 1;
            return None;
        }
        self.recorded += 1;
        Some(std::mem::take(&mut self.suppressed))
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
    fn a_few_refusals_a_minute_are_recorded_and_the_next_tells_how_many_were_not() {
        let windows = Windows::default();
        let admit = |seconds| windows.admit(user(1), at(seconds)).map(|admitted| admitted.suppressed);
        for _ in 0..RECORDED {
            assert_eq!(admit(1), Some(0));
        }
        assert_eq!((admit(2), admit(59)), (None, None));
        assert_eq!(windows.admit(user(2), at(59)).map(|admitted| admitted.suppressed), Some(0));
        assert_eq!(admit(61), Some(2));
        assert_eq!(admit(62), Some(0));
        // A clock that is set back begins anew, rather than silence somebody until it has caught up.
        assert_eq!(admit(0), Some(0));
    }

    #[test]
    fn what_was_not_recorded_after_all_is_not_lost() {
        let windows = Windows::default();
        let admitted = windows.admit(user(1), at(0)).unwrap();
        windows.suppress(&admitted);
        assert_eq!(windows.admit(user(1), at(1)).unwrap().suppressed, 1);
        for _ in 0..100 {
            let admitted = windows.admit(user(2), at(1)).unwrap();
            windows.give_back(&admitted);
        }
    }

    #[test]
    fn those_who_are_no_users_share_a_window_and_nobody_is_remembered_without_end() {
        let windows = Windows::default();
        let newcomer =
            |number: usize| CallerKey::Account(Account { issuer: "issuer".into(), subject: number.to_string().into() });
        let recorded = (0..1_000).filter(|number| windows.admit(newcomer(*number), at(0)).is_some()).count();
        assert_eq!(recorded, RECORDED_OF_NEWCOMERS as usize);
        for number in 0..REMEMBERED {
            windows.admit(user(number as u128), at(1));
        }
        assert!(windows.admit(user(u128::MAX), at(1)).is_none());
        assert_eq!(windows.0.lock().unwrap().callers.len(), REMEMBERED);
        assert!(windows.admit(user(u128::MAX), at(100)).is_some());
    }
}
