//! OFREP, the OpenFeature Remote Evaluation Protocol: flags as JSON over plain HTTP, for clients without gRPC.
//! <https://github.com/open-feature/protocol>, version 0.3.0 as far as it concerns boolean flags.
//!
//! It reads the mirror only. A flag has the same value in every context, so the context is accepted and ignored.

mod etag;
mod request;
mod response;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{BoxFuture, FutureExt};
use http::header::IF_NONE_MATCH;
use http::request::Parts;
use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use crate::api::openfeature::{self, Metadata, environment};
use crate::api::protocol::ofrep::{FLAG, OfrepError};
use crate::domain::error::Error;
use crate::domain::state::EnvironmentScope;
use crate::mirror::Mirror;
use etag::ETag;

pub(in crate::api) use request::{BODY_LIMIT, BODY_TIMEOUT};

/// The service.
#[derive(Clone)]
pub(in crate::api) struct Ofrep {
    mirror: Arc<Mirror>,
}

impl Ofrep {
    /// A service that reads `mirror`.
    pub fn new(mirror: Arc<Mirror>) -> Self {
        Self { mirror }
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        // The middleware rejects every path but OFREP's two.
        let key = head.uri.path().strip_prefix(FLAG).map(request::decode_segment);
        let answer = match (request::validate(body).await, &key) {
            (Ok(()), Some(key)) => self.one(&head, key),
            (Ok(()), None) => self.all(&head),
            (Err(error), _) => Err(error),
        };
        answer.unwrap_or_else(|error| error.response(key.as_deref()))
    }

    fn one(&self, head: &Parts, key: &str) -> Result<Response<Body>, OfrepError> {
        let environment = environment(&head.extensions, &head.headers, "")?;
        let flag = openfeature::find(&self.mirror, &environment, key)?;
        Ok(response::one(&flag))
    }

    fn all(&self, head: &Parts) -> Result<Response<Body>, OfrepError> {
        let environment = environment(&head.extensions, &head.headers, "")?.into_owned();
        let scope = EnvironmentScope::One(environment.clone());
        let read = self.mirror.read(|state| {
            let etag = ETag::of(state, environment.clone());
            if etag.matches(head.headers.get_all(IF_NONE_MATCH)) {
                return (etag, None);
            }
            (etag, Some((openfeature::all(state, &scope), Metadata::of(state, &environment))))
        });
        match read.ok_or(Error::DatabaseUnavailable)? {
            (etag, Some((flags, metadata))) => Ok(response::all(&flags, &metadata, &etag)),
            (etag, None) => Ok(response::not_modified(&etag)),
        }
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
