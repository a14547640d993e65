//! The budget of buffered bytes: requests that have not arrived completely, answers that their clients have not read, and the keys of
//! open watches. Besides, the state of calls, and of open streams of unauthenticated callers.
//!
//! Every such byte is charged to its connection, its owner and the server. The owner is a caller, or a network of unauthenticated
//! callers. All unauthenticated callers together have a quarter of the server's budget. A charge is made before bytes are kept, and ends
//! when they are dropped: for an answer, when the transport has written it.
//!
//! A check asks whether a budget is exhausted, not whether the next bytes fit. So a budget may be exceeded by one frame of a request, or
//! by one answer. In return, every answer can be sent while nothing else is buffered. Only streams wait for a budget, between two
//! messages. A stream may hold part of the budget meanwhile, so its wait is bounded.
//!
//! The shares of a connection and of an owner apply only while memory is scarce. The server's budget, and the quarter for unauthenticated
//! callers, always apply. [`Precedence`] says which calls begin beyond that.
//!
//! # One connection at its worst
//!
//! | what | bytes | limited by |
//! |---|---|---|
//! | request data that no handler has taken | 512 KiB | the window of the connection; not charged, except to a stream of requests whose handler is not ready for more |
//! | request data that is kept until the request has arrived, keys of watches, headers of open calls, unread answers | 8 MiB of 64, once for its authenticated callers and once for the others, while memory is scarce | this budget |
//! | one head of HTTP/1.1 that has not ended | 32 KiB | the limit of headers; 30 s; this budget, see `unfinished` |
//! | one header block of HTTP/2 that has not ended | 128 KiB, and 200 KiB decoded | four times the limit of headers, in `h2`; 50 s, by keep-alive; this budget |
//! | one frame that has not ended | 16 KiB | the size of a frame; 50 s; this budget |
//! | one frame being written, and TLS records | 64 KiB | the size of a frame, `TLS_BUFFER`; this budget, while the client does not read |
//! | frames gathered for one write | 64 KiB, and 4 MiB for all connections | `gather` |
//! | the state of a call | 16 KiB and its headers, until its answer is written | this budget |
//! | the state of an open stream | the same without credentials, as long as it is open | this budget; for other callers `--max-streams-per-caller` |
//! | what `h2` keeps of calls that are over | 1.75 KiB for each call that was in progress or cancelled at once, at most 3.6 MiB, until the connection ends | a budget beside this one, see `slots` |
//! | calls that have not begun, cancelled ones too | their heads, of 64 calls and one read | `MAX_UNTAKEN_CALLS`, `MAX_PENDING_RESETS` |
//! | entries of the log that are read ahead | half a mebibyte a stream, and a quarter of this budget in all | `charge_ahead` |
//! | answers without data | 2 KiB for each call that is refused, until it is written | the slots; nothing is read while the client does not read: see `listener` |
//! | one TLS record being read | 16 KiB | rustls |
//!
//! # All connections at their worst
//!
//! With the defaults (2,000 connections, 64 MiB, 10,000 streams):
//!
//! | what | by unauthenticated callers | by all |
//! |---|---|---|
//! | the program itself | 52 MiB | 52 MiB |
//! | connections with their free slots, 40 KiB each | 78 MiB | 78 MiB |
//! | this budget: half of it for health checks, the whole for callers | 32 MiB | 64 MiB |
//! | slots: an eighth of this budget each, and one for each stream | 8 MiB | 33 MiB |
//! | sum | 170 MiB | 227 MiB |
//!
//! TLS adds 39 MiB, and an open stream of an authenticated caller 12 KiB.

mod account;
mod answer;
mod request;
mod shared;
mod slots;
mod unfinished;
mod unsent;
mod usage;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use hashbrown::HashMap;

use super::owner::Owner;
use crate::api::connection::Arriving;
use crate::config::Limits;
use crate::telemetry::metrics::BUFFERED_BYTES;

pub(in crate::api) use account::{ByteAccount, Charge, Precedence};
pub(in crate::api) use answer::{AnswerKind, ChargedAnswer, ChargedBody, charged_body, charged_refusal};
pub(in crate::api) use request::{Arrival, charged_request};
pub(in crate::api) use shared::{SharedAnswer, SharedBytes, SharedMessage};
pub(in crate::api) use slots::{CallSlots, FRAMES_PER_SLOT, FREE_SLOTS};
pub(in crate::api) use unfinished::UnfinishedHead;
pub(in crate::api) use unsent::Unsent;
pub(in crate::api) use usage::UnreadBody;

