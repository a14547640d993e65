//! Evaluation of an environment's flags, in both versions of flagd's protocol.

use std::borrow::Cow;
use std::sync::Arc;

use futures::stream;
use prost_types::Struct;
use tonic::{Request, Response, Status};

use super::events::{EventCache, events};
use crate::api::connection::Peer;
use crate::api::middleware::limits::{SharedAnswer, Unsent};
use crate::api::openfeature::{self, Metadata, Resolution, environment, find};
use crate::api::pb::flagd::evaluation::{v1, v2};
use crate::domain::error::{Error, Violation};
use crate::domain::flag::Flag;
use crate::domain::state::{EnvironmentScope, State};
use crate::domain::text::EnvironmentKey;
use crate::mirror::Mirror;

/// flagd's evaluation services.
#[derive(Clone)]
pub struct Evaluation {
    mirror: Arc<Mirror>,
    events: Arc<EventCache>,
}

impl Evaluation {
    /// Services that read `mirror`.
    pub fn new(mirror: Arc<Mirror>) -> Self {
        Self { mirror, events: Arc::default() }
    }

    /// What the flag with this key resolves to, in the environment that the request is about.
    fn resolve<T>(&self, request: &Request<T>, key: &str) -> Result<(Resolution, Struct), Error> {
        let environment = selected(request)?;
        let (flag, metadata) = find(&self.mirror, &environment, key)?;
        Ok((Resolution::of(&flag), metadata.into()))
    }

    /// The same for a flag that is read as another type than boolean. Only an archived flag, which has no value of any type, can be.
    fn resolve_mistyped<T>(&self, request: &Request<T>, key: &str) -> Result<(Resolution, Struct), Error> {
        match self.resolve(request, key)? {
            (Resolution::Value(_), _) => {
                let rule = "must be read as a boolean".to_owned();
                Err(Error::Invalid(vec![Violation { field: "flag_key".to_owned(), rule }]))
            }
            disabled => Ok(disabled),
        }
    }

    fn events<T, U>(&self, request: &Request<T>) -> Result<Response<stream::Empty<U>>, Status> {
        let environment = selected(request)?.into_owned();
        self.mirror.read(|_| ()).ok_or(Error::DatabaseUnavailable)?;
        let scope = EnvironmentScope::One(environment.clone());
        let (unsent, connection) = (Unsent::default(), Peer::connection(request.extensions()));
        let (mirror, cache) = (Arc::clone(&self.mirror), Arc::clone(&self.events));
        let events = events(mirror, environment, connection, cache, unsent.clone());
        let mut response = SharedAnswer::with(unsent, events).in_response(stream::empty());
        response.extensions_mut().insert(scope);
        Ok(response)
    }
}

/// The environment that a request is about. flagd's requests have no field for it.
fn selected<T>(request: &Request<T>) -> Result<Cow<'_, EnvironmentKey>, Error> {
    environment(request.extensions(), request.metadata().as_ref(), "")
}

/// Implements one version of the service. The versions differ in optional fields and in `$more` methods.
macro_rules! service {
    ($pb:ident { $($more:tt)* }) => {
        #[tonic::async_trait]
        impl $pb::service_server::Service for Evaluation {
            async fn resolve_boolean(
                &self,
                request: Request<$pb::ResolveBooleanRequest>,
            ) -> Result<Response<$pb::ResolveBooleanResponse>, Status> {
                let (resolution, metadata) = self.resolve(&request, &request.get_ref().flag_key)?;
                Ok(Response::new($pb::ResolveBooleanResponse {
                    value: resolution.value().map(Into::into).unwrap_or_default(),
                    reason: resolution.reason().to_owned(),
                    variant: resolution.variant().map(|variant| variant.to_owned().into()).unwrap_or_default(),
                    metadata: Some(metadata),
                }))
            }

            async fn resolve_string(
                &self,
                request: Request<$pb::ResolveStringRequest>,
            ) -> Result<Response<$pb::ResolveStringResponse>, Status> {
                let (resolution, metadata) = self.resolve_mistyped(&request, &request.get_ref().flag_key)?;
                let (reason, metadata) = (resolution.reason().to_owned(), Some(metadata));
                Ok(Response::new($pb::ResolveStringResponse { reason, metadata, ..Default::default() }))
            }

            async fn resolve_float(
                &self,
                request: Request<$pb::ResolveFloatRequest>,
            ) -> Result<Response<$pb::ResolveFloatResponse>, Status> {
                let (resolution, metadata) = self.resolve_mistyped(&request, &request.get_ref().flag_key)?;
                let (reason, metadata) = (resolution.reason().to_owned(), Some(metadata));
                Ok(Response::new($pb::ResolveFloatResponse { reason, metadata, ..Default::default() }))
            }

            async fn resolve_int(
                &self,
                request: Request<$pb::ResolveIntRequest>,
            ) -> Result<Response<$pb::ResolveIntResponse>, Status> {
                let (resolution, metadata) = self.resolve_mistyped(&request, &request.get_ref().flag_key)?;
                let (reason, metadata) = (resolution.reason().to_owned(), Some(metadata));
                Ok(Response::new($pb::ResolveIntResponse { reason, metadata, ..Default::default() }))
            }

            async fn resolve_object(
                &self,
                request: Request<$pb::ResolveObjectRequest>,
            ) -> Result<Response<$pb::ResolveObjectResponse>, Status> {
                let (resolution, metadata) = self.resolve_mistyped(&request, &request.get_ref().flag_key)?;
                let (reason, metadata) = (resolution.reason().to_owned(), Some(metadata));
                Ok(Response::new($pb::ResolveObjectResponse { reason, metadata, ..Default::default() }))
            }

            /// Always empty: the messages travel in the response's extensions, as a `SharedAnswer`.
            type EventStreamStream = stream::Empty<Result<$pb::EventStreamResponse, Status>>;

            async fn event_stream(
                &self,
                request: Request<$pb::EventStreamRequest>,
            ) -> Result<Response<Self::EventStreamStream>, Status> {
                self.events(&request)
            }

            $($more)*
        }
    };
}

service!(v2 {});

service!(v1 {
    async fn resolve_all(
        &self,
        request: Request<v1::ResolveAllRequest>,
    ) -> Result<Response<v1::ResolveAllResponse>, Status> {
        let environment = selected(&request)?;
        let scope = EnvironmentScope::One(EnvironmentKey::clone(&environment));
        let read = |state: &State| (openfeature::all(state, &scope), Metadata::of(state, &environment));
        let (flags, metadata) = self.mirror.read(read).ok_or(Error::DatabaseUnavailable)?;
        let flags = flags.iter().map(|flag| (flag.key.to_string(), v1::AnyFlag::from(&**flag))).collect();
        Ok(Response::new(v1::ResolveAllResponse { flags, metadata: Some(metadata.into()) }))
    }
});

impl From<&Flag> for v1::AnyFlag {
    fn from(flag: &Flag) -> Self {
        let resolution = Resolution::of(flag);
        Self {
            reason: resolution.reason().to_owned(),
            variant: resolution.variant().unwrap_or_default().to_owned(),
            value: resolution.value().map(v1::any_flag::Value::BoolValue),
            metadata: None,
        }
    }
}
