//! Streams of server-sent events: they tell a client when to fetch the flags again.
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html>

use std::sync::Arc;

use futures::Stream;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response};
use serde::Serialize;
use tonic::Status;
use tonic::body::Body;

use super::etag::FlagsTag;
use crate::api::middleware::limits::{SharedAnswer, SharedBytes, SharedMessage, Unsent};
use crate::api::protocol::ofrep::{EVENT_STREAM, retry_ms, with_header};
use crate::api::streams::{HEARTBEAT, MessageCache};
use crate::domain::error::Error;
use crate::domain::state::{EnvironmentScope, State};
use crate::domain::text::EnvironmentKey;
use crate::mirror::{ClientConnection, FlagSelection, Mirror, Position, Subscription};

/// How long a client waits before it connects again, in milliseconds: at least this long.
const RETRY_MS: u32 = 1_000;

/// A comment, which clients ignore. It keeps proxies from ending a silent connection.
const HEARTBEAT_COMMENT: &str = ":\n\n";

/// For proxies that would collect an answer before they pass it on: nginx reads this header.
static X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The events of all streams: the latest one of each environment.
pub(super) type EventCache = MessageCache<EnvironmentKey, Announcement>;

/// The event that announces a state of the flags.
#[derive(Clone)]
pub(super) struct Announcement {
    /// The tag of the flags, which is the event's id.
    tag: Arc<str>,
    message: SharedMessage,
}

/// The data of an event.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    r#type: &'static str,
    etag: &'a str,
    last_modified: i64,
}

impl Announcement {
    fn new(tag: &FlagsTag) -> Result<Self, Error> {
        let last_modified = tag.changed_at_seconds();
        let tag = tag.to_string();
        let data = Data { r#type: "refetchEvaluation", etag: &tag, last_modified };
        let data = serde_json::to_string(&data).map_err(Error::internal)?;
        let message = message(format!("id: {tag}\nevent: message\ndata: {data}\n\n"));
        Ok(Self { tag: tag.into(), message })
    }

    /// The one of the present state; `None` if the log was replaced.
    fn latest(
        environment: &EnvironmentKey,
        subscription: &Subscription,
        cache: &EventCache,
    ) -> Result<Option<Self>, Error> {
        if subscription.read(|_| ()).is_none() {
            return Ok(None);
        }
        let latest = cache.get(environment.clone(), subscription.needed_position(), || {
            let read = |state: &State| (Position::of(state), FlagsTag::of(state, environment.clone()));
            let (position, tag) = subscription.read(read).ok_or(None)?;
            let announcement = Self::new(&tag).map_err(Some)?;
            Ok((position, announcement.message.len(), announcement))
        });
        match latest {
            Ok(announcement) => Ok(Some(announcement)),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error),
        }
    }
}

/// The answer: an event after each change of a flag of the environment. A client that does not read gets one for all changes meanwhile.
/// `seen` is the tag of the flags that the client has. If they are others by now, the first event comes at once.
pub(super) fn response(
    mirror: Arc<Mirror>,
    environment: EnvironmentKey,
    seen: Option<String>,
    connection: ClientConnection,
    cache: Arc<EventCache>,
) -> Response<Body> {
    let (unsent, scope) = (Unsent::default(), EnvironmentScope::One(environment.clone()));
    let events = events(mirror, environment, seen, connection, cache, unsent.clone());
    // The messages travel in the extensions.
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(SharedAnswer::with(unsent, events));
    response.extensions_mut().insert(scope);
    let response = with_header(response, CONTENT_TYPE, EVENT_STREAM);
    with_header(response, X_ACCEL_BUFFERING.clone(), HeaderValue::from_static("no"))
}

