//! Errors as Connect writes them, made from gRPC's statuses: code, message and details are the same.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::{HeaderMap, StatusCode};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use prost_types::Any;
use serde::Serialize;
use tonic::{Code, Status};

/// The types of details, to show them as JSON.
static DETAILS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    // Without the types, details lack their `debug`, which clients ignore.
    DescriptorPool::decode(tonic_types::pb::FILE_DESCRIPTOR_SET).unwrap_or_default()
});

/// An error.
#[derive(Debug, Serialize)]
pub(super) struct ConnectError {
    code: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Detail>,
}

/// The last message of a stream.
#[derive(Debug, Serialize)]
struct EndOfStream {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ConnectError>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, Vec<String>>,
}

/// A message about the error, such as google.rpc.ErrorInfo.
#[derive(Debug, Serialize)]
struct Detail {
    #[serde(rename = "type")]
    kind: String,
    /// Its bytes, in base64.
    value: String,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<DynamicMessage>,
}

impl From<&Status> for ConnectError {
    fn from(status: &Status) -> Self {
        let details = tonic_types::Status::decode(status.details()).map(|status| status.details).unwrap_or_default();
        Self {
            code: code_name(status.code()),
            message: status.message().to_owned(),
            details: details.into_iter().map(Detail::from).collect(),
        }
    }
}

impl From<Any> for Detail {
    fn from(any: Any) -> Self {
        let kind = any.type_url.rsplit('/').next().unwrap_or_default().to_owned();
        let descriptor = DETAILS.get_message_by_name(&kind);
        let debug = descriptor.and_then(|descriptor| DynamicMessage::decode(descriptor, &*any.value).ok());
        Self { kind, value: STANDARD_NO_PAD.encode(&any.value), debug }
    }
}

/// The body of an answer with an error.
pub(super) fn body(status: &Status) -> Vec<u8> {
    json(&ConnectError::from(status))
}

/// The last message of a stream: its status, and the metadata in its trailers.
pub(super) fn end_of_stream(status: &Status, trailers: &HeaderMap) -> Vec<u8> {
    let mut metadata = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in trailers.iter().filter(|(name, _)| !is_grpc(name.as_str())) {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        metadata.entry(name.as_str().to_owned()).or_default().push(value);
    }
    json(&EndOfStream { error: (status.code() != Code::Ok).then(|| status.into()), metadata })
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Nothing in these types fails to be written.
    serde_json::to_vec(value).unwrap_or_else(|_| br#"{"code":"internal"}"#.to_vec())
}

/// Whether a header is part of gRPC's protocol, not of the answer's metadata.
pub(super) fn is_grpc(name: &str) -> bool {
    name.starts_with("grpc-")
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Cancelled => "canceled",
        // An error always has another code than this.
        Code::Ok | Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// The HTTP status of an error, by Connect's table.
pub(super) fn http_status(code: Code) -> StatusCode {
    let status = match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    };
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::errors::status;
    use crate::domain::access::Permission;
    use crate::domain::error::Error;

    #[test]
    fn error_has_code_message_and_details() {
        let status = status(Error::PermissionDenied(Permission::ToggleFeatureFlags.into()));
        let error: Value = serde_json::from_slice(&body(&status)).unwrap();
        assert_eq!(error["code"], "permission_denied");
        assert_eq!(error["message"], "Insufficient permissions: toggle_feature_flags required");
        let detail = &error["details"][0];
        assert_eq!(detail["type"], "google.rpc.ErrorInfo");
        let debug = json!({"reason": "PERMISSION_DENIED", "domain": "toggled", "metadata": {"permission": "toggle_feature_flags"}});
        assert_eq!(detail["debug"], debug);
        let value = STANDARD_NO_PAD.decode(detail["value"].as_str().unwrap()).unwrap();
        assert_eq!(tonic_types::pb::ErrorInfo::decode(&*value).unwrap().reason, "PERMISSION_DENIED");
    }

    #[test]
    fn stream_ends_with_metadata_and_error() {
        let mut trailers = HeaderMap::new();
        for (name, value) in [("a", "1"), ("a", "2"), ("grpc-status", "0"), ("b-bin", "AAE")] {
            trailers.append(name, value.parse().unwrap());
        }
        let end: Value = serde_json::from_slice(&end_of_stream(&Status::ok(""), &trailers)).unwrap();
        assert_eq!(end, json!({"metadata": {"a": ["1", "2"], "b-bin": ["AAE"]}}));
        let end: Value = serde_json::from_slice(&end_of_stream(&Status::aborted("no"), &HeaderMap::new())).unwrap();
        assert_eq!(end, json!({"error": {"code": "aborted", "message": "no"}}));
    }

    #[test]
    fn every_code_has_a_status_and_a_name() {
        let names: std::collections::HashSet<_> = (1..17).map(|code| code_name(Code::from(code))).collect();
        assert_eq!(names.len(), 16);
        assert!((1..17).all(|code| http_status(Code::from(code)).as_u16() >= 400));
    }
}
