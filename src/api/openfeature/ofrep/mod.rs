//! OFREP, the OpenFeature Remote Evaluation Protocol: flags as JSON over plain HTTP, for clients without gRPC.
//! <https://github.com/open-feature/protocol>, version 0.3.0 as far as it concerns boolean flags, with streams of events.
//!
//! It reads the mirror only. A flag has the same value in every context, so the context is accepted and ignored.

mod etag;
mod events;
mod request;
mod response;
mod tickets;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use http::header::IF_NONE_MATCH;
use http::request::Parts;
use http::{HeaderName, Request, Response};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use crate::api::call::Call;
use crate::api::connection::Peer;
use crate::api::openfeature::{self, Metadata, environment};
use crate::api::protocol::ofrep::{EventsQuery, FLAG, OfrepError};
use crate::api::protocol::query::Parameters;
use crate::domain::access::Scope;
use crate::domain::error::Error;
use crate::domain::state::EnvironmentScope;
use crate::domain::text::EnvironmentKey;
use crate::mirror::Mirror;
use etag::{ETag, FlagsTag, MAX_TAG_BYTES};
use events::EventCache;

pub(in crate::api) use request::{BODY_LIMIT, BODY_TIMEOUT};
pub(in crate::api) use tickets::Tickets;

/// The query parameter in which a client repeats the tag that an event has announced.
const ANNOUNCED_TAG: &str = "flagConfigEtag";

/// How long an answer waits until this replica has the flags that an event has announced. Replicas are usually some milliseconds apart.
const ANNOUNCED_TIMEOUT: Duration = Duration::from_secs(2);

static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The service.
#[derive(Clone)]
pub(in crate::api) struct Ofrep {
    mirror: Arc<Mirror>,
    tickets: Tickets,
    events: Arc<EventCache>,
}

impl Ofrep {
    /// A service that reads `mirror`, and issues `tickets` for streams of events.
    pub fn new(mirror: Arc<Mirror>, tickets: Tickets) -> Self {
        Self { mirror, tickets, events: Arc::default() }
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        if let Some(query) = head.extensions.get::<EventsQuery>() {
            return self.events(&head, query).unwrap_or_else(|error| OfrepError::from(error).events_response());
        }
        // The middleware rejects every path but OFREP's.
        let key = head.uri.path().strip_prefix(FLAG).map(request::decode_segment);
        let answer = match (request::validate(body).await, &key) {
            (Ok(()), Some(key)) => self.one(&head, key),
            (Ok(()), None) => self.all(&head).await,
            (Err(error), _) => Err(error),
        };
        answer.unwrap_or_else(|error| error.response(key.as_deref()))
    }

    fn one(&self, head: &Parts, key: &str) -> Result<Response<Body>, OfrepError> {
        let environment = environment(&head.extensions, &head.headers, "")?;
        let (flag, metadata) = openfeature::find(&self.mirror, &environment, key)?;
        Ok(response::one(&flag, &metadata))
    }

    async fn all(&self, head: &Parts) -> Result<Response<Body>, OfrepError> {
        let environment = environment(&head.extensions, &head.headers, "")?.into_owned();
        if let Some(announced) = Parameters::of(&head.uri).get(ANNOUNCED_TAG) {
            self.wait_for_announced(&environment, &announced).await?;
        }
        let ticket = self.tickets.issue(Call::in_extensions(&head.extensions)?, &environment)?;
        let scope = EnvironmentScope::One(environment.clone());
        let read = self.mirror.read(|state| {
            let etag = ETag::new(FlagsTag::of(state, environment.clone()), ticket.as_deref());
            if etag.matches(head.headers.get_all(IF_NONE_MATCH)) {
                return (etag, None);
            }
            (etag, Some((openfeature::all(state, &scope), Metadata::of(state, &environment))))
        });
        match read.ok_or(Error::DatabaseUnavailable)? {
            (etag, Some((flags, metadata))) => {
                let events = ticket.map(|ticket| EventsQuery::request_uri(&ticket, &etag.flags.to_string()));
                Ok(response::all(&flags, &metadata, events.as_deref(), &etag))
            }
            (etag, None) => Ok(response::not_modified(&etag)),
        }
    }

    /// Waits for the flags that an event has announced: another replica may have sent it.
    async fn wait_for_announced(&self, environment: &EnvironmentKey, announced: &str) -> Result<(), Error> {
        let tag =
            self.mirror.read(|state| FlagsTag::of(state, environment.clone())).ok_or(Error::DatabaseUnavailable)?;
        let Some(revision) = tag.announced_revision(announced) else { return Ok(()) };
        let mut revisions = self.mirror.revisions();
        match timeout(ANNOUNCED_TIMEOUT, revisions.wait_for(|reached| *reached >= revision)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Stale),
        }
    }

    fn events(&self, head: &Parts, query: &EventsQuery) -> Result<Response<Body>, Error> {
        let environment = self.tickets.environment(query.ticket.as_deref().unwrap_or_default())?;
        Call::in_extensions(&head.extensions)?.flag_access().check(Scope::Environment(&environment))?;
        // A client that connects again says what it has seen on its last connection.
        let last_seen = head.headers.get(&LAST_EVENT_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let seen = last_seen.or_else(|| query.since.clone()).filter(|tag| tag.len() <= MAX_TAG_BYTES);
        let connection = Peer::connection(&head.extensions);
        Ok(events::response(Arc::clone(&self.mirror), environment, seen, connection, Arc::clone(&self.events)))
    }
}

/// Routes by the first segment of the path, which for gRPC is the name of a service.
impl NamedService for Ofrep {
    const NAME: &'static str = "ofrep";
}

impl Service<Request<Body>> for Ofrep {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.clone().answer(request).map(Ok).boxed()
    }
}
