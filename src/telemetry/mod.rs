//! What the people who run it are told: log lines, metrics, traces and errors.

pub mod errors;
pub mod listener;
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

/// How long to wait at the end for what is not yet sent.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// What is told, and where. Log lines go to standard error.
pub struct Settings {
    /// Which lines are logged; it has been checked when the settings were read.
    pub filter: String,
    /// What they look like.
    pub format: logs::Format,
    /// Who collects traces, if anybody does.
    pub traces: Option<traces::Collector>,
    /// Who collects errors, if anybody does.
    pub errors: Option<errors::Collector>,
}

/// What has been started, and has to be told that it is over: what is not yet sent would be lost.
#[must_use]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    errors: Option<ClientInitGuard>,
}

/// Starts to tell, panics included. Needs the runtime, on which traces are sent.
///
/// # Errors
/// A line for a person: a collector cannot be used.
pub fn start(settings: Settings) -> Result<Telemetry, String> {
    let (layer, traces) = settings.traces.map(traces::Collector::start).transpose()?.unzip();
    let logs = logs::layer(&settings.filter, settings.format);
    // Not an optional layer: one that is not there wants every span, and they are made for nobody.
    let layers: Vec<_> = [Some(logs), layer].into_iter().flatten().collect();
    // A second start in one process keeps the first.
    let _ = tracing_subscriber::registry().with(layers).try_init();
    errors::tell_of_panics();
    Ok(Telemetry { traces, errors: settings.errors.map(errors::Collector::start) })
}

impl Telemetry {
    /// Sends what is left. Who does not take it in time does not get it: collectors that are down hold up nothing.
    pub async fn finish(self) {
        let Self { traces, errors } = self;
        let traces = spawn_blocking(move || traces.map(|traces| traces.shutdown_with_timeout(LAST_WAIT)));
        // It is sent when the guard goes, which would wait longer than it says.
        let errors = spawn_blocking(move || drop(errors));
        let _ = timeout(LAST_WAIT, async { tokio::join!(traces, errors) }).await;
    }
}
