//! WatchFeatureFlags: flags as they are, then every change to them.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use prost::Message;
use tonic::Status;
use uuid::Uuid;

use crate::api::middleware::limits::{SharedMessage, Unsent};
use crate::api::pb;
use crate::api::reader::StateReader;
use crate::api::streams::{HEARTBEAT, MESSAGE_BYTES, MessageCache};
use crate::api::validate::RequestValidator;
use crate::domain::error::Error;
use crate::domain::flag::Flag;
use crate::domain::state::{EnvironmentScope, Head, State};
use crate::domain::text::{EnvironmentKey, FlagKey};
use crate::domain::{Hash, Revision};
use crate::mirror::{FlagSelection, Position, Subscription};

/// The most keys in one request.
const MAX_KEYS: usize = 1_000;

/// The most flags that one read of the state returns. The mirror cannot move during a read.
const CHUNK_SIZE: usize = 1_000;

/// The most changed flags that one read of the state looks at, for those with some keys in all environments.
const WALK_SIZE: usize = 10_000;

/// The messages of one watch.
pub(super) type Messages = Pin<Box<dyn Stream<Item = Result<SharedMessage, Status>> + Send>>;

/// The messages of all watches, by the flags that they watch, and by what they have seen.
pub(super) type WatchCache = MessageCache<(FlagSelection, Revision), EncodedChunk>;

/// WatchFeatureFlags, parsed.
pub(super) struct FlagWatch {
    pub after: Option<Revision>,
    /// The environments that the request names, or else the caller's own.
    pub environments: Option<EnvironmentScope>,
    /// Sorted. `None` for all flags.
    pub keys: Option<Arc<[FlagKey]>>,
    log_id: Option<Uuid>,
    after_hash: Option<Hash>,
}

impl FlagWatch {
    pub fn parse(request: pb::WatchFeatureFlagsRequest, own: Option<&EnvironmentKey>) -> Result<Self, Error> {
        let mut validator = RequestValidator::default();
        let environments = validator.environments(request.environment.as_deref(), own);
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
        let keys = Some(keys).filter(|keys| !keys.is_empty()).map(Into::into);
        validator.finish(Some(Self { after, environments, keys, log_id, after_hash }))
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

    /// The stream. It keeps only its cursor. It reads the state once the client has taken the previous message, so that a slow client
    /// costs no memory and misses nothing.
    pub fn messages(self, mut subscription: Subscription, cache: Arc<WatchCache>, unsent: Unsent) -> Messages {
        let mut seen = self.after.unwrap_or(0);
        // The first message, a heartbeat, and the message after a full one are sent even without flags.
        let mut send_even_if_empty = true;
        Box::pin(async_stream::try_stream! {
            loop {
                let chunk = EncodedChunk::after(seen, &subscription, &cache)?;
                seen = chunk.seen;
                let caught_up = chunk.caught_up;
                if send_even_if_empty || chunk.has_flags {
                    yield chunk.message;
                }
                send_even_if_empty |= chunk.has_flags;
                if caught_up {
                    // Without a change in this time, the next message is a heartbeat.
                    let has_changed = subscription.changed_within(HEARTBEAT).await;
                    send_even_if_empty = !has_changed;
                }
                unsent.all_sent().await;
            }
        })
    }
}

/// A message, encoded. It is the same for all watches of the same keys that have seen the same flags.
#[derive(Clone)]
pub(super) struct EncodedChunk {
    message: SharedMessage,
    /// The cursor of a client that has this message: the last change of a flag that it has seen. Not the message's `revision`, which
    /// other changes move too: watches that have seen the same flags share their next message.
    seen: Revision,
    has_flags: bool,
    caught_up: bool,
}

impl EncodedChunk {
    /// The changes after `seen`.
    fn after(seen: Revision, subscription: &Subscription, cache: &WatchCache) -> Result<Self, Status> {
        // `read` fails once the log was replaced. The cache does not check that: its message may be of another log.
        let mismatch = || Error::LogMismatch("the stream's cursor");
        subscription.read(|_| ()).ok_or_else(mismatch)?;
        cache.get((subscription.selection().clone(), seen), subscription.needed_position(), || {
            let read = |state: &State| (Position::of(state), Chunk::read(state, seen, subscription.selection()));
            let (position, chunk) = subscription.read(read).ok_or_else(mismatch)?;
            let chunk = chunk.encode()?;
            Ok((position, chunk.message.len() + subscription.selection().size(), chunk))
        })
    }
}

/// The flags that one read of the state found.
struct Chunk {
    /// In the order of their last changes.
    flags: Vec<Arc<Flag>>,
    /// The cursor of a client that has all of them.
    seen: Revision,
    /// The last change that was looked at, if more flags may have changed after it.
    more_after: Option<Revision>,
    head: Head,
}

impl Chunk {
    fn read(state: &State, seen: Revision, FlagSelection { scope, keys }: &FlagSelection) -> Self {
        let head = *state.head();
        let changed = |most: usize| -> (Vec<Arc<Flag>>, Option<Revision>) {
            let flags: Vec<_> = state.flags_since(scope, seen).take(most).cloned().collect();
            let more_after = flags.last().filter(|_| flags.len() >= most).map(|flag| flag.revision);
            (flags, more_after)
        };
        match (scope, keys) {
            (_, None) => {
                let (flags, more_after) = changed(CHUNK_SIZE);
                let seen = flags.last().map_or(seen, |flag| flag.revision);
                Self { flags, seen, more_after, head }
            }
            (EnvironmentScope::One(environment), Some(keys)) => {
                let watched = keys.iter().filter_map(|key| state.flag_in(environment, key));
                let mut flags: Vec<_> = watched.filter(|flag| flag.revision > seen).cloned().collect();
                flags.sort_unstable_by_key(|flag| flag.revision);
                let seen = flags.last().map_or(seen, |flag| flag.revision);
                Self { flags, seen, more_after: None, head }
            }
            // A look at each key in each environment may take too long, and a look at the same changes at each message as well.
            (EnvironmentScope::All, Some(keys)) => {
                let (mut flags, more_after) = changed(WALK_SIZE);
                flags.retain(|flag| keys.binary_search(&flag.key).is_ok());
                Self { flags, seen: more_after.unwrap_or(head.revision), more_after, head }
            }
        }
    }

