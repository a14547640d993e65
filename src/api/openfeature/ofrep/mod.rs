//! OFREP, the OpenFeature Remote Evaluation Protocol: flags as JSON over plain HTTP, for whoever speaks no gRPC.
//! <https://github.com/open-feature/protocol>, of which this is version 0.3.0 as far as it is about on and off.
//!
//! It is answered from the state in memory alone. What a flag is here depends on nobody's context, which is therefore
//! taken and not looked into.

mod answer;
mod etag;
mod request;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{BoxFuture, FutureExt};
use http::header::IF_NONE_MATCH;
use http::{HeaderMap, Method, Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use crate::api::openfeature;
use crate::domain::access::Permission;
use crate::domain::error::Error;
use crate::mirror::Mirror;
use answer::Failure;
use etag::ETag;

pub(in crate::api) use answer::refuse;

/// What all paths of OFREP begin with.
pub(in crate::api) const ROOT: &str = "/ofrep/";

/// The path of all flags.
const FLAGS: &str = "/ofrep/v1/evaluate/flags";
/// The path of one, before its key. All that follows is the key: not every client encodes a `/` in it.
const FLAG: &str = "/ofrep/v1/evaluate/flags/";

/// What is served: path, name and what it demands.
pub(in crate::api) const ROUTES: [(&str, &str, Permission); 2] = [
    (FLAGS, "OFREP/EvaluateFlags", Permission::ViewFeatureFlags),
    (FLAG, "OFREP/EvaluateFlag", Permission::ViewFeatureFlags),
];

/// The service.
#[derive(Clone)]
pub(in crate::api) struct Ofrep {
    mirror: Arc<Mirror>,
}

impl Ofrep {
    /// OFREP on the flags in `mirror`.
    pub fn new(mirror: Arc<Mirror>) -> Self {
        Self { mirror }
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        if head.method != Method::POST {
            return answer::only_post();
        }
        // The layer lets no other path through than these two.
        let key = head.uri.path().strip_prefix(FLAG).map(request::decoded);
        let answered = match (request::check(body).await, &key) {
            (Ok(()), Some(key)) => self.one(key),
            (Ok(()), None) => self.all(&head.headers),
            (Err(failure), _) => Err(failure),
        };
        answered.unwrap_or_else(|failure| failure.about(key.as_deref()))
    }

    fn one(&self, key: &str) -> Result<Response<Body>, Failure> {
        let flag = openfeature::find(&self.mirror, key)?;
        Ok(answer::one(&flag))
    }

    fn all(&self, headers: &HeaderMap) -> Result<Response<Body>, Failure> {
        let read = self.mirror.read(|state| {
            let etag = ETag::of(state);
            if etag.matches(headers.get_all(IF_NONE_MATCH)) {
                return (etag, None);
            }
            (etag, Some(openfeature::all(state)))
        });
        match read.ok_or(Error::DatabaseUnavailable)? {
            (etag, Some(flags)) => Ok(answer::all(&flags, &etag)),
            (etag, None) => Ok(answer::unchanged(&etag)),
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
