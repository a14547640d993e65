//! CORS: which other sites' pages may call from a browser. It is the outermost layer: a preflight carries no token, and needs none.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may remember the answer to a preflight. No browser does for longer.
const MAX_AGE: Duration = Duration::from_secs(2 * 60 * 60);

/// The headers that clients in browsers send: those of Connect, gRPC-Web, OFREP's and flagd's providers, and of traces.
const REQUEST_HEADERS: [&str; 19] = [
    "authorization",
    "baggage",
    "cache-control",
    "connect-accept-encoding",
    "connect-content-encoding",
    "connect-protocol-version",
    "connect-timeout-ms",
    "content-encoding",
    "content-type",
    "flagd-selector",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-timeout",
    "if-none-match",
    "last-event-id",
    "traceparent",
    "tracestate",
    "x-grpc-web",
    "x-user-agent",
];

/// The headers of answers that scripts may read.
const RESPONSE_HEADERS: [&str; 9] = [
    "connect-content-encoding",
    "etag",
    "grpc-message",
    "grpc-status",
    "grpc-status-details-bin",
    "last-modified",
    "retry-after",
    "www-authenticate",
    "x-request-replayed",
];

/// The layer that lets pages of these origins call; `None` without origins.
pub(in crate::api) fn cors_layer(origins: &[HeaderValue]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(REQUEST_HEADERS.map(HeaderName::from_static))
        .expose_headers(RESPONSE_HEADERS.map(HeaderName::from_static))
        .max_age(MAX_AGE);
    Some(layer)
}
