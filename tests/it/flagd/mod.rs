//! The services for flagd providers of OpenFeature.

mod anonymous;
mod evaluation;
mod streams;

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::stream::BoxStream;
use prost_types::Struct;
use prost_types::value::Kind;
use toggled::api::pb::flagd::evaluation::{v1, v2};
use toggled::api::pb::flagd::sync::v1 as sync;
use toggled::api::pb::*;
use tonic::{Status, Streaming};

use crate::support::{Client, with_timeout};

/// A message of an event stream, in either version.
#[derive(Debug, PartialEq)]
struct Event {
    kind: String,
    /// The kind of change, by flag key.
    flags: BTreeMap<String, String>,
}

type Events = BoxStream<'static, Result<Event, Status>>;

impl Event {
    fn new(kind: &str, data: Option<Struct>) -> Self {
        let fields = |kind| match kind {
            Some(Kind::StructValue(Struct { fields })) => fields,
            other => panic!("not an object: {other:?}"),
        };
        let flags = data.map_or_else(BTreeMap::new, |mut data| fields(data.fields.remove("flags").unwrap().kind));
        let flags = flags.into_iter().map(|(key, flag)| match fields(flag.kind).remove("type").unwrap().kind {
            Some(Kind::StringValue(kind)) => (key, kind),
            other => panic!("not a text: {other:?}"),
        });
        Self { kind: kind.to_owned(), flags: flags.collect() }
    }

    fn ready() -> Self {
        Self::new("provider_ready", None)
    }

    fn change<const N: usize>(flags: [(&str, &str); N]) -> Self {
        let flags = flags.map(|(key, kind)| (key.to_owned(), kind.to_owned())).into();
        Self { kind: "configuration_change".to_owned(), flags }
    }
}

async fn open_v1(client: &mut Client) -> Streaming<v1::EventStreamResponse> {
    client.evaluation_v1.event_stream(v1::EventStreamRequest {}).await.unwrap().into_inner()
}

async fn open_v2(client: &mut Client) -> Streaming<v2::EventStreamResponse> {
    client.evaluation_v2.event_stream(v2::EventStreamRequest {}).await.unwrap().into_inner()
}

async fn open_sync(client: &mut Client) -> Streaming<sync::SyncFlagsResponse> {
    client.sync.sync_flags(sync::SyncFlagsRequest::default()).await.unwrap().into_inner()
}

/// The event streams of both versions.
async fn open_events(client: &mut Client) -> [Events; 2] {
    let v1 = open_v1(client).await.map(|event| event.map(|event| Event::new(&event.r#type, event.data)));
    let v2 = open_v2(client).await.map(|event| event.map(|event| Event::new(&event.r#type, event.data)));
    [v1.boxed(), v2.boxed()]
}

async fn next<T>(stream: &mut (impl futures::Stream<Item = Result<T, Status>> + Unpin)) -> T {
    with_timeout("a message", stream.next()).await.unwrap().unwrap()
}

/// Checks the next message of both versions.
async fn assert_next(streams: &mut [Events; 2], event: &Event) {
    for stream in streams {
        assert_eq!(next(stream).await, *event);
    }
}

/// Reads until a configuration arrives.
async fn wait_for_configuration(stream: &mut Streaming<sync::SyncFlagsResponse>, configuration: &str) {
    with_timeout(configuration, async { while flags(&next(stream).await.flag_configuration) != configuration {} })
        .await;
}

/// A configuration without its metadata, whose version is another one after each change.
fn flags(configuration: &str) -> String {
    let (flags, metadata) = configuration.rsplit_once(r#","metadata":"#).unwrap();
    assert!(metadata.starts_with(r#"{"flagSetId":"default","version":""#), "{metadata}");
    format!("{flags}}}")
}

/// The configuration of these flags, sorted by key, without metadata.
fn configuration<const N: usize>(flags: [(&str, bool); N]) -> String {
    let flag = |(key, on): (&str, bool)| {
        let variant = if on { "on" } else { "off" };
        format!(r#""{key}":{{"state":"ENABLED","variants":{{"on":true,"off":false}},"defaultVariant":"{variant}"}}"#)
    };
    format!(r#"{{"flags":{{{}}}}}"#, flags.map(flag).join(","))
}

async fn unarchive(client: &mut Client, key: &str) {
    let flag = Some(unarchive_feature_flag_request::Flag::Key(key.into()));
    client.toggle.unarchive_feature_flag(UnarchiveFeatureFlagRequest { flag, ..Default::default() }).await.unwrap();
}
