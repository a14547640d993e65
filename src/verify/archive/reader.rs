//! The entries of a file, pushed to a verifier block by block.

use uuid::Uuid;

use super::ArchiveError;
use super::blocks::{Block, FileEnd, Line};
use crate::domain::audit::Entry;
use crate::domain::{Hash, Revision};
use crate::verify::{Bounds, Fault, HashSource, Problem, Report, Segment, Start, Stop, Verifier};

/// Verifies the lines of a file, and knows how far it was read.
pub(super) struct ArchiveReader<'a> {
    bounds: &'a Bounds,
    log_id: Uuid,
    verifier: Verifier,
    /// The revision of the last entry that was read.
    last: Revision,
    /// Whether a line was read.
    has_begun: bool,
    /// The revision to find the hash of.
    pub wanted: Option<Revision>,
    pub wanted_hash: Option<Hash>,
    /// Whether the last line is incomplete.
    pub is_cut: bool,
}

impl<'a> ArchiveReader<'a> {
    pub fn new(bounds: &'a Bounds, log_id: Uuid, start: Start) -> Self {
        let verifier = bounds.verifier(log_id, start, Vec::new());
        let (wanted, wanted_hash) = (None, None);
        Self { bounds, log_id, verifier, last: 0, has_begun: false, wanted, wanted_hash, is_cut: false }
    }

    /// Verifies the blocks up to the end of the bounds or of the file.
    pub fn verify(
        &mut self,
        blocks: impl Iterator<Item = Block>,
        on_block: &mut dyn FnMut(&Block),
    ) -> Result<(), Stop<ArchiveError>> {
        self.push_blocks(blocks, on_block)?;
        self.verifier.finish()?;
        Ok(())
    }

    pub fn report(&self, end: Result<(), Stop<ArchiveError>>) -> Result<Report, ArchiveError> {
        let end = end.map_err(|stop| stop.or_earlier_fault(&self.verifier));
        Report::new(self.verifier.verified(), end, None)
    }

    fn since(&self) -> Revision {
        self.bounds.since.as_ref().map_or(0, |since| since.revision)
    }

    fn push_blocks(
        &mut self,
        blocks: impl Iterator<Item = Block>,
        on_block: &mut dyn FnMut(&Block),
    ) -> Result<(), Stop<ArchiveError>> {
        for block in blocks {
            on_block(&block);
            if !block.segment.as_ref().is_some_and(|segment| self.push_segment(segment)) {
                block.lines().try_for_each(|line| self.push_line(line))?;
            }
            match block.end {
                _ if self.verifier.is_done() && self.last >= self.since() => return Ok(()),
                None => {}
                Some(FileEnd::EndOfFile { is_cut }) => self.is_cut = is_cut,
                Some(FileEnd::Unreadable(error)) => return Err(error.into()),
            }
        }
        let (last, since) = (self.last, self.since());
        if last < since {
            let problem = Problem::Truncated { end: last, known_by: HashSource::Given, known: since };
            return Err(Fault { revision: last + 1, problem }.into());
        }
        Ok(())
    }

    /// Verifies a whole block. Returns false, and verifies nothing, if its lines must be pushed one by one.
    fn push_segment(&mut self, segment: &Segment) -> bool {
        let since = self.since();
        let is_pushed = segment.log_id() == self.log_id
            && self.wanted.is_none_or(|wanted| !(segment.first()..=segment.last()).contains(&wanted))
            && if segment.last() < since {
                // Entries before the bounds are skipped.
                self.verifier.revision() == since
            } else {
                segment.first() > since && self.verifier.push_segment(segment)
            };
        if is_pushed {
            (self.has_begun, self.last) = (true, segment.last());
        }
        is_pushed
    }

    /// Verifies a line. An invalid line is a fault only within the bounds: after the entry of `since` was read, and before `until`
    /// is reached.
    fn push_line(&mut self, line: Line) -> Result<(), Fault> {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        match line {
            Line::Entry(log_id, entry) if log_id == self.log_id => {
                self.last = entry.revision;
                self.push(*entry)
            }
            _ if self.verifier.is_done() || self.last < self.since() => Ok(()),
            Line::Invalid(Some((_, Some(revision)))) if is_first => Err(Fault { revision, problem: Problem::Altered }),
            _ => Err(self.verifier.invalid_entry()),
        }
    }

    /// Verifies an entry within the bounds. Of those before, only the hash of the last is compared.
    fn push(&mut self, entry: Entry) -> Result<(), Fault> {
        if self.wanted == Some(entry.revision) {
            self.wanted_hash = Some(entry.hash);
        }
        match &self.bounds.since {
            Some(since) if entry.revision == since.revision && entry.hash != since.hash => {
                Err(Fault { revision: entry.revision, problem: Problem::Forked(HashSource::Given) })
            }
            Some(since) if self.verifier.revision() == since.revision && entry.revision <= since.revision => Ok(()),
            _ => self.verifier.push(entry),
        }
    }
}
