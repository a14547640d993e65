//! What takes many flags, another log or the passing of time, on a mirror alone.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use prost::Message;
use prost_types::Struct;
use prost_types::value::Kind;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::configuration::Configurations;
use super::events::{Events, events};
use crate::api::PAGE_BYTES;
use crate::api::pb::flagd::evaluation::v2::EventStreamResponse;
use crate::domain::Revision;
use crate::domain::flag::{Flag, Status as FlagStatus};
use crate::domain::state::{Delta, Head, State};
use crate::mirror::Mirror;

fn flag(key: &str, revision: Revision, status: FlagStatus) -> Arc<Flag> {
    Arc::new(Flag { status, ..Flag::sample(key, revision) })
}

/// A log in which these flags were created, one after the other.
fn state<'a>(keys: impl IntoIterator<Item = &'a str>) -> State {
    let flags = keys.into_iter().zip(1..).map(|(key, revision)| flag(key, revision, FlagStatus::Disabled));
    let delta = Delta { flags: flags.collect(), ..Delta::default() };
    let mut state = State::empty(Uuid::nil());
    let revision = delta.flags.len() as Revision;
    state.apply(Head { revision, ..*state.head() }, &delta);
    state
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

fn stream(mirror: &Arc<Mirror>) -> Events<EventStreamResponse> {
    events(Arc::clone(mirror))
}

async fn next(stream: &mut Events<EventStreamResponse>) -> EventStreamResponse {
    stream.next().await.unwrap().unwrap()
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
async fn very_many_flags_are_told_in_several_messages_each_once() {
    let all: Vec<String> = (0..30_000).map(|number| format!("{number:05}-{}", "k".repeat(number % 123))).collect();
    let mirror = mirror(state(all.iter().map(String::as_str)));
    let mut stream = stream(&mirror);
    assert_eq!(next(&mut stream).await.r#type, "provider_ready");
    let mut told = Vec::new();
    let mut messages = 0;
    while told.len() < all.len() {
        let event = next(&mut stream).await;
        assert!(event.encoded_len() <= PAGE_BYTES, "{}", event.encoded_len());
        told.extend(keys(event));
        messages += 1;
    }
    assert!((2..8).contains(&messages), "{messages}");
    assert_eq!(told, all);
    assert_eq!(stream.next().now_or_never().map(drop), None);
    turn_on(&mirror, &all[7]);
    assert_eq!(keys(next(&mut stream).await), all[7..8]);
}

#[tokio::test(start_paused = true)]
async fn what_changes_while_very_many_flags_are_told_is_told_after_them() {
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
async fn what_changes_before_the_stream_waits_is_not_lost() {
    let mirror = mirror(state(["a"]));
    let mut stream = stream(&mirror);
    next(&mut stream).await;
    assert_eq!(keys(next(&mut stream).await), ["a"]);
    turn_on(&mirror, "a");
    assert_eq!(keys(next(&mut stream).await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_nothing_to_tell_says_that_it_is_still_there() {
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
async fn the_first_change_is_told_at_once_and_those_right_after_it_together() {
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
    assert!((10..15).contains(&quiet.elapsed().as_millis()), "{:?}", quiet.elapsed());
}

#[tokio::test(start_paused = true)]
async fn when_the_log_is_another_everything_is_told_anew() {
    let mirror = mirror(state(["a", "b", "c"]));
    let mut stream = stream(&mirror);
    next(&mut stream).await;
    assert_eq!(keys(next(&mut stream).await), ["a", "b", "c"]);
    assert_eq!(stream.next().now_or_never().map(drop), None);
    // An older backup, and at another revision than was told.
    mirror.replace(state(["b"]));
    assert_eq!(keys(next(&mut stream).await), ["a", "c"], "what is no more is to be forgotten");
    assert_eq!(keys(next(&mut stream).await), ["b"]);
    turn_on(&mirror, "b");
    assert_eq!(keys(next(&mut stream).await), ["b"]);
}

#[tokio::test]
async fn a_configuration_is_built_once_a_change_and_shared() {
    let mirror = mirror(state(["a"]));
    let configurations = Configurations::new(Arc::clone(&mirror));
    let first = configurations.current().await.unwrap();
    assert!(Arc::ptr_eq(&first, &configurations.current().await.unwrap()));
    turn_on(&mirror, "a");
    let second = configurations.current().await.unwrap();
    assert!(second.number > first.number && second.json != first.json);
    assert!(Arc::ptr_eq(&second, &configurations.current().await.unwrap()));
}

/// However many ask, and whenever they do.
#[tokio::test(start_paused = true)]
async fn configurations_are_built_at_a_pace_of_their_own() {
    let mirror = mirror(state(["a"]));
    let configurations = Configurations::new(Arc::clone(&mirror));
    let first = configurations.current().await.unwrap();
    let begun = Instant::now();
    for change in 1..=20 {
        turn_on(&mirror, "a");
        let current = configurations.current().await.unwrap();
        assert_eq!((current.number, begun.elapsed().as_millis() / 100), (first.number + change, u128::from(change)));
    }
    // After a rest there is nothing to wait for.
    sleep(Duration::from_secs(1)).await;
    let rested = Instant::now();
    turn_on(&mirror, "a");
    configurations.current().await.unwrap();
    assert_eq!(rested.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_restored_log_at_the_same_revision_has_a_configuration_of_its_own() {
    let mirror = mirror(state(["a"]));
    let configurations = Configurations::new(Arc::clone(&mirror));
    let first = configurations.current().await.unwrap();
    mirror.replace(state(["b"]));
    let second = configurations.current().await.unwrap();
    assert!(second.number > first.number && second.json.contains(r#""b":"#), "{}", second.json);
    mirror.replace(state([]));
    assert_eq!(configurations.current().await.unwrap().json, r#"{"flags":{}}"#);
}
