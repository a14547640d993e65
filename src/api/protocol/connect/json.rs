//! JSON as protobuf defines it, by the descriptors of messages.
//!
//! A decoded message takes many times its JSON, so what a request may hold is checked before it is decoded.

use std::io::Read;

use flate2::read::GzDecoder;
use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor};

use crate::api::errors::{ApiError, Limit};
use crate::domain::error::Error;

/// The most values in the JSON of a request. The largest request has a thousand items of seven fields. A value takes up to a kibibyte in
/// memory while it is decoded.
pub(in crate::api) const MAX_VALUES: usize = 1 << 14;

/// The most objects and lists around a value. Each list in an evaluation context is two messages in protobuf, whose own limit is 100.
pub(in crate::api) const MAX_DEPTH: usize = 32;

/// How much of a decoder's message an error has, in characters. It repeats parts of the request.
const MAX_PROBLEM: usize = 300;

/// The encoded message that this JSON describes.
///
/// # Errors
/// When it is no JSON, has unknown fields or values that do not fit, or exceeds a limit.
pub(super) fn decode(descriptor: &MessageDescriptor, text: &[u8]) -> Result<Vec<u8>, ApiError> {
    check_limits(text)?;
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    // Unknown fields are refused by name, so that a misspelled one is not ignored.
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let message = DynamicMessage::deserialize_with_options(descriptor.clone(), &mut deserializer, &options)
        .and_then(|message| deserializer.end().map(|()| message))
        .map_err(|error| ApiError::MalformedJson(problem(&error)))?;
    Ok(message.encode_to_vec())
}

fn problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.char_indices().nth(MAX_PROBLEM) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The JSON of an encoded message of our own.
///
/// # Errors
/// When it is no such message, which is a defect of the server.
pub(super) fn encode(descriptor: &MessageDescriptor, message: &[u8]) -> Result<Vec<u8>, ApiError> {
    let message = DynamicMessage::decode(descriptor.clone(), message).map_err(Error::internal)?;
    Ok(serde_json::to_vec(&message).map_err(Error::internal)?)
}

/// Decompresses gzip.
///
/// # Errors
/// When it is no gzip, or has more than `max_bytes`.
pub(super) fn decompress(bytes: &[u8], max_bytes: usize) -> Result<Vec<u8>, ApiError> {
    let mut decompressed = Vec::new();
    let longest = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    let read = GzDecoder::new(bytes).take(longest).read_to_end(&mut decompressed);
    if decompressed.len() > max_bytes {
        return Err(Limit::RequestSize.reached(max_bytes).into());
    }
    read.map_err(|error| ApiError::MalformedMessage(format!("it is not compressed with gzip: {error}")))?;
    Ok(decompressed)
}

