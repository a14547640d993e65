//! WatchFeatureFlags: flags as they are, then every change to them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use prost::Message;
use tonic::Status;
use uuid::Uuid;

use crate::api::pb;
use crate::api::reader::StateReader;
use crate::api::streams::{HEARTBEAT, MESSAGE_BYTES};
use crate::api::validate::RequestValidator;
use crate::domain::error::Error;
use crate::domain::flag::Flag;
use crate::domain::state::{FlagRef, Head, State};
use crate::domain::text::FlagKey;
use crate::domain::{Hash, Revision};
use crate::mirror::Subscription;

/// The most keys in one request.
const MAX_KEYS: usize = 1_000;

/// The most flags that one read of the state returns. The mirror cannot move during a read.
const CHUNK_SIZE: usize = 1_000;

/// The minimum time between two messages, once the client has caught up. The first change after a quiet time is sent at once. In a burst each flag is sent
/// once an interval, so that the cost does not grow with the number of flips.
const MIN_INTERVAL: Duration = Duration::from_millis(5);

/// The messages of one watch.
pub(super) type Messages = Pin<Box<dyn Stream<Item = Result<pb::WatchFeatureFlagsResponse, Status>> + Send>>;

/// WatchFeatureFlags, parsed.
pub(super) struct FlagWatch {
    pub after: Option<Revision>,
    pub keys: Option<Vec<FlagKey>>,
    log_id: Option<Uuid>,
    after_hash: Option<Hash>,
}

impl FlagWatch {
    pub fn parse(request: pb::WatchFeatureFlagsRequest) -> Result<Self, Error> {
        let mut validator = RequestValidator::default();
        let after = validator.at_least("after_revision", 0, request.after_revision);
        if request.keys.len() > MAX_KEYS {
            validator.reject::<()>("keys", format!("must have at most {MAX_KEYS} items, a fixed limit"));
        }
        let parse = |(index, key): (usize, &String)| validator.parse(&format!("keys[{index}]"), key, FlagKey::parse);
        // An invalid key does not end the iteration, so that the error names the others as well.
        let mut keys: Vec<_> = request.keys.iter().take(MAX_KEYS).enumerate().filter_map(parse).collect();
        keys.sort_unstable();
        keys.dedup();
        let log_id = request.log_id.as_deref().and_then(|id| validator.uuid("log_id", id));
        let given = Some(request.after_hash).filter(|hash| !hash.is_empty());
        let after_hash = validator.after_hash(request.after_revision, given);
        let keys = Some(keys).filter(|keys| !keys.is_empty());
        validator.finish(Some(Self { after, keys, log_id, after_hash }))
    }

    /// Fails if the client's cursor belongs to another log.
    pub async fn check_cursor(&self, reader: &StateReader) -> Result<(), Status> {
        let head = reader.read(|state| *state.head())?;
        if self.log_id.is_some_and(|id| id != head.log_id) {
            return Err(Error::LogMismatch("log_id").into());
        }
        let (Some(after), Some(given)) = (self.after, self.after_hash) else { return Ok(()) };
        // A hash that can no longer be looked up cannot be checked: the cursor is accepted.
        match reader.hash_at(after).await {
            Some(found) if found != given => Err(Error::LogMismatch("after_hash").into()),
            _ => Ok(()),
        }
    }

    /// The stream. It keeps only its cursor and reads the state when the client takes a message, so that a slow client costs
    /// no memory and misses nothing.
    pub fn messages(self, subscription: Subscription) -> Messages {
        let mut through = self.after.unwrap_or(0);
        // The first message, a heartbeat, and the message after a full one are sent even without flags.
        let mut send_even_if_empty = true;
        Box::pin(async_stream::try_stream! {
            loop {
                let chunk = subscription.read(|state| Chunk::read(state, through, subscription.keys()));
                let message = chunk.ok_or(Error::LogMismatch("the stream's cursor"))?.into_message();
                let caught_up = message.caught_up;
                through = message.revision;
                if send_even_if_empty || !message.feature_flags.is_empty() {
                    yield message;
                }
                send_even_if_empty = !caught_up || !subscription.changed_within(HEARTBEAT, MIN_INTERVAL).await;
            }
        })
    }
}

/// The flags that one read of the state found.
struct Chunk {
    /// In the order of their last changes.
    flags: Vec<Arc<Flag>>,
    /// Whether more flags may have changed.
    is_full: bool,
    head: Head,
}

impl Chunk {
    fn read(state: &State, through: Revision, keys: Option<&[FlagKey]>) -> Self {
        let mut flags: Vec<_> = match keys {
            None => state.flags_since(through).take(CHUNK_SIZE).cloned().collect(),
            Some(keys) => {
                let watched = keys.iter().filter_map(|key| state.flag(&FlagRef::Key(key.clone())));
                watched.filter(|flag| flag.revision > through).cloned().collect()
            }
        };
        if keys.is_some() {
            flags.sort_unstable_by_key(|flag| flag.revision);
        }
        let is_full = keys.is_none() && flags.len() >= CHUNK_SIZE;
        Self { flags, is_full, head: *state.head() }
    }

