//! The log in a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use indicatif::ProgressBar;
use uuid::Uuid;

use super::blocks::{Block, End, Line, blocks};
use super::checkpoints::Plan;
use super::report::{Halt, Report};
use crate::cli::{Failure, file, output, progress};
use crate::domain::Revision;
use crate::domain::audit::Entry;
use crate::verify::{Fault, Problem, Run, Start, Verifier, Witness};

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
    let report = examine(plan, blocks(source), &bar, &failed, &name);
    bar.0.finish_and_clear();
    report
}

fn examine(
    plan: &Plan,
    mut blocks: impl Iterator<Item = Block>,
    bar: &Bar,
    failed: &dyn Fn(&io::Error) -> Failure,
    name: &str,
) -> Result<Report, Failure> {
    let first = blocks.next().unwrap_or_default();
    // What comes before where it is to begin is of no interest.
    let looked_at = if plan.since.is_some() { usize::MAX } else { 1 };
    let Some(log_id) = first.lines().take(looked_at).find_map(|line| line.log_id()) else {
        return Err(match first.end {
            _ if first.bytes() > 0 => {
                Failure::usage(format!("{name}: it is no NDJSON that audit export wrote (line 1)"))
            }
            Some(End::Unreadable(error)) => failed(&error),
            _ => Failure::usage(format!("{name}: there is no entry in it")),
        });
    };
    let verifier = plan.verifier(log_id, Start::Anywhere, Vec::new());
    let mut reading = Reading { plan, log_id, verifier, last: 0, begun: false };
    let ended = plan.check(log_id).map_err(Halt::from).and_then(|()| {
        reading.take_all(std::iter::once(first).chain(blocks), bar, failed)?;
        Ok(reading.verifier.finish().map(drop)?)
    });
    let verifier = reading.verifier;
    let ended = ended.map_err(|halt| halt.judged(&verifier));
    Report::new(verifier.verified(), ended, None)
}

/// How far the file has been read.
struct Reading<'a> {
    plan: &'a Plan,
    log_id: Uuid,
    verifier: Verifier,
    /// The revision of the last entry that was read.
    last: Revision,
    /// Whether a line was read.
    begun: bool,
}

impl Reading<'_> {
    fn since(&self) -> Revision {
        self.plan.since.as_ref().map_or(0, |since| since.revision)
    }

    fn take_all(
        &mut self,
        blocks: impl Iterator<Item = Block>,
        bar: &Bar,
        failed: &dyn Fn(&io::Error) -> Failure,
    ) -> Result<(), Halt> {
        for block in blocks {
            bar.move_on(&block);
            if !block.run.as_ref().is_some_and(|run| self.take_run(run)) {
                block.lines().try_for_each(|line| self.take_line(line))?;
            }
            match block.end {
                _ if self.verifier.is_done() && self.last >= self.since() => return Ok(()),
                None | Some(End::File { cut: false }) => {}
                Some(End::File { cut: true }) => output::note("the last line is not complete, and left out"),
                Some(End::Unreadable(error)) => return Err(failed(&error).into()),
            }
        }
        let (last, since) = (self.last, self.since());
        if last < since {
            let problem = Problem::Truncated { end: last, witness: Witness::Given, known: since };
            return Err(Fault { revision: last + 1, problem }.into());
        }
        Ok(())
    }

    /// Takes a whole block at once, if nothing within it has to be looked at.
    fn take_run(&mut self, run: &Run) -> bool {
        let since = self.since();
        let taken = run.log_id() == self.log_id
            && if run.last() < since {
                // Of no interest, and passed over without being read again.
                self.verifier.revision() == since
            } else {
                run.first() > since && self.verifier.take_run(run)
            };
        if taken {
            (self.begun, self.last) = (true, run.last());
        }
        taken
    }

    /// Takes a line. What says nothing that an entry could is of no interest before an entry has come that is no earlier than
    /// where it is to begin.
    fn take_line(&mut self, line: Line) -> Result<(), Fault> {
        let is_first = !std::mem::replace(&mut self.begun, true);
        match line {
            Line::Entry(log_id, entry) if log_id == self.log_id => {
                self.last = entry.revision;
                take(self.plan, &mut self.verifier, *entry)
            }
            _ if self.verifier.is_done() || self.last < self.since() => Ok(()),
            Line::Garbled(Some((_, Some(revision)))) if is_first => Err(Fault { revision, problem: Problem::Altered }),
            _ => Err(self.verifier.take_garbled()),
        }
    }
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

    fn move_on(&self, block: &Block) {
        let entries = block.count();
        self.0.inc(entries);
        if self.0.length() == Some(0) && block.bytes() > 0 {
            // Lines are of about the same length.
            self.0.set_length(self.1 * entries / block.bytes());
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
        let blocks = blocks(ALTERED.as_bytes().chain(Broken));
        let plan = Plan::new(None, None, Vec::new()).map_err(|failure| failure.line).unwrap();
        let failed = |error: &io::Error| file::failed("log", error);
        let report = examine(&plan, blocks, &Bar::new(0), &failed, "log").map_err(|failure| failure.line);
        let told = report.unwrap().fault.map(|fault| (fault.revision, fault.problem.kind()));
        assert_eq!(told, Some((1, "altered")));
    }
}
