//! The rate of one caller's changes, so that a script that runs wild does not keep others from the log.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::api::errors::{ApiError, Limit, LimitReached};
use crate::auth::CallerKey;
use crate::domain::advance::Command;
use crate::domain::error::Error;

/// After a pause at least this many changes pass at once: as many as the largest request makes.
const MIN_BURST: u32 = 1_000;

/// How many new flags in one call count as one change. An import should not take minutes, and the limit on all flags bounds it.
const NEW_FLAGS_PER_CHANGE: usize = 10;

/// Idle callers are forgotten once in this many checks.
const CLEANUP_INTERVAL: u32 = 10_000;

/// Limits the changes of each caller, by the generic cell rate algorithm.
pub(in crate::api) struct ChangeRateLimiter {
    limit: NonZeroU32,
    limiter: RateLimiter<CallerKey, HashMapStateStore<CallerKey>, DefaultClock>,
    checks: AtomicU32,
}

impl ChangeRateLimiter {
    /// A limit of `limit` changes per second; 0 means 1.
    pub fn new(limit: u32) -> Self {
        let per_second = NonZeroU32::new(limit).unwrap_or(NonZeroU32::MIN);
        let burst = per_second.max(NonZeroU32::new(MIN_BURST).unwrap_or(NonZeroU32::MIN));
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self { limit: per_second, limiter: RateLimiter::hashmap(quota), checks: AtomicU32::new(0) }
    }

    /// Checks that a caller may make this change now.
    ///
    /// # Errors
    /// [`Limit::ChangeRate`], with the time until the change would pass.
    pub fn check(&self, caller: &CallerKey, command: &Command) -> Result<(), ApiError> {
        if self.checks.fetch_add(1, Ordering::Relaxed) % CLEANUP_INTERVAL == CLEANUP_INTERVAL - 1 {
            self.limiter.retain_recent();
        }
        let refused = match self.limiter.check_key_n(caller, weight(command)) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(refused)) => refused,
            // Unreachable: no command is larger than a burst.
            Err(error) => return Err(Error::internal(error).into()),
        };
        let wait = Some(refused.wait_time_from(self.limiter.clock().now()));
        let limit = usize::try_from(self.limit.get()).unwrap_or(usize::MAX);
        Err(LimitReached { wait, ..Limit::ChangeRate.reached(limit) }.into())
    }
}

fn weight(command: &Command) -> NonZeroU32 {
    let weight = match command {
        Command::BatchCreate(items) => items.len().div_ceil(NEW_FLAGS_PER_CHANGE),
        _ => command.weight(),
    };
    u32::try_from(weight).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN)
}
