//! The file that keeps what is to be removed: read back from disk and verified, entry by entry.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use uuid::Uuid;

use crate::cli::audit::export::line::parse;
use crate::cli::audit::lines::{self, Ending};
use crate::cli::{EXIT_FAILURE, Failure, file};
use crate::domain::audit::LogStart;
use crate::domain::hash::GENESIS;
use crate::domain::{Hash, Revision};
use crate::verify::Chain;

/// What was found in a file in which every hash is right.
pub(super) struct Archive {
    /// Where its last entry stands; none where it holds none.
    pub chain: Option<Chain>,
    /// The hash of the entry that was looked for.
    pub wanted: Option<Hash>,
}

/// Verifies the first `bytes` of a file, which are complete lines, and looks for the entry at a revision. The file begins
/// where the log does, or with the first entry that there ever was.
pub(super) fn verify(path: &Path, bytes: u64, log: LogStart, wanted: Revision) -> Result<Archive, Failure> {
    let name = path.display().to_string();
    let opened = File::open(path).map_err(|error| file::failed(&name, &error))?;
    let mut source = BufReader::new(opened).take(bytes);
    let mut archive = Archive { chain: None, wanted: None };
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        number += 1;
        let ending = lines::next(&mut source, &mut line, None).map_err(|error| file::failed(&name, &error))?;
        if ending == Ending::File && line.is_empty() {
            return Ok(archive);
        }
        let no_entry = || failed(format!("{name}: line {number} is no entry that audit export wrote"));
        let (log_id, entry) = parse(&line).ok_or_else(no_entry)?;
        let chain = match &mut archive.chain {
            Some(chain) => chain,
            none => none.insert(begin(&name, log_id, entry.revision, log)?),
        };
        chain.take(&entry).map_err(|fault| failed(format!("{name}: {fault}")))?;
        if entry.revision == wanted {
            archive.wanted = Some(entry.hash);
        }
    }
}

fn begin(name: &str, log_id: Uuid, first: Revision, log: LogStart) -> Result<Chain, Failure> {
    match first {
        first if first == log.floor + 1 => Ok(Chain::behind(log_id, log.floor, log.hash)),
        1 => Ok(Chain::behind(log_id, 0, GENESIS)),
        first => Err(Failure::usage(format!(
            "{name}: it begins with revision {first}, and the log with {}: entries between are missing in it, or nothing \
             tells the hash before it; name another file",
            log.floor + 1
        ))),
    }
}

pub(super) fn failed(line: String) -> Failure {
    Failure { code: EXIT_FAILURE, line }
}
