//! EventStream: the keys of an environment's changed flags.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tonic::Status;

use crate::api::middleware::limits::{SharedMessage, Unsent};
use crate::api::pb::flagd::evaluation::v2::EventStreamResponse;
use crate::api::streams::{HEARTBEAT, MESSAGE_BYTES, MessageCache};
use crate::domain::Revision;
use crate::domain::error::Error;
use crate::domain::flag::Flag;
use crate::domain::state::{EnvironmentScope, State};
use crate::domain::text::{EnvironmentKey, FlagKey};
use crate::mirror::{ClientConnection, FlagSelection, Mirror, Position, Subscription};

/// The change type of a flag that the log no longer has.
const DELETE: &str = "delete";

/// The most removed keys in one event: well under a mebibyte.
const REMOVED_PER_EVENT: usize = 4_096;

/// The most bytes that naming a flag takes besides its key.
const BYTES_PER_FLAG: usize = 64;

/// The events of one stream, in either version: both encode them in the same way.
pub(super) type Events = Pin<Box<dyn Stream<Item = Result<SharedMessage, Status>> + Send>>;

/// The events of all streams, by environment and by what they have seen.
pub(super) type EventCache = MessageCache<(EnvironmentKey, Revision), EncodedChanges>;

/// An event.
struct Event {
    /// The event's type in flagd's protocol.
    kind: &'static str,
    /// The event's data.
    data: Option<Struct>,
}

impl Event {
    fn changes(kinds: impl IntoIterator<Item = (String, &'static str)>) -> Self {
        let text = |kind: &str| Value { kind: Some(Kind::StringValue(kind.to_owned())) };
        let flags = kinds.into_iter().map(|(key, kind)| (key, object([("type".to_owned(), text(kind))])));
        let data = Struct { fields: [("flags".to_owned(), object(flags))].into() };
        Self { kind: "configuration_change", data: Some(data) }
    }

    fn of(flags: &[Arc<Flag>]) -> Self {
        Self::changes(flags.iter().map(|flag| (flag.key.to_string(), change_type(flag))))
    }

    fn removed(keys: &[FlagKey]) -> Self {
        Self::changes(keys.iter().map(|key| (key.to_string(), DELETE)))
    }

    fn plain(kind: &'static str) -> Self {
        Self { kind, data: None }
    }

    fn encode(self) -> Result<SharedMessage, Error> {
        SharedMessage::encode(&EventStreamResponse { r#type: self.kind.to_owned(), data: self.data })
    }
}

/// The stream: first the keys of all flags of the environment, since a client may hold cached values from an earlier stream; then the keys of flags
/// that change.
pub(super) fn events(
    mirror: Arc<Mirror>,
    environment: EnvironmentKey,
    connection: ClientConnection,
    cache: Arc<EventCache>,
    unsent: Unsent,
) -> Events {
    Box::pin(async_stream::try_stream! {
        yield Event::plain("provider_ready").encode()?;
        let selection = FlagSelection::all_in(EnvironmentScope::One(environment.clone()));
        let mut subscription = mirror.subscribe(selection.clone(), connection.clone());
        let mut seen = None;
        loop {
            // No later change names these keys: clients must drop cached values now.
            let removed = if seen.is_none() { mirror.removed_keys(&environment) } else { Vec::new() };
            for keys in removed.chunks(REMOVED_PER_EVENT) {
                yield Event::removed(keys).encode()?;
            }
            let Some(changes) = EncodedChanges::after(&environment, seen.unwrap_or(0), &subscription, &cache)? else {
                // The log was replaced: all flags may differ.
                subscription = mirror.subscribe(selection.clone(), connection.clone());
                seen = None;
                continue;
            };
            // The first event is sent even without flags.
            if seen.is_none() || changes.has_flags {
                yield changes.message;
            }
            seen = Some(changes.seen);
            if !changes.has_more && !subscription.changed_within(HEARTBEAT).await {
                yield Event::plain("keep_alive").encode()?;
            }
            unsent.all_sent().await;
        }
    })
}

/// An event of changes, encoded.
#[derive(Clone)]
pub(super) struct EncodedChanges {
    message: SharedMessage,
    /// The last change that a client has seen after it.
    seen: Revision,
    has_flags: bool,
    /// Whether more flags have changed.
    has_more: bool,
}

impl EncodedChanges {
    /// The changes after `seen`; `None` if the log was replaced.
    fn after(
        environment: &EnvironmentKey,
        seen: Revision,
        subscription: &Subscription,
        cache: &EventCache,
    ) -> Result<Option<Self>, Error> {
        if subscription.read(|_| ()).is_none() {
            return Ok(None);
        }
        let built = cache.get((environment.clone(), seen), subscription.needed_position(), || {
            let read =
                |state: &State| (Position::of(state), Changes::since(state, &subscription.selection().scope, seen));
            let (position, changes) = subscription.read(read).ok_or(None)?;
            let Changes { flags, through, has_more } = changes;
            let has_flags = !flags.is_empty();
            let message = Event::of(&flags).encode().map_err(Some)?;
            Ok((position, message.len(), Self { message, seen: through, has_flags, has_more }))
        });
        match built {
            Ok(changes) => Ok(Some(changes)),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error),
        }
    }
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
    fn since(state: &State, scope: &EnvironmentScope, revision: Revision) -> Self {
        let mut changed = state.flags_since(scope, revision).peekable();
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

fn object(fields: impl IntoIterator<Item = (String, Value)>) -> Value {
    Value { kind: Some(Kind::StructValue(Struct { fields: fields.into_iter().collect() })) }
}

/// The type of the flag's last change, in flagd's terms.
fn change_type(flag: &Flag) -> &'static str {
    if flag.created_at == flag.updated_at { "write" } else { "update" }
}
