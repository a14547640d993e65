//! Metrics of each method. Series are created once, since looking up labels would be a notable part of a 20 µs read.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram};
use hashbrown::HashMap;
use tonic::Code;

use super::code::{self, CODES};
use crate::auth::policy::{Policies, ServedMethod};
use crate::telemetry::metrics::{GaugeGuard, REQUEST_DURATION, REQUESTS, STREAMS_OPEN};

/// The label for calls of methods that do not exist.
const UNKNOWN_METHOD: &str = "unknown";

/// The metrics of all methods.
pub(super) struct MethodMetrics {
    policies: Arc<Policies>,
    series: HashMap<Arc<str>, Arc<MethodSeries>>,
    unknown: Arc<MethodSeries>,
}

impl MethodMetrics {
    pub fn new(policies: Arc<Policies>) -> Self {
        let of = |method: &Arc<ServedMethod>| (Arc::clone(&method.name), Arc::new(MethodSeries::of(method)));
        let series = policies.methods().map(of).collect();
        let unknown = Arc::new(MethodSeries::new(UNKNOWN_METHOD.into(), false, false));
        Self { policies, series, unknown }
    }

    /// The series of the method at a path.
    pub fn at(&self, path: &str) -> &Arc<MethodSeries> {
        let series = self.policies.method(path).and_then(|method| self.series.get(&method.name));
        series.unwrap_or(&self.unknown)
    }
}

/// The series of one method.
pub(super) struct MethodSeries {
    pub method: Arc<str>,
    /// Whether the method changes something: such calls are always logged.
    pub changes: bool,
    /// By code, each created with its first call.
    by_code: [OnceLock<CodeSeries>; CODES],
    /// The open streams of a streaming method.
    open: Option<Gauge>,
}

/// The calls of a method that ended with the same code.
struct CodeSeries {
    requests: Counter,
    /// How long calls took. Not for streams, which last as long as their clients want.
    duration: Option<Histogram>,
}

impl MethodSeries {
    fn of(method: &ServedMethod) -> Self {
        Self::new(Arc::clone(&method.name), method.is_server_streaming, method.makes_changes)
    }

    fn new(method: Arc<str>, streams: bool, changes: bool) -> Self {
        let open = streams.then(|| ::metrics::gauge!(STREAMS_OPEN, "method" => method.to_string()));
        Self { method, changes, by_code: [const { OnceLock::new() }; CODES], open }
    }

    /// Counts a call as an open stream until the value is dropped, if the method is a streaming one.
    pub fn open(&self) -> Option<GaugeGuard> {
        self.open.clone().map(GaugeGuard::new)
    }

    /// Counts an ended call.
    pub fn end(&self, code: Code, took: Duration) {
        let Some(series) = self.by_code.get(code as usize) else { return };
        let series = series.get_or_init(|| self.code_series(code));
        series.requests.increment(1);
        if let Some(duration) = &series.duration {
            duration.record(took);
        }
    }

    fn code_series(&self, code: Code) -> CodeSeries {
        let (method, code) = (|| self.method.to_string(), code::name(code));
        let duration = || ::metrics::histogram!(REQUEST_DURATION, "method" => method(), "code" => code);
        CodeSeries {
            requests: ::metrics::counter!(REQUESTS, "method" => method(), "code" => code),
            duration: self.open.is_none().then(duration),
        }
    }
}