fn events(
    mirror: Arc<Mirror>,
    environment: EnvironmentKey,
    seen: Option<String>,
    connection: ClientConnection,
    cache: Arc<EventCache>,
    unsent: Unsent,
) -> impl Stream<Item = Result<SharedMessage, Status>> {
    async_stream::try_stream! {
        let selection = FlagSelection::all_in(EnvironmentScope::One(environment.clone()));
        let mut subscription = mirror.subscribe(selection.clone(), connection.clone());
        let mut seen = seen.map(Arc::<str>::from);
        yield message(format!("retry: {}\n\n", retry_ms(RETRY_MS)));
        loop {
            let Some(latest) = Announcement::latest(&environment, &subscription, &cache)? else {
                subscription = mirror.subscribe(selection.clone(), connection.clone());
                continue;
            };
            if seen.as_ref() != Some(&latest.tag) {
                yield latest.message;
                seen = Some(latest.tag);
            }
            if !subscription.changed_within(HEARTBEAT).await {
                yield message(HEARTBEAT_COMMENT);
            }
            unsent.all_sent().await;
        }
    }
}

fn message(text: impl Into<String>) -> SharedMessage {
    SharedMessage { head: Default::default(), shared: SharedBytes::new(text.into()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{FutureExt, StreamExt};
    use uuid::Uuid;

    use super::*;
    use crate::domain::flag::Flag;
    use crate::domain::state::{Delta, Head};

    fn mirror(log_id: u128) -> Arc<Mirror> {
        let mirror = Mirror::new(Duration::from_secs(10));
        mirror.replace(State::empty(Uuid::from_u128(log_id)));
        mirror
    }

    fn change(mirror: &Mirror) -> String {
        let base = mirror.read(|state| *state.head()).unwrap();
        let head = Head { revision: base.revision + 1, ..base };
        let flags = vec![Arc::new(Flag::sample("a", head.revision))];
        mirror.apply(&base, head, &Delta { flags, ..Delta::default() });
        tag(mirror)
    }

    fn tag(mirror: &Mirror) -> String {
        let environment = EnvironmentKey::default_environment();
        mirror.read(|state| FlagsTag::of(state, environment.clone())).unwrap().to_string()
    }

    /// The texts of a stream whose client has these flags.
    fn texts(mirror: &Arc<Mirror>, seen: Option<String>) -> impl Stream<Item = String> + Unpin {
        let environment = EnvironmentKey::default_environment().clone();
        let events = events(
            Arc::clone(mirror),
            environment,
            seen,
            ClientConnection::default(),
            Arc::default(),
            Unsent::default(),
        );
        Box::pin(events.map(|message| String::from_utf8(message.unwrap().to_bytes().to_vec()).unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn silent_stream_sends_comments() {
        let mirror = mirror(1);
        let mut texts = texts(&mirror, Some(tag(&mirror)));
        assert!(texts.next().await.unwrap().starts_with("retry: "));
        let began = tokio::time::Instant::now();
        assert_eq!(texts.next().await.unwrap(), ":\n\n");
        assert!(began.elapsed() >= HEARTBEAT);
        assert_eq!(texts.next().await.unwrap(), ":\n\n");
        let changed = change(&mirror);
        assert!(texts.next().await.unwrap().starts_with(&format!("id: {changed}\n")));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_client_gets_one_event_for_many_changes() {
        let mirror = mirror(1);
        let mut texts = texts(&mirror, None);
        texts.next().await.unwrap();
        assert!(texts.next().await.unwrap().starts_with(&format!("id: {}\n", tag(&mirror))), "of what it lacks");
        for _ in 0..100 {
            change(&mirror);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let latest = tag(&mirror);
        let event = texts.next().await.unwrap();
        assert_eq!(
            event,
            format!(
                "id: {latest}\nevent: message\ndata: {{\"type\":\"refetchEvaluation\",\"etag\":\"{latest}\",\"lastModified\":0}}\n\n"
            )
        );
        assert_eq!(texts.next().now_or_never(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn replaced_log_is_announced() {
        let mirror = mirror(1);
        change(&mirror);
        let mut texts = texts(&mirror, Some(tag(&mirror)));
        texts.next().await.unwrap();
        assert_eq!(texts.next().now_or_never(), None);
        mirror.replace(State::empty(Uuid::from_u128(2)));
        assert!(texts.next().await.unwrap().starts_with(&format!("id: {}\n", tag(&mirror))));
    }
}
