//! What an OFREP request must look like.

use std::time::Duration;

use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use percent_encoding::percent_decode_str;
use prost::bytes::Bytes;
use serde_json::{Map, Value};
use tonic::body::Body;

use super::answer::Failure;

/// The largest body taken, in bytes. Contexts are a few hundred.
const BODY_LIMIT: usize = 1024 * 1024;

/// How long a body may take to arrive: over HTTP/1.1 nothing else ends the wait for a client that has gone silent.
const PATIENCE: Duration = Duration::from_secs(10);

/// Checks that a body is what the protocol wants: a JSON object whose context, if it has one, is an object. The protocol
/// demands a context, but its own clients leave it out when there is nothing in it.
pub(super) async fn check(body: Body) -> Result<(), Failure> {
    let body = read(body).await?;
    let malformed = |_| Failure::bad("PARSE_ERROR", "the body must be a JSON object");
    let request: Map<String, Value> = serde_json::from_slice(&body).map_err(malformed)?;
    match request.get("context") {
        None | Some(Value::Object(_)) => Ok(()),
        Some(_) => Err(Failure::bad("INVALID_CONTEXT", "the context must be a JSON object")),
    }
}

async fn read(body: Body) -> Result<Bytes, Failure> {
    let Ok(read) = tokio::time::timeout(PATIENCE, Limited::new(body, BODY_LIMIT).collect()).await else {
        return Err(Failure::general(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"));
    };
    read.map(|collected| collected.to_bytes()).map_err(|error| {
        if error.is::<LengthLimitError>() {
            Failure::general(StatusCode::PAYLOAD_TOO_LARGE, "the body must be at most 1 MiB")
        } else {
            Failure::bad("PARSE_ERROR", "the body was cut short")
        }
    })
}

/// A segment of a path as it was meant. A `%` that stands for nothing stands for itself.
pub(super) fn decoded(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_segment_is_decoded_once() {
        let cases = [
            ("a.b-c_1", "a.b-c_1"),
            ("%63heck%6Fut", "checkout"),
            ("%6fut", "out"),
            ("a%2Fb", "a/b"),
            ("a%252Fb", "a%2Fb"),
        ];
        for (segment, meant) in cases {
            assert_eq!(decoded(segment), meant);
        }
        for (segment, meant) in
            [("100%", "100%"), ("%4", "%4"), ("%zz", "%zz"), ("a+b", "a+b"), ("%C3%A4", "ä"), ("%FF", "\u{fffd}")]
        {
            assert_eq!(decoded(segment), meant);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_is_decoded(text in ".{0,40}") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(decoded(&encoded), text.clone());
            decoded(&text);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_is_not_waited_for() {
        let never = http_body_util::StreamBody::new(futures::stream::pending::<
            Result<http_body::Frame<Bytes>, tonic::Status>,
        >());
        let failure = check(Body::new(never)).await.unwrap_err();
        assert_eq!(failure.about(None).status(), StatusCode::REQUEST_TIMEOUT);
    }
}
