//! What every error is on the wire. This is the only place that decides what a client may read of one.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use http_body::Frame;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt};

use super::pb::ErrorReason;
use crate::domain::Revision;
use crate::domain::error::{Error, Violation};
use crate::store::StoreError;
use crate::telemetry::errors;
use crate::telemetry::request::note_reason;

const DOMAIN: &str = "toggled";

/// All that a caller is told of a defect.
const INTERNAL: &str = "internal error; the server's log has the details";

/// When to come back after a failure that passes.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Large details break connections (they travel in a header): at most so many violations ...
const MOST_VIOLATIONS: usize = 20;
/// ... and at most about so many bytes of them.
const MOST_VIOLATION_BYTES: usize = 2_048;

/// What a caller is told, by kind of error.
pub(super) fn status(error: Error) -> Status {
    let (code, reason) = kind(&error);
    note_reason(name(reason));
    let mut details = ErrorDetails::with_error_info(name(reason), DOMAIN, metadata(&error));
    match &error {
        Error::Invalid(violations) => {
            details.set_bad_request(shown(violations));
        }
        Error::FlagNotFound(named) => resource(&mut details, "feature_flag", named, "no such feature flag"),
        Error::UserNotFound(id) => resource(&mut details, "user", &id.to_string(), "no such user"),
        Error::TokenNotFound(id) => resource(&mut details, "api_token", &id.to_string(), "no such token"),
        Error::AuditLogNotFound(id) => resource(&mut details, "audit_log", &id.to_string(), "no such entry"),
        Error::KeyTaken(key) => resource(&mut details, "feature_flag", key.as_str(), "the key is taken"),
        Error::EmailTaken(email) => resource(&mut details, "user", email.as_str(), "the address is taken"),
        Error::AccountTaken(account) => resource(&mut details, "user", &account.subject, "the account is taken"),
        Error::FlagArchived(key) => precondition(&mut details, reason, key.as_str(), "unarchive the flag first"),
        Error::NotRevertible(id) => precondition(&mut details, reason, &id.to_string(), "name an entry of a flip"),
        Error::SignOnEmailTaken(email) => precondition(&mut details, reason, email.as_str(), "another user has it"),
        Error::UserDeactivated(email) => {
            precondition(&mut details, reason, email.as_str(), "reactivate the user first")
        }
        Error::LastWayIn => precondition(&mut details, reason, "caller", "have another way in first"),
        Error::LastAccessManager(email) => {
            precondition(&mut details, reason, email.as_str(), "grant manage_access to somebody else first");
        }
        Error::RequestIdReused => precondition(&mut details, reason, "request_id", "use a fresh request_id"),
        Error::LogMismatch(what) => precondition(&mut details, reason, what, "start again without a cursor"),
        Error::NoCheckpointKey => {
            precondition(&mut details, reason, "server", "give the server a key: --checkpoint-key-file");
        }
        Error::RateLimited { after, .. } => {
            details.set_retry_info(Some(*after));
        }
        Error::QueueFull
        | Error::StreamLimit
        | Error::DatabaseUnavailable
        | Error::IssuerUnavailable
        | Error::Stale
        | Error::Draining => {
            details.set_retry_info(Some(RETRY_AFTER));
        }
        _ => {}
    }
    Status::with_error_details(code, message(&error), details)
}

/// What tonic tells by itself at the beginning of an answer, in our words: that it cannot read the request, which it calls
/// a defect, or that it is too large, which it tells by the code of a cursor. What is told here always has details; what
/// tonic tells has none.
pub(super) fn retell_refusal(headers: &mut HeaderMap) {
    match transports_own(headers) {
        Some((Code::Internal, told)) => retell(Error::Malformed(told), headers),
        Some((Code::OutOfRange, told)) => retell(Error::MessageTooLarge(told), headers),
        _ => {}
    }
}

/// The same at its end: that the answer is too large. Whatever else tonic tells then is a defect.
pub(super) fn retell_end(trailers: &mut HeaderMap) {
    if let Some((Code::OutOfRange, told)) = transports_own(trailers) {
        retell(Error::MessageTooLarge(told), trailers);
    }
}

fn transports_own(headers: &HeaderMap) -> Option<(Code, String)> {
    let code = Code::from_bytes(headers.get(Status::GRPC_STATUS)?.as_bytes());
    let told = matches!(code, Code::Internal | Code::OutOfRange).then(|| Status::from_header_map(headers))??;
    told.details().is_empty().then(|| (code, told.message().to_owned()))
}

fn retell(error: Error, headers: &mut HeaderMap) {
    // A status that cannot be written as headers leaves what is there.
    let _ = status(error).add_header(headers);
}

