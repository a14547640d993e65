//! What a connection uses: bytes, and calls that are not over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// One call in the counter. The part below counts bytes.
const CALL: u64 = 1 << 44;

/// Both are in one counter, so that a call changes it once when it begins, and once when its answer is written.
#[derive(Debug, Default)]
pub(super) struct ConnectionUse(AtomicU64);

impl ConnectionUse {
    pub fn add(&self, bytes: usize, calls: usize) {
        self.0.fetch_add(packed(bytes, calls), Ordering::Relaxed);
    }

    pub fn remove(&self, bytes: usize, calls: usize) {
        self.0.fetch_sub(packed(bytes, calls), Ordering::Relaxed);
    }

    pub fn bytes(&self) -> usize {
        usize::try_from(self.0.load(Ordering::Relaxed) % CALL).unwrap_or(usize::MAX)
    }

    pub fn calls(&self) -> usize {
        usize::try_from(self.0.load(Ordering::Relaxed) / CALL).unwrap_or(usize::MAX)
    }
}

fn packed(bytes: usize, calls: usize) -> u64 {
    calls as u64 * CALL + bytes as u64
}

/// The body of a request that nobody reads at present: its frames stay in `h2`. It is counted until this is dropped.
pub(in crate::api) struct UnreadBody(Arc<AtomicUsize>);

impl UnreadBody {
    pub(super) fn of(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for UnreadBody {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
