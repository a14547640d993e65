//! The checkpoints given with `--since` and `--until`.

use std::fs;
use std::path::Path;

use crate::checkpoint::{Note, VerifierKey};
use crate::cli::{Failure, file, output};
use crate::verify::{Bounds, GivenCheckpoint};

/// Reads `REVISION:HASH`, or the file with a signed checkpoint that the text names.
pub(super) fn read(setting: &str, text: &str) -> Result<GivenCheckpoint, Failure> {
    if let Some(plain) = GivenCheckpoint::parse(text) {
        return Ok(plain);
    }
    let has_revision = text.split_once(':').is_some_and(|(revision, _)| revision.parse::<i64>().is_ok());
    if has_revision && !Path::new(text).exists() {
        return Err(Failure::usage(format!(
            "{setting} {text}: not REVISION:HASH and not a file; a hash has 64 hexadecimal digits"
        )));
    }
    let note = fs::read_to_string(text).map_err(|error| file::io_failure(&format!("{setting} {text}"), &error))?;
    let note = Note::parse(&note).map_err(|error| Failure::usage(format!("{setting} {text}: {error}")))?;
    Ok(note.into())
}

/// Checks the order of the checkpoints, and notes if their signatures cannot be verified.
pub(super) fn bounds(
    since: Option<GivenCheckpoint>,
    until: Option<GivenCheckpoint>,
    keys: Vec<VerifierKey>,
) -> Result<Bounds, Failure> {
    if since.as_ref().zip(until.as_ref()).is_some_and(|(since, until)| since.revision > until.revision) {
        return Err(Failure::usage("--since is after --until; swap them"));
    }
    let bounds = Bounds { since, until, keys };
    if bounds.keys.is_empty() && bounds.since.iter().chain(&bounds.until).any(GivenCheckpoint::is_signed) {
        output::print_note(
            "signatures of the given checkpoints were not verified; pass the verifier key with --public-key",
        );
    }
    Ok(bounds)
}