    /// As many of the flags as fit into a message.
    fn into_message(self) -> pb::WatchFeatureFlagsResponse {
        let Self { flags, is_full, head } = self;
        let mut bytes = 0;
        let fits = |flag: &pb::FeatureFlag| {
            let before = bytes;
            bytes += flag.encoded_len();
            before < MESSAGE_BYTES
        };
        let feature_flags: Vec<_> = flags.iter().map(pb::FeatureFlag::from).take_while(fits).collect();
        let caught_up = !is_full && feature_flags.len() == flags.len();
        let last = feature_flags.last().map_or(head.revision, |flag| flag.revision);
        pb::WatchFeatureFlagsResponse {
            feature_flags,
            revision: if caught_up { head.revision } else { last },
            caught_up,
            log_id: head.log_id.to_string(),
            hash: if caught_up { head.hash.to_vec() } else { Vec::new() },
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::domain::state::Delta;
    use crate::mirror::Mirror;

    fn head(revision: Revision) -> Head {
        Head { revision, ..*State::empty(Uuid::nil()).head() }
    }

    fn mirror() -> Arc<Mirror> {
        let mirror = Mirror::new(Duration::from_secs(1));
        mirror.replace(State::empty(Uuid::nil()));
        mirror
    }

    /// Changes a flag.
    fn change(mirror: &Mirror, key: &str) {
        let base = mirror.read(|state| *state.head()).unwrap();
        let flag = Flag::sample(key, base.revision + 1);
        mirror.apply(&base, head(base.revision + 1), &Delta { flags: vec![Arc::new(flag)], ..Delta::default() });
    }

    fn watch(mirror: &Arc<Mirror>, keys: &[&str]) -> Messages {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        let mut watch = FlagWatch::parse(pb::WatchFeatureFlagsRequest { keys, ..Default::default() }).unwrap();
        let subscription = mirror.subscribe(watch.keys.take());
        watch.messages(subscription)
    }

    async fn next(stream: &mut Messages) -> pb::WatchFeatureFlagsResponse {
        tokio::time::timeout(2 * HEARTBEAT, stream.next()).await.unwrap().unwrap().unwrap()
    }

    fn keys(message: &pb::WatchFeatureFlagsResponse) -> Vec<&str> {
        message.feature_flags.iter().map(|flag| flag.key.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn idle_watch_sends_heartbeats() {
        let mirror = mirror();
        let mut stream = watch(&mirror, &["a"]);
        assert_eq!(next(&mut stream).await.revision, 0);
        // A change of another flag sends nothing.
        change(&mirror, "b");
        let begun = Instant::now();
        let heartbeat = next(&mut stream).await;
        assert_eq!((heartbeat.revision, heartbeat.caught_up, heartbeat.feature_flags.len()), (1, true, 0));
        assert_eq!(begun.elapsed(), HEARTBEAT);
        change(&mirror, "a");
        assert_eq!(keys(&next(&mut stream).await), ["a"]);
        assert_eq!(begun.elapsed(), HEARTBEAT + MIN_INTERVAL, "sent without waiting for the next heartbeat");
    }

    #[tokio::test(start_paused = true)]
    async fn full_message_is_followed_by_caught_up_at_once() {
        let mirror = mirror();
        for n in 0..CHUNK_SIZE {
            change(&mirror, &format!("flag-{n}"));
        }
        let mut stream = watch(&mirror, &[]);
        let begun = Instant::now();
        let full = next(&mut stream).await;
        assert_eq!((full.feature_flags.len(), full.caught_up), (CHUNK_SIZE, false));
        let last = next(&mut stream).await;
        assert_eq!((last.feature_flags.len(), last.caught_up, begun.elapsed()), (0, true, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn burst_is_throttled_and_single_change_is_not() {
        let mirror = mirror();
        let mut stream = watch(&mirror, &[]);
        next(&mut stream).await;
        // The transport polls for the next message as soon as it has taken one.
        assert!(stream.next().now_or_never().is_none());
        sleep(MIN_INTERVAL).await;
        change(&mirror, "a");
        let begun = Instant::now();
        assert_eq!(keys(&next(&mut stream).await), ["a"]);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let burst = async {
            for _ in 0..100 {
                change(&mirror, "b");
                change(&mirror, "a");
                sleep(Duration::from_millis(1)).await;
            }
        };
        let mut messages = 0;
        let listening = async {
            loop {
                let message = next(&mut stream).await;
                assert!(message.feature_flags.len() <= 2);
                messages += 1;
                if message.revision == 201 {
                    return;
                }
            }
        };
        tokio::join!(burst, listening);
        assert!((18..=22).contains(&messages), "{messages} messages in 100 ms");
    }

    #[tokio::test]
    async fn dropped_stream_ends_its_subscription() {
        let mirror = mirror();
        let streams: Vec<_> = [&[][..], &["a"], &["a", "b"]].iter().map(|keys| watch(&mirror, keys)).collect();
        assert_eq!(mirror.registrations(), 4, "1 for all flags, 1 for a, 2 for a and b");
        drop(streams);
        assert_eq!(mirror.registrations(), 0);
        change(&mirror, "a");
    }

    #[tokio::test]
    async fn watch_ends_when_the_log_is_replaced() {
        let mirror = mirror();
        let mut stream = watch(&mirror, &["a"]);
        next(&mut stream).await;
        mirror.replace(State::empty(Uuid::max()));
        let ended = stream.next().await.unwrap().unwrap_err();
        assert_eq!(ended.code(), tonic::Code::FailedPrecondition);
        assert!(stream.next().await.is_none());
    }
}
