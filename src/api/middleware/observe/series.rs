//! What is counted of each method. Labels are looked up when a series begins, not at each call: a read takes 20 µs.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};
use tonic::Code;

use super::code::{self, CODES};
use crate::auth::policy::{Method, Policies};
use crate::telemetry::metrics::{Open, REQUEST_DURATION, REQUESTS, STREAMS_OPEN};

/// What is called that is not there.
const UNKNOWN: &str = "unknown";

/// The series of all methods.
pub(super) struct Methods {
    policies: Arc<Policies>,
    series: HashMap<Arc<str>, Arc<Series>>,
    unknown: Arc<Series>,
}

impl Methods {
    pub fn new(policies: Arc<Policies>) -> Self {
        let of = |method: &Arc<Method>| (Arc::clone(&method.name), Arc::new(Series::of(method)));
        let series = policies.methods().map(of).collect();
        let unknown = Arc::new(Series::new(UNKNOWN.into(), false, false));
        Self { policies, series, unknown }
    }

    /// The series of the method at a path.
    pub fn at(&self, path: &str) -> &Arc<Series> {
        let series = self.policies.method(path).and_then(|method| self.series.get(&method.name));
        series.unwrap_or(&self.unknown)
    }
}

/// The series of one method.
pub(super) struct Series {
    pub method: Arc<str>,
    /// Whether it changes something, which is always logged.
    pub changes: bool,
    /// By code; each begins with its first call.
    ended: [OnceLock<Ended>; CODES],
    /// Of a method that answers with a stream: those that are open.
    open: Option<Gauge>,
}

/// The calls of a method that ended alike.
struct Ended {
    requests: Counter,
    /// How long they took; a stream lasts as long as somebody wants it.
    duration: Option<Histogram>,
}

impl Series {
    fn of(method: &Method) -> Self {
        Self::new(Arc::clone(&method.name), method.streams, method.changes)
    }

    fn new(method: Arc<str>, streams: bool, changes: bool) -> Self {
        let open = streams.then(|| metrics::gauge!(STREAMS_OPEN, "method" => method.to_string()));
        Self { method, changes, ended: [const { OnceLock::new() }; CODES], open }
    }

    /// Counts a stream as open, if the method's answer is one.
    pub fn open(&self) -> Option<Open> {
        self.open.clone().map(Open::new)
    }

    /// Counts a call that has ended.
    pub fn end(&self, code: Code, took: Duration) {
        // There are as many as there are codes.
        let Some(ended) = self.ended.get(code as usize) else { return };
        let ended = ended.get_or_init(|| self.ended(code));
        ended.requests.increment(1);
        if let Some(duration) = &ended.duration {
            duration.record(took);
        }
    }

    fn ended(&self, code: Code) -> Ended {
        let (method, code) = (|| self.method.to_string(), code::name(code));
        let duration = || metrics::histogram!(REQUEST_DURATION, "method" => method(), "code" => code);
        Ended {
            requests: metrics::counter!(REQUESTS, "method" => method(), "code" => code),
            duration: self.open.is_none().then(duration),
        }
    }
}
