//! The number of open streams: in all, for unauthenticated callers, and for one owner.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::owner::{Owner, is_scarce};
use crate::api::errors::{Limit, LimitReached};
use crate::config::Limits;

/// Limits open streams.
pub(in crate::api) struct StreamLimiter {
    max: usize,
    /// For all unauthenticated callers together. Authenticated callers always keep the rest.
    max_unauthenticated: usize,
    max_per_owner: usize,
    open: Mutex<OpenStreams>,
}

#[derive(Default)]
struct OpenStreams {
    all: usize,
    unauthenticated: usize,
    by_owner: HashMap<Owner, usize>,
}

/// Permits one open stream until it is dropped.
pub(in crate::api) struct StreamPermit {
    streams: Arc<StreamLimiter>,
    owner: Owner,
}

impl StreamLimiter {
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            max: limits.max_streams,
            max_unauthenticated: (limits.max_streams / 2).max(1),
            max_per_owner: limits.max_streams_per_caller,
            open: Mutex::default(),
        })
    }

    /// Opens one more stream.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(in crate::api) fn open(self: &Arc<Self>, owner: Owner) -> Result<StreamPermit, LimitReached> {
        let mut open = self.lock();
        let is_unauthenticated = owner.is_unauthenticated();
        if open.all >= self.max {
            return Err(Limit::Streams.reached(self.max));
        }
        if is_unauthenticated && open.unauthenticated >= self.max_unauthenticated {
            return Err(Limit::UnauthenticatedStreams.reached(self.max_unauthenticated));
        }
        // An unauthenticated network may be a proxy with many clients, so its share applies only while streams are scarce.
        let is_limited = !is_unauthenticated || is_scarce(open.unauthenticated, self.max_unauthenticated);
        let own = open.by_owner.entry(owner.clone()).or_default();
        if is_limited && *own >= self.max_per_owner {
            return Err(Limit::CallerStreams.reached(self.max_per_owner));
        }
        *own += 1;
        open.all += 1;
        open.unauthenticated += usize::from(is_unauthenticated);
        drop(open);
        Ok(StreamPermit { streams: Arc::clone(self), owner })
    }

    fn lock(&self) -> MutexGuard<'_, OpenStreams> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        open.all -= 1;
        open.unauthenticated -= usize::from(self.owner.is_unauthenticated());
        let own = open.by_owner.get_mut(&self.owner);
        if own.is_some_and(|own| {
            *own -= 1;
            *own == 0
        }) {
            open.by_owner.remove(&self.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::CallerKey;
    use uuid::Uuid;

    fn streams(max: usize, max_per_owner: usize) -> Arc<StreamLimiter> {
        Arc::new(StreamLimiter { max, max_unauthenticated: max / 2, max_per_owner, open: Mutex::default() })
    }

    fn user(number: u128) -> Owner {
        Owner::Caller(CallerKey::User(Uuid::from_u128(number)))
    }

    #[test]
    fn streams_are_limited_per_caller_and_in_all() {
        let streams = streams(3, 2);
        let mut held = vec![streams.open(user(1)).unwrap(), streams.open(user(1)).unwrap()];
        assert_eq!(streams.open(user(1)).err(), Some(Limit::CallerStreams.reached(2)));
        held.push(streams.open(user(2)).unwrap());
        assert_eq!(streams.open(user(2)).err(), Some(Limit::Streams.reached(3)));
        held.remove(0);
        assert_eq!(streams.open(user(1)).err(), None);
        drop(held);
        let open = streams.lock();
        assert_eq!((open.all, open.by_owner.len()), (0, 0), "owners without open streams are forgotten");
    }

    #[test]
    fn limit_of_a_network_applies_while_streams_are_scarce() {
        let streams = streams(12, 2);
        let open = |address: &str| streams.open(Owner::unauthenticated(address.parse().ok()));
        let held: Vec<_> = (0..4).map(|_| open("10.0.0.1").unwrap()).collect();
        assert_eq!(open("10.0.0.1").err(), Some(Limit::CallerStreams.reached(2)));
        assert!(open("10.0.0.2").is_ok());
        drop(held);
        assert!(open("10.0.0.1").is_ok());
    }

    #[test]
    fn unauthenticated_callers_get_half_of_the_streams() {
        let streams = streams(4, 4);
        let network = |address: &str| Owner::unauthenticated(address.parse().ok());
        let held = [network("10.0.0.1"), network("2001:db8::1")].map(|owner| streams.open(owner).unwrap());
        assert_eq!(streams.open(network("10.0.0.2")).err(), Some(Limit::UnauthenticatedStreams.reached(2)));
        let known = [user(1), user(2)].map(|owner| streams.open(owner).unwrap());
        drop((held, known));
        assert_eq!(streams.lock().unauthenticated, 0);
    }
}
