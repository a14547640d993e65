//! Telemetry: log lines, metrics, traces and error reports.

pub mod errors;
pub mod listener;
pub mod log_throttle;
pub mod logs;
pub mod metrics;
mod process;
pub mod request;
pub mod traces;

use std::time::Duration;

use opentelemetry_sdk::trace::SdkTracerProvider;
use sentry::ClientInitGuard;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Time limit for sending the remaining traces and errors at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// What to log and where to send traces and errors. Log lines go to standard error.
pub struct TelemetrySettings {
    /// Which lines are logged, as a filter of `tracing`. The configuration has validated it.
    pub filter: String,
    /// The format of a log line.
    pub format: logs::LogFormat,
    /// Where traces are sent; `None` turns tracing off.
    pub traces: Option<traces::TraceCollector>,
    /// Where errors are sent; `None` sends none.
    pub errors: Option<errors::ErrorCollector>,
}

/// Telemetry that is running. Call [`Telemetry::shutdown`] at the end: data that is not sent yet would be lost.
#[must_use]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    errors: Option<ClientInitGuard>,
}

/// Starts logging, tracing and error reports, panics included. Needs a Tokio runtime, which sends the traces.
///
/// # Errors
/// When the exporter for traces cannot be built.
pub fn start(settings: TelemetrySettings) -> Result<Telemetry, traces::TraceExporterError> {
    let (layer, traces) = settings.traces.map(traces::TraceCollector::start).transpose()?.unzip();
    let logs = logs::layer(&settings.filter, settings.format);
    // Not an `Option<Layer>`: an absent layer enables every span, and they would be created for nothing.
    let layers: Vec<_> = [Some(logs), layer].into_iter().flatten().collect();
    // A second start in the same process keeps the first subscriber.
    let _ = tracing_subscriber::registry().with(layers).try_init();
    errors::install_panic_hook();
    Ok(Telemetry { traces, errors: settings.errors.map(errors::ErrorCollector::start) })
}

impl Telemetry {
    /// Sends the remaining traces and errors, for one second at most: a collector that is down does not delay the exit.
    pub async fn shutdown(self) {
        let Self { traces, errors } = self;
        let traces = spawn_blocking(move || traces.map(|traces| traces.shutdown_with_timeout(SHUTDOWN_TIMEOUT)));
        // Dropping the guard sends the rest. That can take longer than the guard's own time limit.
        let errors = spawn_blocking(move || drop(errors));
        let _ = timeout(SHUTDOWN_TIMEOUT, async { tokio::join!(traces, errors) }).await;
    }
}
