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
    requests: [OnceLock<Counter>; CODES],
    lasting: Lasting,
}

/// How long a method's calls last.
enum Lasting {
    /// As long as the answer takes.
    Once(Histogram),
    /// As long as somebody wants it.
    Stream(Gauge),
}

impl Series {
    fn of(method: &Method) -> Self {
        Self::new(Arc::clone(&method.name), method.streams, method.changes())
    }

    fn new(method: Arc<str>, streams: bool, changes: bool) -> Self {
        let label = method.to_string();
        let lasting = if streams {
            Lasting::Stream(metrics::gauge!(STREAMS_OPEN, "method" => label))
        } else {
            Lasting::Once(metrics::histogram!(REQUEST_DURATION, "method" => label))
        };
        Self { method, changes, requests: [const { OnceLock::new() }; CODES], lasting }
    }

    /// Counts a stream as open, if the method's answer is one.
    pub fn open(&self) -> Option<Open> {
        match &self.lasting {
            Lasting::Stream(gauge) => Some(Open::new(gauge.clone())),
            Lasting::Once(_) => None,
        }
    }

    /// Counts a call that has ended.
    pub fn end(&self, code: Code, took: Duration) {
        let register = || metrics::counter!(REQUESTS, "method" => self.method.to_string(), "code" => code::name(code));
        // As many as there are codes.
        if let Some(requests) = self.requests.get(code as usize) {
            requests.get_or_init(register).increment(1);
        }
        if let Lasting::Once(histogram) = &self.lasting {
            histogram.record(took);
        }
    }
}
