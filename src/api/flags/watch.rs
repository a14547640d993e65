//! WatchFeatureFlags: flags as they are, and every change to them.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use prost::Message;
use tonic::Status;
use uuid::Uuid;

use crate::api::errors::status;
use crate::api::feed::Feed;
use crate::api::reader::Reads;
use crate::api::validate::Fields;
use crate::api::{PAGE_BYTES, pb};
use crate::domain::error::Error;
use crate::domain::flag::Flag;
use crate::domain::state::{FlagRef, Head, State};
use crate::domain::text::FlagKey;
use crate::domain::{Hash, Revision};

/// Keys that may be named.
const MOST_KEYS: usize = 1_000;

/// Flags that are looked up at once: the mirror cannot move meanwhile.
const PAGE: usize = 1_000;

/// A message follows the one before it no sooner than this. The first change after a quiet time goes out at once; of a
/// burst each flag is sent once, and the burst costs the server the same however many flips it has.
pub(super) const PACE: Duration = Duration::from_millis(5);

/// What a stream sends.
pub(super) type Messages = Pin<Box<dyn Stream<Item = Result<pb::WatchFeatureFlagsResponse, Status>> + Send>>;

/// WatchFeatureFlags, parsed.
pub(super) struct Watch {
    pub after: Option<Revision>,
    pub keys: Option<Vec<FlagKey>>,
    log_id: Option<Uuid>,
    after_hash: Option<Hash>,
}

impl Watch {
    pub fn parse(request: pb::WatchFeatureFlagsRequest) -> Result<Self, Error> {
        let mut fields = Fields::default();
        let after = fields.at_least("after_revision", 0, request.after_revision);
        if request.keys.len() > MOST_KEYS {
            fields.violate::<()>("keys", format!("must be at most {MOST_KEYS}"));
        }
        let parse = |(index, key): (usize, &String)| fields.parse(&format!("keys[{index}]"), key, FlagKey::parse);
        // Every key is looked at, so that every fault is told.
        let keys: Vec<_> = request.keys.iter().take(MOST_KEYS).enumerate().map(parse).collect();
        let mut keys: Vec<_> = keys.into_iter().flatten().collect();
        keys.sort_unstable();
        keys.dedup();
        let log_id = request.log_id.as_deref().and_then(|id| fields.uuid("log_id", id));
        let given = Some(request.after_hash).filter(|hash| !hash.is_empty());
        let after_hash = fields.after_hash(request.after_revision, given);
        let keys = Some(keys).filter(|keys| !keys.is_empty());
        fields.finish(Some(Self { after, keys, log_id, after_hash }))
    }

    /// Whether the log is the one that the client has read so far.
    pub async fn check(&self, reads: &Reads) -> Result<(), Status> {
        let head = reads.read(|state| *state.head())?;
        if self.log_id.is_some_and(|id| id != head.log_id) {
            return Err(status(Error::LogMismatch("log_id")));
        }
        let (Some(after), Some(given)) = (self.after, self.after_hash) else { return Ok(()) };
        // Where nobody can tell, the client is believed.
        match reads.hash_at(after).await {
            Some(there) if there != given => Err(status(Error::LogMismatch("after_hash"))),
            _ => Ok(()),
        }
    }

    /// The stream itself. It holds nothing but how far it has come: what is to be sent is looked up when the client takes
    /// it, so that a slow one costs nothing and misses nothing.
    pub fn messages(self, feed: Feed) -> Messages {
        let mut through = self.after.unwrap_or(0);
        // What comes in any case: the first message, a heartbeat, and that there is no more after a message that was full.
        let mut due = true;
        Box::pin(async_stream::try_stream! {
            loop {
                let subscription = feed.subscription();
                let part = subscription.read(|state| Part::read(state, through, subscription.keys()));
                let message = part.ok_or_else(|| status(Error::LogMismatch("the stream's cursor")))?.message();
                let caught_up = message.caught_up;
                through = message.revision;
                if due || !message.feature_flags.is_empty() {
                    yield message;
                }
                due = !caught_up || !feed.changed().await;
            }
        })
    }
}

/// What was found at one look.
struct Part {
    /// In the order of their last changes.
    flags: Vec<Arc<Flag>>,
    /// Whether there may be more.
    full: bool,
    head: Head,
}

