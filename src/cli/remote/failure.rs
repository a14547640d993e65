//! What a call that failed comes to: a line for a person, and an exit status. This is the only place that decides it.

use std::error::Error;

use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::StatusExt;

use super::Remote;
use crate::cli::{EXIT_CONFLICT, EXIT_DENIED, EXIT_FAILURE, EXIT_NOT_FOUND, EXIT_UNAVAILABLE, EXIT_USAGE, Failure};
use crate::store::StoreError;
use crate::{api, domain};

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
    /// Nobody: the connection is there, and nothing comes over it.
    Dead,
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
        match cause(status) {
            words if words.contains("frame with invalid size") => Self::Foreign,
            words if words.contains("timed out") => Self::Dead,
            _ => Self::Lost,
        }
    }
}

/// Why a server refused a call, for who has more to say of it than what the server says.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Refusal {
    /// The reason by its name, as in `CURSOR_IN_FUTURE`.
    pub reason: String,
    /// Where the server's log ends, if it said so.
    pub head_revision: Option<i64>,
    /// The first revision of its log that is not as it was written, if it said so.
    pub first_bad_revision: Option<i64>,
    /// Whether the server does not know the method.
    pub is_unimplemented: bool,
}

impl Refusal {
    pub fn of(status: &Status) -> Self {
        let info = status.get_details_error_info();
        let revision = |name| info.as_ref().and_then(|info| info.metadata.get(name)?.parse().ok());
        let (head_revision, first_bad_revision) = (revision("head_revision"), revision("first_bad_revision"));
        let reason = info.map(|info| info.reason).unwrap_or_default();
        Self { reason, head_revision, first_bad_revision, is_unimplemented: status.code() == Code::Unimplemented }
    }
}

/// Whether the server refused for a reason that passes, or does not know whether it did what was asked: asked once more,
/// under the same `request_id`, it tells.
pub(super) fn passes(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        Code::Unknown => is_outcome_unknown(status),
        // Of the limits there are, those that are over soon say when.
        Code::ResourceExhausted => is_limited(status),
        _ => false,
    }
}

/// Whether the server lets no more through for now, and says when it will.
pub(super) fn is_limited(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted && status.get_details_retry_info().is_some()
}

/// Whether there is a machine, and nothing on it that listens: nothing was sent.
pub(super) fn is_refused(status: &Status) -> bool {
    let mut error: Option<&dyn Error> = Some(status);
    while let Some(one) = error {
        let io = one.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        error = one.source();
    }
    false
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
    if let Some(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_)) = error.downcast_ref() {
        return EXIT_UNAVAILABLE;
    }
    match error.downcast_ref() {
        Some(domain::error::Error::CommitOutcomeUnknown) => EXIT_UNAVAILABLE,
        Some(error) => exit_code(api::code(error)),
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
            Fault::Dead => unavailable(format!("no answer from {name}: nothing comes over the connection any more")),
            Fault::Silent => unavailable(format!("no answer from {name} within {:?}; see --timeout", self.timeout)),
        }
    }

    /// What the program ends with where the server's log does not have what a cursor stands behind: a log that was
    /// restored from a backup since. A cursor that was typed is but wrong.
    pub(super) fn stranded(&self, status: &Status, cursor: Option<&str>) -> Option<Failure> {
        let info = status.get_details_error_info().filter(|_| Fault::of(status) == Fault::Server)?;
        let (cursor, name) = (cursor?, &self.name);
        let line = match info.reason.as_str() {
            "CURSOR_IN_FUTURE" | "LOG_MISMATCH" => format!(
                "{cursor} does not fit the log of {name}: it was restored from a backup, or is another log; \
                 keep what you have, and begin anew"
            ),
            "CURSOR_TOO_OLD" => format!("{cursor} cannot be gone on with: {}; begin anew", status.message()),
            _ => return None,
        };
        Some(Failure { code: EXIT_CONFLICT, line })
    }

    fn words(&self, status: &Status) -> String {
        if status.code() == Code::Unauthenticated {
            let name = &self.name;
            return match &self.token_origin {
                Some(origin) => {
                    format!("{name} does not take the token of {origin}: it is unknown, expired or revoked")
                }
                None => format!(
                    "{name} wants to know who you are: give --token (TOGGLED_TOKEN) or --token-file (TOGGLED_TOKEN_FILE)"
                ),
            };
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