/// The end of a stream that a status ends.
pub(super) fn last_frame<D>(status: &Status) -> Result<Frame<D>, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}

/// What a caller who speaks no gRPC is told: the same, by the HTTP status that belongs to the code.
pub(super) fn http_status(error: &Error) -> (StatusCode, String) {
    let (code, reason) = kind(error);
    note_reason(name(reason));
    let status = match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        // A method that is not there is a path that is not there.
        Code::NotFound | Code::Unimplemented => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, message(error))
}

/// What a caller is told of a database that could not be read.
pub(super) fn read_failed(error: StoreError) -> Status {
    match error {
        StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_) => {
            tracing::warn!(%error, "a read failed");
            status(Error::DatabaseUnavailable)
        }
        StoreError::Corrupt { table: "audit_logs", ref row, .. } => match row.parse() {
            Ok(revision) => log_corrupt(revision, &error.to_string()),
            Err(_) => status(Error::Internal(error.to_string())),
        },
        StoreError::Corrupt { .. } | StoreError::Refused(_) => status(Error::Internal(error.to_string())),
    }
}

/// What a caller is told of a log that does not hold what it should; the server's log has the details.
pub(super) fn log_corrupt(revision: Revision, what: &str) -> Status {
    errors::internal(what);
    status(Error::LogCorrupt { revision })
}

/// The code that an error has on the wire.
pub fn code(error: &Error) -> Code {
    kind(error).0
}

fn kind(error: &Error) -> (Code, ErrorReason) {
    match error {
        Error::Unauthenticated => (Code::Unauthenticated, ErrorReason::Unauthenticated),
        Error::PermissionDenied(_) => (Code::PermissionDenied, ErrorReason::PermissionDenied),
        Error::Invalid(_) => (Code::InvalidArgument, ErrorReason::InvalidField),
        Error::FlagNotFound(_) => (Code::NotFound, ErrorReason::FlagNotFound),
        Error::UserNotFound(_) => (Code::NotFound, ErrorReason::UserNotFound),
        Error::TokenNotFound(_) => (Code::NotFound, ErrorReason::TokenNotFound),
        Error::AuditLogNotFound(_) => (Code::NotFound, ErrorReason::AuditLogNotFound),
        Error::KeyTaken(_) => (Code::AlreadyExists, ErrorReason::KeyTaken),
        Error::EmailTaken(_) => (Code::AlreadyExists, ErrorReason::EmailTaken),
        Error::AccountTaken(_) => (Code::AlreadyExists, ErrorReason::AccountTaken),
        Error::SignOnEmailTaken(_) => (Code::FailedPrecondition, ErrorReason::EmailTaken),
        Error::UserDeactivated(_) => (Code::FailedPrecondition, ErrorReason::UserDeactivated),
        Error::LastWayIn => (Code::FailedPrecondition, ErrorReason::LastWayIn),
        Error::LastAccessManager(_) => (Code::FailedPrecondition, ErrorReason::LastAccessManager),
        Error::RevisionMismatch { .. } => (Code::Aborted, ErrorReason::RevisionMismatch),
        Error::FlagArchived(_) => (Code::FailedPrecondition, ErrorReason::FlagArchived),
        Error::NotRevertible(_) => (Code::FailedPrecondition, ErrorReason::NotRevertible),
        Error::RequestIdReused => (Code::FailedPrecondition, ErrorReason::RequestIdReused),
        Error::LogMismatch(_) => (Code::FailedPrecondition, ErrorReason::LogMismatch),
        Error::CursorInFuture { .. } => (Code::OutOfRange, ErrorReason::CursorInFuture),
        Error::CursorTooOld { .. } => (Code::OutOfRange, ErrorReason::CursorTooOld),
        Error::TimeTooOld { .. } => (Code::OutOfRange, ErrorReason::CursorTooOld),
        Error::QueueFull => (Code::Unavailable, ErrorReason::QueueFull),
        Error::RateLimited { .. } => (Code::ResourceExhausted, ErrorReason::RateLimited),
        Error::CallerStreamLimit(_) => (Code::ResourceExhausted, ErrorReason::StreamLimit),
        Error::StreamLimit => (Code::Unavailable, ErrorReason::StreamLimit),
        Error::DatabaseUnavailable => (Code::Unavailable, ErrorReason::DatabaseUnavailable),
        Error::IssuerUnavailable => (Code::Unavailable, ErrorReason::IssuerUnavailable),
        Error::Stale => (Code::Unavailable, ErrorReason::Stale),
        Error::Draining => (Code::Unavailable, ErrorReason::Draining),
        Error::DeadlineBeforeStart => (Code::DeadlineExceeded, ErrorReason::DeadlineBeforeStart),
        Error::DeadlineExceeded => (Code::DeadlineExceeded, ErrorReason::DeadlineExceeded),
        Error::NoCheckpointKey => (Code::FailedPrecondition, ErrorReason::NoCheckpointKey),
        Error::LogCorrupt { .. } | Error::CheckpointCorrupt { .. } => (Code::DataLoss, ErrorReason::LogCorrupt),
        Error::CommitOutcomeUnknown => (Code::Unknown, ErrorReason::CommitOutcomeUnknown),
        Error::Malformed(_) => (Code::InvalidArgument, ErrorReason::Malformed),
        Error::MessageTooLarge(_) => (Code::ResourceExhausted, ErrorReason::MessageTooLarge),
        Error::UnknownMethod(_) => (Code::Unimplemented, ErrorReason::UnknownMethod),
        Error::Internal(_) | Error::Told => (Code::Internal, ErrorReason::Internal),
    }
}

