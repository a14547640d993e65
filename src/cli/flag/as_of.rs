//! When in the past flags are read.

use clap::Args;
use jiff::Timestamp;

use crate::cli::when::{self, End};

/// The present, unless told otherwise.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Moment {
    /// As it was at this revision of the log, or at this time: 2026-01-31T12:00:00Z, 2026-01-31 (the end of that day,
    /// UTC), or 2h for two hours ago
    #[arg(long, value_name = "REVISION|TIME", value_parser = parse)]
    as_of: Option<AsOf>,
}

#[derive(Debug, Clone, Copy)]
enum AsOf {
    Revision(i64),
    Time(prost_types::Timestamp),
}

fn parse(text: &str) -> Result<AsOf, String> {
    if let Ok(revision) = text.parse() {
        return Ok(AsOf::Revision(revision));
    }
    let time = when::parse(text, End::To, Timestamp::now());
    time.map(AsOf::Time).map_err(|rule| format!("{rule}; or a revision"))
}

impl Moment {
    /// The revision, if that is what was given.
    pub fn revision(self) -> Option<i64> {
        match self.as_of? {
            AsOf::Revision(revision) => Some(revision),
            AsOf::Time(_) => None,
        }
    }

    /// The time, if that is what was given.
    pub fn time(self) -> Option<prost_types::Timestamp> {
        match self.as_of? {
            AsOf::Revision(_) => None,
            AsOf::Time(time) => Some(time),
        }
    }
}
