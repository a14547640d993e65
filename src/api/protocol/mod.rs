//! Which protocol a request speaks, and how one that is turned away is answered in it.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use tonic::body::Body;

use super::errors::status;
use super::openfeature::ofrep;
use crate::domain::error::Error;

/// The protocols that are spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// gRPC, which needs HTTP/2.
    Grpc,
    /// OFREP: JSON over HTTP of any version.
    Ofrep,
}

impl Wire {
    /// What a request speaks, which its path tells. Nothing, if it would be gRPC over HTTP/1.1: gRPC ends in trailers,
    /// which few clients of HTTP/1.1 read, and without them a failure looks like success.
    pub fn of<B>(request: &Request<B>) -> Option<Self> {
        if request.uri().path().starts_with(ofrep::ROOT) {
            return Some(Self::Ofrep);
        }
        (request.version() >= Version::HTTP_2).then_some(Self::Grpc)
    }

    /// Turns a request away.
    pub fn refuse(self, error: Error) -> Response<Body> {
        match self {
            Self::Grpc => status(error).into_http(),
            Self::Ofrep => ofrep::refuse(error),
        }
    }
}

/// The answer to gRPC over HTTP/1.1, and to whoever looks what this port is.
pub(super) fn needs_http2() -> Response<Body> {
    let text = "gRPC needs HTTP/2; over HTTP/1.1 only /ofrep/ is served\n";
    let mut response = Response::new(Body::new(text.to_owned()));
    *response.status_mut() = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
