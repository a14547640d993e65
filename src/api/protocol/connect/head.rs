//! The head of a Connect request, as that of a gRPC request.

use std::sync::Arc;

use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tonic::body::Body;
use tonic::metadata::GRPC_CONTENT_TYPE;

use super::{Codec, ConnectCall, Head, QueryMessage};
use crate::api::errors::ApiError;
use crate::api::protocol::Shape;
use crate::api::protocol::query::Parameters;
use crate::auth::policy::ServedMethod;

static VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
static TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
static STREAM_ENCODING: HeaderName = HeaderName::from_static("connect-content-encoding");
static STREAM_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("connect-accept-encoding");
static GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The compression that is understood.
const GZIP: &str = "gzip";

/// The most digits of a timeout in Connect, and in gRPC.
const MAX_DIGITS: usize = 10;
const MAX_GRPC_DIGITS: usize = 8;

/// Why the head of a Connect request is refused.
#[derive(Debug)]
pub(in crate::api::protocol) enum HeadError {
    /// The method takes requests of this shape only.
    Shape(Shape),
    /// Another error, which is answered as one of the call.
    Call(ApiError),
}

impl From<ApiError> for HeadError {
    fn from(error: ApiError) -> Self {
        Self::Call(error)
    }
}

/// Turns the head of a POST request into that of a gRPC request.
pub(in crate::api::protocol) fn read_head(
    request: &mut Request<Body>,
    method: &Arc<ServedMethod>,
    shape: Shape,
    codec: Codec,
) -> Result<ConnectCall, HeadError> {
    let of_method = Shape::of(method);
    if shape != of_method {
        return Err(HeadError::Shape(of_method));
    }
    let headers = request.headers_mut();
    if headers.get_all(&VERSION).iter().any(|version| version != "1") {
        return Err(ApiError::UnsupportedProtocol.into());
    }
    let (encoding, accept) = match shape {
        Shape::Unary => (CONTENT_ENCODING, ACCEPT_ENCODING),
        Shape::Stream => (STREAM_ENCODING.clone(), STREAM_ACCEPT_ENCODING.clone()),
    };
    let accepts_gzip = accepts_gzip(headers, &accept);
    let encoding = headers.remove(encoding);
    let is_compressed = encoding.as_ref().is_some_and(|encoding| encoding == GZIP);
    if let Some(encoding) = encoding {
        headers.insert(&GRPC_ENCODING, encoding);
    }
    become_grpc(headers)?;
    let head = Head { method: Arc::clone(method), shape, codec, is_compressed, accepts_gzip, query: None };
    Ok(ConnectCall(Arc::new(head)))
}

/// Turns the head of a GET request into that of a gRPC request. The query is taken out of its address, so that no layer can log it.
pub(in crate::api::protocol) fn read_query(
    request: &mut Request<Body>,
    method: &Arc<ServedMethod>,
) -> Result<ConnectCall, HeadError> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    if let Ok(path) = request.uri().path().parse() {
        *request.uri_mut() = path;
    }
    let parameters = Parameters::in_query(&query);
    let headers = request.headers_mut();
    if parameters.get("connect").is_some_and(|version| version != "v1") {
        return Err(ApiError::UnsupportedProtocol.into());
    }
    let codec = match parameters.get("encoding").as_deref() {
        Some("json") => Codec::Json,
        Some("proto") => Codec::Proto,
        _ => return Err(ApiError::MalformedQuery("encoding must be json or proto").into()),
    };
    let Some(text) = parameters.get("message") else {
        return Err(ApiError::MalformedQuery("message is missing").into());
    };
    let is_base64 = parameters.get("base64").is_some_and(|flag| flag == "1");
    let accepts_gzip = accepts_gzip(headers, &ACCEPT_ENCODING);
    headers.remove(CONTENT_ENCODING);
    let compression = parameters.get("compression").filter(|name| !name.is_empty());
    let is_compressed = compression.as_deref() == Some(GZIP);
    if let Some(compression) = compression.and_then(|name| HeaderValue::try_from(&*name).ok()) {
        headers.insert(&GRPC_ENCODING, compression);
    }
    become_grpc(headers)?;
    let query = Some(QueryMessage { text: text.into_owned(), is_base64 });
    let head = Head { method: Arc::clone(method), shape: Shape::Unary, codec, is_compressed, accepts_gzip, query };
    Ok(ConnectCall(Arc::new(head)))
}

/// The headers that both methods share.
fn become_grpc(headers: &mut HeaderMap) -> Result<(), ApiError> {
    let mut timeouts = headers.get_all(&TIMEOUT).iter();
    let timeout = match (timeouts.next(), timeouts.next()) {
        (None, _) => None,
        (Some(only), None) => Some(grpc_timeout(only).ok_or(ApiError::MalformedTimeout)?),
        (Some(_), Some(_)) => return Err(ApiError::MalformedTimeout),
    };
    headers.remove(&TIMEOUT);
    headers.remove(&VERSION);
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    headers.insert(TE, HeaderValue::from_static("trailers"));
    match timeout {
        Some(timeout) => headers.insert(&GRPC_TIMEOUT, timeout),
        None => headers.remove(&GRPC_TIMEOUT),
    };
    Ok(())
}

/// gRPC's timeout has fewer digits, and a unit.
fn grpc_timeout(milliseconds: &HeaderValue) -> Option<HeaderValue> {
    let text = milliseconds.to_str().ok()?;
    let is_number = (1..=MAX_DIGITS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = text.parse().ok().filter(|_| is_number)?;
    let timeout = format!("{number}m");
    let timeout = if timeout.len() > MAX_GRPC_DIGITS + 1 { format!("{}S", number / 1_000) } else { timeout };
    HeaderValue::try_from(timeout).ok()
}

/// Whether a list of encodings, each with an optional weight, has gzip.
fn accepts_gzip(headers: &HeaderMap, name: &HeaderName) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|encoding| {
        let (coding, weight) = encoding.split_once(';').unwrap_or((encoding, ""));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok());
        coding.trim().eq_ignore_ascii_case(GZIP) && weight.is_none_or(|weight| weight > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_is_converted_to_that_of_grpc() {
        let convert = |text: &str| grpc_timeout(&text.parse().unwrap()).map(|value| value.to_str().unwrap().to_owned());
        for (connect, grpc) in [("0", "0m"), ("250", "250m"), ("99999999", "99999999m"), ("9999999999", "9999999S")] {
            assert_eq!(convert(connect).as_deref(), Some(grpc));
        }
        for malformed in ["", "-1", "+1", "1.5", "1S", " 1", "10000000000"] {
            assert_eq!(convert(malformed), None, "{malformed:?}");
        }
    }

    #[test]
    fn gzip_is_accepted_wherever_it_is_listed() {
        let accepts = |value: &str| {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, value.parse().unwrap())]);
            accepts_gzip(&headers, &ACCEPT_ENCODING)
        };
        for accepted in ["gzip", "br, gzip;q=0.5", "GZIP", "deflate,gzip"] {
            assert!(accepts(accepted), "{accepted}");
        }
        for refused in ["", "identity", "br", "gzip;q=0", "gzipped"] {
            assert!(!accepts(refused), "{refused}");
        }
    }
}
