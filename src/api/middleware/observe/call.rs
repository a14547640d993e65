//! A call from beginning to end, however it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Code;

use super::code;
use super::metrics::{MethodMetrics, MethodSeries};
use crate::api::connection::Peer;
use crate::api::protocol::Protocol;
use crate::api::protocol::ofrep::HiddenStatus;
use crate::telemetry::metrics::{GaugeGuard, count_refusal};
use crate::telemetry::request;
use crate::telemetry::traces::{self, RequestTrace};

/// The target of request log lines.
const TARGET: &str = "toggled::request";

/// An open call. If it is dropped before it ended, it was cancelled.
pub(super) struct TrackedCall {
    context: Arc<request::RequestContext>,
    series: Arc<MethodSeries>,
    /// `None` if the request fits no protocol, and is refused for that.
    protocol: Option<Protocol>,
    peer: Option<SocketAddr>,
    began: Instant,
    /// Counts the call as an open stream, if it is one.
    open: Option<GaugeGuard>,
    /// Delays shutdown until the call has ended, unless it is a stream.
    _in_flight: Option<TaskTrackerToken>,
    ended: bool,
}

impl TrackedCall {
    /// Starts to track a call.
    pub fn begin<B>(
        methods: &MethodMetrics,
        calls: &TaskTracker,
        request: &Request<B>,
        protocol: Option<Protocol>,
    ) -> Self {
        let began = Instant::now();
        let series = Arc::clone(methods.at(request.uri().path()));
        let traced = RequestTrace::from_headers(request.headers(), &series.method, protocol == Some(Protocol::Grpc));
        let context = request::RequestContext::new(Arc::clone(&series.method), traced);
        let peer = Peer::of(request.extensions()).map(|peer| peer.address);
        let open = series.open();
        let in_flight = open.is_none().then(|| calls.token());
        Self { context, series, protocol, peer, began, open, _in_flight: in_flight, ended: false }
    }

    /// The attributes of the call, which handlers add to.
    pub fn request_context(&self) -> &Arc<request::RequestContext> {
        &self.context
    }

    /// The code, if it is in the headers of the answer. gRPC usually sends it in the trailers, and so does a stream of events, although
    /// these do not reach its client.
    pub fn early_code<B>(&self, response: &Response<B>) -> Option<Code> {
        let hidden = response.extensions().get::<HiddenStatus>();
        let status = hidden.map_or(response.status(), |hidden| hidden.0);
        let is_open = match self.protocol {
            Some(Protocol::Grpc) => true,
            Some(Protocol::OfrepEvents) => status == StatusCode::OK,
            Some(Protocol::Ofrep) | None => false,
        };
        code::of_headers(response.headers()).or_else(|| (!is_open).then(|| code::of_http(status)))
    }

    /// Ends the call with a code. Later calls of this method have no effect.
    pub fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        // The client is gone, so it got no answer.
        let code = if code != Code::Ok && self.context.is_incomplete() { Code::Cancelled } else { code };
        let took = self.began.elapsed();
        self.open = None;
        self.series.end(code, took);
        let rpc = (self.protocol == Some(Protocol::Grpc)).then_some(code as i32);
        traces::record_outcome(&self.context.span, rpc, code::is_server_failure(code));
        let reason = self.context.reason().filter(|_| code != Code::Ok && code != Code::Cancelled);
        if let Some(reason) = reason {
            count_refusal(reason);
        }
        self.log(code, took, reason);
    }

    /// One line for each call, without personal data. Successful reads, which are most calls, are logged at debug level only.
    fn log(&self, code: Code, took: Duration, reason: Option<&'static str>) {
        // An address is personal data: only at debug level.
        let peer = self.peer.filter(|_| tracing::enabled!(target: TARGET, tracing::Level::DEBUG));
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    target: TARGET,
                    $level,
                    method = &*self.context.method,
                    code = code::name(code),
                    reason,
                    caller = self.context.caller().map(tracing::field::display),
                    revision = self.context.revision(),
                    duration_ms = milliseconds(took),
                    trace_id = %self.context.trace_id,
                    peer = peer.map(tracing::field::display),
                    "request"
                )
            };
        }
        if code == Code::Ok && !self.series.changes {
            line!(tracing::Level::DEBUG);
        } else {
            line!(tracing::Level::INFO);
        }
    }
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}

impl Drop for TrackedCall {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_is_logged_to_the_microsecond() {
        for (nanoseconds, logged) in [(714_219, "0.714"), (0, "0.0"), (12_345_678_901, "12345.678")] {
            assert_eq!(format!("{:?}", milliseconds(Duration::from_nanos(nanoseconds))), logged);
        }
    }
}
