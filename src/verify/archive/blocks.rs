//! Splits a file of entries into blocks: one thread reads them, one thread per processor verifies them. Only a few blocks
//! are in memory.

use std::io::{self, BufReader, Read};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde::Deserialize;
use uuid::Uuid;

use super::entry::parse_entry;
use super::lines::{LineEnd, read_line};
use crate::domain::Revision;
use crate::domain::audit::Entry;
use crate::verify::Segment;

/// The size of a block and of the read buffer, in bytes. A block ends with the first line that reaches it.
const BLOCK_SIZE: usize = 256 * 1024;

/// The number of blocks that may wait for verification before the reader pauses.
const MAX_WAITING: usize = 8;

/// Whole lines of the file.
#[derive(Default)]
pub(super) struct Block {
    bytes: Vec<u8>,
    /// The end of each line in `bytes`.
    line_ends: Vec<usize>,
    /// Why the file ends with this block, if it does.
    pub end: Option<FileEnd>,
    /// The entries of the block, if they are consecutive entries of one log with the right hashes.
    pub segment: Option<Segment>,
}

/// Why there are no more lines.
pub(super) enum FileEnd {
    /// The file ends here.
    EndOfFile {
        /// Whether the last line has no line feed.
        is_cut: bool,
    },
    /// The file could not be read further.
    Unreadable(io::Error),
}

/// A line of the file.
pub(super) enum Line {
    /// An entry that parses, with its log id. Its hash is not verified yet.
    Entry(Uuid, Box<Entry>),
    /// No valid entry; with the log id and the revision, as far as they can be read.
    Invalid(Option<(Uuid, Option<Revision>)>),
}

impl Line {
    pub fn log_id(&self) -> Option<Uuid> {
        match self {
            Self::Entry(log_id, _) | Self::Invalid(Some((log_id, _))) => Some(*log_id),
            Self::Invalid(None) => None,
        }
    }
}

impl Block {
    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The number of lines.
    pub fn line_count(&self) -> u64 {
        match &self.segment {
            Some(segment) => segment.first().abs_diff(segment.last()) + 1,
            None => self.line_ends.len() as u64,
        }
    }

    /// Parses the lines.
    pub fn lines(&self) -> impl Iterator<Item = Line> {
        self.texts().map(|text| match parse_entry(text) {
            Some((log_id, entry)) => Line::Entry(log_id, Box::new(entry)),
            None => invalid(text),
        })
    }

    fn texts(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.line_ends.iter().copied());
        starts.zip(&self.line_ends).map(|(start, end)| &self.bytes[start..*end])
    }

    fn add(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.line_ends.push(self.bytes.len());
    }

    fn verify(&self) -> Option<Segment> {
        let mut entries = self.texts().map(parse_entry);
        let (log_id, first) = entries.next()??;
        let mut segment = Segment::new(log_id, first);
        let mut push = |(of, entry): (Uuid, Entry)| of == log_id && segment.push(&entry).is_ok();
        entries.all(|entry| entry.is_some_and(&mut push)).then_some(segment)
    }
}

/// Reads the log id and revision of an invalid line, if it has them: they show that the file is an altered export rather than
/// some other file.
fn invalid(text: &[u8]) -> Line {
    #[derive(Deserialize)]
    struct Position {
        log_id: Uuid,
        #[serde(default)]
        revision: serde_json::Value,
    }
    let position = serde_json::from_slice::<Position>(text).ok();
    Line::Invalid(position.map(|position| (position.log_id, position.revision.as_i64())))
}

/// A block to verify, and where to send it afterwards.
type Task = (Block, SyncSender<Block>);

/// The blocks of a file, verified and in their order.
pub(super) fn blocks(source: impl Read + Send + 'static) -> impl Iterator<Item = Block> {
    let (task_sender, tasks) = sync_channel::<Task>(MAX_WAITING);
    // One receiver for each block, in the order of the file; it yields the block once it is verified.
    let (pending, blocks) = sync_channel(MAX_WAITING);
    let tasks = Arc::new(Mutex::new(tasks));
    for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
        let tasks = Arc::clone(&tasks);
        thread::spawn(move || verify_blocks(&tasks));
    }
    // Not joined: reading a pipe may never return.
    thread::spawn(move || read_blocks(source, &task_sender, &pending));
    blocks.into_iter().map_while(|block: Receiver<Block>| block.recv().ok())
}

/// Reads blocks until the file ends or the receiver is gone. Passes on a smaller block rather than wait for more input.
fn read_blocks(source: impl Read, tasks: &SyncSender<Task>, pending: &SyncSender<Receiver<Block>>) {
    let (mut source, mut line) = (BufReader::with_capacity(BLOCK_SIZE, source), Vec::new());
    loop {
        let mut block = Block::default();
        let is_complete =
            |bytes: &[u8], buffered: &[u8]| bytes.len() >= BLOCK_SIZE || (buffered.is_empty() && !bytes.is_empty());
        while block.end.is_none() && !is_complete(&block.bytes, source.buffer()) {
            match read_line(&mut source, &mut line, None) {
                Ok(LineEnd::LineFeed | LineEnd::TooLong) => block.add(&line),
                Ok(LineEnd::EndOfFile) => block.end = Some(FileEnd::EndOfFile { is_cut: !line.is_empty() }),
                Err(error) => block.end = Some(FileEnd::Unreadable(error)),
            }
        }
        let is_last = block.end.is_some();
        let (verified, receiver) = sync_channel(1);
        if pending.send(receiver).is_err() || tasks.send((block, verified)).is_err() || is_last {
            return;
        }
    }
}

fn verify_blocks(tasks: &Mutex<Receiver<Task>>) {
    loop {
        let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((mut block, verified)) = task else { return };
        block.segment = block.verify();
        // Fails if the receiver stopped early.
        let _ = verified.send(block);
    }
}
