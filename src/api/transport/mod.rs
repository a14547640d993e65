//! HTTP on the connections: HTTP/2 with limits, and HTTP/1.1.
//!
//! tonic's own server has a timer for `grpc-timeout` that no layer inside it can replace. It answers CANCELLED without a reason,
//! even while the caller's change is being written. So its services are served here: `middleware/admit` keeps the deadline of a call, and
//! `middleware/authorize` that of an open stream.

mod stream_task;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use futures::{Stream, StreamExt, TryFutureExt};
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;

use super::connection::Connection;
use super::request_body::RequestBody;
use crate::config::{CONNECTION_WINDOW, FixedLimits, STREAM_WINDOW};
use stream_task::StreamExecutor;

pub(super) use stream_task::reset_when;

/// How many bytes of an answer `h2` takes before they can be sent, besides those of one frame. Enough to keep a connection busy: they
/// are copied to the socket in parts of this size.
const SEND_BUFFER: usize = 64 << 10;

/// hyper takes no smaller limit for a head of HTTP/1.1.
const LEAST_HEAD: usize = 8 << 10;

/// Serves connections until `closing` is cancelled. Then closes the listener, and waits until open connections have ended.
pub(super) async fn serve<S>(
    connections: impl Stream<Item = Connection>,
    service: S,
    limits: &FixedLimits,
    closing: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let (http, graceful) = (http(limits), GracefulShutdown::new());
    {
        let mut connections = pin!(connections);
        while let Some(Some(connection)) = closing.run_until_cancelled(connections.next()).await {
            let peer = Arc::clone(connection.peer());
            let service = service.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                peer.bytes.begin_call();
                let is_http1 = request.version() < Version::HTTP_2;
                let is_last = is_http1 && peer.bytes.arriving().begin_request(request.body().size_hint().exact());
                let mut request = RequestBody::of(request).map(Body::new);
                request.extensions_mut().insert(Arc::clone(&peer));
                let http1 = is_http1.then(|| Arc::clone(&peer));
                // Every layer and service is always ready.
                service.clone().call(request).map_ok(move |mut response| {
                    // hyper does not read what is missing of a request once it is answered.
                    if is_last || http1.is_some_and(|peer| peer.bytes.arriving().is_inside_body()) {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    response
                })
            });
            let served = graceful.watch(http.serve_connection(TokioIo::new(connection), service).into_owned());
            tokio::spawn(async move {
                if let Err(error) = served.await {
                    tracing::debug!(%error, "connection failed");
                }
            });
        }
    }
    graceful.shutdown().await;
}

/// HTTP with our own limits: hyper's defaults differ, or may change with an update.
fn http(limits: &FixedLimits) -> Builder<StreamExecutor> {
    let mut builder = Builder::new(StreamExecutor);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_calls_per_connection)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(limits.max_header_bytes)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        .max_pending_accept_reset_streams(limits.max_pending_resets)
        .max_local_error_reset_streams(limits.max_error_resets);
    // Without a timer, a client of HTTP/1.1 may take as long as it likes for the head of a request. The buffer holds a head, and then
    // parts of the body.
    builder.http1().timer(TokioTimer::new()).max_buf_size((limits.max_header_bytes as usize).max(LEAST_HEAD));
    builder
}
