//! Maps every error to its status. Only this module decides what a client learns about an error.

mod codes;
mod details;
mod limits;

use http::{HeaderMap, StatusCode};
use http_body::Frame;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::domain::Revision;
use crate::domain::error::Error;
use crate::store::StoreError;
use crate::telemetry::errors;
use crate::telemetry::request::record_reason;
use codes::{code_and_reason, reason_name};
use details::{add_details, metadata};

pub use codes::code;
pub(super) use limits::{
    CALL_SLOTS, CONNECTIONS, HANDSHAKE_TIME, HANDSHAKES, LimitName, NETWORK_CONNECTIONS, NamedLimit, OFREP_BODY,
    OFREP_TIME, STALL_TIME, UNFINISHED_HEADS, millis,
};
pub use limits::{Limit, LimitReached, LimitRow, list};

/// The `domain` of every ErrorInfo.
const DOMAIN: &str = "toggled";

/// The whole message of an internal error.
const INTERNAL: &str = "internal error; the server's log has the details";

/// Why a call failed: an error of the domain, or one of the API itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// An error of the domain: a rule refuses the call, or the service cannot answer it.
    #[error(transparent)]
    Domain(Error),
    /// A limit is reached.
    #[error("{0}")]
    Limit(LimitReached),
    /// The keys of the single sign-on issuer have not been read since the server started.
    #[error("the keys of the single sign-on issuer could not be read yet; retry")]
    IssuerUnavailable,
    /// The caller's deadline passed before the answer to a read, or ended a stream. Or the request had not arrived by the caller's
    /// deadline or the server's limit. A read that takes longer than the server's limit is [`Limit::CallTime`].
    #[error("the deadline passed before the answer was complete; no change was made")]
    DeadlineExceeded,
    /// The timeout in the headers is malformed.
    #[error(
        "malformed timeout: grpc-timeout must be one number of at most 8 digits with the unit H, M, S, m, u or n, and connect-timeout-ms \
         one of at most 10 digits"
    )]
    MalformedTimeout,
    /// A Connect request of another version of the protocol.
    #[error("unsupported version of the Connect protocol; use version 1")]
    UnsupportedProtocol,
    /// The query string of a Connect request.
    #[error("malformed query: {0}")]
    MalformedQuery(&'static str),
    /// The request's JSON is not the method's message.
    #[error("malformed JSON: {0}")]
    MalformedJson(String),
    /// The messages are encoded in another way than gRPC's default.
    #[error("the content type {0} is not supported; use application/grpc")]
    UnsupportedCodec(String),
    /// The request is compressed with an unknown algorithm.
    #[error("{0}; use gzip or no compression")]
    UnsupportedCompression(String),
    /// No service with this name is served, so it has no health.
    #[error("there is no service {0}")]
    UnknownService(String),
    /// The request's bytes are not a message of the method.
    #[error("malformed request: {0}; generate the client from the .proto files")]
    MalformedMessage(String),
    /// The path names no method.
    #[error("there is no method {0}")]
    UnknownMethod(String),
    /// The server has no checkpoint key.
    #[error(
        "this server has no key to sign checkpoints; start it with --checkpoint-key-file (TOGGLED_CHECKPOINT_KEY_FILE)"
    )]
    NoCheckpointKey,
    /// The handler panicked. The panic hook has reported it.
    #[error("internal error")]
    Panicked,
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::QueueFull { max } => Self::Limit(Limit::Queue.reached(max)),
            error => Self::Domain(error),
        }
    }
}

impl From<LimitReached> for ApiError {
    fn from(reached: LimitReached) -> Self {
        Self::Limit(reached)
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        status(error)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        status(error)
    }
}

/// A failed read or write of the database, outside the committer.
impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        match error {
            error if error.is_temporary() => {
                tracing::warn!(%error, "database call failed");
                status(Error::DatabaseUnavailable)
            }
            StoreError::Corrupt { table: "audit_logs", ref row, .. } => match row.parse() {
                Ok(revision) => log_corrupt(revision, &error.to_string()),
                Err(_) => status(Error::internal(error)),
            },
            error => status(Error::internal(error)),
        }
    }
}

/// The gRPC status of an error, with its details. Reports internal errors to the server's log.
pub(super) fn status(error: impl Into<ApiError>) -> Status {
    let error = error.into();
    let (code, reason) = code_and_reason(&error);
    record_reason(reason_name(reason));
    let mut details = ErrorDetails::with_error_info(reason_name(reason), DOMAIN, metadata(&error));
    add_details(&mut details, &error, reason);
    let is_permanent = is_permanent(code, &details);
    let mut status = Status::with_error_details(code, message(&error), details);
    if is_permanent {
        status.metadata_mut().insert(RETRY_PUSHBACK, MetadataValue::from_static("-1"));
    }
    status
}

/// gRPC's trailer for clients with a retry policy. Less than 0: the same request fails again, so do not retry.
///
/// flagd's provider for Java retries nearly every code. A caller would wait until their deadline, and never see that a flag does not exist.
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Whether the same request fails again. After a code of the first kind it may succeed, or a retry with the same `request_id` shows what
/// became of it; so it may after an error of the second kind that suggests a delay.
fn is_permanent(code: Code, details: &ErrorDetails) -> bool {
    match code {
        Code::Ok | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::Unavailable => {
            false
        }
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => details.retry_info().is_none(),
    }
}

