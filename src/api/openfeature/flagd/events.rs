//! EventStream: which flags have changed.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tonic::Status;

use crate::api::PAGE_BYTES;
use crate::api::feed::Feed;
use crate::domain::Revision;
use crate::domain::flag::Flag;
use crate::domain::state::State;
use crate::domain::text::FlagKey;
use crate::mirror::Mirror;

/// Clients drop what they remember of a flag with each event that names it; a flag that is flipped all the time need not
/// be named all the time.
const PACE: Duration = Duration::from_millis(10);

/// That a flag is no more.
const DELETE: &str = "delete";

/// Flags that have vanished, named at once: well under a mebibyte.
const VANISHED: usize = 4_096;

/// What naming a flag takes at the most besides its key, in bytes.
const NAMING_BYTES: usize = 64;

/// What a stream sends, in either version.
pub(super) type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Something that a client is told.
pub(super) struct Event {
    /// What kind of thing.
    pub kind: &'static str,
    /// What there is to say about it.
    pub data: Option<Struct>,
}

impl Event {
    fn changes(kinds: impl IntoIterator<Item = (String, &'static str)>) -> Self {
        let text = |kind: &str| Value { kind: Some(Kind::StringValue(kind.to_owned())) };
        let flags = kinds.into_iter().map(|(key, kind)| (key, object([("type".to_owned(), text(kind))])));
        let data = Struct { fields: [("flags".to_owned(), object(flags))].into() };
        Self { kind: "configuration_change", data: Some(data) }
    }

    fn vanished(keys: &[FlagKey]) -> Self {
        Self::changes(keys.iter().map(|key| (key.to_string(), DELETE)))
    }

    fn plain(kind: &'static str) -> Self {
        Self { kind, data: None }
    }
}

/// The stream itself. What a client knows of flags is up to date once it has read what changed since the beginning of the
/// log, which is all of them, and from then on what changed since.
pub(super) fn events<T>(mirror: Arc<Mirror>) -> Events<T>
where
    T: From<Event> + Send + 'static,
{
    Box::pin(async_stream::try_stream! {
        yield T::from(Event::plain("provider_ready"));
        let mut feed = Feed::new(&mirror, None, PACE);
        let mut told = None;
        loop {
            // What a client remembers of these, nothing else would tell it to forget.
            let vanished = if told.is_none() { mirror.vanished() } else { Vec::new() };
            for keys in vanished.chunks(VANISHED) {
                yield T::from(Event::vanished(keys));
            }
            let Some(changes) = feed.subscription().read(|state| Changes::since(state, told.unwrap_or(0))) else {
                // The log is another, and all may be different in it.
                feed = Feed::new(&mirror, None, PACE);
                told = None;
                continue;
            };
            let more = changes.more;
            // With no flags at all, that is what there is to tell at first.
            if told.is_none() || !changes.flags.is_empty() {
                told = Some(changes.through);
                yield T::from(changes.into());
            }
            if !more && !feed.changed().await {
                yield T::from(Event::plain("keep_alive"));
            }
        }
    })
}

/// Flags that have changed: all of them or, where that would make too large a message, the first.
struct Changes {
    flags: Vec<Arc<Flag>>,
    /// The revision up to which nothing is missing.
    through: Revision,
    /// Whether there are more.
    more: bool,
}

impl Changes {
    fn since(state: &State, revision: Revision) -> Self {
        let mut changed = state.flags_since(revision).peekable();
        let (mut flags, mut bytes) = (Vec::new(), 0);
        while let Some(flag) = changed.next_if(|flag| bytes + flag.key.as_str().len() + NAMING_BYTES <= PAGE_BYTES) {
            bytes += flag.key.as_str().len() + NAMING_BYTES;
            flags.push(Arc::clone(flag));
        }
        let through = flags.last().map_or(revision, |flag| flag.revision);
        Self { flags, through, more: changed.peek().is_some() }
    }
}

impl From<Changes> for Event {
    fn from(changes: Changes) -> Self {
        Self::changes(changes.flags.iter().map(|flag| (flag.key.to_string(), kind(flag))))
    }
}

fn object(fields: impl IntoIterator<Item = (String, Value)>) -> Value {
    Value { kind: Some(Kind::StructValue(Struct { fields: fields.into_iter().collect() })) }
}

/// What has become of a flag since its last change but one, in flagd's words.
fn kind(flag: &Flag) -> &'static str {
    match flag.archived_at {
        Some(_) => DELETE,
        None if flag.created_at == flag.updated_at => "write",
        None => "update",
    }
}
