//! Metrics and health over plain HTTP/1.1 on an address of their own: `/metrics`, `/livez` and `/readyz`.
//!
//! Anyone may be able to connect here, so no client may slow the server down or block the probes. `axum::serve` has neither
//! a time limit for the request's header nor a limit on connections. That is why this listener accepts connections itself.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::{BuildError, PrometheusHandle};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{interval, sleep, timeout};

use super::{metrics, process};

/// Time limit for receiving the header of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for a whole connection, which serves one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The most open connections. A further connection closes the oldest one, so that idle clients cannot block probes.
const MAX_CONNECTIONS: usize = 64;

/// The pause after a failed `accept`, as when the process has no free file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// How often the recorder aggregates its samples. Without this they would pile up while nothing scrapes `/metrics`.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Whether this server serves calls, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// The database has not been read yet.
    Starting,
    /// All calls are served.
    Serving,
    /// The database has not answered for longer than `--max-staleness`: not all calls are served.
    Stale,
    /// The database cannot be written until an operator acts: no change is made.
    Unusable,
    /// The server is shutting down.
    Draining,
}

impl Readiness {
    fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Stale => "stale",
            Self::Unusable => "unusable",
            Self::Draining => "draining",
        }
    }
}

/// Serves metrics and health.
pub struct MetricsListener {
    listener: TcpListener,
    recorder: PrometheusHandle,
}

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsListenerError {
    /// The address cannot be listened on.
    #[error("cannot serve metrics on {address}: {source}; choose another address with --metrics-listen")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The recorder cannot be installed.
    #[error("cannot record metrics: {0}")]
    Recorder(#[from] BuildError),
}

/// The state of the handlers.
#[derive(Clone)]
struct HandlerState {
    readiness: watch::Receiver<Readiness>,
    measure: Arc<dyn Fn() + Send + Sync>,
    recorder: PrometheusHandle,
    /// Held while metrics are rendered, so that frequent requests keep at most one thread busy.
    render_lock: Arc<Mutex<()>>,
}

impl MetricsListener {
    /// Listens on `address` and starts recording metrics.
    ///
    /// # Errors
    /// When the address cannot be listened on, or metrics are being recorded already.
    pub async fn bind(address: SocketAddr) -> Result<Self, MetricsListenerError> {
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|source| MetricsListenerError::Bind { address, source })?;
        Ok(Self { listener, recorder: metrics::install()? })
    }

    /// Serves until the future is dropped. `measure` runs before metrics are rendered, and sets the gauges that are sampled
    /// instead of counted.
    pub async fn serve(self, readiness: watch::Receiver<Readiness>, measure: impl Fn() + Send + Sync + 'static) {
        let Self { listener, recorder } = self;
        let (measure, recorder_handle) = (Arc::new(measure), recorder.clone());
        let state = HandlerState { readiness, measure, recorder: recorder_handle, render_lock: Arc::default() };
        let router = Router::new()
            .route("/metrics", get(render_metrics))
            .route("/livez", get("alive\n"))
            .route("/readyz", get(render_readiness))
            .with_state(state);
        tokio::join!(accept_connections(listener, router), run_upkeep(recorder));
    }
}

async fn accept_connections(listener: TcpListener, router: Router) {
    let (mut connections, mut order) = (JoinSet::new(), VecDeque::<AbortHandle>::new());
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => order.retain(|task| !task.is_finished()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if order.len() >= MAX_CONNECTIONS && let Some(oldest) = order.pop_front() {
                        oldest.abort();
                    }
                    order.push_back(connections.spawn(serve_connection(stream, router.clone())));
                }
                Err(_) => sleep(ACCEPT_RETRY_DELAY).await,
            },
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let mut http = Builder::new(TokioExecutor::new()).http1_only();
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(false);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A failed connection matters to its client alone.
    let _ = timeout(CONNECTION_TIMEOUT, connection).await;
}

async fn run_upkeep(recorder: PrometheusHandle) {
    let mut ticks = interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        recorder.run_upkeep();
    }
}

async fn render_metrics(State(state): State<HandlerState>) -> impl IntoResponse {
    let _lock = state.render_lock.lock().await;
    (state.measure)();
    process::measure();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.recorder.render())
}

async fn render_readiness(State(state): State<HandlerState>) -> impl IntoResponse {
    let readiness = *state.readiness.borrow();
    let serving = readiness == Readiness::Serving;
    let status = if serving { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{}\n", readiness.as_str()))
}
