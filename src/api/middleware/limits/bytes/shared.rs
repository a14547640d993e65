//! Answers that are the same for many clients: encoded once, sent without a copy, and charged once.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::Stream;
use prost::bytes::Bytes;
use tonic::Status;

use super::{Account, Charge, Direction, FRAME_BYTES};

/// The messages of an answer.
pub(super) type SharedMessages = Pin<Box<dyn Stream<Item = Result<SharedMessage, Status>> + Send>>;

/// The answer that a handler attaches to its response, as an extension. It is sent instead of the response's own messages, which tonic
/// would copy for each client. `None` once it was taken.
#[derive(Clone)]
pub(in crate::api) struct SharedAnswer(Arc<Mutex<Option<SharedMessages>>>);

impl SharedAnswer {
    /// An answer of these messages.
    pub fn new(messages: impl Stream<Item = Result<SharedMessage, Status>> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::pin(messages)))))
    }

    pub(super) fn into_messages(self) -> Option<SharedMessages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A message in gRPC's framing.
#[derive(Clone)]
pub(in crate::api) struct SharedMessage {
    /// Its first bytes, which are few.
    pub head: Bytes,
    /// All others.
    pub shared: SharedBytes,
}

/// Bytes that many answers share. They are charged while any client has not read them: once for all strangers, once for all callers.
#[derive(Clone)]
pub(in crate::api) struct SharedBytes {
    bytes: Bytes,
    charges: Arc<Mutex<[Weak<Charge>; 2]>>,
}

impl SharedBytes {
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), charges: Arc::default() }
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    #[cfg(test)]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes for one client. `call` is charged as long as they are.
    pub(super) fn lend(&self, account: &Arc<Account>, call: Option<Charge>) -> Bytes {
        let mut charges = self.charges.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut charges[usize::from(account.is_stranger)];
        let shared = slot.upgrade().unwrap_or_else(|| {
            let charge = Arc::new(account.shared().take(Direction::Response, self.bytes.len()));
            *slot = Arc::downgrade(&charge);
            charge
        });
        drop(charges);
        let own = account.take(Direction::Response, FRAME_BYTES);
        Bytes::from_owner(LentBytes { bytes: self.bytes.clone(), _shared: shared, _own: own, _call: call })
    }
}

struct LentBytes {
    bytes: Bytes,
    _shared: Arc<Charge>,
    _own: Charge,
    _call: Option<Charge>,
}

impl AsRef<[u8]> for LentBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
