//! gRPC's framing of messages, where the middleware answers or reads without a service.

use std::io::Read;

use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use prost::bytes::{Buf, Bytes};
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::GRPC_CONTENT_TYPE;

use super::connect::framed;

/// The metadata key that marks the answer to a retry.
pub(in crate::api) const REPLAYED: &str = "x-request-replayed";

/// The answer to a retry, as it was stored.
pub(in crate::api) fn replayed_response(stored: Vec<u8>) -> Response<Body> {
    let trailers = async {
        let mut trailers = HeaderMap::new();
        Some(Status::ok("").add_header(&mut trailers).map(|()| trailers))
    };
    let body = Full::new(framed(0, &stored)).map_err(|never| match never {}).with_trailers(trailers);
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

/// The only message of a body: a byte that says whether it is compressed, four of its length, and the message. `None` if there is
/// more or less than one, if it is longer than `limit` when decompressed, or if it is compressed otherwise than with gzip.
pub(in crate::api) fn single_message(mut body: Bytes, limit: usize) -> Option<Bytes> {
    let (is_compressed, length) = (body.try_get_u8().ok()?, body.try_get_u32().ok()?);
    if body.len() != length as usize {
        return None;
    }
    let message = if is_compressed == 1 { decompress(&body, limit)? } else { body };
    (is_compressed <= 1 && message.len() <= limit).then_some(message)
}

fn decompress(message: &[u8], limit: usize) -> Option<Bytes> {
    let mut decompressed = Vec::new();
    let longest = u64::try_from(limit).ok()?.saturating_add(1);
    GzDecoder::new(message).take(longest).read_to_end(&mut decompressed).ok()?;
    Some(decompressed.into())
}
