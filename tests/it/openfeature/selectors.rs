//! The choice of an environment.

use super::*;

on_both_databases! {
    async fn each_environment_has_its_own_values(backend: Backend) {
        let mut world = World::new(backend, &[]).await;
        let (mut own, mut default) = (world.reader("").await, world.reader("default").await);
        let (mut staging, mut named) = (world.reader("staging").await, world.reader("flagSetId=staging").await);
        let (mut in_default, mut in_staging) = (false, true);
        // In each environment in turn, so that a copy that was kept of one would show in the other.
        for turn in 0..6 {
            let of_default = Ok(flags([("default", false), ("shared", in_default)]));
            let of_staging = Ok(flags([("shared", in_staging), ("staging", false)]));
            for reader in [&mut own, &mut default] {
                assert_eq!(reader.flags("", "staging").await, of_default);
            }
            for reader in [&mut staging, &mut named] {
                assert_eq!(reader.flags("", "default").await, of_staging);
            }
            // The header counts before the field.
            for (field, expected) in [("staging", &of_staging), ("flagSetId=staging", &of_staging), ("default", &of_default)] {
                assert_eq!(own.flags(field, "").await, *expected, "{field}");
                assert_eq!(default.flags(field, "").await, of_default, "{field}");
                assert_eq!(staging.flags(field, "").await, of_staging, "{field}");
            }
            let (environment, value) = if turn % 2 == 0 { ("staging", &mut in_staging) } else { ("default", &mut in_default) };
            world.flip(environment, "shared").await;
            *value = !*value;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_selector_is_an_invalid_argument() {
    let world = World::new(Backend::Sqlite, &[]).await;
    let invalid = |field: &str, rule: &str| Err((Code::InvalidArgument, format!("invalid request: {field} {rule}")));
    let rule = "must be the key of an environment, such as flagSetId=staging or staging";
    for selector in
        ["source=staging", "flagSetId=", "Staging", "-", "flagSetId=a,source=b", "./flags.json", "st\u{e4}ging"]
    {
        assert_eq!(world.reader(selector).await.flags("", "").await, invalid("flagd-selector", rule), "{selector}");
        assert_eq!(world.reader("").await.flags(selector, "").await, invalid("selector", rule), "{selector}");
        let good = world.reader("staging").await.flags(selector, "").await;
        assert_eq!(good, Ok(flags([("shared", true), ("staging", false)])), "the field is not used: {selector}");
    }
    let mut twice = Reader::with_selectors(&world.server, Some(TOKEN), &["staging", "staging"]).await;
    assert_eq!(twice.flags("", "").await, invalid("flagd-selector", "must be given once"));
    // An empty one names none.
    let mut empty = Reader::with_selectors(&world.server, Some(TOKEN), &[""]).await;
    assert_eq!(empty.flags("", "staging").await, Ok(flags([("default", false), ("shared", false)])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_names_environment_and_version() {
    let mut world = World::new(Backend::Sqlite, &[]).await;
    let versions =
        [("staging", world.flip("staging", "staging").await), ("default", world.flip("default", "default").await)];
    for (environment, version) in versions.into_iter().chain([("unknown", 0)]) {
        let version = version.to_string();
        let expected = serde_json::json!({"flagSetId": environment, "version": version});
        let mut reader = world.reader(environment).await;
        let of_struct = |metadata: Option<prost_types::Struct>| {
            let text = |value: prost_types::Value| match value.kind {
                Some(prost_types::value::Kind::StringValue(text)) => text,
                other => panic!("not a text: {other:?}"),
            };
            let fields = metadata.unwrap().fields.into_iter();
            serde_json::to_value(fields.map(|(name, value)| (name, text(value))).collect::<BTreeMap<_, _>>()).unwrap()
        };
        let all = reader.v1.resolve_all(v1::ResolveAllRequest::default()).await.unwrap().into_inner();
        assert_eq!(of_struct(all.metadata), expected);
        let metadata = reader.sync.get_metadata(sync::GetMetadataRequest {}).await.unwrap().into_inner();
        assert_eq!(of_struct(metadata.metadata), expected);
        let fetched = reader.sync.fetch_all_flags(sync::FetchAllFlagsRequest::default()).await.unwrap().into_inner();
        let synced = next(&mut reader.sync("").await.unwrap()).await.unwrap();
        assert_eq!(synced.sync_context, Some(prost_types::Struct::default()));
        for configuration in [fetched.flag_configuration, synced.flag_configuration] {
            assert_eq!(serde_json::from_str::<Value>(&configuration).unwrap()["metadata"], expected);
        }
        assert_eq!(json(&reader.ofrep_bulk(None).await.0)["metadata"], expected);
    }
}

on_both_databases! {
    async fn etag_belongs_to_one_environment(backend: Backend) {
        let mut world = World::new(backend, &[]).await;
        world.admin.new_environment("empty").await;
        let mut tags = BTreeMap::new();
        for environment in ["default", "staging", "production", "empty", "unknown"] {
            let answer = world.reader(environment).await.ofrep_bulk(None).await;
            assert_eq!((answer.status(), answer.header("vary").as_str()), (200, "authorization, flagd-selector"));
            tags.insert(environment, answer.header("etag"));
        }
        for environment in tags.keys() {
            let reader = world.reader(environment).await;
            for (other, tag) in &tags {
                let answer = reader.ofrep_bulk(Some(tag)).await;
                assert_eq!(answer.status(), if other == environment { 304 } else { 200 }, "{environment} with {other}");
                assert_eq!(answer.header("etag"), tags[environment]);
                assert_eq!(answer.header("vary"), "authorization, flagd-selector");
            }
        }
        world.flip("staging", "shared").await;
        for (environment, tag) in &tags {
            let answer = world.reader(environment).await.ofrep_bulk(Some(tag)).await;
            assert_eq!(answer.status(), if *environment == "staging" { 200 } else { 304 }, "{environment}");
        }
    }
}
