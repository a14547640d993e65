//! OFREP's successful answers.

use std::sync::Arc;

use http::header::ETAG;
use http::{HeaderValue, Response, StatusCode};
use serde::{Serialize, Serializer};
use tonic::body::Body;

use super::etag::ETag;
use crate::api::openfeature::{Metadata, Resolution};
use crate::api::protocol::ofrep::{json_response, with_header, with_vary};
use crate::domain::flag::Flag;

/// After how many seconds in the background a client closes its stream. It is OFREP's default.
const INACTIVITY_DELAY_SECONDS: u32 = 120;

/// What a flag resolves to. An archived flag has neither a value nor a variant.
#[derive(Serialize)]
struct Evaluation<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<bool>,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<&'static str>,
    /// Set where the flag is alone in its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Metadata<'a>>,
}

impl<'a> Evaluation<'a> {
    fn of(flag: &'a Flag, metadata: Option<&'a Metadata<'a>>) -> Self {
        let resolution = Resolution::of(flag);
        let (value, reason, variant) = (resolution.value(), resolution.reason(), resolution.variant());
        Self { key: flag.key.as_str(), value, reason, variant, metadata }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BulkEvaluation<'a> {
    #[serde(serialize_with = "evaluations")]
    flags: &'a [Arc<Flag>],
    metadata: &'a Metadata<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_streams: Option<[EventStream<'a>; 1]>,
}

/// Where a client learns of changes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventStream<'a> {
    r#type: &'static str,
    endpoint: Endpoint<'a>,
    inactivity_delay_sec: u32,
}

/// An address below the origin that the client calls already: the server does not know its own name.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint<'a> {
    request_uri: &'a str,
}

fn evaluations<S: Serializer>(flags: &[Arc<Flag>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(flags.iter().map(|flag| Evaluation::of(flag, None)))
}

/// What one flag resolves to.
pub(super) fn one(flag: &Flag, metadata: &Metadata<'_>) -> Response<Body> {
    json_response(StatusCode::OK, &Evaluation::of(flag, Some(metadata)))
}

/// What all flags of an environment resolve to, and the path and query of the stream that tells when they change.
pub(super) fn all(flags: &[Arc<Flag>], metadata: &Metadata<'_>, events: Option<&str>, etag: &ETag) -> Response<Body> {
    let event_streams = events.map(|request_uri| {
        [EventStream {
            r#type: "sse",
            endpoint: Endpoint { request_uri },
            inactivity_delay_sec: INACTIVITY_DELAY_SECONDS,
        }]
    });
    with_etag(json_response(StatusCode::OK, &BulkEvaluation { flags, metadata, event_streams }), etag)
}

/// The client has the current values already.
pub(super) fn not_modified(etag: &ETag) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    with_etag(with_vary(response), etag)
}

fn with_etag(response: Response<Body>, etag: &ETag) -> Response<Body> {
    match HeaderValue::try_from(format!("\"{etag}\"")) {
        Ok(etag) => with_header(response, ETAG, etag),
        Err(_) => response,
    }
}
