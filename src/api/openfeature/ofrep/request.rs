//! OFREP's requests.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use percent_encoding::percent_decode_str;
use prost::bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tonic::body::Body;

use crate::api::errors::{OFREP_BODY, OFREP_TIME, millis};
use crate::api::protocol::ofrep::OfrepError;

/// The largest accepted body, in bytes. Contexts have a few hundred.
pub(in crate::api) const BODY_LIMIT: usize = 1024 * 1024;

/// How long a body may take to arrive. Over HTTP/1.1 nothing else ends the wait for a silent client.
pub(in crate::api) const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Checks that a body is a JSON object whose `context`, if present, is an object. OFREP requires a context, but its own clients
/// omit an empty one. An empty body is one without a context, as it is for flagd.
pub(super) async fn validate(body: Body) -> Result<(), OfrepError> {
    let body = read(body).await?;
    if body.is_empty() {
        return Ok(());
    }
    let malformed = |_| OfrepError::bad_request("PARSE_ERROR", "the body must be a JSON object");
    let EvaluationRequest { context } = serde_json::from_slice(&body).map_err(malformed)?;
    match context.map(RawValue::get) {
        Some(context) if !context.starts_with('{') => {
            Err(OfrepError::bad_request("INVALID_CONTEXT", "the context must be a JSON object"))
        }
        _ => Ok(()),
    }
}

/// A request. Its context is only checked, since no flag depends on it, and JSON takes many times its size when it is decoded.
struct EvaluationRequest<'a> {
    context: Option<&'a RawValue>,
}

/// Not derived: then an array would be accepted too.
impl<'de> Deserialize<'de> for EvaluationRequest<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RequestVisitor)
    }
}

struct RequestVisitor;

impl<'de> Visitor<'de> for RequestVisitor {
    type Value = EvaluationRequest<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut context = None;
        while let Some(name) = fields.next_key::<Cow<'de, str>>()? {
            let value = fields.next_value()?;
            if name == "context" {
                context = Some(value);
            }
        }
        Ok(EvaluationRequest { context })
    }
}

async fn read(body: Body) -> Result<Bytes, OfrepError> {
    let Ok(read) = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_LIMIT).collect()).await else {
        let late = format!("the body did not arrive in time ({})", OFREP_TIME.with(millis(BODY_TIMEOUT)));
        return Err(OfrepError::general(StatusCode::REQUEST_TIMEOUT, &late));
    };
    read.map(|collected| collected.to_bytes()).map_err(|error| {
        if error.is::<LengthLimitError>() {
            let too_large = format!("the body is too large ({})", OFREP_BODY.with(BODY_LIMIT));
            OfrepError::general(StatusCode::PAYLOAD_TOO_LARGE, &too_large)
        } else {
            OfrepError::bad_request("PARSE_ERROR", "the body was cut short")
        }
    })
}

/// Decodes a percent-encoded path segment. A `%` without two hexadecimal digits is kept as it is.
pub(super) fn decode_segment(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn segment_is_decoded_once() {
        let cases = [
            ("a.b-c_1", "a.b-c_1"),
            ("%63heck%6Fut", "checkout"),
            ("%6fut", "out"),
            ("a%2Fb", "a/b"),
            ("a%252Fb", "a%2Fb"),
        ];
        for (segment, meant) in cases {
            assert_eq!(decode_segment(segment), meant);
        }
        for (segment, meant) in
            [("100%", "100%"), ("%4", "%4"), ("%zz", "%zz"), ("a+b", "a+b"), ("%C3%A4", "ä"), ("%FF", "\u{fffd}")]
        {
            assert_eq!(decode_segment(segment), meant);
        }
    }

    proptest! {
        #[test]
        fn encoded_text_is_decoded_unchanged(text in ".{0,40}") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(decode_segment(&encoded), text.clone());
            decode_segment(&text);
        }
    }

    #[tokio::test]
    async fn body_and_context_are_objects() {
        let validate =
            async |body: &str| validate(Body::new(body.to_owned())).await.map_err(|e| e.response(None).status());
        for accepted in
            ["", "{}", r#"{"context":{}}"#, r#" { "a" : [[]], "context" : { "b" : {} } } "#, r#"{"\u0063ontext":{}}"#]
        {
            assert_eq!(validate(accepted).await, Ok(()), "{accepted}");
        }
        let refused = [
            " ",
            "[]",
            r#"[{}]"#,
            "1",
            "{",
            r#"{"context":}"#,
            r#"{"context":{]}"#,
            r#"{"context":null}"#,
            r#"{"context":[{}]}"#,
        ];
        for refused in refused {
            assert_eq!(validate(refused).await, Err(StatusCode::BAD_REQUEST), "{refused}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn missing_body_times_out() {
        let never = http_body_util::StreamBody::new(futures::stream::pending::<
            Result<http_body::Frame<Bytes>, tonic::Status>,
        >());
        let error = validate(Body::new(never)).await.unwrap_err();
        assert_eq!(error.response(None).status(), StatusCode::REQUEST_TIMEOUT);
    }
}
