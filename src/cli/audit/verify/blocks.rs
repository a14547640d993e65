//! A file of entries, read by one thread and verified by as many as there are processors: none holds more than a few
//! blocks of it.

use std::io::{self, BufReader, Read};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde::Deserialize;
use uuid::Uuid;

use crate::cli::audit::export::line::parse;
use crate::cli::audit::lines::{self, Ending};
use crate::domain::Revision;
use crate::domain::audit::Entry;
use crate::verify::Run;

/// A block is complete with so many bytes; and so many are read at once.
const BLOCK: usize = 256 * 1024;

/// So many blocks may wait, before the reader does.
const WAITING: usize = 8;

/// Whole lines of the file.
#[derive(Default)]
pub(super) struct Block {
    lines: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
    /// Why there are no more.
    pub end: Option<End>,
    /// All of it, where it is what an intact log would hold.
    pub run: Option<Run>,
}

/// Why there are no more lines.
pub(super) enum End {
    /// The file ends here; in the middle of a line, if so.
    File { cut: bool },
    /// It cannot be read.
    Unreadable(io::Error),
}

/// What a line says.
pub(super) enum Line {
    /// An entry of this log.
    Entry(Uuid, Box<Entry>),
    /// Nothing that an entry could; of this revision of this log, as far as that can be made out.
    Garbled(Option<(Uuid, Option<Revision>)>),
}

impl Line {
    /// Of which log it is.
    pub fn log_id(&self) -> Option<Uuid> {
        match self {
            Self::Entry(log_id, _) | Self::Garbled(Some((log_id, _))) => Some(*log_id),
            Self::Garbled(None) => None,
        }
    }
}

impl Block {
    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.lines.len() as u64
    }

    /// How many lines it has.
    pub fn count(&self) -> u64 {
        match &self.run {
            Some(run) => run.first().abs_diff(run.last()) + 1,
            None => self.ends.len() as u64,
        }
    }

    /// The lines, one by one.
    pub fn lines(&self) -> impl Iterator<Item = Line> {
        self.texts().map(|text| match parse(text) {
            Some((log_id, entry)) => Line::Entry(log_id, Box::new(entry)),
            None => garbled(text),
        })
    }

    fn texts(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| &self.lines[begin..*end])
    }

    fn add(&mut self, line: &[u8]) {
        self.lines.extend_from_slice(line);
        self.ends.push(self.lines.len());
    }

    fn verified(&self) -> Option<Run> {
        let mut entries = self.texts().map(parse);
        let (log_id, first) = entries.next()??;
        let mut run = Run::new(log_id, first);
        entries.all(|entry| entry.is_some_and(|(of, entry)| of == log_id && run.take(&entry).is_ok())).then_some(run)
    }
}

/// What a line that is no entry tells: an altered export is still told from some other file.
fn garbled(text: &[u8]) -> Line {
    #[derive(Deserialize)]
    struct Place {
        log_id: Uuid,
        #[serde(default)]
        revision: serde_json::Value,
    }
    let place = serde_json::from_slice::<Place>(text).ok();
    Line::Garbled(place.map(|place| (place.log_id, place.revision.as_i64())))
}

/// What is handed to a verifying thread: a block, and whom to give it back to.
type Task = (Block, SyncSender<Block>);

/// The blocks of a file, in their order.
pub(super) fn blocks(source: impl Read + Send + 'static) -> impl Iterator<Item = Block> {
    let (tasks, taken) = sync_channel::<Task>(WAITING);
    let (ordered, blocks) = sync_channel(WAITING);
    let taken = Arc::new(Mutex::new(taken));
    for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
        let taken = Arc::clone(&taken);
        thread::spawn(move || work(&taken));
    }
    // Nobody waits for it to end: it may hang in a pipe that nobody writes to any more.
    thread::spawn(move || read(source, &tasks, &ordered));
    blocks.into_iter().map_while(|block: Receiver<Block>| block.recv().ok())
}

/// Reads block by block, until there is nobody who wants to have more. What has come is handed on before more is waited for.
fn read(source: impl Read, tasks: &SyncSender<Task>, ordered: &SyncSender<Receiver<Block>>) {
    let (mut source, mut line) = (BufReader::with_capacity(BLOCK, source), Vec::new());
    loop {
        let mut block = Block::default();
        let is_complete = |lines: &[u8], left: &[u8]| lines.len() >= BLOCK || (left.is_empty() && !lines.is_empty());
        while block.end.is_none() && !is_complete(&block.lines, source.buffer()) {
            match lines::next(&mut source, &mut line, None) {
                Ok(Ending::Complete | Ending::TooLong) => block.add(&line),
                Ok(Ending::File) => block.end = Some(End::File { cut: !line.is_empty() }),
                Err(error) => block.end = Some(End::Unreadable(error)),
            }
        }
        let ended = block.end.is_some();
        let (verified, receiver) = sync_channel(1);
        if ordered.send(receiver).is_err() || tasks.send((block, verified)).is_err() || ended {
            return;
        }
    }
}

fn work(tasks: &Mutex<Receiver<Task>>) {
    loop {
        let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((mut block, verified)) = task else { return };
        block.run = block.verified();
        // Nobody may want it any more.
        let _ = verified.send(block);
    }
}
