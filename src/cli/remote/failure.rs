//! What a failed call means: the message and the exit code. A command that knows more about a refusal
//! ([`ServerRefusal`]) replaces them.

use std::error::Error;

use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::StatusExt;

use super::ApiClient;
use crate::cli::{EXIT_CONFLICT, EXIT_DENIED, EXIT_FAILURE, EXIT_NOT_FOUND, EXIT_UNAVAILABLE, EXIT_USAGE, Failure};
use crate::server::ServerError;
use crate::store::StoreError;
use crate::{api, domain};

/// How a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallFailure {
    /// The server answered with an error status.
    Status,
    /// No connection could be made.
    Unreachable,
    /// The connection was closed before the answer.
    ConnectionLost,
    /// The other side does not speak HTTP/2.
    NotHttp2,
    /// No answer came before the deadline.
    TimedOut,
    /// The connection is open, but its pings are not answered.
    Unresponsive,
}

impl CallFailure {
    pub fn of(status: &Status) -> Self {
        // Only a status that the client made has a source.
        let mut source = status.source();
        if source.is_none() {
            return Self::Status;
        }
        while let Some(error) = source {
            if error.is::<ConnectError>() {
                return Self::Unreachable;
            }
            if error.is::<TimeoutExpired>() {
                return Self::TimedOut;
            }
            if error.is::<NotHttp2Error>() {
                return Self::NotHttp2;
            }
            source = error.source();
        }
        // The error is a private type, of which only the text is accessible.
        match root_cause(status) {
            text if text.contains("timed out") => Self::Unresponsive,
            _ => Self::ConnectionLost,
        }
    }
}

/// The source of a status whose call failed because the server speaks another protocol.
#[derive(Debug, thiserror::Error)]
#[error("the server does not speak HTTP/2")]
struct NotHttp2Error;

/// Why a server refused a call, for commands that explain it further.
#[derive(Debug, Clone)]
pub(in crate::cli) struct ServerRefusal {
    /// The reason of the error details, such as `CURSOR_IN_FUTURE`; empty without details.
    pub reason: String,
    /// The head of the server's log, if the details have it.
    pub head_revision: Option<i64>,
    /// The first altered revision of the server's log, if the details have it.
    pub first_bad_revision: Option<i64>,
    /// Whether the server does not have the method.
    pub is_unimplemented: bool,
}

impl ServerRefusal {
    pub fn of(status: &Status) -> Self {
        let info = status.get_details_error_info();
        let revision = |name| info.as_ref().and_then(|info| info.metadata.get(name)?.parse().ok());
        let (head_revision, first_bad_revision) = (revision("head_revision"), revision("first_bad_revision"));
        let reason = info.map(|info| info.reason).unwrap_or_default();
        Self { reason, head_revision, first_bad_revision, is_unimplemented: status.code() == Code::Unimplemented }
    }
}

/// Whether the same call may succeed later. That includes a change of which the outcome is unknown: repeated with the same
/// `request_id`, it reports the outcome. The server's deadline is transient, as the client's own timer is: both end at the same time.
pub(super) fn is_transient(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => true,
        Code::Unknown => is_outcome_unknown(status),
        // Other limits name no delay, so they are not retried.
        Code::ResourceExhausted => is_rate_limited(status),
        _ => false,
    }
}

/// Whether the server limits the rate of calls. Its answer then says when to call again.
pub(super) fn is_rate_limited(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted && status.get_details_retry_info().is_some()
}

/// Whether the machine answered that nothing listens on the port.
pub(super) fn is_connection_refused(status: &Status) -> bool {
    let mut error: Option<&dyn Error> = Some(status);
    while let Some(current) = error {
        let io = current.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        error = current.source();
    }
    false
}

fn is_outcome_unknown(status: &Status) -> bool {
    has_reason(status, "COMMIT_OUTCOME_UNKNOWN")
}

fn has_reason(status: &Status, reason: &str) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == reason)
}

/// Whether a change may have been made, although the call failed.
pub(super) fn change_may_have_been_made(status: &Status) -> bool {
    match CallFailure::of(status) {
        CallFailure::ConnectionLost | CallFailure::TimedOut | CallFailure::Unresponsive => true,
        CallFailure::Unreachable | CallFailure::NotHttp2 => false,
        // A refusal by the server itself has details, and no change was made. One by a proxy or a library has none, and the
        // change may have been made before it.
        CallFailure::Status => match status.code() {
            Code::DeadlineExceeded if has_reason(status, "DEADLINE_DURING_CHANGE") => true,
            Code::DeadlineExceeded | Code::Unavailable => status.get_details_error_info().is_none(),
            _ => is_outcome_unknown(status),
        },
    }
}

/// The exit code for a status.
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