impl Part {
    fn read(state: &State, through: Revision, keys: Option<&[FlagKey]>) -> Self {
        let mut flags: Vec<_> = match keys {
            None => state.flags_since(through).take(PAGE).cloned().collect(),
            Some(keys) => {
                let named = keys.iter().filter_map(|key| state.flag(&FlagRef::Key(key.clone())));
                named.filter(|flag| flag.revision > through).cloned().collect()
            }
        };
        if keys.is_some() {
            flags.sort_unstable_by_key(|flag| flag.revision);
        }
        let full = keys.is_none() && flags.len() >= PAGE;
        Self { flags, full, head: *state.head() }
    }

    /// As much of it as fits into a message.
    fn message(self) -> pb::WatchFeatureFlagsResponse {
        let Self { flags, full, head } = self;
        let mut bytes = 0;
        let fits = |flag: &pb::FeatureFlag| {
            let before = bytes;
            bytes += flag.encoded_len();
            before < PAGE_BYTES
        };
        let feature_flags: Vec<_> = flags.iter().map(pb::FeatureFlag::from).take_while(fits).collect();
        let caught_up = !full && feature_flags.len() == flags.len();
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
    use crate::api::HEARTBEAT;
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
        let mut watch = Watch::parse(pb::WatchFeatureFlagsRequest { keys, ..Default::default() }).unwrap();
        let feed = Feed::new(mirror, watch.keys.take(), PACE);
        watch.messages(feed)
    }

    async fn next(stream: &mut Messages) -> pb::WatchFeatureFlagsResponse {
        tokio::time::timeout(2 * HEARTBEAT, stream.next()).await.unwrap().unwrap().unwrap()
    }

    fn keys(message: &pb::WatchFeatureFlagsResponse) -> Vec<&str> {
        message.feature_flags.iter().map(|flag| flag.key.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_stream_says_after_a_while_how_far_it_is() {
        let mirror = mirror();
        let mut stream = watch(&mirror, &["a"]);
        assert_eq!(next(&mut stream).await.revision, 0);
        // Other flags are none of its business, and do not make it speak.
        change(&mirror, "b");
        let begun = Instant::now();
        let heartbeat = next(&mut stream).await;
        assert_eq!((heartbeat.revision, heartbeat.caught_up, heartbeat.feature_flags.len()), (1, true, 0));
        assert_eq!(begun.elapsed(), HEARTBEAT);
        change(&mirror, "a");
        assert_eq!(keys(&next(&mut stream).await), ["a"]);
        assert_eq!(begun.elapsed(), HEARTBEAT + PACE, "no waiting for the next heartbeat");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_full_message_it_is_said_at_once_that_there_is_no_more() {
        let mirror = mirror();
        for n in 0..PAGE {
            change(&mirror, &format!("flag-{n}"));
        }
        let mut stream = watch(&mirror, &[]);
        let begun = Instant::now();
        let full = next(&mut stream).await;
        assert_eq!((full.feature_flags.len(), full.caught_up), (PAGE, false));
        let last = next(&mut stream).await;
        assert_eq!((last.feature_flags.len(), last.caught_up, begun.elapsed()), (0, true, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_told_of_at_its_own_pace_and_a_single_change_at_once() {
        let mirror = mirror();
        let mut stream = watch(&mirror, &[]);
        next(&mut stream).await;
        // As the transport does: it asks for the next message as soon as it has taken one.
        assert!(stream.next().now_or_never().is_none());
        sleep(PACE).await;
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
        let mut told = 0;
        let listening = async {
            loop {
                let message = next(&mut stream).await;
                assert!(message.feature_flags.len() <= 2);
                told += 1;
                if message.revision == 201 {
                    return;
                }
            }
        };
        tokio::join!(burst, listening);
        assert!((18..=22).contains(&told), "{told} messages in 100 ms");
    }

    #[tokio::test]
    async fn a_subscription_ends_with_its_stream() {
        let mirror = mirror();
        let streams: Vec<_> = [&[][..], &["a"], &["a", "b"]].iter().map(|keys| watch(&mirror, keys)).collect();
        assert_eq!(mirror.subscriptions(), 3);
        drop(streams);
        assert_eq!(mirror.subscriptions(), 0);
        change(&mirror, "a");
    }

    #[tokio::test]
    async fn a_stream_does_not_outlive_its_log() {
        let mirror = mirror();
        let mut stream = watch(&mirror, &["a"]);
        next(&mut stream).await;
        mirror.replace(State::empty(Uuid::max()));
        let ended = stream.next().await.unwrap().unwrap_err();
        assert_eq!(ended.code(), tonic::Code::FailedPrecondition);
        assert!(stream.next().await.is_none());
    }
}