/// Counts the values of JSON, and how deeply they are nested, without decoding it. What is malformed is counted in some way: the decoder
/// refuses it.
fn check_limits(text: &[u8]) -> Result<(), ApiError> {
    let (mut values, mut depth) = (1, 0_usize);
    let (mut is_inside_text, mut is_escaped) = (false, false);
    for byte in text {
        if is_inside_text {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => is_inside_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => is_inside_text = true,
            // Each value but the first follows one of these.
            b'{' | b'[' => (values, depth) = (values + 1, depth + 1),
            b',' => values += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(Limit::JsonDepth.reached(MAX_DEPTH).into());
        }
        if values > MAX_VALUES {
            return Err(Limit::JsonValues.reached(MAX_VALUES).into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::api::pb::{self, ListFeatureFlagsRequest, ToggleFeatureFlagRequest};

    fn message(name: &str) -> MessageDescriptor {
        DescriptorPool::decode(pb::DESCRIPTORS).unwrap().get_message_by_name(name).unwrap()
    }

    fn refusal(name: &str, text: &str) -> String {
        decode(&message(name), text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn request_is_decoded_by_either_name_of_its_fields() {
        let request = message("toggled.v1.ToggleFeatureFlagRequest");
        for text in [
            r#"{"key":"a","requestId":"r","expectedRevision":"7"}"#,
            r#" { "key" : "a", "request_id":"r", "expected_revision": 7 } "#,
        ] {
            let decoded = ToggleFeatureFlagRequest::decode(&*decode(&request, text.as_bytes()).unwrap()).unwrap();
            assert_eq!((decoded.request_id.as_deref(), decoded.expected_revision), (Some("r"), Some(7)));
        }
        let answer =
            ToggleFeatureFlagRequest { reason: "r".to_owned(), expected_revision: Some(7), ..Default::default() };
        let text = encode(&request, &answer.encode_to_vec()).unwrap();
        assert_eq!(text, br#"{"reason":"r","expectedRevision":"7"}"#);
    }

    #[test]
    fn malformed_json_is_refused_with_a_reason() {
        let list = "toggled.v1.ListFeatureFlagsRequest";
        for (text, problem) in [
            ("", "EOF"),
            ("[]", "expected"),
            ("null", "null"),
            ("{}{}", "trailing"),
            (r#"{"page_sise":1}"#, "page_sise"),
            (r#"{"pageSize":2147483648}"#, "out of range"),
            (r#"{"pageSize":1.5}"#, "integer"),
            (r#"{"pageSize":1e999}"#, "out of range"),
            (r#"{"pageSize":true}"#, "boolean"),
            (r#"{"minRevision":"9223372036854775808"}"#, "too large"),
            (r#"{"keyPrefix":7}"#, "integer"),
            ("{\"keyPrefix\":\"\u{1}\"}", "control character"),
        ] {
            let refused = refusal(list, text);
            assert!(refused.contains(problem), "{text}: {refused}");
        }
        let long = refusal(list, &format!(r#"{{"{}":1}}"#, "ä".repeat(10_000)));
        assert!(long.chars().count() < 500, "{long}");
        assert!(decode(&message(list), b"\xff{}").is_err());
    }

    #[test]
    fn values_and_nesting_are_limited() {
        let resolve = "flagd.evaluation.v2.ResolveBooleanRequest";
        let nested = |depth: usize| format!(r#"{{"context":{{"a":{}{}}}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(decode(&message(resolve), nested(MAX_DEPTH - 2).as_bytes()).is_ok());
        assert!(refusal(resolve, &nested(MAX_DEPTH - 1)).contains("32 levels"));
        let many = |count: usize| format!(r#"{{"context":{{"a":[{}1]}}}}"#, "1,".repeat(count));
        assert!(decode(&message(resolve), many(MAX_VALUES - 10).as_bytes()).is_ok());
        assert!(refusal(resolve, &many(MAX_VALUES)).contains("16384 values"));
        // Not in texts.
        let text = format!(r#"{{"keyPrefix":"\"{}\\"}}"#, "[{,".repeat(MAX_VALUES));
        let decoded = decode(&message("toggled.v1.ListFeatureFlagsRequest"), text.as_bytes()).unwrap();
        assert_eq!(ListFeatureFlagsRequest::decode(&*decoded).unwrap().key_prefix.len(), 3 * MAX_VALUES + 2);
    }

    #[test]
    fn decompressed_bytes_are_limited() {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&[b' '; 1_000]).unwrap();
        let bytes = encoder.finish().unwrap();
        assert_eq!(decompress(&bytes, 1_000).unwrap().len(), 1_000);
        assert_eq!(decompress(&bytes, 999), Err(Limit::RequestSize.reached(999).into()));
        assert!(matches!(decompress(&bytes[..bytes.len() - 9], 1_000), Err(ApiError::MalformedMessage(_))));
        assert!(matches!(decompress(b"{}", 1_000), Err(ApiError::MalformedMessage(_))));
    }

    proptest! {
        #[test]
        fn decoded_json_encodes_to_the_same_message(text in r#"[\[\]{}:,"a-z0-9\\ .+-]{0,60}|\{"(key|id|reason|requestId|expectedRevision|x)":("[a-z"\\]{0,9}"|-?[0-9]{1,20}|null|true|\{\})\}"#) {
            let request = message("toggled.v1.ToggleFeatureFlagRequest");
            if let Ok(decoded) = decode(&request, text.as_bytes()) {
                let encoded = encode(&request, &decoded).unwrap();
                prop_assert_eq!(decode(&request, &encoded).unwrap(), decoded);
            }
        }
    }
}