use account::{Direction, FRAME_BYTES};
use slots::SlotBudget;
use unfinished::UnfinishedHeads;
use usage::ConnectionUse;

/// The least budget of a connection: a request of the largest size, and more.
const MIN_PER_CONNECTION: usize = 5 << 20;

/// What the transport keeps of answers while a client does not read them: a frame, what `h2` joins to it, and TLS records of both.
const UNREAD_BYTES: usize = 64 << 10;

const MIB: usize = 1 << 20;

/// The budget of the server.
pub struct ByteBudget {
    limit: usize,
    /// By [`Direction`].
    used: [AtomicUsize; 2],
    /// The part of the budget for unauthenticated callers. Only [`Precedence::Vital`] calls begin beyond it, up to twice this part.
    unauthenticated_limit: usize,
    used_unauthenticated: AtomicUsize,
    max_per_connection: usize,
    owners: Mutex<HashMap<Owner, Weak<OwnedBytes>>>,
    /// By whether the last caller of the connection is unauthenticated.
    heads: [UnfinishedHeads; 2],
    /// By the same, for those beyond the free ones.
    slots: [SlotBudget; 2],
    max_slots: usize,
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
    /// By authenticated and by unauthenticated callers: behind a proxy both use one connection.
    used: [Arc<ConnectionUse>; 2],
    /// The account of the last call: most connections have one caller.
    last: Mutex<Option<Arc<ByteAccount>>>,
    arriving: Mutex<Arriving>,
    is_authenticated: AtomicBool,
    /// The calls that the transport has begun. Only the task of the connection changes it.
    begun: AtomicUsize,
    /// The bodies of requests that nobody reads at present.
    unread_bodies: Arc<AtomicUsize>,
}

impl ConnectionBytes {
    /// What has arrived of a head or frame that is not complete.
    pub fn arriving(&self) -> MutexGuard<'_, Arriving> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it had an authenticated caller.
    pub fn is_authenticated(&self) -> bool {
        self.is_authenticated.load(Ordering::Relaxed)
    }

    /// The calls that are not over.
    pub fn calls(&self) -> usize {
        self.used.iter().map(|used| used.calls()).sum()
    }

    /// Whether nobody reads the body of a request at present.
    pub fn has_unread_body(&self) -> bool {
        self.unread_bodies.load(Ordering::Relaxed) > 0
    }

    /// Counts a call that the transport begins. For the task of the connection.
    pub fn begin_call(&self) {
        self.begun.store(self.begun().wrapping_add(1), Ordering::Relaxed);
    }

    /// The calls that the transport has begun.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    fn last(&self) -> MutexGuard<'_, Option<Arc<ByteAccount>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ByteBudget {
    /// The budget that the settings give.
    #[must_use]
    pub fn new(limits: &Limits) -> Arc<Self> {
        let limit = limits.max_buffered_mib.saturating_mul(MIB);
        Arc::new(Self {
            limit,
            used: Default::default(),
            unauthenticated_limit: limit / 4,
            used_unauthenticated: AtomicUsize::new(0),
            max_per_connection: (limit / 8).max(MIN_PER_CONNECTION),
            owners: Mutex::default(),
            heads: Default::default(),
            slots: SlotBudget::of(limit, limits),
            // A cancelled call keeps its slot until it begins, and the client may open another meanwhile.
            max_slots: limits.fixed.max_calls_per_connection as usize + limits.fixed.max_pending_resets,
        })
    }

    /// Updates the gauges.
    pub fn update_gauges(&self) {
        for (direction, used) in ["request", "response"].into_iter().zip(&self.used) {
            ::metrics::gauge!(BUFFERED_BYTES, "direction" => direction).set(used.load(Ordering::Relaxed) as f64);
        }
    }

