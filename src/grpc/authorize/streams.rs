//! How many streams are open, and whose.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::auth::CallerKey;
use crate::config::Limits;
use crate::domain::error::Error;

/// Whose stream it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Opener {
    /// That of somebody who is known.
    Caller(CallerKey),
    /// That of somebody who is not, at this address.
    Address(Option<IpAddr>),
}

/// The streams that are open.
pub(in crate::grpc) struct Streams {
    most: usize,
    most_of_one: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    all: usize,
    of: HashMap<Opener, usize>,
}

/// A stream that may be open for as long as this value lives.
pub(super) struct OpenStream {
    streams: Arc<Streams>,
    by: Opener,
}

impl Streams {
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self { most: limits.max_streams, most_of_one: limits.max_streams_per_caller, open: Mutex::default() })
    }

    /// Makes room for one more.
    pub(super) fn open(self: &Arc<Self>, by: Opener) -> Result<OpenStream, Error> {
        let mut open = self.lock();
        if open.all >= self.most {
            return Err(Error::StreamLimit);
        }
        let own = open.of.entry(by.clone()).or_default();
        if *own >= self.most_of_one {
            return Err(Error::CallerStreamLimit(self.most_of_one));
        }
        *own += 1;
        open.all += 1;
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
        Arc::new(Streams { most, most_of_one, open: Mutex::default() })
    }

    fn user(number: u128) -> Opener {
        Opener::Caller(CallerKey::User(Uuid::from_u128(number)))
    }

    #[test]
    fn one_caller_has_so_many_and_all_together_so_many() {
        let streams = streams(3, 2);
        let mut held = vec![streams.open(user(1)).unwrap(), streams.open(user(1)).unwrap()];
        assert_eq!(streams.open(user(1)).err(), Some(Error::CallerStreamLimit(2)));
        held.push(streams.open(Opener::Address(None)).unwrap());
        assert_eq!(streams.open(user(2)).err(), Some(Error::StreamLimit));
        held.remove(0);
        assert_eq!(streams.open(user(1)).err(), None);
        drop(held);
        let open = streams.lock();
        assert_eq!((open.all, open.of.len()), (0, 0), "nobody is remembered who has none open");
    }
}
