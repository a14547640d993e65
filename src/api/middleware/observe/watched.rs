//! A call from its beginning to its end, however it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Code;

use super::code;
use super::series::{Methods, Series};
use crate::api::listener::Peer;
use crate::api::protocol::Wire;
use crate::telemetry::metrics::{Open, refused};
use crate::telemetry::request;
use crate::telemetry::traces::{self, Traced};

/// The target of the lines that tell of requests.
const TARGET: &str = "toggled::request";

/// A call that is under way. Dropped before it has ended, it was cancelled.
pub(super) struct Watched {
    record: Arc<request::Request>,
    series: Arc<Series>,
    /// What the call was made in; `None` for what is neither.
    wire: Option<Wire>,
    peer: Option<SocketAddr>,
    began: Instant,
    /// Counted as open, if it is a stream ...
    open: Option<Open>,
    /// ... and as under way, if it is none.
    _under_way: Option<TaskTrackerToken>,
    ended: bool,
}

impl Watched {
    /// A call that arrives.
    pub fn begin<B>(methods: &Methods, calls: &TaskTracker, request: &Request<B>, wire: Option<Wire>) -> Self {
        let began = Instant::now();
        let series = Arc::clone(methods.at(request.uri().path()));
        let traced = Traced::of(request.headers(), &series.method, wire == Some(Wire::Grpc));
        let record = request::Request::new(Arc::clone(&series.method), traced);
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
        let open = series.open();
        let under_way = open.is_none().then(|| calls.token());
        Self { record, series, wire, peer, began, open, _under_way: under_way, ended: false }
    }

    /// What is known of the call.
    pub fn record(&self) -> &Arc<request::Request> {
        &self.record
    }

    /// How the call went, if its answer says so at its beginning. Only gRPC says it at the end.
    pub fn outcome<B>(&self, response: &Response<B>) -> Option<Code> {
        match self.wire {
            Some(Wire::Grpc) => code::of_headers(response.headers()),
            Some(Wire::Ofrep) | None => Some(code::of_http(response.status())),
        }
    }

    /// It has ended like this. What comes after that changes nothing.
    pub fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let took = self.began.elapsed();
        self.open = None;
        self.series.end(code, took);
        let rpc = (self.wire == Some(Wire::Grpc)).then_some(code as i32);
        traces::end(&self.record.span, rpc, code::is_failure(code));
        let reason = self.record.reason().filter(|_| code != Code::Ok && code != Code::Cancelled);
        if let Some(reason) = reason {
            refused(reason);
        }
        self.log(code, took, reason);
    }

    /// One line a call, without anything that tells a stranger who called. Reads that went well are most of what happens,
    /// and are of no interest.
    fn log(&self, code: Code, took: Duration, reason: Option<&'static str>) {
        // Where somebody is says who they are: not for everybody who reads the log.
        let peer = self.peer.filter(|_| tracing::enabled!(target: TARGET, tracing::Level::DEBUG));
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    target: TARGET,
                    $level,
                    method = &*self.record.method,
                    code = code::name(code),
                    reason,
                    caller = self.record.caller().map(tracing::field::display),
                    revision = self.record.revision(),
                    duration_ms = took.as_secs_f64() * 1_000.0,
                    trace_id = %self.record.trace_id,
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

impl Drop for Watched {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}
