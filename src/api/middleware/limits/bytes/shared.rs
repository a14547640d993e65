//! Answers that are the same for many clients: encoded once, sent without a copy, and charged once.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::Stream;
use prost::Message;
use prost::bytes::{BufMut, Bytes, BytesMut};
use tonic::Status;

use super::unsent::{Unsent, UnsentFrame};
use super::{ByteAccount, Charge, Direction, FRAME_BYTES};
use crate::domain::error::Error;

/// What gRPC puts before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The messages of an answer.
pub(in crate::api) type SharedMessages = Pin<Box<dyn Stream<Item = Result<SharedMessage, Status>> + Send>>;

/// The answer that a handler attaches to its response, as an extension. It is sent instead of the response's own messages, which tonic
/// would copy for each client. `None` once it was taken.
#[derive(Clone)]
pub(in crate::api) struct SharedAnswer {
    messages: Arc<Mutex<Option<SharedMessages>>>,
    unsent: Unsent,
}

impl SharedAnswer {
    /// An answer of these messages.
    pub fn new(messages: impl Stream<Item = Result<SharedMessage, Status>> + Send + 'static) -> Self {
        Self::with(Unsent::default(), messages)
    }

    /// An answer of these messages. Their source waits on `unsent` before it makes the next one.
    pub fn with(unsent: Unsent, messages: impl Stream<Item = Result<SharedMessage, Status>> + Send + 'static) -> Self {
        Self { messages: Arc::new(Mutex::new(Some(Box::pin(messages)))), unsent }
    }

    /// A response with this answer instead of `unused`.
    pub fn in_response<T>(self, unused: T) -> tonic::Response<T> {
        let mut response = tonic::Response::new(unused);
        response.extensions_mut().insert(self);
        response
    }

    /// The messages, and what their source waits for; `None` if they were taken.
    pub fn into_messages(self) -> Option<(SharedMessages, Unsent)> {
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner).take();
        messages.map(|messages| (messages, self.unsent))
    }
}

/// A message in gRPC's framing.
#[derive(Clone)]
pub(in crate::api) struct SharedMessage {
    /// Its first bytes, which are few; may be empty.
    pub head: Bytes,
    /// All others.
    pub shared: SharedBytes,
}

impl SharedMessage {
    /// Encodes a message.
    ///
    /// # Errors
    /// When it is larger than 4 GiB.
    pub fn encode(message: &impl Message) -> Result<Self, Error> {
        let length = message.encoded_len();
        let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
        // Not compressed.
        bytes.put_u8(0);
        bytes.put_u32(length.try_into().map_err(Error::internal)?);
        message.encode(&mut bytes).map_err(Error::internal)?;
        Ok(Self { head: Bytes::new(), shared: SharedBytes::new(bytes) })
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.head.len() + self.shared.len()
    }

    /// A copy of all bytes.
    pub fn to_bytes(&self) -> Bytes {
        [&self.head[..], &self.shared.bytes[..]].concat().into()
    }

    /// The message as a client decodes it.
    #[cfg(test)]
    pub fn decode<T: Message + Default>(&self) -> T {
        let bytes = self.to_bytes();
        assert_eq!(bytes[1..PREFIX_BYTES], u32::try_from(bytes.len() - PREFIX_BYTES).unwrap().to_be_bytes());
        T::decode(&bytes[PREFIX_BYTES..]).unwrap()
    }
}

/// Bytes that many answers share. They are charged until every client has read them: once for all authenticated callers, and once for
/// all unauthenticated ones.
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
    pub(super) fn lend(&self, account: &Arc<ByteAccount>, call: Option<Charge>, unsent: Option<UnsentFrame>) -> Bytes {
        let mut charges = self.charges.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut charges[usize::from(account.is_unauthenticated)];
        let shared = slot.upgrade().unwrap_or_else(|| {
            let charge = Arc::new(account.shared().take(Direction::Response, self.bytes.len()));
            *slot = Arc::downgrade(&charge);
            charge
        });
        drop(charges);
        let own = account.take(Direction::Response, FRAME_BYTES);
        Bytes::from_owner(LentBytes {
            bytes: self.bytes.clone(),
            _shared: shared,
            _own: own,
            _call: call,
            _unsent: unsent,
        })
    }
}

struct LentBytes {
    bytes: Bytes,
    _shared: Arc<Charge>,
    _own: Charge,
    _call: Option<Charge>,
    _unsent: Option<UnsentFrame>,
}

impl AsRef<[u8]> for LentBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
