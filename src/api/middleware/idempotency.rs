//! Idempotent requests: what makes two requests the same.

use sha2::{Digest, Sha256};

/// Identifies a request: SHA-256 of its method and of `body`, which is the encoded message without its `request_id`.
pub(in crate::api) fn digest(method: &str, body: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(method).chain_update([0]).chain_update(body).finalize().into()
}

#[cfg(test)]
mod tests {
    use crate::api::pb;
    use prost::Message;
    use prost_reflect::{DescriptorPool, DynamicMessage};

    /// The authorization layer decodes a denied retry by its descriptor and must compute the same digest, so both encodings must
    /// be equal.
    fn assert_same_encoding(name: &str, request: &impl Message) {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let descriptor = pool.get_message_by_name(&format!("toggled.v1.{name}")).unwrap();
        let bytes = request.encode_to_vec();
        assert_eq!(DynamicMessage::decode(descriptor, &bytes[..]).unwrap().encode_to_vec(), bytes, "{name}");
    }

    #[test]
    fn request_is_encoded_alike_by_type_and_descriptor() {
        let flag = |key: &str| Some(pb::batch_set_item::Flag::Key(key.to_owned()));
        let items = ["b", "a"].map(|key| pb::BatchSetItem {
            flag: flag(key),
            status: 2,
            expected_revision: Some(0),
            environment: Some("e".to_owned()),
        });
        assert_same_encoding(
            "BatchSetFeatureFlagsRequest",
            &pb::BatchSetFeatureFlagsRequest {
                items: items.to_vec(),
                reason: "r".to_owned(),
                validate_only: true,
                ..Default::default()
            },
        );
        assert_same_encoding(
            "UpdateFeatureFlagRequest",
            &pb::UpdateFeatureFlagRequest {
                flag: Some(pb::update_feature_flag_request::Flag::Id("x".to_owned())),
                name: "n".to_owned(),
                update_mask: Some(prost_types::FieldMask { paths: vec!["name".to_owned(), "description".to_owned()] }),
                expected_revision: Some(7),
                ..Default::default()
            },
        );
        assert_same_encoding(
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
