//! What came of it.

use serde::Serialize;

use crate::cli::output::{self, Format, Output};
use crate::cli::{EXIT_FAILURE, Failure};
use crate::domain::Revision;
use crate::store::StoreError;
use crate::verify::{Fault, Problem, Verified, Verifier};

/// Why verifying ended early.
pub(super) enum Halt {
    /// The log is not what it says.
    Fault(Fault),
    /// It could not go on.
    Failure(Failure),
}

impl Halt {
    /// What was seen before it ended counts before whatever ended it.
    pub fn judged(self, verifier: &Verifier) -> Self {
        match (self, verifier.judge()) {
            (Self::Fault(fault), Err(seen)) if fault.revision < seen.revision => Self::Fault(fault),
            (_, Err(seen)) => Self::Fault(seen),
            (halt, Ok(())) => halt,
        }
    }
}

impl From<Fault> for Halt {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// An entry that says what none can was altered; all else kept it from being read.
impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Self {
        match garbled(&error) {
            Some(revision) => Fault { revision, problem: Problem::Altered }.into(),
            None => Self::Failure(error.into()),
        }
    }
}

/// The revision of the entry that says what none can, if it is one that could not be read.
pub(super) fn garbled(error: &StoreError) -> Option<Revision> {
    match error {
        StoreError::Corrupt { table: "audit_logs", row, .. } => row.parse().ok(),
        _ => None,
    }
}

/// What was verified, and what is wrong.
pub(super) struct Report {
    verified: Verified,
    pub fault: Option<Fault>,
}

impl Report {
    /// Of all that is wrong, what is first counts, and any of it before what kept it from going on.
    pub fn new(verified: Verified, ended: Result<(), Halt>, other: Option<Fault>) -> Result<Self, Failure> {
        let fault = match ended {
            Ok(()) => None,
            Err(Halt::Fault(fault)) => Some(fault),
            Err(Halt::Failure(failure)) if other.is_none() => return Err(failure),
            Err(Halt::Failure(_)) => None,
        };
        let fault = fault.into_iter().chain(other).min_by_key(|fault| fault.revision);
        Ok(Self { verified, fault })
    }

    /// Says it, on standard output if the log is intact; a script is told there in any case.
    pub fn tell(self, output: Output) -> Result<(), Failure> {
        if output.output == Format::Json {
            output::line(&output::json(&self.shape())?)?;
        } else if self.fault.is_none() {
            output::line(&self.intact())?;
        }
        match self.fault {
            None => Ok(()),
            Some(fault) => Err(Failure { code: EXIT_FAILURE, line: format!("not intact: {fault}") }),
        }
    }

    fn range(&self) -> Option<(Revision, Revision)> {
        (self.verified.entries > 0).then_some((self.verified.after + 1, self.verified.last))
    }

    fn intact(&self) -> String {
        let Verified { log_id, entries, last, hash, .. } = self.verified;
        let range = self.range().map(|(first, last)| format!(", revisions {first}..{last}")).unwrap_or_default();
        format!("intact: entries {entries}{range} of log {log_id}, at {last}:{}", output::hex(&hash))
    }

    fn shape(&self) -> Shape {
        Shape {
            intact: self.fault.is_none(),
            entries: self.verified.entries,
            first_revision: self.range().map(|(first, _)| first),
            last_revision: self.range().map(|(_, last)| last),
            log_id: self.verified.log_id.to_string(),
            hash: output::hex(&self.verified.hash),
            first_bad_revision: self.fault.as_ref().map(|fault| fault.revision),
            problem: self.fault.as_ref().map(|fault| fault.problem.kind()),
            message: self.fault.as_ref().map(ToString::to_string),
        }
    }
}

/// What is told to scripts. The entries, revisions and hash are those whose hashes are right: what is before the first bad
/// revision, but for `forged` and `state`, where they go on up to where it was read.
#[derive(Serialize)]
struct Shape {
    intact: bool,
    entries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_revision: Option<Revision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_revision: Option<Revision>,
    log_id: String,
    hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_bad_revision: Option<Revision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}
