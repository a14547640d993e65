//! The budget of buffered bytes: requests that have not arrived completely, and answers that their clients have not read.
//!
//! Every such byte is charged to its connection, to its owner (a caller or, for strangers, a network) and to the server, and to
//! strangers as a whole. A charge is made before bytes are kept, and ends when they are dropped: for an answer, when the transport
//! has written it.
//!
//! What is checked is whether a budget is exhausted, not whether the next bytes fit: it may be exceeded by one frame of a request, or
//! by one answer. So every answer can be sent while nothing else is buffered, and nobody waits for a budget while holding part of it.
//!
//! # One connection at its worst
//!
//! | what | bytes | limited by |
//! |---|---|---|
//! | request data that no handler has taken | 1 MiB | the window of the connection; charged for streams of requests |
//! | request data that handlers have taken, headers of open calls, unread answers | 8 MiB of 64 | this budget |
//! | one header block that has not ended | 128 KiB | four times the limit of headers, in `h2`; 50 s, by keep-alive |
//! | one frame that has not ended, and one being written | 16 KiB each | the size of a frame; 50 s |
//! | calls that were cancelled before they began | 20 | `MAX_PENDING_RESETS` |
//! | answers without data | those of one read, 16 KiB | nothing is read while the client does not read: see `listener` |
//! | TLS records | 64 KiB, and 16 KiB | rustls |

mod answer;
mod request;
mod shared;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use http::HeaderMap;

use super::owner::{Owner, is_scarce, share};
use crate::api::errors::{ApiError, BufferScope};
use crate::config::Limits;
use crate::telemetry::metrics::BUFFERED_BYTES;

pub(in crate::api) use answer::{AnswerKind, Charged, charged_body};
pub(in crate::api) use request::{Arrival, charged_request};
pub(in crate::api) use shared::{SharedAnswer, SharedBytes, SharedMessage};

/// What a call is charged besides its headers, from its beginning until its answer is written: its state in `h2`, `hyper` and our
/// layers, and a small answer.
pub(in crate::api) const CALL_BYTES: usize = 4_096;

/// What a header is charged besides its name and value, as HTTP/2 counts it.
const HEADER_BYTES: usize = 32;

/// What a frame is charged besides its bytes: its places in queues.
const FRAME_BYTES: usize = 256;

/// The least budget of a connection: a request of the largest size, and more.
const MIN_PER_CONNECTION: usize = 5 << 20;

const MIB: usize = 1 << 20;

/// The budget of the server.
pub struct ByteBudget {
    limit: usize,
    used: [AtomicUsize; 2],
    /// The part of the budget for strangers: they cannot shut callers out.
    strangers_limit: usize,
    used_by_strangers: AtomicUsize,
    max_per_connection: usize,
    owners: Mutex<HashMap<Owner, Weak<OwnedBytes>>>,
}

/// The direction of buffered bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Request,
    Response,
}

/// What one owner has buffered on all connections.
struct OwnedBytes {
    budget: Arc<ByteBudget>,
    owner: Owner,
    used: AtomicUsize,
}

/// What one connection has buffered.
#[derive(Default)]
pub(in crate::api) struct ConnectionBytes {
    used: Arc<AtomicUsize>,
    /// The account of the last call: most connections have one caller.
    last: Mutex<Option<Arc<Account>>>,
}

/// What is charged for an owner's bytes on a connection.
pub(in crate::api) struct Account {
    budget: Arc<ByteBudget>,
    connection: Arc<AtomicUsize>,
    owned: Arc<OwnedBytes>,
    is_stranger: bool,
}

/// Buffered bytes, charged until the value is dropped.
pub(in crate::api) struct Charge {
    account: Arc<Account>,
    direction: Direction,
    bytes: usize,
}

impl ByteBudget {
    /// The budget that the settings give.
    #[must_use]
    pub fn new(limits: &Limits) -> Arc<Self> {
        Self::of(limits.max_buffered_mib.saturating_mul(MIB))
    }

