//! OFREP's paths, the query of its streams of events, and its errors.

use std::borrow::Cow;

use http::header::{CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use prost::bytes::Bytes;
use serde::Serialize;
use tonic::body::Body;

use super::query::{Parameters, query_of};
use crate::api::errors::{ApiError, http_status};
use crate::auth::policy::ReadRoute;
use crate::domain::access::Permission;
use crate::domain::error::Error;

/// The prefix of every path of OFREP.
pub(in crate::api) const ROOT: &str = "/ofrep/";

/// The path of all flags.
const FLAGS: &str = "/ofrep/v1/evaluate/flags";
/// The path of one flag, before its key. Everything after it is the key: not every client encodes a `/` in a key.
pub(in crate::api) const FLAG: &str = "/ofrep/v1/evaluate/flags/";

/// The path of streams of events. OFREP leaves it to the server: clients learn it from the answer with all flags.
pub(in crate::api) const EVENTS: &str = "/ofrep/v1/events";

/// The routes.
pub(in crate::api) const ROUTES: [ReadRoute; 3] = [
    route(FLAGS, "OFREP/EvaluateFlags", false),
    route(FLAG, "OFREP/EvaluateFlag", false),
    route(EVENTS, "OFREP/EventStream", true),
];

const fn route(path: &'static str, name: &'static str, is_stream: bool) -> ReadRoute {
    ReadRoute { path, name, permission: Permission::ViewFeatureFlags, is_stream }
}

/// The query of a stream of events.
#[derive(Clone, Default)]
pub(in crate::api) struct EventsQuery {
    /// The ticket.
    pub ticket: Option<String>,
    /// The tag of the flags that the client had when it got the address.
    pub since: Option<String>,
}

impl EventsQuery {
    /// The path and query that ask for a stream.
    pub fn request_uri(ticket: &str, since: &str) -> String {
        format!("{EVENTS}?{}", query_of(&[("since", since), ("ticket", ticket)]))
    }

    /// Takes the query out of the address of a request, so that no layer can log it.
    pub(super) fn take_from<B>(request: &mut Request<B>) -> Self {
        let query = Parameters::of(request.uri());
        let (ticket, since) = (query.get("ticket").map(Cow::into_owned), query.get("since").map(Cow::into_owned));
        *request.uri_mut() = Uri::from_static(EVENTS);
        Self { ticket, since }
    }
}

/// The retry delay after a failure that passes. HTTP counts whole seconds.
const RETRY_AFTER_SECONDS: u64 = 1;

/// The type of server-sent events.
pub(in crate::api) const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

/// How long a client waits before it asks for events again, when there are too many streams, in milliseconds. The provider gives a stream
/// up after 30 seconds, and then fetches all flags.
const RETRY_LATER_MS: u32 = 60_000;

/// A time to wait, in milliseconds: at least this long, and up to three times as long, so that not all clients return at once.
pub(in crate::api) fn retry_ms(least: u32) -> u32 {
    // Without randomness, all clients return after the same time.
    least + getrandom::u32().unwrap_or_default() % (2 * least)
}

/// The status of a response that has another one in its head. Logs and metrics count this one.
#[derive(Debug, Clone, Copy)]
pub(in crate::api) struct HiddenStatus(pub StatusCode);

/// An error in OFREP's terms.
#[derive(Debug)]
pub(in crate::api) struct OfrepError {
    status: StatusCode,
    code: &'static str,
    details: String,
}

impl OfrepError {
    /// A malformed request, with OFREP's code for it.
    pub fn bad_request(code: &'static str, details: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, details: details.to_owned() }
    }

    /// An error for which OFREP has no code.
    pub fn general(status: StatusCode, details: &str) -> Self {
        Self { status, code: "GENERAL", details: details.to_owned() }
    }

    /// The response to a request for events, for an `EventSource`. With a dead ticket it would ask again and again, unless it gets 204. At
    /// any error it gives up, and then a provider fetches all flags and asks again, once a second: worst of all when a limit of streams is
    /// reached. So that is a stream which ends at once, and says when to come back.
    pub fn events_response(self) -> Response<Body> {
        let (status, body) = match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (StatusCode::NO_CONTENT, Body::empty()),
            StatusCode::TOO_MANY_REQUESTS => {
                let reason = self.details.replace(['\r', '\n'], " ");
                let retry = retry_ms(RETRY_LATER_MS);
                (StatusCode::OK, Body::new(Full::new(Bytes::from(format!(": {reason}\nretry: {retry}\n\n")))))
            }
            _ => return self.response(None),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.extensions_mut().insert(HiddenStatus(self.status));
        with_header(response, CONTENT_TYPE, EVENT_STREAM)
    }

    /// The response. Clients look for the key of the flag that they asked for.
    pub fn response(self, key: Option<&str>) -> Response<Body> {
        let response =
            json_response(self.status, &ErrorBody { key, error_code: self.code, error_details: &self.details });
        match self.status {
            StatusCode::UNAUTHORIZED => with_header(response, WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                with_header(response, RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS))
            }
            _ => response,
        }
    }
}

impl From<ApiError> for OfrepError {
    fn from(error: ApiError) -> Self {
        let is_not_found = matches!(error, ApiError::Domain(Error::FlagNotFound(_)));
        let (status, details) = http_status(&error);
        Self { status, code: if is_not_found { "FLAG_NOT_FOUND" } else { "GENERAL" }, details }
    }
}

impl From<Error> for OfrepError {
    fn from(error: Error) -> Self {
        ApiError::from(error).into()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    error_code: &'static str,
    error_details: &'a str,
}

/// A response with a JSON body.
pub(in crate::api) fn json_response(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let (status, text) = match serde_json::to_vec(value) {
        Ok(text) => (status, text),
        Err(error) => {
            tracing::error!(%error, "JSON response not encoded");
            (StatusCode::INTERNAL_SERVER_ERROR, Vec::new())
        }
    };
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    with_vary(with_header(response, CONTENT_TYPE, HeaderValue::from_static("application/json")))
}

/// The response, for caches between here and the client: another caller, or another environment, has another answer.
pub(in crate::api) fn with_vary(response: Response<Body>) -> Response<Body> {
    with_header(response, VARY, HeaderValue::from_static("authorization, flagd-selector"))
}

/// The response with one more header.
pub(in crate::api) fn with_header(
    mut response: Response<Body>,
    name: HeaderName,
    value: HeaderValue,
) -> Response<Body> {
    response.headers_mut().insert(name, value);
    response
}
