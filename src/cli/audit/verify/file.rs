//! The log in an exported file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::cli::{Failure, file, output, progress};
use crate::verify::{ArchiveError, Bounds, Report, verify_archive};

/// Verifies the file at `path`, or standard input for `-`.
pub(super) fn verify(bounds: &Bounds, path: &Path) -> Result<Report, Failure> {
    let is_standard_input = path == Path::new("-");
    let name = if is_standard_input { "standard input".to_owned() } else { path.display().to_string() };
    let failed = |error: &io::Error| file::io_failure(&name, error);
    let (source, size): (Box<dyn Read + Send>, u64) = if is_standard_input {
        (Box::new(io::stdin()), 0)
    } else {
        let file = File::open(path).map_err(|error| failed(&error))?;
        let size = file.metadata().map_err(|error| failed(&error))?.len();
        (Box::new(file), size)
    };
    let bar = progress::bar(0, "entries");
    let verified = verify_archive(source, size, bounds, &mut |progress| {
        bar.set_length(progress.expected);
        bar.set_position(progress.entries);
    });
    bar.finish_and_clear();
    let verified = verified.map_err(|error| match error {
        ArchiveError::Io(error) => failed(&error),
        error => Failure::usage(format!("{name}: {error}; pass a file that audit export wrote as NDJSON")),
    })?;
    if verified.is_cut {
        output::print_note("the last line is incomplete and was not verified");
    }
    Ok(verified.report)
}