    fn of(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: Default::default(),
            strangers_limit: limit / 4,
            used_by_strangers: AtomicUsize::new(0),
            max_per_connection: (limit / 8).max(MIN_PER_CONNECTION),
            owners: Mutex::default(),
        })
    }

    /// Updates the gauges.
    pub fn update_gauges(&self) {
        for (direction, used) in ["request", "response"].into_iter().zip(&self.used) {
            ::metrics::gauge!(BUFFERED_BYTES, "direction" => direction).set(used.load(Ordering::Relaxed) as f64);
        }
    }

    /// The account of an owner on a connection.
    pub(in crate::api) fn account(self: &Arc<Self>, connection: &ConnectionBytes, owner: &Owner) -> Arc<Account> {
        let mut last = connection.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = last.as_ref().filter(|account| account.owned.owner == *owner) {
            return Arc::clone(account);
        }
        let account = Arc::new(Account {
            budget: Arc::clone(self),
            connection: Arc::clone(&connection.used),
            owned: self.owned(owner),
            is_stranger: owner.is_stranger(),
        });
        Arc::clone(last.insert(account))
    }

    fn owned(self: &Arc<Self>, owner: &Owner) -> Arc<OwnedBytes> {
        let mut owners = self.owners();
        if let Some(owned) = owners.get(owner).and_then(Weak::upgrade) {
            return owned;
        }
        let new = OwnedBytes { budget: Arc::clone(self), owner: owner.clone(), used: AtomicUsize::new(0) };
        let new = Arc::new(new);
        owners.insert(owner.clone(), Arc::downgrade(&new));
        new
    }

    fn owners(&self) -> MutexGuard<'_, HashMap<Owner, Weak<OwnedBytes>>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used(&self) -> usize {
        self.used.iter().map(|used| used.load(Ordering::Relaxed)).sum()
    }
}

impl Drop for OwnedBytes {
    fn drop(&mut self) {
        let mut owners = self.budget.owners();
        // Another call of the same owner may have begun a new count meanwhile.
        if owners.get(&self.owner).is_some_and(|owned| owned.strong_count() == 0) {
            owners.remove(&self.owner);
        }
    }
}

impl fmt::Debug for ConnectionBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionBytes").field("used", &self.used).finish_non_exhaustive()
    }
}

impl Account {
    /// Charges a call that begins with these headers.
    ///
    /// # Errors
    /// When a budget is exhausted.
    pub fn begin_call(self: &Arc<Self>, headers: &HeaderMap) -> Result<Charge, ApiError> {
        let sizes = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES);
        self.charge(Direction::Request, CALL_BYTES + sizes.sum::<usize>())
    }

    /// Charges request bytes that are about to be kept.
    ///
    /// # Errors
    /// When a budget is exhausted.
    pub fn charge_request(self: &Arc<Self>, bytes: usize) -> Result<Charge, ApiError> {
        self.charge(Direction::Request, bytes)
    }

    fn charge(self: &Arc<Self>, direction: Direction, bytes: usize) -> Result<Charge, ApiError> {
        self.check()?;
        Ok(self.take(direction, bytes))
    }

    /// Charges bytes that exist already, without a check.
    fn take(self: &Arc<Self>, direction: Direction, bytes: usize) -> Charge {
        let mut charge = Charge { account: Arc::clone(self), direction, bytes: 0 };
        charge.add(bytes);
        charge
    }

    /// Whether more may be buffered.
    fn check(&self) -> Result<(), ApiError> {
        self.exhausted().map_or(Ok(()), |scope| Err(ApiError::BufferLimit(scope)))
    }

    fn exhausted(&self) -> Option<BufferScope> {
        let budget = &*self.budget;
        let used = budget.used();
        let (own_whole, own_used) = match self.is_stranger {
            true => (budget.strangers_limit, budget.used_by_strangers.load(Ordering::Relaxed)),
            false => (budget.limit, used),
        };
        if self.connection.load(Ordering::Relaxed) >= budget.max_per_connection {
            Some(BufferScope::Connection)
        } else if is_scarce(own_used, own_whole) && self.owned.used.load(Ordering::Relaxed) >= share(own_whole) {
            Some(BufferScope::Owner)
        } else if own_used >= own_whole || used >= budget.limit {
            Some(BufferScope::Server)
        } else {
            None
        }
    }

    /// An account for bytes that several connections share.
    fn shared(&self) -> Arc<Self> {
        let owned =
            OwnedBytes { budget: Arc::clone(&self.budget), owner: Owner::Stranger(None), used: AtomicUsize::new(0) };
        Arc::new(Self {
            budget: Arc::clone(&self.budget),
            connection: Arc::default(),
            owned: Arc::new(owned),
            is_stranger: self.is_stranger,
        })
    }
}

