//! The number of open streams: in all, for anonymous callers, and for one caller.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::errors::ApiError;
use crate::auth::CallerKey;
use crate::config::Limits;

/// The owner of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::api) enum StreamOwner {
    /// An authenticated caller.
    Caller(CallerKey),
    /// An anonymous caller, by network.
    Anonymous(Option<IpAddr>),
}

impl StreamOwner {
    /// An anonymous caller at this address. One IPv6 client usually has a whole /64 network.
    pub fn anonymous(address: Option<IpAddr>) -> Self {
        Self::Anonymous(address.map(|address| match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
            address => address,
        }))
    }

    fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous(_))
    }
}

/// Limits open streams.
pub(in crate::api) struct StreamLimiter {
    max: usize,
    /// For all anonymous callers together: authenticated callers always keep the rest.
    max_anonymous: usize,
    max_per_owner: usize,
    open: Mutex<OpenStreams>,
}

#[derive(Default)]
struct OpenStreams {
    all: usize,
    anonymous: usize,
    by_owner: HashMap<StreamOwner, usize>,
}

/// Permits one open stream until it is dropped.
pub(in crate::api) struct StreamPermit {
    streams: Arc<StreamLimiter>,
    owner: StreamOwner,
}

impl StreamLimiter {
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            max: limits.max_streams,
            max_anonymous: (limits.max_streams / 2).max(1),
            max_per_owner: limits.max_streams_per_caller,
            open: Mutex::default(),
        })
    }

    /// Opens one more stream.
    ///
    /// # Errors
    /// [`ApiError::StreamLimit`] or [`ApiError::CallerStreamLimit`].
    pub(in crate::api) fn open(self: &Arc<Self>, owner: StreamOwner) -> Result<StreamPermit, ApiError> {
        let mut open = self.lock();
        let anonymous = usize::from(owner.is_anonymous());
        if open.all >= self.max || anonymous > 0 && open.anonymous >= self.max_anonymous {
            return Err(ApiError::StreamLimit);
        }
        let own = open.by_owner.entry(owner.clone()).or_default();
        if *own >= self.max_per_owner {
            return Err(ApiError::CallerStreamLimit(self.max_per_owner));
        }
        *own += 1;
        open.all += 1;
        open.anonymous += anonymous;
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
        open.anonymous -= usize::from(self.owner.is_anonymous());
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
    use uuid::Uuid;

    fn streams(max: usize, max_per_owner: usize) -> Arc<StreamLimiter> {
        Arc::new(StreamLimiter { max, max_anonymous: max / 2, max_per_owner, open: Mutex::default() })
    }

    fn user(number: u128) -> StreamOwner {
        StreamOwner::Caller(CallerKey::User(Uuid::from_u128(number)))
    }

    #[test]
    fn streams_are_limited_per_caller_and_in_all() {
        let streams = streams(3, 2);
        let mut held = vec![streams.open(user(1)).unwrap(), streams.open(user(1)).unwrap()];
        assert_eq!(streams.open(user(1)).err(), Some(ApiError::CallerStreamLimit(2)));
        held.push(streams.open(user(2)).unwrap());
        assert_eq!(streams.open(user(2)).err(), Some(ApiError::StreamLimit));
        held.remove(0);
        assert_eq!(streams.open(user(1)).err(), None);
        drop(held);
        let open = streams.lock();
        assert_eq!((open.all, open.by_owner.len()), (0, 0), "owners without open streams are forgotten");
    }

    #[test]
    fn anonymous_callers_get_half_of_the_streams() {
        let streams = streams(4, 4);
        let anonymous = |address: &str| StreamOwner::anonymous(address.parse().ok());
        let held = [anonymous("10.0.0.1"), anonymous("2001:db8::1")].map(|owner| streams.open(owner).unwrap());
        assert_eq!(streams.open(anonymous("10.0.0.2")).err(), Some(ApiError::StreamLimit));
        let known = [user(1), user(2)].map(|owner| streams.open(owner).unwrap());
        drop((held, known));
        assert_eq!(streams.lock().anonymous, 0);
        assert_eq!(anonymous("2001:db8::1"), anonymous("2001:db8::ffff:2"), "one network");
        assert_ne!(anonymous("2001:db8::1"), anonymous("2001:db8:0:1::1"));
        assert_eq!(anonymous("::ffff:10.0.0.1"), anonymous("10.0.0.1"));
    }
}
