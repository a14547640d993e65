//! The details of a status: google.rpc's BadRequest, ResourceInfo, PreconditionFailure, RetryInfo and the metadata of ErrorInfo.

use std::collections::HashMap;
use std::time::Duration;

use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation};

use super::ApiError;
use super::codes::reason_name;
use crate::api::pb::ErrorReason;
use crate::domain::error::{Error, Violation};

/// The retry delay sent with transient failures.
pub(super) const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Details travel in a header, and large headers break connections: at most this many violations ...
pub(super) const MAX_VIOLATIONS: usize = 20;
/// ... and at most about this many bytes of them.
const MAX_VIOLATION_BYTES: usize = 2_048;

/// Adds the details of an error, besides its ErrorInfo.
pub(super) fn add_details(details: &mut ErrorDetails, error: &ApiError, reason: ErrorReason) {
    match error {
        ApiError::Domain(error) => add_domain_details(details, error, reason),
        ApiError::NoCheckpointKey => {
            add_precondition(details, reason, "server", "start the server with --checkpoint-key-file");
        }
        ApiError::Limit(reached) => {
            details.set_retry_info(reached.retry_after());
        }
        ApiError::IssuerUnavailable => {
            details.set_retry_info(Some(RETRY_DELAY));
        }
        _ => {}
    }
}

fn add_domain_details(details: &mut ErrorDetails, error: &Error, reason: ErrorReason) {
    match error {
        Error::Invalid(violations) => {
            details.set_bad_request(field_violations(violations));
        }
        Error::FlagNotFound(flag) => add_resource(details, "feature_flag", flag, "no such feature flag"),
        Error::EnvironmentNotFound(name) => add_resource(details, "environment", name, "no such environment"),
        Error::UserNotFound(id) => add_resource(details, "user", &id.to_string(), "no such user"),
        Error::TokenNotFound(id) => add_resource(details, "api_token", &id.to_string(), "no such token"),
        Error::AuditLogNotFound(id) => add_resource(details, "audit_log", &id.to_string(), "no such entry"),
        Error::KeyTaken(key) => add_resource(details, "feature_flag", key.as_str(), "the key is taken"),
        Error::EnvironmentKeyTaken(key) => add_resource(details, "environment", key.as_str(), "the key is taken"),
        Error::EmailTaken(email) => add_resource(details, "user", email.as_str(), "the address is taken"),
        Error::AccountTaken(account) => add_resource(details, "user", &account.subject, "the account is taken"),
        Error::FlagArchived(key) => add_precondition(details, reason, key.as_str(), "unarchive the flag first"),
        Error::EnvironmentArchived(key) => {
            add_precondition(details, reason, key.as_str(), "unarchive the environment first");
        }
        Error::EnvironmentLimit => add_precondition(details, reason, "environments", "use an environment that exists"),
        Error::NotRevertible(id) => add_precondition(details, reason, &id.to_string(), "pass the id of a flip's entry"),
        Error::SignOnEmailTaken(email) => {
            add_precondition(details, reason, email.as_str(), "another user has this e-mail address")
        }
        Error::UserDeactivated(email) => add_precondition(details, reason, email.as_str(), "reactivate the user first"),
        Error::RemovesOwnAccess => add_precondition(details, reason, "caller", "create another token first"),
        Error::LastAccessManager(email) => {
            add_precondition(details, reason, email.as_str(), "grant manage_access to another user first");
        }
        Error::RequestIdReused => add_precondition(details, reason, "request_id", "use a new request_id"),
        Error::LogMismatch(field) => add_precondition(details, reason, field, "start again without a cursor"),
        Error::QueueFull { .. } | Error::DatabaseUnavailable | Error::Stale | Error::Draining => {
            details.set_retry_info(Some(RETRY_DELAY));
        }
        _ => {}
    }
}

fn add_resource(details: &mut ErrorDetails, kind: &str, name: &str, description: &str) {
    details.set_resource_info(kind, name, "", description);
}

fn add_precondition(details: &mut ErrorDetails, reason: ErrorReason, subject: &str, description: &str) {
    details.set_precondition_failure(vec![PreconditionViolation::new(reason_name(reason), subject, description)]);
}

/// The metadata of ErrorInfo.
pub(super) fn metadata(error: &ApiError) -> HashMap<String, String> {
    let pair = match error {
        ApiError::Domain(error) => domain_metadata(error),
        ApiError::Limit(reached) => return reached.metadata().map(|(key, value)| (key.to_owned(), value)).collect(),
        _ => None,
    };
    pair.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn domain_metadata(error: &Error) -> Option<(&'static str, String)> {
    match error {
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
    }
}

/// As many violations as fit into a header.
fn field_violations(violations: &[Violation]) -> Vec<FieldViolation> {
    let mut bytes = 0;
    violations
        .iter()
        .take(MAX_VIOLATIONS)
        .take_while(|v| {
            bytes += v.field.len() + v.rule.len();
            bytes <= MAX_VIOLATION_BYTES
        })
        .map(|v| FieldViolation::new(&v.field, &v.rule))
        .collect()
}