    /// A message with as many of the flags as fit.
    fn encode(self) -> Result<EncodedChunk, Error> {
        let Self { flags, seen, more_after, head } = self;
        let mut bytes = 0;
        let fits = |flag: &pb::FeatureFlag| {
            let before = bytes;
            bytes += flag.encoded_len();
            before < MESSAGE_BYTES
        };
        let feature_flags: Vec<_> = flags.iter().map(pb::FeatureFlag::from).take_while(fits).collect();
        let has_flags = !feature_flags.is_empty();
        let last = feature_flags.last().filter(|_| feature_flags.len() < flags.len()).map(|flag| flag.revision);
        // Where the message ends, unless it ends at the head.
        let end = last.or(more_after);
        let caught_up = end.is_none();
        let message = SharedMessage::encode(&pb::WatchFeatureFlagsResponse {
            feature_flags,
            revision: end.unwrap_or(head.revision),
            caught_up,
            log_id: head.log_id.to_string(),
            hash: if caught_up { head.hash.to_vec() } else { Vec::new() },
        })?;
        Ok(EncodedChunk { message, seen: last.unwrap_or(seen), has_flags, caught_up })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{FutureExt, StreamExt};
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::domain::state::Delta;
    use crate::mirror::{ClientConnection, MIN_INTERVAL, Mirror};

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
        watch_in(mirror, &EnvironmentScope::One(EnvironmentKey::default_environment().clone()), keys, Arc::default())
    }

    fn watch_in(mirror: &Arc<Mirror>, scope: &EnvironmentScope, keys: Vec<String>, cache: Arc<WatchCache>) -> Messages {
        let watch = FlagWatch::parse(pb::WatchFeatureFlagsRequest { keys, ..Default::default() }, None).unwrap();
        let selection = FlagSelection { scope: scope.clone(), keys: watch.keys.clone() };
        watch.messages(mirror.subscribe(selection, ClientConnection::default()), cache, Unsent::default())
    }