    /// The account of an owner on a connection.
    pub(in crate::api) fn account(self: &Arc<Self>, connection: &ConnectionBytes, owner: &Owner) -> Arc<ByteAccount> {
        let mut last = connection.last();
        if let Some(account) = last.as_ref().filter(|account| account.owned.owner == *owner) {
            return Arc::clone(account);
        }
        let is_unauthenticated = owner.is_unauthenticated();
        let used = Arc::clone(&connection.used[usize::from(is_unauthenticated)]);
        if !is_unauthenticated {
            connection.is_authenticated.store(true, Ordering::Relaxed);
        }
        let account = ByteAccount {
            budget: Arc::clone(self),
            connection: used,
            unread_bodies: Arc::clone(&connection.unread_bodies),
            owned: self.owned(owner),
            is_unauthenticated,
            requests: Mutex::default(),
        };
        let account = Arc::new(account);
        Arc::clone(last.insert(account))
    }

    /// Charges what the transport keeps of answers that a client does not read, to the last caller of the connection. `None` if it had none,
    /// or if their budget is exhausted: they begin no further calls then, and must not exhaust that of others.
    pub(in crate::api) fn hold_unread(&self, connection: &ConnectionBytes) -> Option<Charge> {
        let last = connection.last().clone()?;
        last.check().is_ok().then(|| last.take(Direction::Response, UNREAD_BYTES))
    }

