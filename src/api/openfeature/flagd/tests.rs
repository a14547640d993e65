//! Streams from a mirror without a database: many flags, a replaced log, and timing.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use prost::Message;
use prost_types::Struct;
use prost_types::value::Kind;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::configuration::{Configuration, ConfigurationCache};
use super::events::{Events, events};
use crate::api::middleware::limits::Unsent;
use crate::api::pb::flagd::evaluation::v2::EventStreamResponse;
use crate::api::pb::flagd::sync::v1::SyncFlagsResponse;
use crate::api::streams::MESSAGE_BYTES;
use crate::domain::Revision;
use crate::domain::environment::Environment;
use crate::domain::flag::{Flag, Status as FlagStatus};
use crate::domain::state::{Delta, Head, State};
use crate::domain::text::EnvironmentKey;
use crate::mirror::{ClientConnection, Mirror, Position};

fn flag(key: &str, revision: Revision, status: FlagStatus) -> Arc<Flag> {
    Arc::new(Flag { status, ..Flag::sample(key, revision) })
}

/// A log in which these flags were created, one after the other.
fn state<'a>(keys: impl IntoIterator<Item = &'a str>) -> State {
    let flags = keys.into_iter().zip(1..).map(|(key, revision)| flag(key, revision, FlagStatus::Disabled));
    let environments = vec![Arc::new(Environment::sample("default"))];
    let delta = Delta { flags: flags.collect(), environments, ..Delta::default() };
    let mut state = State::empty(Uuid::nil());
    let revision = delta.flags.len() as Revision;
    state.apply(Head { revision, ..*state.head() }, &delta);
    state
}

fn default() -> &'static EnvironmentKey {
    EnvironmentKey::default_environment()
}

fn mirror(state: State) -> Arc<Mirror> {
    let mirror = Mirror::new(Duration::from_secs(10));
    mirror.replace(state);
    mirror
}

/// Turns a flag on.
fn turn_on(mirror: &Mirror, key: &str) {
    let base = mirror.read(|state| *state.head()).unwrap();
    let head = Head { revision: base.revision + 1, ..base };
    let flags = vec![flag(key, head.revision, FlagStatus::Enabled)];
    mirror.apply(&base, head, &Delta { flags, ..Delta::default() });
}

fn stream(mirror: &Arc<Mirror>) -> Events {
    let cache = Arc::default();
    events(Arc::clone(mirror), default().clone(), ClientConnection::default(), cache, Unsent::default())
}

async fn next(stream: &mut Events) -> EventStreamResponse {
    stream.next().await.unwrap().unwrap().decode()
}

