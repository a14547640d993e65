//! The gRPC code and the reason of every error: one exhaustive match for each error type.

use tonic::Code;

use super::ApiError;
use crate::api::pb::ErrorReason;
use crate::domain::error::Error;

/// The gRPC code of an error of the domain.
pub fn code(error: &Error) -> Code {
    domain_code_and_reason(error).0
}

pub(super) fn code_and_reason(error: &ApiError) -> (Code, ErrorReason) {
    match error {
        ApiError::Domain(error) => domain_code_and_reason(error),
        ApiError::Limit(reached) => reached.limit.code_and_reason(),
        ApiError::IssuerUnavailable => (Code::Unavailable, ErrorReason::IssuerUnavailable),
        ApiError::DeadlineExceeded => (Code::DeadlineExceeded, ErrorReason::DeadlineExceeded),
        ApiError::MalformedTimeout
        | ApiError::UnsupportedProtocol
        | ApiError::MalformedQuery(_)
        | ApiError::MalformedJson(_)
        | ApiError::MalformedMessage(_) => (Code::InvalidArgument, ErrorReason::Malformed),
        ApiError::UnsupportedCodec(_) | ApiError::UnsupportedCompression(_) => {
            (Code::Unimplemented, ErrorReason::UnsupportedEncoding)
        }
        ApiError::UnknownService(_) => (Code::NotFound, ErrorReason::UnknownService),
        ApiError::UnknownMethod(_) => (Code::Unimplemented, ErrorReason::UnknownMethod),
        ApiError::NoCheckpointKey => (Code::FailedPrecondition, ErrorReason::NoCheckpointKey),
        ApiError::Panicked => (Code::Internal, ErrorReason::Internal),
    }
}

fn domain_code_and_reason(error: &Error) -> (Code, ErrorReason) {
    match error {
        Error::Unauthenticated => (Code::Unauthenticated, ErrorReason::Unauthenticated),
        Error::PermissionDenied(_) => (Code::PermissionDenied, ErrorReason::PermissionDenied),
        Error::Invalid(_) => (Code::InvalidArgument, ErrorReason::InvalidField),
        Error::FlagNotFound(_) => (Code::NotFound, ErrorReason::FlagNotFound),
        Error::EnvironmentNotFound(_) => (Code::NotFound, ErrorReason::EnvironmentNotFound),
        Error::UserNotFound(_) => (Code::NotFound, ErrorReason::UserNotFound),
        Error::TokenNotFound(_) => (Code::NotFound, ErrorReason::TokenNotFound),
        Error::AuditLogNotFound(_) => (Code::NotFound, ErrorReason::AuditLogNotFound),
        Error::KeyTaken(_) | Error::EnvironmentKeyTaken(_) => (Code::AlreadyExists, ErrorReason::KeyTaken),
        Error::EmailTaken(_) => (Code::AlreadyExists, ErrorReason::EmailTaken),
        Error::AccountTaken(_) => (Code::AlreadyExists, ErrorReason::AccountTaken),
        Error::SignOnEmailTaken(_) => (Code::FailedPrecondition, ErrorReason::EmailTaken),
        Error::UserDeactivated(_) => (Code::FailedPrecondition, ErrorReason::UserDeactivated),
        Error::RemovesOwnAccess => (Code::FailedPrecondition, ErrorReason::LastWayIn),
        Error::LastAccessManager(_) => (Code::FailedPrecondition, ErrorReason::LastAccessManager),
        Error::RevisionMismatch { .. } => (Code::Aborted, ErrorReason::RevisionMismatch),
        Error::FlagArchived(_) => (Code::FailedPrecondition, ErrorReason::FlagArchived),
        Error::EnvironmentArchived(_) => (Code::FailedPrecondition, ErrorReason::EnvironmentArchived),
        Error::EnvironmentLimit => (Code::FailedPrecondition, ErrorReason::EnvironmentLimit),
        Error::NotRevertible(_) => (Code::FailedPrecondition, ErrorReason::NotRevertible),
        Error::RequestIdReused => (Code::FailedPrecondition, ErrorReason::RequestIdReused),
        Error::LogMismatch(_) => (Code::FailedPrecondition, ErrorReason::LogMismatch),
        Error::CursorInFuture { .. } => (Code::OutOfRange, ErrorReason::CursorInFuture),
        Error::CursorTooOld { .. } | Error::TimeTooOld { .. } => (Code::OutOfRange, ErrorReason::CursorTooOld),
        Error::QueueFull { .. } => (Code::Unavailable, ErrorReason::QueueFull),
        Error::DatabaseUnavailable => (Code::Unavailable, ErrorReason::DatabaseUnavailable),
        Error::Stale => (Code::Unavailable, ErrorReason::Stale),
        Error::Draining => (Code::Unavailable, ErrorReason::Draining),
        Error::DeadlineBeforeStart => (Code::DeadlineExceeded, ErrorReason::DeadlineBeforeStart),
        Error::DeadlineDuringChange => (Code::DeadlineExceeded, ErrorReason::DeadlineDuringChange),
        Error::LogCorrupt { .. } | Error::CheckpointCorrupt { .. } => (Code::DataLoss, ErrorReason::LogCorrupt),
        Error::CommitOutcomeUnknown => (Code::Unknown, ErrorReason::CommitOutcomeUnknown),
        Error::Internal(_) => (Code::Internal, ErrorReason::Internal),
    }
}

/// The reason on the wire: without the prefix that proto style demands.
pub(super) fn reason_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}
