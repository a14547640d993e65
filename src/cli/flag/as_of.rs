//! The option for a time in the past.

use clap::Args;
use jiff::Timestamp;

use crate::cli::time_argument::{self, DayBoundary};

/// The time at which flags are read; by default the present.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct AsOfOption {
    /// Read at this revision or time: 2026-01-31T12:00:00Z, 2026-01-31 (the end of that day in UTC), or 2h (two hours ago)
    #[arg(long, value_name = "REVISION|TIME", value_parser = parse)]
    as_of: Option<PointInTime>,
}

#[derive(Debug, Clone, Copy)]
enum PointInTime {
    Revision(i64),
    Time(prost_types::Timestamp),
}

fn parse(text: &str) -> Result<PointInTime, String> {
    if let Ok(revision) = text.parse() {
        return Ok(PointInTime::Revision(revision));
    }
    let time = time_argument::parse(text, DayBoundary::End, Timestamp::now());
    time.map(PointInTime::Time).map_err(|rule| format!("{rule}, or a revision"))
}

impl AsOfOption {
    pub fn revision(self) -> Option<i64> {
        match self.as_of? {
            PointInTime::Revision(revision) => Some(revision),
            PointInTime::Time(_) => None,
        }
    }

    pub fn time(self) -> Option<prost_types::Timestamp> {
        match self.as_of? {
            PointInTime::Revision(_) => None,
            PointInTime::Time(time) => Some(time),
        }
    }
}
