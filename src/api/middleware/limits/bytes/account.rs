//! The account of an owner on a connection: charges bytes, and refuses them while a budget is exhausted.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;

use super::usage::{ConnectionUse, UnreadBody};
use super::{ByteBudget, OwnedBytes};
use crate::api::errors::{ApiError, Limit, LimitReached};
use crate::api::middleware::limits::owner::{Owner, is_scarce, share};

/// What a call is charged besides its headers, until its answer is written: as much as one takes that has not ended, in `h2`, `hyper`
/// and our layers, with a small request and a small answer. A stream of an unauthenticated caller is charged as long as it is open. For
/// authenticated callers, the number of streams bounds them.
pub(super) const CALL_BYTES: usize = 16 << 10;

/// What the answer to a call is charged that is refused before it is charged as a call.
const REFUSAL_BYTES: usize = 2 << 10;

/// The first part of a request up to this size is not refused. A stream with headers beyond it may not begin beyond a share.
const SMALL_BYTES: usize = 4 << 10;

/// What a header is charged besides its name and value: its place in the map of headers, and two allocations.
const HEADER_BYTES: usize = 160;

/// What a frame is charged besides its bytes: its places in queues.
pub(super) const FRAME_BYTES: usize = 256;

/// How much an account charges its owner and the server in advance, while it holds something: a few calls. They use the same counters on all
/// connections, and calls that all wait for those cost a read 3 % of its time.
const ADVANCE_BYTES: usize = 4 * CALL_BYTES;

/// The direction of buffered bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Request,
    Response,
}

/// Which budgets may be exhausted when a call begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum Precedence {
    /// None.
    Ordinary,
    /// The shares of its connection and owner: a stream may begin, since its messages wait for the budget. Without credentials, it
    /// may not: it is charged as long as it is open. All such streams leave a quarter of their callers' part to other calls.
    Stream,
    /// The quarter for unauthenticated callers, up to twice its size. For health checks, and for calls whose caller is not yet known: they
    /// are small, and must work while other unauthenticated callers fill the quarter.
    Vital,
}

/// The account to which an owner's bytes on a connection are charged.
pub(in crate::api) struct ByteAccount {
    pub(super) budget: Arc<ByteBudget>,
    pub(super) connection: Arc<ConnectionUse>,
    pub(super) owned: Arc<OwnedBytes>,
    /// Of the connection.
    pub(super) unread_bodies: Arc<AtomicUsize>,
    pub(super) is_unauthenticated: bool,
    pub(super) requests: Mutex<AdvancedBytes>,
}

/// The request bytes of an account, and what its owner and the server are charged for them: as much, or slightly more.
#[derive(Default)]
pub(super) struct AdvancedBytes {
    used: usize,
    charged: usize,
}

impl AdvancedBytes {
    /// Adds bytes. Returns how much more is to be charged, with this advance.
    fn add(&mut self, bytes: usize, advance: usize) -> usize {
        self.used += bytes;
        if self.used <= self.charged {
            return 0;
        }
        let more = self.used + advance - self.charged;
        self.charged += more;
        more
    }

    /// Removes bytes. Returns how much less is to be charged. Nothing is charged in advance for an account that holds nothing.
    fn remove(&mut self, bytes: usize, advance: usize) -> usize {
        self.used -= bytes;
        let advance = if self.used == 0 { 0 } else { advance };
        if self.charged <= self.used + 2 * advance {
            return 0;
        }
        let less = self.charged - self.used - advance;
        self.charged -= less;
        less
    }
}

/// Buffered bytes, charged until the value is dropped.
pub(in crate::api) struct Charge {
    pub(super) account: Arc<ByteAccount>,
    direction: Direction,
    pub(super) bytes: usize,
    /// Whether it is that of a call: until the charge ends, the call counts as one of its connection.
    is_call: bool,
}

