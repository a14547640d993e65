//! What OFREP's answers look like.

use std::sync::Arc;

use http::header::{ALLOW, CONTENT_TYPE, ETAG, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use prost::bytes::Bytes;
use serde::{Serialize, Serializer};
use tonic::body::Body;

use super::etag::ETag;
use crate::api::errors::http_status;
use crate::api::openfeature;
use crate::domain::error::Error;
use crate::domain::flag::Flag;

/// When to come back after a failure that passes. HTTP knows whole seconds alone.
const RETRY_AFTER_SECONDS: u64 = 1;

/// A flag, as the protocol has it: no rule looks at who asks, which it calls static.
#[derive(Serialize)]
struct Evaluation<'a> {
    key: &'a str,
    value: bool,
    reason: &'static str,
    variant: &'static str,
}

impl<'a> From<&'a Flag> for Evaluation<'a> {
    fn from(flag: &'a Flag) -> Self {
        let (value, variant) = (openfeature::value(flag), openfeature::variant(flag));
        Self { key: flag.key.as_str(), value, reason: openfeature::REASON, variant }
    }
}

#[derive(Serialize)]
struct Evaluations<'a> {
    #[serde(serialize_with = "each")]
    flags: &'a [Arc<Flag>],
}

fn each<S: Serializer>(flags: &[Arc<Flag>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(flags.iter().map(|flag| Evaluation::from(&**flag)))
}

/// One flag.
pub(super) fn one(flag: &Flag) -> Response<Body> {
    json(StatusCode::OK, &Evaluation::from(flag))
}

/// All of them.
pub(super) fn all(flags: &[Arc<Flag>], etag: &ETag) -> Response<Body> {
    tagged(json(StatusCode::OK, &Evaluations { flags }), etag)
}

/// They are what the client has.
pub(super) fn unchanged(etag: &ETag) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    tagged(response, etag)
}

fn tagged(response: Response<Body>, etag: &ETag) -> Response<Body> {
    match HeaderValue::try_from(format!("\"{etag}\"")) {
        Ok(etag) => with(response, ETAG, etag),
        Err(_) => response,
    }
}

/// Every path of the protocol is asked by POST.
pub(super) fn only_post() -> Response<Body> {
    let failure = Failure::general(StatusCode::METHOD_NOT_ALLOWED, "this is asked by POST");
    with(failure.about(None), ALLOW, HeaderValue::from_static("POST"))
}

/// The answer to a request that is turned away, or that went wrong.
pub(in crate::api) fn refuse(error: Error) -> Response<Body> {
    Failure::from(error).about(None)
}

/// Why there is no flag to answer with.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    code: &'static str,
    details: String,
}

impl Failure {
    /// A request that is none; the protocol has a code for each way to be none.
    pub fn bad(code: &'static str, details: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, details: details.to_owned() }
    }

    /// What the protocol has no code for.
    pub fn general(status: StatusCode, details: &str) -> Self {
        Self { status, code: "GENERAL", details: details.to_owned() }
    }

    /// The answer, about the flag with this key if it was asked for: clients look for the key in it.
    pub fn about(self, key: Option<&str>) -> Response<Body> {
        let response = json(self.status, &Told { key, error_code: self.code, error_details: &self.details });
        match self.status {
            StatusCode::UNAUTHORIZED => with(response, WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            StatusCode::SERVICE_UNAVAILABLE => with(response, RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS)),
            _ => response,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = if matches!(error, Error::FlagNotFound(_)) { "FLAG_NOT_FOUND" } else { "GENERAL" };
        let (status, details) = http_status(&error);
        Self { status, code, details }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    error_code: &'static str,
    error_details: &'a str,
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let (status, text) = match serde_json::to_vec(value) {
        Ok(text) => (status, text),
        Err(problem) => {
            tracing::error!(%problem, "an answer could not be written");
            (StatusCode::INTERNAL_SERVER_ERROR, Vec::new())
        }
    };
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    with(response, CONTENT_TYPE, HeaderValue::from_static("application/json"))
}

fn with(mut response: Response<Body>, name: HeaderName, value: HeaderValue) -> Response<Body> {
    response.headers_mut().insert(name, value);
    response
}
