//! Retries: what tells that two requests are the same, and the answer of the first time as it was.

use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use prost::bytes::{BufMut, BytesMut};
use sha2::{Digest, Sha256};
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::GRPC_CONTENT_TYPE;

/// Marks an answer that was given before.
pub(in crate::api) const REPLAYED: &str = "x-request-replayed";

/// What a request is: SHA-256 of its method and of all that is in it but its name.
pub(in crate::api) fn digest(method: &str, body: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(method).chain_update([0]).chain_update(body).finalize().into()
}

/// A stored answer as a response, where no service is there to give it.
pub(in crate::api) fn response(stored: Vec<u8>) -> Response<Body> {
    let mut message = BytesMut::with_capacity(stored.len() + 5);
    message.put_u8(0);
    message.put_u32(u32::try_from(stored.len()).unwrap_or(u32::MAX));
    message.put_slice(&stored);
    let trailers = async {
        let mut trailers = HeaderMap::new();
        Some(Status::ok("").add_header(&mut trailers).map(|()| trailers))
    };
    let body = Full::new(message.freeze()).map_err(|never| match never {}).with_trailers(trailers);
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

#[cfg(test)]
mod tests {
    use crate::api::pb;
    use prost::Message;
    use prost_reflect::{DescriptorPool, DynamicMessage};

    /// Whether a request is encoded alike by its own type and by its descriptor, which its digest depends on.
    fn alike(name: &str, request: &impl Message) {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let descriptor = pool.get_message_by_name(&format!("toggled.v1.{name}")).unwrap();
        let bytes = request.encode_to_vec();
        assert_eq!(DynamicMessage::decode(descriptor, &bytes[..]).unwrap().encode_to_vec(), bytes, "{name}");
    }

    #[test]
    fn a_request_has_one_digest_whoever_encodes_it() {
        let flag = |key: &str| Some(pb::batch_set_item::Flag::Key(key.to_owned()));
        let items = ["b", "a"].map(|key| pb::BatchSetItem { flag: flag(key), status: 2, expected_revision: Some(0) });
        alike(
            "BatchSetFeatureFlagsRequest",
            &pb::BatchSetFeatureFlagsRequest {
                items: items.to_vec(),
                reason: "r".to_owned(),
                validate_only: true,
                ..Default::default()
            },
        );
        alike(
            "UpdateFeatureFlagRequest",
            &pb::UpdateFeatureFlagRequest {
                flag: Some(pb::update_feature_flag_request::Flag::Id("x".to_owned())),
                name: "n".to_owned(),
                update_mask: Some(prost_types::FieldMask { paths: vec!["name".to_owned(), "description".to_owned()] }),
                expected_revision: Some(7),
                ..Default::default()
            },
        );
        alike(
            "CreateTokenRequest",
            &pb::CreateTokenRequest {
                user_id: "u".to_owned(),
                permissions: vec!["b".to_owned(), "a".to_owned()],
                expires_at: Some(prost_types::Timestamp { seconds: 1, nanos: -1 }),
                ..Default::default()
            },
        );
    }
}