impl Charge {
    /// Charges more.
    ///
    /// # Errors
    /// When a budget is exhausted.
    fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.account.check()?;
        self.add(bytes);
        Ok(())
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        for used in self.counters() {
            used.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn counters(&self) -> impl Iterator<Item = &AtomicUsize> {
        let Account { budget, connection, owned, is_stranger } = &*self.account;
        let strangers = is_stranger.then_some(&budget.used_by_strangers);
        [&**connection, &owned.used, &budget.used[self.direction as usize]].into_iter().chain(strangers)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        for used in self.counters() {
            used.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::CallerKey;
    use uuid::Uuid;

    const LIMIT: usize = 64 * MIB;

    fn stranger(address: &str) -> Owner {
        Owner::stranger(address.parse().ok())
    }

    fn caller(number: u128) -> Owner {
        Owner::Caller(CallerKey::User(Uuid::from_u128(number)))
    }

    /// Charges mebibytes on new connections until one is refused.
    fn fill(budget: &Arc<ByteBudget>, owner: &Owner) -> (Vec<Charge>, ApiError) {
        let mut charges = Vec::new();
        loop {
            match budget.account(&ConnectionBytes::default(), owner).charge_request(MIB) {
                Ok(charge) => charges.push(charge),
                Err(error) => return (charges, error),
            }
        }
    }

    #[test]
    fn strangers_get_a_quarter_of_the_budget() {
        let budget = ByteBudget::of(LIMIT);
        let (first, error) = fill(&budget, &stranger("10.0.0.1"));
        // Alone, one network gets more than half of it.
        assert_eq!((first.len(), error), (9, ApiError::BufferLimit(BufferScope::Owner)));
        let (second, _) = fill(&budget, &stranger("10.0.0.2"));
        let (third, error) = fill(&budget, &stranger("10.0.0.3"));
        assert_eq!((second.len(), third.len()), (4, 3), "{error}");
        assert_eq!(error, ApiError::BufferLimit(BufferScope::Server));
        let (callers, _) = fill(&budget, &caller(1));
        assert_eq!(callers.len(), 17, "while most is free, a caller may take more than a share");
        drop((first, second, third, callers));
        assert_eq!((budget.used(), budget.owners().len()), (0, 0), "owners without bytes are forgotten");
    }

    #[test]
    fn connection_has_a_budget_of_its_own() {
        let budget = ByteBudget::of(LIMIT);
        let connection = ConnectionBytes::default();
        let account = budget.account(&connection, &caller(1));
        let held: Vec<_> = (0..8).map(|_| account.charge_request(MIB).unwrap()).collect();
        let refused = account.begin_call(&HeaderMap::new()).err();
        assert_eq!(refused, Some(ApiError::BufferLimit(BufferScope::Connection)));
        assert!(budget.account(&connection, &caller(2)).begin_call(&HeaderMap::new()).is_err(), "the same connection");
        assert!(budget.account(&ConnectionBytes::default(), &caller(1)).begin_call(&HeaderMap::new()).is_ok());
        drop(held);
        assert!(account.begin_call(&HeaderMap::new()).is_ok());
    }
}
