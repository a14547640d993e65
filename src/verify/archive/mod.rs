//! A log in a file that `toggled audit export` wrote.

mod blocks;
mod entry;
mod lines;
mod reader;

use std::io::{self, Read};

use uuid::Uuid;

use self::blocks::{Block, FileEnd, blocks};
use self::reader::ArchiveReader;
use super::{Bounds, OnProgress, Progress, Report, Start, Stop};
use crate::domain::{Hash, Revision};

pub use lines::{LineEnd, read_line};

/// Why a file could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It has no entry.
    #[error("the file has no entry")]
    Empty,
    /// It holds something else.
    #[error("line 1 is not NDJSON that audit export wrote")]
    NotExported,
}

impl From<io::Error> for Stop<ArchiveError> {
    fn from(error: io::Error) -> Self {
        Self::Error(error.into())
    }
}

/// The result of [`verify_archive`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveReport {
    /// The result for the log.
    pub report: Report,
    /// Whether the last line is incomplete. It was not verified.
    pub is_cut: bool,
}

/// Verifies the log in a file of `size` bytes, or 0 if that is not known, within these bounds.
///
/// # Errors
/// The file could not be read, or holds no log.
pub fn verify_archive(
    source: impl Read + Send + 'static,
    size: u64,
    bounds: &Bounds,
    on_progress: OnProgress<'_>,
) -> Result<ArchiveReport, ArchiveError> {
    let mut blocks = blocks(source);
    let first = blocks.next().unwrap_or_default();
    // Without --since the file must begin with a line of the log. With it the lines before are of no interest.
    let searched = if bounds.since.is_some() { usize::MAX } else { 1 };
    let Some(log_id) = first.lines().take(searched).find_map(|line| line.log_id()) else {
        return Err(match first.end {
            _ if first.size() > 0 => ArchiveError::NotExported,
            Some(FileEnd::Unreadable(error)) => error.into(),
            _ => ArchiveError::Empty,
        });
    };
    let mut reader = ArchiveReader::new(bounds, log_id, Start::Anywhere);
    let mut progress = Progress { entries: 0, expected: 0 };
    let mut on_block = |block: &Block| {
        progress.entries += block.line_count();
        if progress.expected == 0 && block.size() > 0 {
            // Lines have about the same length.
            progress.expected = size * progress.entries / block.size();
        }
        on_progress(progress);
    };
    let end = match bounds.check(log_id) {
        Ok(()) => reader.verify(std::iter::once(first).chain(blocks), &mut on_block),
        Err(fault) => Err(fault.into()),
    };
    Ok(ArchiveReport { report: reader.report(end)?, is_cut: reader.is_cut })
}

/// Verifies the whole log in a file that begins at `start`, and finds the hash at a revision.
///
/// # Errors
/// The file could not be read.
pub fn find_in_archive(
    source: impl Read + Send + 'static,
    log_id: Uuid,
    start: Start,
    wanted: Revision,
) -> Result<(Report, Option<Hash>), ArchiveError> {
    let bounds = Bounds::default();
    let mut reader = ArchiveReader::new(&bounds, log_id, start);
    reader.wanted = Some(wanted);
    let end = reader.verify(blocks(source), &mut |_| ());
    Ok((reader.report(end)?, reader.wanted_hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source whose every read fails.
    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is broken"))
        }
    }

    /// The first entry of a log, with a wrong hash.
    const ALTERED: &str = concat!(
        r#"{"log_id":"00000000-0000-0000-0000-000000000007","id":"00000000-0000-0000-0000-000000000001","revision":1,"#,
        r#""timestamp":"2026-01-31T12:00:00Z","user_email":"a","action_type":"flag_created","entity_type":"feature_flag","#,
        r#""entity_key":"a","entity_name":"a","method":"m","hash_version":1,"#,
        r#""hash":"0000000000000000000000000000000000000000000000000000000000000000"}"#,
        "\n"
    );

    #[test]
    fn fault_before_read_error_is_reported() {
        let source = ALTERED.as_bytes().chain(Broken);
        let verified = verify_archive(source, 0, &Bounds::default(), &mut |_| ()).unwrap();
        let fault = verified.report.fault.map(|fault| (fault.revision, fault.problem.kind()));
        assert_eq!(fault, Some((1, "altered")));
    }
}