/// The keys that an event names, sorted.
fn keys(event: EventStreamResponse) -> Vec<String> {
    assert_eq!(event.r#type, "configuration_change");
    match event.data.unwrap().fields.remove("flags").unwrap().kind {
        Some(Kind::StructValue(Struct { fields })) => fields.into_keys().collect(),
        other => panic!("not an object: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn many_flags_are_split_over_events_without_repeats() {
    let all: Vec<String> = (0..30_000).map(|number| format!("{number:05}-{}", "k".repeat(number % 123))).collect();
    let mirror = mirror(state(all.iter().map(String::as_str)));
    let mut stream = stream(&mirror);
    assert_eq!(next(&mut stream).await.r#type, "provider_ready");
    let mut seen = Vec::new();
    let mut messages = 0;
    while seen.len() < all.len() {
        let event = next(&mut stream).await;
        assert!(event.encoded_len() <= MESSAGE_BYTES, "{}", event.encoded_len());
        seen.extend(keys(event));
        messages += 1;
    }
    assert!((2..8).contains(&messages), "{messages}");
    assert_eq!(seen, all);
    assert_eq!(stream.next().now_or_never().map(drop), None);
    turn_on(&mirror, &all[7]);
    assert_eq!(keys(next(&mut stream).await), all[7..8]);
}

#[tokio::test(start_paused = true)]
async fn change_during_the_snapshot_is_sent_after_it() {
    let all: Vec<String> = (0..30_000).map(|number| format!("{number:05}-{}", "k".repeat(100))).collect();
    let mirror = mirror(state(all.iter().map(String::as_str)));
    let mut stream = stream(&mirror);
    next(&mut stream).await;
    let first = keys(next(&mut stream).await);
    assert!(first.contains(&all[0]));
    turn_on(&mirror, &all[0]);
    while !keys(next(&mut stream).await).contains(&all[0]) {}
}

#[tokio::test(start_paused = true)]
async fn change_before_the_wait_is_not_lost() {
    let mirror = mirror(state(["a"]));
    let mut stream = stream(&mirror);
    next(&mut stream).await;
    assert_eq!(keys(next(&mut stream).await), ["a"]);
    turn_on(&mirror, "a");
    assert_eq!(keys(next(&mut stream).await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn idle_stream_sends_keep_alive() {
    let mirror = mirror(state(["a"]));
    let mut stream = stream(&mirror);
    next(&mut stream).await;
    next(&mut stream).await;
    for _ in 0..3 {
        let idle = Instant::now();
        assert_eq!(next(&mut stream).await.r#type, "keep_alive");
        assert_eq!(idle.elapsed().as_secs(), 20);
    }
    turn_on(&mirror, "a");
    assert_eq!(keys(next(&mut stream).await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn burst_is_coalesced_and_first_change_is_not() {
    let mirror = mirror(state(["a", "b"]));
    let mut stream = stream(&mirror);
    next(&mut stream).await;
    next(&mut stream).await;
    assert_eq!(stream.next().now_or_never().map(drop), None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let quiet = Instant::now();
    turn_on(&mirror, "a");
    assert_eq!(keys(next(&mut stream).await), ["a"]);
    assert_eq!(quiet.elapsed(), Duration::ZERO);
    for key in ["a", "b", "a"] {
        turn_on(&mirror, key);
    }
    assert_eq!(keys(next(&mut stream).await), ["a", "b"]);
    assert!((5..10).contains(&quiet.elapsed().as_millis()), "{:?}", quiet.elapsed());
}

#[tokio::test(start_paused = true)]
async fn replaced_log_starts_a_new_snapshot() {
    let mirror = mirror(state(["a", "b", "c"]));
    let mut stream = stream(&mirror);
    next(&mut stream).await;
    assert_eq!(keys(next(&mut stream).await), ["a", "b", "c"]);
    assert_eq!(stream.next().now_or_never().map(drop), None);
    // An older backup, at another revision than the stream has reached.
    mirror.replace(state(["b"]));
    assert_eq!(keys(next(&mut stream).await), ["a", "c"], "clients must drop removed keys");
    assert_eq!(keys(next(&mut stream).await), ["b"]);
    turn_on(&mirror, "b");
    assert_eq!(keys(next(&mut stream).await), ["b"]);
}

/// The JSON, from a message as a client decodes it.
fn json(configuration: &Configuration) -> String {
    let fields = SyncFlagsResponse { sync_context: Some(Struct::default()), ..Default::default() }.encode_to_vec();
    let decoded: SyncFlagsResponse = configuration.message(&fields, MESSAGE_BYTES).unwrap().decode();
    assert_eq!(decoded.sync_context, Some(Struct::default()));
    decoded.flag_configuration
}

fn now(mirror: &Mirror) -> Position {
    mirror.read(Position::of).unwrap()
}

#[tokio::test]
async fn configuration_is_built_once_for_each_change() {
    let mirror = mirror(state(["a"]));
    let cache = ConfigurationCache::new(Arc::clone(&mirror));
    let first = cache.including(default(), now(&mirror)).await.unwrap();
    assert!(Arc::ptr_eq(&first, &cache.including(default(), now(&mirror)).await.unwrap()));
    turn_on(&mirror, "a");
    let second = cache.including(default(), now(&mirror)).await.unwrap();
    assert!(second.number > first.number && json(&second) != json(&first));
    assert!(Arc::ptr_eq(&second, &cache.including(default(), now(&mirror)).await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn configuration_builds_are_throttled() {
    let mirror = mirror(state(["a"]));
    let cache = ConfigurationCache::new(Arc::clone(&mirror));
    let first = cache.including(default(), now(&mirror)).await.unwrap();
    let start = Instant::now();
    for change in 1..=20 {
        turn_on(&mirror, "a");
        let current = cache.including(default(), now(&mirror)).await.unwrap();
        assert_eq!((current.number, start.elapsed().as_millis() / 100), (first.number + change, u128::from(change)));
    }
    // After a pause the next build is immediate.
    sleep(Duration::from_secs(1)).await;
    let pause_end = Instant::now();
    turn_on(&mirror, "a");
    cache.including(default(), now(&mirror)).await.unwrap();
    assert_eq!(pause_end.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn restored_log_gets_a_new_configuration() {
    let mirror = mirror(state(["a"]));
    let cache = ConfigurationCache::new(Arc::clone(&mirror));
    let first = cache.including(default(), now(&mirror)).await.unwrap();
    mirror.replace(state(["b"]));
    let second = cache.including(default(), now(&mirror)).await.unwrap();
    assert!(second.number > first.number && json(&second).contains(r#""b":"#), "{}", json(&second));
    mirror.replace(state([]));
    assert_eq!(
        json(&cache.including(default(), now(&mirror)).await.unwrap()),
        r#"{"flags":{},"metadata":{"flagSetId":"default","version":"0"}}"#
    );
}

/// Makes environments, and turns on flags that are in them.
fn add(mirror: &Mirror, environments: &[&str], flags: &[(&str, &str)]) {
    let base = mirror.read(|state| *state.head()).unwrap();
    let head = Head { revision: base.revision + 1, ..base };
    let environments = environments.iter().map(|key| Arc::new(Environment::sample(key))).collect();
    let flag = |(environment, key): &(&str, &str)| {
        Arc::new(Flag { status: FlagStatus::Enabled, ..Flag::sample_in(environment, key, head.revision) })
    };
    let flags = flags.iter().map(flag).collect();
    mirror.apply(&base, head, &Delta { environments, flags, ..Delta::default() });
}

#[tokio::test(start_paused = true)]
async fn environments_share_nothing() {
    let mirror = mirror(state(["a"]));
    let staging = EnvironmentKey::parse("staging").unwrap();
    add(&mirror, &["staging"], &[("staging", "a")]);
    let cache = ConfigurationCache::new(Arc::clone(&mirror));
    for _ in 0..2 {
        let first = cache.including(default(), now(&mirror)).await.unwrap();
        let second = cache.including(&staging, now(&mirror)).await.unwrap();
        assert!(json(&first).contains(r#""defaultVariant":"off""#), "{}", json(&first));
        assert!(json(&second).contains(r#""defaultVariant":"on""#), "{}", json(&second));
        assert_eq!((first.number, second.number), (1, 1));
    }
    // A change of one is none of the other.
    turn_on(&mirror, "a");
    assert_eq!(cache.including(default(), now(&mirror)).await.unwrap().number, 2);
    assert_eq!(cache.including(&staging, now(&mirror)).await.unwrap().number, 1);
}

#[tokio::test(start_paused = true)]
async fn unknown_environments_are_not_kept() {
    let mirror = mirror(state(["a"]));
    let cache = ConfigurationCache::new(Arc::clone(&mirror));
    let empty = |key: &str| format!(r#"{{"flags":{{}},"metadata":{{"flagSetId":"{key}","version":"0"}}}}"#);
    for n in 0..100 {
        let key = EnvironmentKey::parse(&format!("unknown-{n}")).unwrap();
        assert_eq!(json(&cache.including(&key, now(&mirror)).await.unwrap()), empty(key.as_str()));
    }
    assert_eq!(cache.environments(), 0);
    let later = EnvironmentKey::parse("later").unwrap();
    let before = cache.including(&later, now(&mirror)).await.unwrap();
    add(&mirror, &["later"], &[("later", "b")]);
    let after = cache.including(&later, now(&mirror)).await.unwrap();
    assert!(after.number > before.number && json(&after).contains(r#""b":"#), "{}", json(&after));
    assert_eq!(cache.environments(), 1);
}

#[tokio::test]
async fn flag_set_over_its_limit_is_refused_with_its_size() {
    let mirror = mirror(state(["a", "b"]));
    let position = now(&mirror);
    let configuration = ConfigurationCache::new(mirror).including(default(), position).await.unwrap();
    let message = configuration.message(&[], usize::MAX).unwrap();
    let length = message.head.len() + message.shared.len() - 5;
    assert!(configuration.message(&[], length).is_ok());
    let refused = configuration.message(&[], length - 1).map(drop).unwrap_err().to_string();
    assert!(refused.contains(&format!("({length} bytes; limit: {} bytes", length - 1)), "{refused}");
}
