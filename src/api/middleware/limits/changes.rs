//! How many changes a second one caller may make, so that a script gone wild keeps nobody else from the log.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::auth::CallerKey;
use crate::domain::advance::Command;
use crate::domain::error::Error;

/// What is let through at once after a rest, at the least: the largest batch.
const BURST: u32 = 1_000;

/// How often those are forgotten who have rested, in changes.
const FORGET_EVERY: u32 = 10_000;

/// Counts the changes of each caller, by the generic cell rate algorithm.
pub(in crate::api) struct Fairness {
    most: u32,
    limiter: RateLimiter<CallerKey, HashMapStateStore<CallerKey>, DefaultClock>,
    seen: AtomicU32,
}

impl Fairness {
    /// Lets `most` changes a second through; 0 is taken for 1.
    pub fn new(most: u32) -> Self {
        let per_second = NonZeroU32::new(most).unwrap_or(NonZeroU32::MIN);
        let burst = per_second.max(NonZeroU32::new(BURST).unwrap_or(NonZeroU32::MIN));
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self { most, limiter: RateLimiter::hashmap(quota), seen: AtomicU32::new(0) }
    }

    /// Whether a caller may make this change now.
    ///
    /// # Errors
    /// When to come back.
    pub fn admit(&self, caller: &CallerKey, command: &Command) -> Result<(), Error> {
        if self.seen.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            self.limiter.retain_recent();
        }
        let refused = match self.limiter.check_key_n(caller, weight(command)) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(refused)) => refused,
            // No command is heavier than the burst.
            Err(more) => return Err(Error::Internal(format!("a change is heavier than any may be: {more}"))),
        };
        let after = refused.wait_time_from(self.limiter.clock().now());
        Err(Error::RateLimited { most: self.most, after })
    }
}

fn weight(command: &Command) -> NonZeroU32 {
    u32::try_from(command.weight()).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN)
}
