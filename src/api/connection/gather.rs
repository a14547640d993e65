//! Gathers the frames of large answers, so that many go out in one system call.
//!
//! `h2` writes each frame with a payload by itself, at most 16 KiB. Copying four of them and writing once takes two thirds of the CPU
//! time of four writes, and spares the client as much. The buffers are few and shared by all connections. Clients that do not read may hold all
//! of them: then frames are written one by one.

use std::io::IoSlice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is written at once: four frames of 16 KiB with their heads. With eight, the copies of many connections leave the cache.
const BUFFER_BYTES: usize = 4 * ((16 << 10) + 9);

/// How many buffers there are: 4 MiB. A connection has one only while it writes.
const MAX_BUFFERS: usize = 64;

/// A smaller frame is written at once, unless others are gathered already: a caller waits for it, and a copy would save little.
const LEAST_FRAME: usize = 1 << 10;

/// The buffers that connections share.
#[derive(Clone, Default)]
pub(super) struct GatherBuffers(Arc<Mutex<Pool>>);

#[derive(Default)]
struct Pool {
    free: Vec<Vec<u8>>,
    lent: usize,
}

/// A buffer with the frames that a connection has not written.
pub(super) struct GatheredFrames {
    bytes: Vec<u8>,
    written: usize,
    owner: GatherBuffers,
}

impl GatherBuffers {
    /// An empty buffer for a frame with these parts and what follows it. `None` for a smaller write, and while all are in use.
    pub fn take_for(&self, parts: &[IoSlice<'_>]) -> Option<GatheredFrames> {
        // `h2` gathers small frames itself, as one part.
        if parts.len() < 2 || length(parts) < LEAST_FRAME {
            return None;
        }
        let mut pool = self.lock();
        if pool.lent == MAX_BUFFERS {
            return None;
        }
        pool.lent += 1;
        let free = pool.free.pop();
        drop(pool);
        let bytes = free.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
        Some(GatheredFrames { bytes, written: 0, owner: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GatheredFrames {
    /// Adds the parts of a frame. Returns their length, or `None` if they do not fit.
    pub fn add(&mut self, parts: &[IoSlice<'_>]) -> Option<usize> {
        let length = length(parts);
        if length > BUFFER_BYTES - self.bytes.len() {
            return None;
        }
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        Some(length)
    }

    /// What is not written yet.
    pub fn unwritten(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Notes that the first `count` bytes of these were written.
    pub fn advance(&mut self, count: usize) {
        self.written += count;
    }
}

impl Drop for GatheredFrames {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut pool = self.owner.lock();
        pool.lent -= 1;
        pool.free.push(bytes);
    }
}

fn length(parts: &[IoSlice<'_>]) -> usize {
    parts.iter().map(|part| part.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: [&[u8]; 2] = [&[1; 9], &[2; 16 << 10]];

    #[test]
    fn buffers_are_bounded_and_used_again() {
        let buffers = GatherBuffers::default();
        let take = || buffers.take_for(&FRAME.map(IoSlice::new));
        let mut taken: Vec<_> = std::iter::from_fn(take).collect();
        assert_eq!(taken.len(), MAX_BUFFERS);
        let address = taken[0].bytes.as_ptr();
        taken.remove(0);
        assert_eq!(take().unwrap().bytes.as_ptr(), address);
    }

    #[test]
    fn small_frame_takes_no_buffer() {
        let buffers = GatherBuffers::default();
        let small = [&[1; 9][..], &[2; 500]].map(IoSlice::new);
        assert!(buffers.take_for(&small).is_none() && buffers.take_for(&[IoSlice::new(&[1; 16 << 10])]).is_none());
    }

    #[test]
    fn frames_are_added_while_they_fit() {
        let frame = FRAME.map(IoSlice::new);
        let mut gathered = GatherBuffers::default().take_for(&frame).unwrap();
        for _ in 0..4 {
            assert_eq!(gathered.add(&frame), Some(9 + (16 << 10)));
        }
        assert_eq!([gathered.add(&frame), gathered.add(&[IoSlice::new(&[3])])], [None, None]);
        gathered.advance(8);
        assert_eq!(gathered.unwritten()[..3], [1, 2, 2]);
        assert_eq!((gathered.unwritten().len(), gathered.bytes.capacity()), (BUFFER_BYTES - 8, BUFFER_BYTES));
    }
}