/// The exit code for an error that did not come from a server.
pub(in crate::cli) fn exit_code_of(error: &(dyn Error + 'static)) -> u8 {
    if let Some(ServerError::Store(error)) = error.downcast_ref() {
        return exit_code_of(error);
    }
    match error.downcast_ref() {
        Some(StoreError::Unavailable(_) | StoreError::Unusable(_) | StoreError::OutcomeUnknown(_)) => {
            return EXIT_UNAVAILABLE;
        }
        Some(StoreError::Misconfigured(_)) => return EXIT_USAGE,
        _ => {}
    }
    match error.downcast_ref() {
        Some(domain::error::Error::CommitOutcomeUnknown) => EXIT_UNAVAILABLE,
        Some(error) => exit_code(api::code(error)),
        None => EXIT_FAILURE,
    }
}

impl ApiClient {
    /// The status of a failed call, with the true cause if the connection was lost because the server speaks another protocol.
    pub(super) fn with_cause(&self, status: Status) -> Status {
        if self.other_protocol.is_spoken() && CallFailure::of(&status) == CallFailure::ConnectionLost {
            return Status::from_error(Box::new(NotHttp2Error));
        }
        status
    }

    /// The message and exit code for a failed call.
    pub(super) fn failure(&self, status: &Status) -> Failure {
        let unavailable = |message: String| Failure { code: EXIT_UNAVAILABLE, message };
        let (address, cause) = (&self.address, || root_cause(status));
        match CallFailure::of(status) {
            CallFailure::Status if is_outcome_unknown(status) => unavailable(self.refusal_message(status)),
            CallFailure::Status => Failure { code: exit_code(status.code()), message: self.refusal_message(status) },
            CallFailure::Unreachable => {
                let hint = if self.has_answered() { "" } else { connect_hint(&cause()) };
                unavailable(format!("cannot reach {address}: {}{hint}", cause()))
            }
            CallFailure::ConnectionLost => {
                let hint = if self.has_answered() { "" } else { self.connection_lost_hint };
                unavailable(format!("the connection to {address} was lost: {}{hint}", cause()))
            }
            CallFailure::NotHttp2 => unavailable(format!(
                "{address} does not speak HTTP/2; if the server uses TLS, use https:// instead of http://"
            )),
            CallFailure::Unresponsive => unavailable(format!(
                "no answer from {address}: the connection is open, but pings are not answered; check whether \
                 its machine is overloaded or suspended"
            )),
            CallFailure::TimedOut => unavailable(format!(
                "no answer from {address} within {:?}; if the server is slow, pass a longer --timeout",
                self.timeout
            )),
        }
    }

    /// The failure for a stream that cannot be resumed, since the server's log does not have the entry of the cursor: it was
    /// restored from a backup, for example. `cursor_origin` says what the cursor was taken from. `None` if this is another failure,
    /// or if the user typed the cursor (no `cursor_origin`): then [`Self::failure`] describes it.
    pub(super) fn cursor_failure(&self, status: &Status, cursor_origin: Option<&str>) -> Option<Failure> {
        let info = status.get_details_error_info().filter(|_| CallFailure::of(status) == CallFailure::Status)?;
        let (cursor, address) = (cursor_origin?, &self.address);
        let message = match info.reason.as_str() {
            "CURSOR_IN_FUTURE" | "LOG_MISMATCH" => format!(
                "{cursor} does not match the log of {address}, which was restored from a backup or is another log; \
                 keep the existing output, and start a new one without a cursor"
            ),
            "CURSOR_TOO_OLD" => format!(
                "{cursor} cannot be continued: {}; repeat the command without --after, with a new file if it writes one",
                status.message()
            ),
            _ => return None,
        };
        Some(Failure { code: EXIT_CONFLICT, message })
    }

    /// The message for an error that the server answered with.
    fn refusal_message(&self, status: &Status) -> String {
        let address = &self.address;
        if status.code() == Code::Unauthenticated {
            return match &self.token_origin {
                Some(origin) => format!(
                    "{address} refused the token from {origin}: it is unknown, expired or revoked; pass another token, or retry in a \
                     second if it was just created"
                ),
                None => format!(
                    "{address} needs a token: pass --token (TOGGLED_TOKEN) or --token-file (TOGGLED_TOKEN_FILE)"
                ),
            };
        }
        let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        if status.code() == Code::PermissionDenied {
            return format!("{}; ask an access manager to grant it (AccessService UpdateUser)", status.message());
        }
        if violations.is_empty() {
            return match ServerRefusal::of(status).reason.as_str() {
                // An environment that a caller may not see answers as one that does not exist.
                "ENVIRONMENT_NOT_FOUND" => format!("{}, or you hold no permission there", status.message()),
                _ => status.message().to_owned(),
            };
        }
        let mut all: Vec<_> =
            violations.iter().map(|v| format!("{} {}", argument_of(&v.field), v.description)).collect();
        // Each item of a batch has the same one.
        all.dedup();
        format!("invalid request: {}", all.join("; "))
    }
}

/// The name by which the user gave a field of a request: the option, if there is one.
fn argument_of(field: &str) -> &str {
    match field.rsplit_once("].").map_or(field, |(_, of_item)| if of_item == "environment" { of_item } else { field }) {
        "action_type" | "action_types" => "--action",
        "after_revision" => "--after",
        "as_of_revision" => "--as-of",
        "as_of_time" => "--as-of (a date is the end of that day, in UTC)",
        "description" => "--description",
        "entity_id" => "--entity-id",
        "environment" => "--environment (-e, TOGGLED_ENVIRONMENT)",
        "entity_type" => "--entity-type",
        "expected_revision" => "--expected-revision",
        "from_date" => "--from",
        "key_prefix" => "--prefix",
        "name" => "--name",
        "reason" => "--reason",
        "request_id" => "--request-id",
        "revision" => "--revision",
        "to_date" => "--to",
        "user_email" => "--user",
        other if other.starts_with("action_types[") => "--action",
        other => other,
    }
}

/// The innermost error, which says the most.
pub(super) fn root_cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// What to try if a connection cannot be made.
fn connect_hint(cause: &str) -> &'static str {
    if cause.contains("InvalidContentType") {
        "; the server does not seem to use TLS: use http:// instead of https://"
    } else if cause.contains("UnknownIssuer") {
        "; the server's certificate is signed by an unknown authority: pass its CA with --ca-certificate"
    } else if cause.contains("certificate") {
        "; the server needs another certificate, or pass the address that this one names with --addr (TOGGLED_ADDR)"
    } else {
        "; start the server, or pass its address with --addr (TOGGLED_ADDR)"
    }
}
