//! Streams of two environments at a time.

use prost_types::value::Kind;

use super::*;

/// The kind of an event, and the keys that it names.
fn named(event: v2::EventStreamResponse) -> (String, Vec<String>) {
    let flags = event.data.and_then(|mut data| data.fields.remove("flags")?.kind);
    let keys = match flags {
        Some(Kind::StructValue(flags)) => flags.fields.into_keys().collect(),
        _ => Vec::new(),
    };
    (event.r#type, keys)
}

on_both_databases! {
    async fn streams_follow_their_own_environment(backend: Backend) {
        let mut world = World::new(backend, &[]).await;
        let change = |keys: &[&str]| ("configuration_change".to_owned(), keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>());
        let mut streams = BTreeMap::new();
        for (environment, on) in [("default", false), ("staging", true)] {
            let mut reader = world.reader(environment).await;
            let mut sync = reader.sync("").await.unwrap();
            let mut events = reader.v2.event_stream(v2::EventStreamRequest {}).await.unwrap().into_inner();
            assert_eq!(configured(&next(&mut sync).await.unwrap().flag_configuration), flags([(environment, false), ("shared", on)]));
            assert_eq!(named(next(&mut events).await.unwrap()).0, "provider_ready");
            let mut keys = vec![environment, "shared"];
            keys.sort_unstable();
            assert_eq!(named(next(&mut events).await.unwrap()), change(&keys));
            streams.insert(environment, (sync, events));
        }
        let mut values = BTreeMap::from([(("default", "shared"), false), (("staging", "shared"), true), (("default", "default"), false), (("staging", "staging"), false)]);
        // The next message of each stream is about its own environment, whatever happens in the other at the same time.
        for turn in 0..6 {
            let [one, other] = if turn % 2 == 0 { ["default", "staging"] } else { ["staging", "default"] };
            let flipped = [(other, other), (one, "shared")];
            for (environment, key) in flipped {
                world.flip(environment, key).await;
                let value = values.get_mut(&(environment, key)).unwrap();
                *value = !*value;
            }
            for (environment, key) in flipped {
                let (sync, events) = streams.get_mut(environment).unwrap();
                let now = [environment, "shared"].map(|key| (key, values[&(environment, key)]));
                assert_eq!(configured(&next(sync).await.unwrap().flag_configuration), flags(now));
                assert_eq!(named(next(events).await.unwrap()), change(&[key]));
            }
        }
    }
}