/// The HTTP status and message of an error, for protocols other than gRPC.
pub(super) fn http_status(error: &ApiError) -> (StatusCode, String) {
    let (code, reason) = code_and_reason(error);
    record_reason(reason_name(reason));
    let status = match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound | Code::Unimplemented => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, message(error))
}

/// A damaged log. Callers get the revision; the server's log gets the details.
pub(super) fn log_corrupt(revision: Revision, details: &str) -> Status {
    errors::report_internal_error(details);
    status(Error::LogCorrupt { revision })
}

/// Replaces tonic's own status at the beginning of an answer with ours. tonic calls a malformed request INTERNAL. It calls a request
/// that is too large OUT_OF_RANGE, which clients take for a cursor outside the log, or RESOURCE_EXHAUSTED when decompressed. Our
/// statuses always carry details; tonic's never do.
pub(super) fn replace_initial_status(headers: &mut HeaderMap) {
    let Some((code, message)) = tonic_status(headers) else { return };
    match code {
        Code::Internal => write_status(ApiError::MalformedMessage(message), headers),
        Code::OutOfRange | Code::ResourceExhausted => {
            write_status(LimitReached::of_size(Limit::RequestSize, &message), headers);
        }
        Code::Unimplemented => write_status(ApiError::UnsupportedCompression(message), headers),
        _ => {}
    }
}

/// Replaces tonic's own status at the end of an answer, where OUT_OF_RANGE means that the answer is too large. Other statuses of
/// tonic there are defects of the server, and stay.
pub(super) fn replace_final_status(method: &str, trailers: &mut HeaderMap) {
    if let Some((Code::OutOfRange, message)) = tonic_status(trailers) {
        // The answers of flagd's services hold all flags.
        let limit = if method.starts_with("flagd.") { Limit::FlagSetSize } else { Limit::ResponseSize };
        write_status(LimitReached::of_size(limit, &message), trailers);
    }
}

/// The code and message of a status without details, if it may be one of tonic's.
fn tonic_status(headers: &HeaderMap) -> Option<(Code, String)> {
    let code = Code::from_bytes(headers.get(Status::GRPC_STATUS)?.as_bytes());
    let is_replaced = matches!(code, Code::Internal | Code::OutOfRange | Code::ResourceExhausted | Code::Unimplemented);
    let status = is_replaced.then(|| Status::from_header_map(headers))??;
    status.details().is_empty().then(|| (code, status.message().to_owned()))
}

fn write_status(error: impl Into<ApiError>, headers: &mut HeaderMap) {
    // A status that cannot be written as headers leaves the old one in place.
    let _ = status(error).add_header(headers);
}

/// The trailers that end a stream with a status.
pub(super) fn last_frame<D>(status: &Status) -> Result<Frame<D>, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}

fn message(error: &ApiError) -> String {
    match error {
        ApiError::Domain(Error::Internal(defect)) => {
            if defect.claim_report() {
                errors::report_internal_error(&defect.to_string());
            }
            INTERNAL.to_owned()
        }
        ApiError::Panicked => INTERNAL.to_owned(),
        error => cut(error.to_string()),
    }
}

/// The longest text of an error, in bytes. It travels in a header, and so does the copy of it in the details: clients accept headers of 8 KiB
/// in all, and each byte that is not ASCII takes three there.
const MAX_MESSAGE_BYTES: usize = 2_048;

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::details::MAX_VIOLATIONS;
    use super::*;
    use crate::domain::access::Permission;
    use crate::domain::error::Violation;

    #[test]
    fn missing_permission_has_a_fixed_message() {
        let status = status(Error::PermissionDenied(Permission::ToggleFeatureFlags.into()));
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(status.message(), "Insufficient permissions: toggle_feature_flags required");
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("PERMISSION_DENIED", "toggled"));
        assert_eq!(info.metadata["permission"], "toggle_feature_flags");
    }

    #[test]
    fn internal_error_hides_its_cause() {
        let status = status(Error::internal("password=hunter2 at table users"));
        assert_eq!(status.code(), Code::Internal);
        let sent = format!("{} {:?}", status.message(), String::from_utf8_lossy(status.details()));
        assert!(!sent.contains("hunter2") && !sent.contains("users"), "{sent}");
        let (code, text) = http_status(&Error::internal("password=hunter2 at table users").into());
        assert_eq!((code, text.as_str()), (StatusCode::INTERNAL_SERVER_ERROR, status.message()));
    }

    #[test]
    fn corrupt_entry_reports_only_its_revision() {
        let corrupt = |table, row: &str| StoreError::Corrupt {
            table,
            column: "hash",
            row: row.to_owned(),
            problem: "hunter2".to_owned(),
        };
        let status = Status::from(corrupt("audit_logs", "17"));
        assert_eq!(status.code(), Code::DataLoss);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.metadata["first_bad_revision"].as_str()), ("LOG_CORRUPT", "17"));
        assert!(status.message().contains("17") && !status.message().contains("hunter2"), "{status}");
        assert_eq!(Status::from(corrupt("users", "17")).code(), Code::Internal);
    }

    #[test]
    fn details_fit_into_a_header() {
        let violation = |n: usize| Violation { field: format!("items[{n}].key"), rule: "must be".repeat(30) };
        let status = status(Error::Invalid((0..1_000).map(violation).collect()));
        assert!(status.details().len() + status.message().len() < 4_096);
        assert!(status.get_details_bad_request().unwrap().field_violations.len() <= MAX_VIOLATIONS);
    }
}
