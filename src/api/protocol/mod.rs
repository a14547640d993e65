//! The protocols on the port: which one a request speaks, and how to refuse a request in it.

pub(super) mod grpc;
pub(super) mod ofrep;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use tonic::body::Body;

use super::errors::{ApiError, status};
use ofrep::OfrepError;

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// gRPC, which needs HTTP/2.
    Grpc,
    /// OFREP: JSON over HTTP of any version.
    Ofrep,
}

impl Protocol {
    /// The protocol of a request, by its path. `None` for gRPC over HTTP/1.1: gRPC sends its status in trailers, which few
    /// clients of HTTP/1.1 read, and without which a failure looks like a success.
    pub fn of<B>(request: &Request<B>) -> Option<Self> {
        if request.uri().path().starts_with(ofrep::ROOT) {
            return Some(Self::Ofrep);
        }
        (request.version() >= Version::HTTP_2).then_some(Self::Grpc)
    }

    /// The response that refuses a request.
    pub fn refuse(self, error: impl Into<ApiError>) -> Response<Body> {
        match self {
            Self::Grpc => status(error).into_http(),
            Self::Ofrep => OfrepError::from(error.into()).response(None),
        }
    }
}

/// The response to gRPC over HTTP/1.1, and to a browser that opens the port.
pub(super) fn needs_http2() -> Response<Body> {
    let text = "gRPC needs HTTP/2; over HTTP/1.1 only /ofrep/ is served\n";
    let mut response = Response::new(Body::new(text.to_owned()));
    *response.status_mut() = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
