//! Heartbeats, message sizes and the cache of messages, which all streams share.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::mirror::Position;

/// How long a stream may be silent before it sends a heartbeat.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(20);

/// A message of a stream, or a page of a list, ends at about this many bytes, well below the largest message. A page of the audit log has a
/// limit of its own.
pub(super) const MESSAGE_BYTES: usize = 1024 * 1024;

/// A cache is emptied when more bytes than this were put into it: a few messages of the largest size.
const MAX_CACHED_BYTES: usize = 4 * MESSAGE_BYTES;

/// What a message takes in the cache besides its bytes.
const ENTRY_BYTES: usize = 256;

/// Messages that are the same for many streams: each is encoded once, for the first stream that needs it. The key says what the
/// message depends on, besides the state: what the stream selects, and from where on. What a key takes beyond a few words counts as a part of
/// its message.
pub(super) struct MessageCache<K, M>(Mutex<Cached<K, M>>);

struct Cached<K, M> {
    messages: HashMap<K, (Position, M)>,
    /// The bytes that were put in since the cache was last emptied, with those of messages that were replaced.
    bytes: usize,
}

impl<K: Eq + Hash, M: Clone> MessageCache<K, M> {
    /// A message that includes all changes up to `needed`: an earlier one, or the one that `build` reads from a state. `build` also
    /// returns the position of the state, and the size of the message in bytes.
    pub fn get<E>(
        &self,
        key: K,
        needed: Position,
        build: impl FnOnce() -> Result<(Position, usize, M), E>,
    ) -> Result<M, E> {
        if let Some((_, message)) = self.lock().messages.get(&key).filter(|(position, _)| position.includes(needed)) {
            return Ok(message.clone());
        }
        // Not locked: a message that two streams build at the same time costs less than a wait.
        let (position, bytes, message) = build()?;
        let mut cached = self.lock();
        cached.bytes += bytes + ENTRY_BYTES;
        if cached.bytes > MAX_CACHED_BYTES {
            cached.messages.clear();
            cached.bytes = bytes + ENTRY_BYTES;
        }
        cached.messages.insert(key, (position, message.clone()));
        Ok(message)
    }

    /// The number of cached messages.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lock().messages.len()
    }

    fn lock(&self) -> MutexGuard<'_, Cached<K, M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, M> Default for MessageCache<K, M> {
    fn default() -> Self {
        Self(Mutex::new(Cached { messages: HashMap::new(), bytes: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: i64) -> Position {
        Position { generation: 0, revision }
    }

    #[test]
    fn message_is_built_once_until_more_is_needed() {
        let cache = MessageCache::default();
        let get = |key: &'static str, needed, head| {
            cache.get(key, at(needed), || Ok::<_, ()>((at(head), 10, format!("{key} at {head}")))).unwrap()
        };
        assert_eq!(get("a", 3, 5), "a at 5");
        assert_eq!([get("a", 4, 6), get("a", 5, 7)], ["a at 5", "a at 5"]);
        assert_eq!([get("b", 4, 6), get("a", 6, 8), get("a", 5, 9)], ["b at 6", "a at 8", "a at 8"]);
        let other = Position { generation: 1, revision: 1 };
        assert_eq!(cache.get("a", other, || Ok::<_, ()>((other, 10, "new".to_owned()))).unwrap(), "new");
    }

    #[test]
    fn cache_is_bounded_in_bytes() {
        let cache = MessageCache::default();
        for key in 0..100 {
            cache.get(key, at(1), || Ok::<_, ()>((at(1), MESSAGE_BYTES, ()))).unwrap();
            assert!(cache.lock().messages.len() < 5);
        }
        for key in 0..100_000 {
            cache.get(key, at(1), || Ok::<_, ()>((at(1), 0, ()))).unwrap();
            assert!(cache.lock().messages.len() <= MAX_CACHED_BYTES / ENTRY_BYTES);
        }
    }
}
