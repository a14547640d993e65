//! Idempotent requests: what makes two requests the same.

use prost_reflect::{DynamicMessage, ReflectMessage, Value};
use sha2::{Digest, Sha256};

use crate::domain::text::EnvironmentKey;

/// Identifies a request: SHA-256 of its method and of `body`, which is the encoded message without its `request_id`.
pub(in crate::api) fn digest(method: &str, body: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(method).chain_update([0]).chain_update(body).finalize().into()
}

/// Names the caller's own environment for each flag that a request names by key without an environment. For a decoded request,
/// [`Change::environments`](crate::api::change::Change::environments) says where.
pub(in crate::api) fn name_environment(message: &mut DynamicMessage, own: &EnvironmentKey) {
    let is_unnamed = message.descriptor().get_field_by_name("environment").is_some()
        && message.has_field_by_name("key")
        && !message.has_field_by_name("environment");
    if is_unnamed {
        message.set_field_by_name("environment", Value::String(own.to_string()));
    }
    if message.has_field_by_name("items")
        && let Some(Value::List(items)) = message.get_field_by_name_mut("items")
    {
        for item in items {
            if let Value::Message(item) = item {
                name_environment(item, own);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::change::Change;
    use crate::api::pb;
    use prost::Message;
    use prost_reflect::DescriptorPool;

    /// The authorization layer and the handlers must name the same environment for the same flags.
    fn assert_environment_named(name: &str, mut request: impl Change, expected: usize) {
        let own = EnvironmentKey::parse("staging").unwrap();
        let mut dynamic = dynamic(name, &request);
        name_environment(&mut dynamic, &own);
        let mut named = 0;
        for environment in request.environments() {
            named += usize::from(environment.is_none());
            environment.get_or_insert_with(|| own.to_string());
        }
        assert_eq!(named, expected, "{name}");
        assert_eq!(dynamic.encode_to_vec(), request.encode_to_vec(), "{name}");
    }

    fn dynamic(name: &str, request: &impl Message) -> DynamicMessage {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let descriptor = pool.get_message_by_name(&format!("toggled.v1.{name}")).unwrap();
        DynamicMessage::decode(descriptor, &request.encode_to_vec()[..]).unwrap()
    }

    #[test]
    fn own_environment_is_named_alike_in_both_forms() {
        macro_rules! check {
            ($request:ident $expected:literal: $($field:ident: $value:expr),*) => {
                let request = pb::$request { $($field: $value,)* reason: "r".to_owned(), ..Default::default() };
                assert_environment_named(stringify!($request), request, $expected);
            };
        }
        macro_rules! check_each {
            ($($request:ident $module:ident),*) => { $(
                check!($request 1: flag: Some(pb::$module::Flag::Key("a".to_owned())));
                check!($request 0: flag: Some(pb::$module::Flag::Key("a".to_owned())), environment: Some("b".to_owned()));
                check!($request 0: flag: Some(pb::$module::Flag::Key("a".to_owned())), environment: Some(String::new()));
                check!($request 0: flag: Some(pb::$module::Flag::Id("a".to_owned())));
            )* };
        }
        check_each!(
            ToggleFeatureFlagRequest toggle_feature_flag_request,
            EnableFeatureFlagRequest enable_feature_flag_request,
            DisableFeatureFlagRequest disable_feature_flag_request,
            UpdateFeatureFlagRequest update_feature_flag_request,
            ArchiveFeatureFlagRequest archive_feature_flag_request,
            UnarchiveFeatureFlagRequest unarchive_feature_flag_request
        );
        check!(CreateFeatureFlagRequest 1: key: "a".to_owned());
        check!(RevertFeatureFlagRequest 0: audit_log_id: "a".to_owned());
        check!(CreateTokenRequest 0: user_id: "a".to_owned());
        check!(CreateEnvironmentRequest 0: key: "a".to_owned());
        check!(ArchiveEnvironmentRequest 0:
            environment: Some(pb::archive_environment_request::Environment::Key("a".to_owned())));
        let item = |flag, environment| pb::BatchSetItem { flag: Some(flag), environment, ..Default::default() };
        let (key, id) = (pb::batch_set_item::Flag::Key("a".to_owned()), pb::batch_set_item::Flag::Id("a".to_owned()));
        let items = vec![item(key.clone(), None), item(id, None), item(key, Some("b".to_owned()))];
        check!(BatchSetFeatureFlagsRequest 1: items: items);
        let new = pb::BatchCreateItem { key: "a".to_owned(), ..Default::default() };
        check!(BatchCreateFeatureFlagsRequest 2: items: vec![new.clone(), new]);
    }

    /// The authorization layer decodes a denied retry by its descriptor and must compute the same digest, so both encodings must
    /// be equal.
    fn assert_same_encoding(name: &str, request: &impl Message) {
        assert_eq!(dynamic(name, request).encode_to_vec(), request.encode_to_vec(), "{name}");
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
