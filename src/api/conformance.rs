//! A door for the conformance suites of the protocols on the port.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower::util::MapResponseLayer;
use tower::{Layer, Service};

use super::connection::incoming;
use super::middleware::admit::{AdmitLayer, AdmittedRequest};
use super::middleware::limits::ByteBudget;
use super::protocol::TranslateLayer;
use super::protocol::connect::TranscodeLayer;
use super::transport;
use crate::auth::policy::{Policies, PolicyError};
use crate::config::Limits;
use crate::mirror::WriteTime;

/// Serves a gRPC service of another project as this server serves its own: with the same connections, protocols and deadlines, but for
/// anyone, and without the log. Its requests have the size limit of public services.
///
/// # Errors
/// When the descriptors do not describe the service.
pub async fn serve_for_conformance<S>(
    listener: TcpListener,
    (descriptors, name): (&[u8], &str),
    service: S,
    limits: &Limits,
) -> Result<(), PolicyError>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let methods = Arc::new(Policies::read(&[descriptors], &[], &[name])?);
    let transcode = TranscodeLayer::new(limits.fixed.clone()).layer(service);
    let bytes = ByteBudget::new(limits);
    let admit = AdmitLayer::new(limits.request_timeout, Arc::clone(&bytes)).layer(ForAnyone(transcode));
    let service = TranslateLayer::new(methods).layer(MapResponseLayer::new(without_details).layer(admit));
    let incoming = incoming(listener, None, limits, WriteTime::default(), bytes);
    transport::serve(incoming, service, &limits.fixed, CancellationToken::new()).await;
    Ok(())
}

/// A refusal by our own layers without its details. The suites expect errors without any, where their services made none.
fn without_details(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().remove(Status::GRPC_STATUS_DETAILS);
    response
}

/// Takes the place of authorization.
#[derive(Clone)]
struct ForAnyone<S>(S);

impl<S: Service<Request<Body>>> Service<AdmittedRequest> for ForAnyone<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, admitted: AdmittedRequest) -> S::Future {
        self.0.call(admitted.request)
    }
}