impl ByteAccount {
    /// Charges a call that begins with these headers.
    ///
    /// # Errors
    /// When a budget is exhausted.
    pub fn begin_call(self: &Arc<Self>, headers: &HeaderMap, precedence: Precedence) -> Result<Charge, ApiError> {
        let sizes = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES);
        let headers = sizes.sum::<usize>();
        let is_stream = precedence == Precedence::Stream;
        // With large headers, many streams would exceed a share by much.
        let is_large_stream = is_stream && headers > SMALL_BYTES;
        self.check_for(if is_large_stream { Precedence::Ordinary } else { precedence })?;
        Ok(self.take_call(CALL_BYTES + headers))
    }

    /// Charges the answer to a call that is refused, without a check: it is going to be written.
    pub fn refuse_call(self: &Arc<Self>) -> Charge {
        self.take_call(REFUSAL_BYTES)
    }

    /// Counts a body of a request of this connection that nobody reads at present.
    pub fn unread_body(&self) -> UnreadBody {
        UnreadBody::of(&self.unread_bodies)
    }

    fn take_call(self: &Arc<Self>, bytes: usize) -> Charge {
        self.add(Direction::Request, bytes, 1);
        Charge { account: Arc::clone(self), direction: Direction::Request, bytes, is_call: true }
    }

    /// What the connection is charged, in bytes.
    #[cfg(test)]
    pub fn charged(&self) -> usize {
        self.connection.bytes()
    }

    pub fn is_unauthenticated(&self) -> bool {
        self.is_unauthenticated
    }

    /// Charges request bytes that are about to be kept.
    ///
    /// # Errors
    /// When a budget is exhausted.
    pub fn charge_request(self: &Arc<Self>, bytes: usize) -> Result<Charge, ApiError> {
        self.check()?;
        Ok(self.take(Direction::Request, bytes))
    }

    /// Charges the first bytes of a call's request. A small request is not refused, since its call has begun.
    ///
    /// # Errors
    /// When a budget is exhausted.
    pub(super) fn charge_first(self: &Arc<Self>, bytes: usize) -> Result<Charge, ApiError> {
        match bytes <= SMALL_BYTES {
            true => Ok(self.take(Direction::Request, bytes)),
            false => self.charge_request(bytes),
        }
    }

    /// Charges what a stream keeps before its client asks for it. `None` unless memory is plentiful: then the stream does without.
    pub fn charge_ahead(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        self.is_plentiful(bytes).then(|| self.take(Direction::Response, bytes))
    }

    /// Whether most of the budget is free beside these bytes. Unauthenticated callers have a small part, which is never plentiful.
    fn is_plentiful(&self, bytes: usize) -> bool {
        !self.is_unauthenticated && self.budget.used() + bytes <= self.budget.limit / 4
    }

    /// Counts bytes that are kept.
    fn add(&self, direction: Direction, bytes: usize, calls: usize) {
        self.connection.add(bytes, calls);
        match direction {
            Direction::Request => {
                // Locked until the shared counters have them: no other call may subtract them before.
                let mut requests = self.requests();
                let more = requests.add(bytes, self.advance(bytes));
                self.add_shared(direction, more);
            }
            Direction::Response => self.add_shared(direction, bytes),
        }
    }

    /// Counts bytes that are kept no longer.
    fn remove(&self, direction: Direction, bytes: usize, calls: usize) {
        self.connection.remove(bytes, calls);
        match direction {
            Direction::Request => {
                let mut requests = self.requests();
                let less = requests.remove(bytes, self.advance(0));
                self.remove_shared(direction, less);
            }
            Direction::Response => self.remove_shared(direction, bytes),
        }
    }

    fn add_shared(&self, direction: Direction, bytes: usize) {
        if bytes > 0 {
            self.shared_counters(direction).for_each(|used| _ = used.fetch_add(bytes, Ordering::Relaxed));
        }
    }

    fn remove_shared(&self, direction: Direction, bytes: usize) {
        if bytes > 0 {
            self.shared_counters(direction).for_each(|used| _ = used.fetch_sub(bytes, Ordering::Relaxed));
        }
    }

    fn requests(&self) -> MutexGuard<'_, AdvancedBytes> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much to charge in advance.
    fn advance(&self, bytes: usize) -> usize {
        if bytes <= ADVANCE_BYTES && self.is_plentiful(bytes) { ADVANCE_BYTES } else { 0 }
    }

    /// The counters of the owner, of the server and of all unauthenticated callers.
    fn shared_counters(&self, direction: Direction) -> impl Iterator<Item = &AtomicUsize> {
        let unauthenticated = self.is_unauthenticated.then_some(&self.budget.used_unauthenticated);
        [&self.owned.used, &self.budget.used[direction as usize]].into_iter().chain(unauthenticated)
    }

    /// Charges bytes that exist already, without a check.
    pub(super) fn take(self: &Arc<Self>, direction: Direction, bytes: usize) -> Charge {
        self.add(direction, bytes, 0);
        Charge { account: Arc::clone(self), direction, bytes, is_call: false }
    }

    /// Whether more may be buffered.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        self.check_for(Precedence::Ordinary)
    }

    fn check_for(&self, precedence: Precedence) -> Result<(), ApiError> {
        self.exhausted(precedence).map_or(Ok(()), |limit| Err(limit.into()))
    }

    fn exhausted(&self, precedence: Precedence) -> Option<LimitReached> {
        let budget = &*self.budget;
        let used = budget.used();
        let (own_whole, own_used) = match self.is_unauthenticated {
            true => (budget.unauthenticated_limit, budget.used_unauthenticated.load(Ordering::Relaxed)),
            false => (budget.limit, used),
        };
        let own_whole =
            if self.is_unauthenticated && precedence == Precedence::Vital { 2 * own_whole } else { own_whole };
        let is_open_stream = precedence == Precedence::Stream && self.is_unauthenticated;
        let has_share = (precedence != Precedence::Stream || is_open_stream) && is_scarce(own_used, own_whole);
        if has_share && self.connection.bytes() >= budget.max_per_connection {
            Some(Limit::ConnectionBytes.reached(budget.max_per_connection))
        } else if has_share && self.owned.used.load(Ordering::Relaxed) >= share(own_whole) {
            let limit = if self.is_unauthenticated { Limit::NetworkBytes } else { Limit::CallerBytes };
            Some(limit.reached(share(own_whole)))
        } else if used >= budget.limit {
            Some(Limit::ServerBytes.reached(budget.limit))
        } else if own_used >= own_whole {
            Some(Limit::UnauthenticatedBytes.reached(own_whole))
        } else if is_open_stream && own_used >= own_whole / 4 * 3 {
            Some(Limit::UnauthenticatedStreamBytes.reached(own_whole / 4 * 3))
        } else {
            None
        }
    }

    /// An account for bytes that several connections share. They count for the server, and for unauthenticated callers as a whole, but
    /// for no owner.
    pub(super) fn shared(&self) -> Arc<Self> {
        let owned = OwnedBytes {
            budget: Arc::clone(&self.budget),
            owner: Owner::Unauthenticated(None),
            used: AtomicUsize::new(0),
        };
        Arc::new(Self {
            budget: Arc::clone(&self.budget),
            connection: Arc::default(),
            unread_bodies: Arc::default(),
            owned: Arc::new(owned),
            is_unauthenticated: self.is_unauthenticated,
            requests: Mutex::default(),
        })
    }
}

impl Charge {
    /// Charges more.
    ///
    /// # Errors
    /// When a budget is exhausted.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.account.check()?;
        self.add(bytes);
        Ok(())
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.account.add(self.direction, bytes, 0);
    }

    /// Ends the charge of its bytes. If it is that of a call, the call still counts as one of its connection.
    pub fn release_bytes(&mut self) {
        self.account.remove(self.direction, std::mem::take(&mut self.bytes), 0);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.remove(self.direction, self.bytes, usize::from(self.is_call));
    }
}
