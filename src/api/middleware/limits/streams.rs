//! How many streams are open, and whose.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::auth::CallerKey;
use crate::config::Limits;
use crate::domain::error::Error;

/// Whose stream it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::api) enum Opener {
    /// That of somebody who is known.
    Caller(CallerKey),
    /// That of somebody who is not, in this network.
    Stranger(Option<IpAddr>),
}

impl Opener {
    /// Somebody who is not known, at this address. Whoever has an address of IPv6 has all of its /64.
    pub fn stranger(address: Option<IpAddr>) -> Self {
        Self::Stranger(address.map(|address| match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
            address => address,
        }))
    }

    fn is_stranger(&self) -> bool {
        matches!(self, Self::Stranger(_))
    }
}

/// The streams that are open.
pub(in crate::api) struct Streams {
    most: usize,
    /// Of all strangers together: whoever is known has the rest, however many strangers come.
    most_of_strangers: usize,
    most_of_one: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    all: usize,
    strangers: usize,
    of: HashMap<Opener, usize>,
}

/// A stream that may be open for as long as this value lives.
pub(in crate::api) struct OpenStream {
    streams: Arc<Streams>,
    by: Opener,
}

impl Streams {
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            most: limits.max_streams,
            most_of_strangers: (limits.max_streams / 2).max(1),
            most_of_one: limits.max_streams_per_caller,
            open: Mutex::default(),
        })
    }

    /// Makes room for one more.
    pub(in crate::api) fn open(self: &Arc<Self>, by: Opener) -> Result<OpenStream, Error> {
        let mut open = self.lock();
        let stranger = usize::from(by.is_stranger());
        if open.all >= self.most || stranger > 0 && open.strangers >= self.most_of_strangers {
            return Err(Error::StreamLimit);
        }
        let own = open.of.entry(by.clone()).or_default();
        if *own >= self.most_of_one {
            return Err(Error::CallerStreamLimit(self.most_of_one));
        }
        *own += 1;
        open.all += 1;
        open.strangers += stranger;
        drop(open);
        Ok(OpenStream { streams: Arc::clone(self), by })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        open.all -= 1;
        open.strangers -= usize::from(self.by.is_stranger());
        let own = open.of.get_mut(&self.by);
        if own.is_some_and(|own| {
            *own -= 1;
            *own == 0
        }) {
            open.of.remove(&self.by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn streams(most: usize, most_of_one: usize) -> Arc<Streams> {
        Arc::new(Streams { most, most_of_strangers: most / 2, most_of_one, open: Mutex::default() })
    }

    fn user(number: u128) -> Opener {
        Opener::Caller(CallerKey::User(Uuid::from_u128(number)))
    }

    #[test]
    fn one_caller_has_so_many_and_all_together_so_many() {
        let streams = streams(3, 2);
        let mut held = vec![streams.open(user(1)).unwrap(), streams.open(user(1)).unwrap()];
        assert_eq!(streams.open(user(1)).err(), Some(Error::CallerStreamLimit(2)));
        held.push(streams.open(user(2)).unwrap());
        assert_eq!(streams.open(user(2)).err(), Some(Error::StreamLimit));
        held.remove(0);
        assert_eq!(streams.open(user(1)).err(), None);
        drop(held);
        let open = streams.lock();
        assert_eq!((open.all, open.of.len()), (0, 0), "nobody is remembered who has none open");
    }

    #[test]
    fn strangers_have_half_of_them_however_many_they_are() {
        let streams = streams(4, 4);
        let stranger = |address: &str| Opener::stranger(address.parse().ok());
        let held = [stranger("10.0.0.1"), stranger("2001:db8::1")].map(|by| streams.open(by).unwrap());
        assert_eq!(streams.open(stranger("10.0.0.2")).err(), Some(Error::StreamLimit));
        let known = [user(1), user(2)].map(|by| streams.open(by).unwrap());
        drop((held, known));
        assert_eq!(streams.lock().strangers, 0);
        assert_eq!(stranger("2001:db8::1"), stranger("2001:db8::ffff:2"), "one network");
        assert_ne!(stranger("2001:db8::1"), stranger("2001:db8:0:1::1"));
        assert_eq!(stranger("::ffff:10.0.0.1"), stranger("10.0.0.1"));
    }
}
