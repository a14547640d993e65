//! What Prometheus and probes ask, over plain HTTP/1.1 on an address of its own: `/metrics`, `/livez` and `/readyz`.
//!
//! Whoever connects here, and whatever they do, the server itself goes on.

use std::collections::VecDeque;
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
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{interval, sleep, timeout};

use super::{metrics, process};

/// How long a request may take to arrive ...
const HEADER_PATIENCE: Duration = Duration::from_secs(5);

/// ... and the answer to be taken. A connection is for one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many connections there may be. Past it the oldest gives way to the newest: clients that say nothing keep no probe out.
const CONNECTIONS: usize = 64;

/// How long to wait when the system gives us no connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often what was counted is put together, so that it does not pile up where nobody asks for it.
const UPKEEP: Duration = Duration::from_secs(5);

/// Whether calls are served here, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet: the database has not been read.
    Starting,
    /// They are.
    Serving,
    /// Not all are: the database has not answered for too long.
    Stale,
    /// No longer: the server stops.
    Draining,
}

impl Readiness {
    fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Stale => "stale",
            Self::Draining => "draining",
        }
    }
}

/// An address that metrics and health are served at.
pub struct Listener {
    listener: TcpListener,
    recorder: PrometheusHandle,
}

/// What the handlers know.
#[derive(Clone)]
struct Served {
    readiness: watch::Receiver<Readiness>,
    measure: Arc<dyn Fn() + Send + Sync>,
    recorder: PrometheusHandle,
    /// Held while metrics are put together: who asks for them often keeps one thread busy at the most.
    turn: Arc<Mutex<()>>,
}

impl Listener {
    /// Listens, and begins to count.
    ///
    /// # Errors
    /// A line for a person: the address cannot be listened on.
    pub async fn bind(address: SocketAddr) -> Result<Self, String> {
        let failed = |problem: String| format!("cannot serve metrics on {address}: {problem}");
        let listener = TcpListener::bind(address).await.map_err(|e| failed(e.to_string()))?;
        let recorder = metrics::install().map_err(|e| failed(e.to_string()))?;
        Ok(Self { listener, recorder })
    }

    /// Serves for as long as it is polled. `measure` is called before metrics are told, to set what is not counted as it
    /// happens.
    pub async fn serve(self, readiness: watch::Receiver<Readiness>, measure: impl Fn() + Send + Sync + 'static) {
        let Self { listener, recorder } = self;
        let served = Served { readiness, measure: Arc::new(measure), recorder: recorder.clone(), turn: Arc::default() };
        let router = Router::new()
            .route("/metrics", get(tell_metrics))
            .route("/livez", get("alive\n"))
            .route("/readyz", get(tell_readiness))
            .with_state(served);
        tokio::join!(accept(listener, router), keep_up(recorder));
    }
}

async fn accept(listener: TcpListener, router: Router) {
    let (mut connections, mut order) = (JoinSet::new(), VecDeque::<AbortHandle>::new());
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => order.retain(|task| !task.is_finished()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if order.len() >= CONNECTIONS && let Some(oldest) = order.pop_front() {
                        oldest.abort();
                    }
                    order.push_back(connections.spawn(answer(stream, router.clone())));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let mut http = Builder::new(TokioExecutor::new()).http1_only();
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_PATIENCE).keep_alive(false);
    // How it ends is the client's concern.
    let _ = timeout(PATIENCE, http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))).await;
}

async fn keep_up(recorder: PrometheusHandle) {
    let mut ticks = interval(UPKEEP);
    loop {
        ticks.tick().await;
        recorder.run_upkeep();
    }
}

async fn tell_metrics(State(served): State<Served>) -> impl IntoResponse {
    let _turn = served.turn.lock().await;
    (served.measure)();
    process::measure();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], served.recorder.render())
}

async fn tell_readiness(State(served): State<Served>) -> impl IntoResponse {
    let readiness = *served.readiness.borrow();
    let serving = readiness == Readiness::Serving;
    let status = if serving { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{}\n", readiness.word()))
}