    /// The most slots that a connection needs, by the limit of its calls.
    pub(in crate::api) fn max_slots(&self) -> usize {
        self.max_slots
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

#[cfg(test)]
impl ByteBudget {
    /// A budget of so many bytes.
    fn of(limit: usize) -> Arc<Self> {
        let budget = Self::new(&Limits { max_buffered_mib: limit.div_ceil(MIB), ..Limits::defaults() });
        assert_eq!(budget.limit, limit);
        budget
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::account::CALL_BYTES;
    use super::*;
    use crate::api::errors::{ApiError, Limit};
    use crate::auth::CallerKey;
    use uuid::Uuid;

    const LIMIT: usize = 64 * MIB;

    fn network(address: &str) -> Owner {
        Owner::unauthenticated(address.parse().ok())
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
    fn unauthenticated_callers_get_a_quarter() {
        let budget = ByteBudget::of(LIMIT);
        let (first, error) = fill(&budget, &network("10.0.0.1"));
        // Alone, one network gets more than half of it.
        assert_eq!((first.len(), error), (9, Limit::NetworkBytes.reached(LIMIT / 16).into()));
        let (second, _) = fill(&budget, &network("10.0.0.2"));
        let (third, error) = fill(&budget, &network("10.0.0.3"));
        assert_eq!((second.len(), third.len()), (4, 3), "{error}");
        assert_eq!(error, Limit::UnauthenticatedBytes.reached(LIMIT / 4).into());
        let (callers, _) = fill(&budget, &caller(1));
        assert_eq!(callers.len(), 17, "while most is free, a caller may take more than a share");
        drop((first, second, third, callers));
        assert_eq!((budget.used(), budget.owners().len()), (0, 0), "owners without bytes are forgotten");
    }

    fn begin(budget: &Arc<ByteBudget>, connection: &ConnectionBytes, owner: &Owner, precedence: Precedence) -> bool {
        budget.account(connection, owner).begin_call(&HeaderMap::new(), precedence).is_ok()
    }

    #[test]
    fn calls_are_charged_in_advance_while_one_is_open() {
        let budget = ByteBudget::of(LIMIT);
        let account = budget.account(&ConnectionBytes::default(), &caller(1));
        let mut calls = vec![account.take(Direction::Request, CALL_BYTES)];
        let charged = budget.used();
        assert!((CALL_BYTES..CALL_BYTES + 80_000).contains(&charged), "{charged}");
        for _ in 0..100 {
            calls.extend((0..3).map(|_| account.take(Direction::Request, CALL_BYTES)));
            assert_eq!(budget.used(), charged, "the advance is used up first");
            calls.truncate(1);
        }
        calls.extend((0..1_000).map(|_| account.take(Direction::Request, CALL_BYTES)));
        let (used, charged) = (1_001 * CALL_BYTES, budget.used());
        assert!((used..used + 80_000).contains(&charged), "{charged}");
        assert_eq!(account.owned.used.load(Ordering::Relaxed), charged, "the owner's as well");
        calls.truncate(10);
        assert!(budget.used() < 10 * CALL_BYTES + 160_000, "{}", budget.used());
        drop(calls);
        assert_eq!(budget.used(), 0);
        let all = account.take(Direction::Request, LIMIT / 4);
        let call = account.take(Direction::Request, CALL_BYTES);
        assert_eq!(budget.used(), LIMIT / 4 + CALL_BYTES, "exact while memory is not plentiful");
        drop((all, call));
    }

    #[test]
    fn unread_answers_without_credentials_leave_room_to_callers() {
        let budget = ByteBudget::of(LIMIT);
        let connections: Vec<_> = (0..2_000).map(|_| ConnectionBytes::default()).collect();
        let hold = |connection| {
            budget.account(connection, &network("10.0.0.1"));
            budget.hold_unread(connection)
        };
        let held: Vec<_> = connections.iter().filter_map(hold).collect();
        assert!(budget.used() <= LIMIT / 4 + UNREAD_BYTES, "{}", budget.used());
        assert!(begin(&budget, &ConnectionBytes::default(), &caller(1), Precedence::Ordinary));
        assert!(!held.is_empty() && budget.hold_unread(&ConnectionBytes::default()).is_none());
    }

    #[test]
    fn connection_has_a_share_while_memory_is_scarce() {
        use Precedence::{Ordinary, Stream};
        let budget = ByteBudget::of(LIMIT);
        let connection = ConnectionBytes::default();
        let account = budget.account(&connection, &caller(1));
        let mut held: Vec<_> = (0..33).map(|_| account.charge_request(MIB).unwrap()).collect();
        let refused = account.begin_call(&HeaderMap::new(), Ordinary).err();
        assert_eq!(refused, Some(Limit::ConnectionBytes.reached(LIMIT / 8).into()));
        assert!(!begin(&budget, &connection, &caller(2), Ordinary), "the same connection");
        assert!(begin(&budget, &ConnectionBytes::default(), &caller(2), Ordinary), "another one");
        assert!(begin(&budget, &connection, &caller(1), Stream), "its messages wait");
        held.extend((33..64).map(|_| account.take(Direction::Request, MIB)));
        assert!(!begin(&budget, &connection, &caller(1), Stream), "the whole budget always applies");
        drop(held);
        assert!(begin(&budget, &connection, &caller(1), Ordinary));
    }

    #[test]
    fn reading_ahead_leaves_most_memory_to_answers() {
        let budget = ByteBudget::of(LIMIT);
        let account = |number| budget.account(&ConnectionBytes::default(), &caller(number));
        let ahead: Vec<_> = (0..).map_while(|number| account(number).charge_ahead(MIB)).collect();
        assert_eq!(ahead.len(), 16);
        assert!(account(99).check().is_ok() && account(0).charge_request(MIB).is_ok());
        drop(ahead);
        let answers = account(1).take(Direction::Response, 15 * MIB);
        assert!(account(2).charge_ahead(MIB).is_some() && account(2).charge_ahead(2 * MIB).is_none());
        drop(answers);
    }

    #[test]
    fn unauthenticated_use_leaves_a_connections_callers() {
        let budget = ByteBudget::of(LIMIT);
        let connection = ConnectionBytes::default();
        let unauthenticated = budget.account(&connection, &network("10.0.0.1")).take(Direction::Request, 15 * MIB);
        let others = budget.account(&ConnectionBytes::default(), &caller(2)).take(Direction::Request, 25 * MIB);
        assert!(begin(&budget, &connection, &caller(1), Precedence::Ordinary));
        drop((unauthenticated, others));
    }

    #[test]
    fn vital_calls_begin_beyond_unauthenticated_quarter() {
        let budget = ByteBudget::of(LIMIT);
        let held = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|address| fill(&budget, &network(address)).0);
        let connection = ConnectionBytes::default();
        assert!(!begin(&budget, &connection, &network("10.0.0.4"), Precedence::Ordinary));
        assert!(begin(&budget, &connection, &network("10.0.0.4"), Precedence::Vital));
        let more = budget.account(&connection, &network("10.0.0.4")).take(Direction::Request, 16 * MIB);
        assert!(!begin(&budget, &connection, &network("10.0.0.4"), Precedence::Vital), "half is for callers");
        assert!(begin(&budget, &connection, &caller(1), Precedence::Ordinary));
        drop((held, more));
    }
}