/// The reason as it is sent: without the prefix that proto style wants.
fn name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

fn message(error: &Error) -> String {
    match error {
        Error::Internal(what) => {
            errors::internal(what);
            INTERNAL.to_owned()
        }
        Error::Told => INTERNAL.to_owned(),
        error => error.to_string(),
    }
}

fn metadata(error: &Error) -> HashMap<String, String> {
    let pair = match error {
        Error::PermissionDenied(permission) => Some(("permission", permission.to_string())),
        Error::RevisionMismatch { current, .. } => Some(("current_revision", current.to_string())),
        Error::CursorInFuture { head, .. } => Some(("head_revision", head.to_string())),
        Error::CursorTooOld { oldest, .. } | Error::TimeTooOld { oldest } => {
            Some(("oldest_revision", oldest.to_string()))
        }
        Error::LogCorrupt { revision } | Error::CheckpointCorrupt { revision } => {
            Some(("first_bad_revision", revision.to_string()))
        }
        _ => None,
    };
    pair.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn shown(violations: &[Violation]) -> Vec<FieldViolation> {
    let mut bytes = 0;
    violations
        .iter()
        .take(MOST_VIOLATIONS)
        .take_while(|v| {
            bytes += v.field.len() + v.rule.len();
            bytes <= MOST_VIOLATION_BYTES
        })
        .map(|v| FieldViolation::new(&v.field, &v.rule))
        .collect()
}

fn resource(details: &mut ErrorDetails, kind: &str, name: &str, description: &str) {
    details.set_resource_info(kind, name, "", description);
}

fn precondition(details: &mut ErrorDetails, reason: ErrorReason, subject: &str, description: &str) {
    details.set_precondition_failure(vec![PreconditionViolation::new(name(reason), subject, description)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::access::Permission;

    #[test]
    fn the_words_for_a_missing_permission_are_fixed() {
        let status = status(Error::PermissionDenied(Permission::ToggleFeatureFlags));
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(status.message(), "Insufficient permissions: toggle_feature_flags required");
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("PERMISSION_DENIED", "toggled"));
        assert_eq!(info.metadata["permission"], "toggle_feature_flags");
    }

    #[test]
    fn nothing_internal_is_on_the_wire() {
        let status = status(Error::Internal("password=hunter2 at table users".to_owned()));
        assert_eq!(status.code(), Code::Internal);
        let wire = format!("{} {:?}", status.message(), String::from_utf8_lossy(status.details()));
        assert!(!wire.contains("hunter2") && !wire.contains("users"), "{wire}");
        let (code, words) = http_status(&Error::Internal("password=hunter2 at table users".to_owned()));
        assert_eq!((code, words.as_str()), (StatusCode::INTERNAL_SERVER_ERROR, status.message()));
    }

    #[test]
    fn a_corrupt_entry_is_told_by_its_revision_and_nothing_else() {
        let corrupt = |table, row: &str| StoreError::Corrupt {
            table,
            column: "hash",
            row: row.to_owned(),
            problem: "hunter2".to_owned(),
        };
        let status = read_failed(corrupt("audit_logs", "17"));
        assert_eq!(status.code(), Code::DataLoss);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.metadata["first_bad_revision"].as_str()), ("LOG_CORRUPT", "17"));
        assert!(status.message().contains("17") && !status.message().contains("hunter2"), "{status}");
        assert_eq!(read_failed(corrupt("users", "17")).code(), Code::Internal);
    }

    #[test]
    fn details_stay_small_enough_for_a_header() {
        let violation = |n: usize| Violation { field: format!("items[{n}].key"), rule: "must be".repeat(30) };
        let status = status(Error::Invalid((0..1_000).map(violation).collect()));
        assert!(status.details().len() + status.message().len() < 4_096);
        assert!(status.get_details_bad_request().unwrap().field_violations.len() <= MOST_VIOLATIONS);
    }
}