    async fn next(stream: &mut Messages) -> pb::WatchFeatureFlagsResponse {
        tokio::time::timeout(2 * HEARTBEAT, stream.next()).await.unwrap().unwrap().unwrap().decode()
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
        assert_eq!(begun.elapsed(), HEARTBEAT, "sent without waiting for the next heartbeat");
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
        let ended = stream.next().await.unwrap().err().unwrap();
        assert_eq!(ended.code(), tonic::Code::FailedPrecondition);
        assert!(stream.next().await.is_none());
    }

    fn shared(mirror: &Arc<Mirror>, keys: &[&str], cache: &Arc<WatchCache>) -> Messages {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        let scope = EnvironmentScope::One(EnvironmentKey::default_environment().clone());
        watch_in(mirror, &scope, keys, Arc::clone(cache))
    }

    #[tokio::test(start_paused = true)]
    async fn message_is_encoded_once_for_all_watches() {
        let mirror = mirror();
        let cache = Arc::default();
        change(&mirror, "a");
        for keys in [&[][..], &["a", "b"]] {
            let mut streams = [shared(&mirror, keys, &cache), shared(&mirror, keys, &cache)];
            for _ in 0..3 {
                let mut addresses = Vec::new();
                for stream in &mut streams {
                    addresses.push(stream.next().await.unwrap().unwrap().shared.as_bytes().as_ptr());
                    assert!(stream.next().now_or_never().is_none());
                }
                assert_eq!(addresses[0], addresses[1]);
                change(&mirror, "a");
            }
        }
    }

    /// What keys take counts for the cache, which keeps the list of each message.
    #[tokio::test]
    async fn lists_of_keys_do_not_fill_the_cache() {
        let mirror = mirror();
        let cache: Arc<WatchCache> = Arc::default();
        let lists = (0..200).map(|list| (0..1_000).map(|n| format!("{list}-{n}-{}", "k".repeat(100))).collect());
        let lists: Vec<Vec<String>> = lists.collect();
        let bytes = |keys: &[String]| keys.iter().map(String::len).sum::<usize>();
        assert!(lists.iter().map(|keys| bytes(keys)).sum::<usize>() > 20 << 20);
        for keys in lists {
            let scope = EnvironmentScope::One(EnvironmentKey::default_environment().clone());
            next(&mut watch_in(&mirror, &scope, keys, Arc::clone(&cache))).await;
            assert!(cache.len() <= 40, "{} lists", cache.len());
        }
    }

    /// Watches of the same and of other keys, whose clients read at different speeds, and some of which begin later.
    #[tokio::test(start_paused = true)]
    async fn watches_that_share_messages_miss_nothing() {
        const CHANGES: Revision = 1_000;
        const KEYS: [&str; 4] = ["a", "b", "c", "d"];
        let mirror = mirror();
        let cache = Arc::default();
        let mut watches = tokio::task::JoinSet::new();
        let mut random = 1_u64;
        let mut next_random = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for _ in 0..CHANGES {
            if watches.len() < 40 && next_random(5) == 0 {
                let keys = [&[][..], &["a"], &["a", "b"], &["d"], &["e"]][watches.len() % 5];
                let mut stream = shared(&mirror, keys, &cache);
                let pause = Duration::from_millis(next_random(40));
                watches.spawn(async move {
                    let (mut known, mut revision) = (std::collections::BTreeMap::new(), 0);
                    while revision < CHANGES {
                        let message = next(&mut stream).await;
                        assert!(message.revision >= revision, "{} after {revision}", message.revision);
                        revision = message.revision;
                        for flag in message.feature_flags {
                            let old = known.insert(flag.key, flag.revision);
                            assert!(old.is_none_or(|old| old < flag.revision), "{old:?}");
                        }
                        sleep(pause).await;
                    }
                    (keys, known)
                });
            }
            change(&mirror, KEYS[next_random(4) as usize]);
            sleep(Duration::from_millis(next_random(3))).await;
        }
        assert_eq!(watches.len(), 40);
        let now = mirror.read(|state| {
            state.flags_since(&EnvironmentScope::All, 0).map(|flag| (flag.key.to_string(), flag.revision)).collect()
        });
        let now: Vec<(String, Revision)> = now.unwrap();
        while let Some(watched) = watches.join_next().await {
            let (keys, known) = watched.unwrap();
            let expected = now.iter().filter(|(key, _)| keys.is_empty() || keys.contains(&key.as_str())).cloned();
            assert_eq!(known, expected.collect(), "{keys:?}");
        }
    }
}
