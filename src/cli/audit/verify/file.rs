//! The log in a file: one thread reads, another hashes, and neither holds more than a few thousand entries.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use indicatif::ProgressBar;
use serde::Deserialize;
use uuid::Uuid;

use super::checkpoints::Plan;
use super::report::{Halt, Report};
use crate::cli::audit::export::line::parse;
use crate::cli::audit::lines::{self, Ending};
use crate::cli::{Failure, file, output, progress};
use crate::domain::Revision;
use crate::domain::audit::Entry;
use crate::domain::verify::{Fault, Problem, Start, Verifier, Witness};

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
    /// A line says nothing that an entry could. If it is the first, this is the revision that it says that it is of.
    Garbled(Option<Revision>),
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
    let (sender, batches) = sync_channel(BATCHES);
    let since = plan.since.as_ref().map_or(0, |since| since.revision);
    // Nobody waits for it to end: it may hang in a pipe that nobody writes to any more.
    thread::spawn(move || read(BufReader::with_capacity(BUFFER, source), since, &sender));
    let report = examine(plan, &batches, &bar, &failed, &name);
    bar.0.finish_and_clear();
    report
}

/// Reads the file line by line, until there is nobody who wants to have more. What cannot be read is of no interest before
/// an entry has come that is no earlier than `since`.
fn read(mut source: impl BufRead, since: Revision, batches: &SyncSender<Batch>) {
    let (mut line, mut log_id, mut last) = (Vec::new(), None, 0);
    loop {
        let mut batch = Batch { entries: Vec::with_capacity(BATCH), ..Batch::default() };
        while batch.entries.len() < BATCH && batch.end.is_none() {
            batch.end = match lines::next(&mut source, &mut line, None) {
                Err(error) => Some(End::Unreadable(error)),
                Ok(Ending::File) => Some(End::File { cut: !line.is_empty() }),
                Ok(Ending::Complete | Ending::TooLong) => {
                    batch.bytes += line.len() as u64;
                    match parse(&line) {
                        Some((of, entry)) if *log_id.get_or_insert(of) == of => {
                            last = entry.revision;
                            batch.entries.push(entry);
                            None
                        }
                        _ if last < since => None,
                        _ => Some(garbled(&line, &mut log_id)),
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

/// What a line means that says nothing that an entry could. The first one still tells an altered export from another file.
fn garbled(line: &[u8], log_id: &mut Option<Uuid>) -> End {
    #[derive(Deserialize)]
    struct Place {
        log_id: Uuid,
        #[serde(default)]
        revision: serde_json::Value,
    }
    let first = log_id.is_none().then(|| serde_json::from_slice::<Place>(line).ok()).flatten();
    End::Garbled(first.and_then(|first| {
        *log_id = Some(first.log_id);
        first.revision.as_i64()
    }))
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
            Some(End::Garbled(_)) => {
                Failure::usage(format!("{name}: it is no NDJSON that audit export wrote (line 1)"))
            }
            _ => Failure::usage(format!("{name}: there is no entry in it")),
        });
    };
    let mut verifier = plan.verifier(log_id, Start::Anywhere, Vec::new());
    let ended = plan.check(log_id).map_err(Halt::from).and_then(|()| {
        take_all(plan, &mut verifier, std::iter::once(first).chain(batches), bar, failed)?;
        Ok(verifier.finish().map(drop)?)
    });
    let ended = ended.map_err(|halt| halt.judged(&verifier));
    Report::new(verifier.verified(), ended, None)
}

fn take_all(
    plan: &Plan,
    verifier: &mut Verifier,
    batches: impl Iterator<Item = Batch>,
    bar: &Bar,
    failed: &dyn Fn(&io::Error) -> Failure,
) -> Result<(), Halt> {
    let since = plan.since.as_ref().map_or(0, |since| since.revision);
    let mut last = 0;
    for batch in batches {
        bar.move_on(&batch);
        for entry in batch.entries {
            last = entry.revision;
            take(plan, verifier, entry)?;
        }
        match batch.end {
            _ if verifier.is_done() && last >= since => return Ok(()),
            None | Some(End::File { cut: false }) => {}
            Some(End::File { cut: true }) => output::note("the last line is not complete, and left out"),
            Some(End::Garbled(None)) => return Err(verifier.take_garbled().into()),
            Some(End::Garbled(Some(revision))) => return Err(Fault { revision, problem: Problem::Altered }.into()),
            Some(End::Unreadable(error)) => return Err(failed(&error).into()),
        }
    }
    if last < since {
        let problem = Problem::Truncated { end: last, witness: Witness::Given, known: since };
        return Err(Fault { revision: last + 1, problem }.into());
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What can be read for a while.
    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is broken"))
        }
    }

    /// The first entry of a log, with a hash that is not its own.
    const ALTERED: &str = concat!(
        r#"{"log_id":"00000000-0000-0000-0000-000000000007","id":"00000000-0000-0000-0000-000000000001","revision":1,"#,
        r#""timestamp":"2026-01-31T12:00:00Z","user_email":"a","action_type":"flag_created","entity_type":"feature_flag","#,
        r#""entity_key":"a","entity_name":"a","method":"m","hash_version":1,"#,
        r#""hash":"0000000000000000000000000000000000000000000000000000000000000000"}"#,
        "\n"
    );

    #[test]
    fn what_was_found_before_the_file_could_not_be_read_on_counts() {
        let (sender, batches) = sync_channel(BATCHES);
        read(BufReader::new(ALTERED.as_bytes().chain(Broken)), 0, &sender);
        let plan = Plan::new(None, None, Vec::new()).map_err(|failure| failure.line).unwrap();
        let failed = |error: &io::Error| file::failed("log", error);
        let report = examine(&plan, &batches, &Bar::new(0), &failed, "log").map_err(|failure| failure.line);
        let told = report.unwrap().fault.map(|fault| (fault.revision, fault.problem.kind()));
        assert_eq!(told, Some((1, "altered")));
    }
}
