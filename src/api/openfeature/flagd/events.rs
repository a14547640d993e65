//! EventStream: the keys of changed flags.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tonic::Status;

use crate::api::streams::{HEARTBEAT, MESSAGE_BYTES};
use crate::domain::Revision;
use crate::domain::flag::Flag;
use crate::domain::state::State;
use crate::domain::text::FlagKey;
use crate::mirror::Mirror;

/// The minimum time between two events. A client drops its cached value when an event names the flag; that need not happen more
/// often.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// The change type of a removed or archived flag.
const DELETE: &str = "delete";

/// The most removed keys in one event: well under a mebibyte.
const REMOVED_PER_EVENT: usize = 4_096;

/// The most bytes that naming a flag takes besides its key.
const BYTES_PER_FLAG: usize = 64;

/// The events of one stream, in either version.
pub(super) type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// An event.
pub(super) struct Event {
    /// The event's type in flagd's protocol.
    pub kind: &'static str,
    /// The event's data.
    pub data: Option<Struct>,
}

impl Event {
    fn changes(kinds: impl IntoIterator<Item = (String, &'static str)>) -> Self {
        let text = |kind: &str| Value { kind: Some(Kind::StringValue(kind.to_owned())) };
        let flags = kinds.into_iter().map(|(key, kind)| (key, object([("type".to_owned(), text(kind))])));
        let data = Struct { fields: [("flags".to_owned(), object(flags))].into() };
        Self { kind: "configuration_change", data: Some(data) }
    }

    fn removed(keys: &[FlagKey]) -> Self {
        Self::changes(keys.iter().map(|key| (key.to_string(), DELETE)))
    }

    fn plain(kind: &'static str) -> Self {
        Self { kind, data: None }
    }
}

/// The stream: first the keys of all flags, since a client may hold cached values from an earlier stream; then the keys of flags
/// that change.
pub(super) fn events<T>(mirror: Arc<Mirror>) -> Events<T>
where
    T: From<Event> + Send + 'static,
{
    Box::pin(async_stream::try_stream! {
        yield T::from(Event::plain("provider_ready"));
        let mut subscription = mirror.subscribe(None);
        let mut through = None;
        loop {
            // No later change names these keys: clients must drop cached values now.
            let removed = if through.is_none() { mirror.removed_keys() } else { Vec::new() };
            for keys in removed.chunks(REMOVED_PER_EVENT) {
                yield T::from(Event::removed(keys));
            }
            let Some(changes) = subscription.read(|state| Changes::since(state, through.unwrap_or(0))) else {
                // The log was replaced: all flags may differ.
                subscription = mirror.subscribe(None);
                through = None;
                continue;
            };
            let has_more = changes.has_more;
            // The first event is sent even without flags.
            if through.is_none() || !changes.flags.is_empty() {
                through = Some(changes.through);
                yield T::from(changes.into());
            }
            if !has_more && !subscription.changed_within(HEARTBEAT, MIN_INTERVAL).await {
                yield T::from(Event::plain("keep_alive"));
            }
        }
    })
}

/// Changed flags, as many as fit into a message.
struct Changes {
    flags: Vec<Arc<Flag>>,
    /// All changes up to this revision are included.
    through: Revision,
    /// Whether more flags have changed.
    has_more: bool,
}

impl Changes {
    fn since(state: &State, revision: Revision) -> Self {
        let mut changed = state.flags_since(revision).peekable();
        let (mut flags, mut bytes) = (Vec::new(), 0);
        while let Some(flag) = changed.next_if(|flag| bytes + flag.key.as_str().len() + BYTES_PER_FLAG <= MESSAGE_BYTES)
        {
            bytes += flag.key.as_str().len() + BYTES_PER_FLAG;
            flags.push(Arc::clone(flag));
        }
        let through = flags.last().map_or(revision, |flag| flag.revision);
        Self { flags, through, has_more: changed.peek().is_some() }
    }
}

impl From<Changes> for Event {
    fn from(changes: Changes) -> Self {
        Self::changes(changes.flags.iter().map(|flag| (flag.key.to_string(), change_type(flag))))
    }
}

fn object(fields: impl IntoIterator<Item = (String, Value)>) -> Value {
    Value { kind: Some(Kind::StructValue(Struct { fields: fields.into_iter().collect() })) }
}

/// The type of the flag's last change, in flagd's terms.
fn change_type(flag: &Flag) -> &'static str {
    match flag.archived_at {
        Some(_) => DELETE,
        None if flag.created_at == flag.updated_at => "write",
        None => "update",
    }
}
