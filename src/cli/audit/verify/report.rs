//! Prints the result of `audit verify`.

use serde::Serialize;

use crate::cli::output::{self, OutputFormat, OutputOptions};
use crate::cli::{EXIT_FAILURE, Failure};
use crate::domain::Revision;
use crate::domain::hex::hex_digits;
use crate::verify::{Fault, Problem, Report, Stop, Verified};

impl From<Failure> for Stop<Failure> {
    fn from(failure: Failure) -> Self {
        Self::Error(failure)
    }
}

/// Prints the result: JSON always on standard output, text only for an intact log. A fault fails the command.
pub(super) fn print(report: &Report, is_file: bool, output: OutputOptions) -> Result<(), Failure> {
    if output.format == OutputFormat::Json {
        output::print_line(&output::to_json(&report_json(report, is_file))?)?;
    } else if report.fault.is_none() {
        output::print_line(&intact(&report.verified))?;
    }
    match &report.fault {
        None => Ok(()),
        Some(fault) => Err(Failure { code: EXIT_FAILURE, message: format!("not intact: {}", message(fault, is_file)) }),
    }
}

/// A checkpoint older than the trimmed log cannot be used.
pub(super) fn trimmed(setting: &str, revision: Revision) -> Failure {
    Failure::usage(format!(
        "{setting}: revision {revision} was trimmed from the log; pass the FILE.checkpoint that audit trim wrote, or a later one"
    ))
}

/// The fault, and what to do if the log may be intact.
fn message(fault: &Fault, is_file: bool) -> String {
    let advice = match fault.problem {
        Problem::Missing { .. } if is_file => {
            "; if the file was exported with filters, it cannot be verified: export it without filters"
        }
        Problem::UnknownStart { .. } => "; with --since, pass the FILE.checkpoint that audit trim wrote",
        Problem::BeforeStart { .. } => {
            "; if the log was trimmed, pass the FILE.checkpoint that audit trim wrote, or a later one"
        }
        _ => "",
    };
    format!("{fault}{advice}")
}

fn range(verified: &Verified) -> Option<(Revision, Revision)> {
    (verified.entries > 0).then_some((verified.after + 1, verified.last))
}

fn intact(verified: &Verified) -> String {
    let Verified { log_id, entries, last, hash, .. } = verified;
    let range = range(verified).map(|(first, last)| format!(", revisions {first}..{last}")).unwrap_or_default();
    format!("intact: entries {entries}{range} of log {log_id}, at {last}:{}", hex_digits(hash))
}

fn report_json(report: &Report, is_file: bool) -> ReportJson {
    let (verified, fault) = (&report.verified, report.fault.as_ref());
    ReportJson {
        intact: fault.is_none(),
        entries: verified.entries,
        first_revision: range(verified).map(|(first, _)| first),
        last_revision: range(verified).map(|(_, last)| last),
        log_id: verified.log_id.to_string(),
        hash: hex_digits(&verified.hash),
        first_bad_revision: fault.map(|fault| fault.revision),
        problem: fault.map(|fault| fault.problem.kind()),
        message: fault.map(|fault| message(fault, is_file)),
    }
}

/// The JSON object. The entries, revisions and hash are of the verified entries: those before the first bad revision, or for
/// `forged` and `state`, all that were read.
#[derive(Serialize)]
struct ReportJson {
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
