//! The log in a file: one thread reads, another hashes, and neither holds more than a few thousand entries.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use indicatif::ProgressBar;
use uuid::Uuid;

use super::checkpoints::Plan;
use super::report::{Halt, Report};
use crate::cli::audit::export::line::parse;
use crate::cli::{Failure, file, output, progress};
use crate::domain::audit::Entry;
use crate::domain::verify::{Fault, Problem, Start, Verifier, Witness};

/// No line is longer: as in `audit export`.
const LONGEST: u64 = 32 * 1024 * 1024;

/// So many entries are handed over at once, ...
const BATCH: usize = 256;
/// ... and so many times before the reader waits.
const BATCHES: usize = 8;

/// How much of the file is read at once, in bytes.
const BUFFER: usize = 256 * 1024;

/// Some lines of the file.
#[derive(Default)]
struct Batch {
    /// The log that all of them are of.
    log_id: Option<Uuid>,
    entries: Vec<Entry>,
    bytes: u64,
    end: Option<End>,
}

/// Why there are no more.
enum End {
    /// The file ends here; in the middle of a line, if so.
    File { cut: bool },
    /// A line says nothing that an entry could.
    Garbled,
    /// It cannot be read.
    Unreadable(io::Error),
}

/// Verifies a file.
pub(super) fn verify(plan: &Plan, path: &Path) -> Result<Report, Failure> {
    let name = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let failed = |error: &io::Error| file::failed(&name, error);
    let (source, bytes): (Box<dyn Read + Send>, u64) = if path == Path::new("-") {
        (Box::new(io::stdin()), 0)
    } else {
        let file = File::open(path).map_err(|error| failed(&error))?;
        let bytes = file.metadata().map_err(|error| failed(&error))?.len();
        (Box::new(file), bytes)
    };
    let bar = Bar::new(bytes);
    let report = thread::scope(|scope| {
        let (sender, batches) = sync_channel(BATCHES);
        scope.spawn(move || read(BufReader::with_capacity(BUFFER, source), &sender));
        examine(plan, &batches, &bar, &failed, &name)
    });
    bar.0.finish_and_clear();
    report
}

/// Reads the file line by line, until there is nobody who wants to have more.
fn read(mut source: impl BufRead, batches: &SyncSender<Batch>) {
    let (mut line, mut log_id) = (Vec::new(), None);
    loop {
        let mut batch = Batch { entries: Vec::with_capacity(BATCH), ..Batch::default() };
        while batch.entries.len() < BATCH && batch.end.is_none() {
            line.clear();
            batch.end = match source.by_ref().take(LONGEST).read_until(b'\n', &mut line) {
                Err(error) => Some(End::Unreadable(error)),
                Ok(_) if line.last() != Some(&b'\n') && (line.len() as u64) < LONGEST => {
                    Some(End::File { cut: !line.is_empty() })
                }
                Ok(read) => {
                    batch.bytes += read as u64;
                    match parse(&line) {
                        Some((of, entry)) if *log_id.get_or_insert(of) == of => {
                            batch.entries.push(entry);
                            None
                        }
                        _ => Some(End::Garbled),
                    }
                }
            };
        }
        batch.log_id = log_id;
        let ended = batch.end.is_some();
        if batches.send(batch).is_err() || ended {
            return;
        }
    }
}

fn examine(
    plan: &Plan,
    batches: &Receiver<Batch>,
    bar: &Bar,
    failed: &dyn Fn(&io::Error) -> Failure,
    name: &str,
) -> Result<Report, Failure> {
    let first = batches.recv()?;
    let Some(log_id) = first.log_id else {
        return Err(match first.end {
            Some(End::Unreadable(error)) => failed(&error),
            Some(End::Garbled) => Failure::usage(format!("{name}: it is no NDJSON that audit export wrote (line 1)")),
            _ => Failure::usage(format!("{name}: there is no entry in it")),
        });
    };
    let mut verifier = plan.verifier(log_id, Start::Anywhere, Vec::new());
    let ended = plan.check(log_id).map_err(Halt::from).and_then(|()| {
        for batch in std::iter::once(first).chain(batches) {
            bar.move_on(&batch);
            for entry in batch.entries {
                take(plan, &mut verifier, entry)?;
            }
            match batch.end {
                _ if verifier.is_done() => break,
                None | Some(End::File { cut: false }) => {}
                Some(End::File { cut: true }) => output::note("the last line is not complete, and left out"),
                Some(End::Garbled) => return Err(verifier.take_garbled().into()),
                Some(End::Unreadable(error)) => return Err(failed(&error).into()),
            }
        }
        Ok(verifier.finish().map(drop)?)
    });
    Report::new(verifier.verified(), ended, None)
}

/// Takes an entry that comes after where it is to begin, of what is before only the last, which must be as it was known.
fn take(plan: &Plan, verifier: &mut Verifier, entry: Entry) -> Result<(), Fault> {
    match &plan.since {
        Some(since) if entry.revision == since.revision && entry.hash != since.hash => {
            Err(Fault { revision: entry.revision, problem: Problem::Forked(Witness::Given) })
        }
        Some(since) if verifier.revision() == since.revision && entry.revision <= since.revision => Ok(()),
        _ => verifier.take(entry),
    }
}

/// How far it is: the file tells its length in bytes, and people count entries.
struct Bar(ProgressBar, u64);

impl Bar {
    fn new(bytes: u64) -> Self {
        Self(progress::bar(0, "entries"), bytes)
    }

    fn move_on(&self, batch: &Batch) {
        let entries = batch.entries.len() as u64;
        self.0.inc(entries);
        if self.0.length() == Some(0) && batch.bytes > 0 {
            // Lines are of about the same length.
            self.0.set_length(self.1 * entries / batch.bytes);
        }
    }
}
