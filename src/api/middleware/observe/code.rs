//! gRPC codes: how a call ended, whatever its protocol.

use http::{HeaderMap, StatusCode};
use tonic::{Code, Status};

/// The number of codes.
pub(super) const CODES: usize = 17;

/// The code's name in gRPC's specification.
pub(super) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Whether the code is a server's failure, by OpenTelemetry's conventions.
pub(super) fn is_server_failure(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}

/// The code in headers or trailers; `None` if they do not end the call.
pub(super) fn of_headers(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// The code that corresponds to an HTTP status.
pub(super) fn of_http(status: StatusCode) -> Code {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::InvalidArgument,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => Code::Unimplemented,
        StatusCode::CONFLICT => Code::Aborted,
        StatusCode::PAYLOAD_TOO_LARGE => Code::OutOfRange,
        StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        other if other.is_success() || other == StatusCode::NOT_MODIFIED => Code::Ok,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_name_and_index() {
        let names: std::collections::HashSet<_> = (0..CODES).map(|code| name(Code::from(code as i32))).collect();
        assert_eq!(names.len(), CODES);
        assert!((0..CODES).all(|code| Code::from(code as i32) as usize == code));
        assert_eq!(Code::from(CODES as i32), Code::Unknown);
    }

    #[test]
    fn http_status_maps_back_to_its_code() {
        let codes = [200, 304, 400, 401, 403, 404, 429, 503, 504, 500].map(|status| {
            let status = StatusCode::from_u16(status).unwrap();
            name(of_http(status))
        });
        let expected = [
            "OK",
            "OK",
            "INVALID_ARGUMENT",
            "UNAUTHENTICATED",
            "PERMISSION_DENIED",
            "NOT_FOUND",
            "RESOURCE_EXHAUSTED",
            "UNAVAILABLE",
            "DEADLINE_EXCEEDED",
            "INTERNAL",
        ];
        assert_eq!(codes, expected);
    }
}
