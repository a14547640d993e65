//! Reads from the `-shm` file how much of the write-ahead log was moved into the database.
//!
//! Every process that has the database open shares that file. A checkpoint, whichever process makes it, says there what it will
//! move before it writes to the database, and what it moved afterwards. <https://sqlite.org/walformat.html>

use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The length of the two headers and the checkpoint information.
const LENGTH: usize = 136;

/// The version of the format, at the begin of an initialized file.
const VERSION: u32 = 3_007_000;

/// After so many frames the write-ahead log is moved into the database: 16 MiB. At SQLite's own default, a quarter of it, pages that change often
/// are moved more often.
const CHECKPOINT_FRAMES: u32 = 4000;

/// The lengths of the headers of the write-ahead log and of each frame in it, in bytes.
const WAL_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;

/// The `-shm` file.
pub(super) struct WalIndex {
    /// Never closed: when a process closes a file, it loses SQLite's locks on it.
    file: ManuallyDrop<File>,
}

/// How much of the write-ahead log was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checkpointed {
    /// Another value after each restart of the write-ahead log.
    generation: u64,
    /// The frames that a checkpoint has begun to move.
    begun: u32,
    /// The frames that were moved.
    moved: u32,
    /// Whether frames should be moved: the write-ahead log is long, or a checkpoint was not finished.
    pub is_due: bool,
    /// The least length of the write-ahead log with all its frames, in bytes.
    pub least_length: u64,
}

impl WalIndex {
    /// Opens the file, if it exists. On a read-only file system it may be missing.
    pub fn open(path: &Path) -> Option<Self> {
        Some(Self { file: ManuallyDrop::new(File::open(path).ok()?) })
    }

    /// The present state. `None` if it cannot be read.
    pub fn read(&self) -> Option<Checkpointed> {
        let mut bytes = [0; LENGTH];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        let number = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        if number(0)? != VERSION {
            return None;
        }
        let (frames, moved, begun) = (number(16)?, number(96)?, number(128)?);
        let page_size = u16::from_ne_bytes(bytes.get(14..16)?.try_into().ok()?);
        // The largest size does not fit into the field, and is written as 1.
        let page_size = if page_size == 1 { 65_536 } else { u64::from(page_size) };
        Some(Checkpointed {
            generation: u64::from(number(32)?) << 32 | u64::from(number(36)?),
            begun,
            moved,
            is_due: moved < frames && (frames >= CHECKPOINT_FRAMES || begun != moved),
            least_length: if frames == 0 { 0 } else { WAL_HEADER + u64::from(frames) * (FRAME_HEADER + page_size) },
        })
    }
}

impl Checkpointed {
    /// Whether no checkpoint wrote to the database between `before` and now. While one runs, or after one that failed, that is
    /// not known.
    pub fn is_unmoved_since(&self, before: &Self) -> bool {
        let is_at_rest = before.begun == before.moved;
        is_at_rest && (self.generation, self.begun, self.moved) == (before.generation, before.begun, before.moved)
    }
}
