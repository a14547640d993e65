//! What a call that failed comes to: a line for a person, and an exit status. This is the only place that decides it.

use std::error::Error;

use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::StatusExt;

use super::Remote;
use crate::cli::{EXIT_CONFLICT, EXIT_DENIED, EXIT_FAILURE, EXIT_NOT_FOUND, EXIT_UNAVAILABLE, EXIT_USAGE, Failure};
use crate::{domain, grpc};

/// Who says that a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server.
    Server,
    /// Nobody: there is no connection.
    Unreachable,
    /// Nobody: the connection was lost on the way.
    Lost,
    /// Nobody: what is there does not speak HTTP/2.
    Foreign,
    /// Nobody, for as long as we waited.
    Silent,
}

impl Fault {
    pub fn of(status: &Status) -> Self {
        // What the server sends comes without a source.
        let mut source = status.source();
        if source.is_none() {
            return Self::Server;
        }
        while let Some(error) = source {
            if error.is::<ConnectError>() {
                return Self::Unreachable;
            }
            if error.is::<TimeoutExpired>() {
                return Self::Silent;
            }
            source = error.source();
        }
        // There is no other way to tell it than by the words for it.
        if cause(status).contains("frame with invalid size") { Self::Foreign } else { Self::Lost }
    }
}

/// Whether the server refused for a reason that passes, or does not know whether it did what was asked: asked once more,
/// under the same `request_id`, it tells.
pub(super) fn passes(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        Code::Unknown => is_outcome_unknown(status),
        // Of the limits there are, those that are over soon say when.
        Code::ResourceExhausted => status.get_details_retry_info().is_some(),
        _ => false,
    }
}

fn is_outcome_unknown(status: &Status) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == "COMMIT_OUTCOME_UNKNOWN")
}

/// The exit status that says what kind of failure it was.
fn exit_code(code: Code) -> u8 {
    match code {
        Code::InvalidArgument | Code::OutOfRange => EXIT_USAGE,
        Code::NotFound => EXIT_NOT_FOUND,
        Code::Unauthenticated | Code::PermissionDenied => EXIT_DENIED,
        Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => EXIT_CONFLICT,
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => EXIT_UNAVAILABLE,
        Code::Ok | Code::Cancelled | Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => {
            EXIT_FAILURE
        }
    }
}

/// The same for an error that came over no wire.
pub(in crate::cli) fn exit_code_of(error: &(dyn Error + 'static)) -> u8 {
    match error.downcast_ref() {
        Some(domain::error::Error::CommitOutcomeUnknown) => EXIT_UNAVAILABLE,
        Some(error) => exit_code(grpc::code(error)),
        None => EXIT_FAILURE,
    }
}

impl Remote {
    /// What the program ends with.
    pub(super) fn failure(&self, status: &Status) -> Failure {
        let unavailable = |line: String| Failure { code: EXIT_UNAVAILABLE, line };
        let (name, why) = (&self.name, || cause(status));
        match Fault::of(status) {
            Fault::Server if is_outcome_unknown(status) => unavailable(self.words(status)),
            Fault::Server => Failure { code: exit_code(status.code()), line: self.words(status) },
            Fault::Unreachable => unavailable(format!("cannot reach {name}: {}{}", why(), hint(&why()))),
            Fault::Lost => {
                let hint = if self.has_answered() { "" } else { self.lost_hint };
                unavailable(format!("the connection to {name} was lost: {}{hint}", why()))
            }
            Fault::Foreign => unavailable(format!(
                "what is at {name} does not speak HTTP/2; if it speaks TLS, it is https:// instead of http://"
            )),
            Fault::Silent => unavailable(format!("no answer from {name} within {:?}; see --timeout", self.timeout)),
        }
    }

    fn words(&self, status: &Status) -> String {
        if status.code() == Code::Unauthenticated && !self.has_token {
            return format!(
                "{} wants to know who you are: give --token (TOGGLED_TOKEN) or --token-file (TOGGLED_TOKEN_FILE)",
                self.name
            );
        }
        let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        if violations.is_empty() {
            return status.message().to_owned();
        }
        let all: Vec<_> = violations.iter().map(|v| format!("{} {}", v.field, v.description)).collect();
        format!("invalid request: {}", all.join("; "))
    }
}

/// The innermost error: those around it say little.
pub(super) fn cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// What is most likely wrong with the settings.
fn hint(cause: &str) -> &'static str {
    if cause.contains("InvalidContentType") {
        "; the server does not seem to speak TLS: is it http:// instead of https://?"
    } else if cause.contains("UnknownIssuer") {
        "; who vouches for it is told by --ca-certificate"
    } else {
        ""
    }
}
