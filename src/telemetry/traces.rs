//! Traces for OpenTelemetry: the trace that a request belongs to, its span, and the export of spans over OTLP.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, Uri};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt, TracerProvider};
use opentelemetry::{Context, Key, KeyValue};
use opentelemetry_otlp::{
    ExporterBuildError, SpanExporter, WithExportConfig, WithTonicConfig, tonic_types::transport::ClientTlsConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, Sampler, SdkTracerProvider, SpanData};
use tracing::field::Empty;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

pub use opentelemetry::trace::TraceId;

/// The `tracing` target of all spans that are exported, and of nothing else.
pub(super) const TARGET: &str = "toggled::trace";

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

static PROPAGATOR: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);

/// The `service.name` of traces, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` sets another.
const SERVICE_NAME: &str = "toggled";

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("cannot create the OTLP trace exporter: {0}; check OTEL_EXPORTER_OTLP_ENDPOINT")]
pub struct TraceExporterError(#[from] ExporterBuildError);

/// Which traces are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Whether the client's sampling decision applies to a trace that the client began.
    pub follows_parent: bool,
    /// The share of all other traces that is sent, 0 to 1.
    pub ratio: f64,
}

impl Sampling {
    fn sampler(self) -> Sampler {
        let root = Sampler::TraceIdRatioBased(self.ratio);
        if self.follows_parent { Sampler::ParentBased(Box::new(root)) } else { root }
    }
}

/// The OpenTelemetry collector that traces are sent to, by OTLP over gRPC.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceCollector {
    endpoint: String,
    https: bool,
    sampling: Sampling,
}

impl TraceCollector {
    /// A collector at this URL.
    ///
    /// # Errors
    /// The rule that the URL breaks.
    pub fn new(endpoint: &str, sampling: Sampling) -> Result<Self, &'static str> {
        const RULE: &str = "must be an http:// or https:// URL like http://collector:4317, without user and password";
        let uri: Uri = endpoint.parse().map_err(|_| RULE)?;
        let host =
            uri.authority().filter(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'));
        let https = match (uri.scheme_str(), host) {
            (Some("http"), Some(_)) => false,
            (Some("https"), Some(_)) => true,
            _ => return Err(RULE),
        };
        Ok(Self { endpoint: endpoint.to_owned(), https, sampling })
    }

    /// The layer that collects spans, and the provider that sends them in batches from a thread of its own. When the
    /// provider's queue is full, spans are dropped.
    pub(super) fn start<S>(self) -> Result<(Box<dyn Layer<S> + Send + Sync>, SdkTracerProvider), TraceExporterError>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        // The exporter reads its headers and timeout from the standard variables itself.
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(&self.endpoint);
        let exporter = match self.https {
            true => exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots()),
            false => exporter,
        };
        let exporter = exporter.build()?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(LoggedExporter { exporter, failing: AtomicBool::new(false) })
            .with_sampler(self.sampling.sampler())
            .with_resource(resource())
            .build();
        let spans = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("toggled"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        let only_traces = filter_fn(|metadata| metadata.target() == TARGET).with_max_level_hint(LevelFilter::INFO);
        Ok((spans.with_filter(only_traces).boxed(), provider))
    }
}

/// The attributes of this service, including those of the standard variables.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_attribute(version);
    let name = Resource::builder().build().get(&Key::from_static_str("service.name"));
    // The SDK calls a service without a name `unknown_service`.
    match name.is_none_or(|name| name.as_str().starts_with("unknown_service")) {
        true => resource.with_service_name(SERVICE_NAME).build(),
        false => resource.build(),
    }
}

/// Logs a failing export once per outage instead of once per batch.
#[derive(Debug)]
struct LoggedExporter {
    exporter: SpanExporter,
    failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for LoggedExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.exporter.export(batch).await;
        let failed_before = self.failing.swap(exported.is_err(), Ordering::Relaxed);
        match &exported {
            Err(error) if !failed_before => tracing::warn!(%error, "trace export failed"),
            Ok(()) if failed_before => tracing::info!("trace export resumed"),
            _ => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// The trace and the span of a request.
pub struct RequestTrace {
    /// The caller's trace if the request names one, otherwise a new one.
    pub id: TraceId,
    /// The request's span in that trace; disabled unless traces are collected.
    pub span: Span,
}

struct HeaderExtractor<'a>(&'a HeaderMap);

impl Extractor for HeaderExtractor<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

impl RequestTrace {
    /// Continues the trace in the request's headers (W3C Trace Context), or begins a new one. `rpc` is false for requests
    /// that are not remote procedure calls.
    pub fn from_headers(headers: &HeaderMap, method: &str, rpc: bool) -> Self {
        let has_parent = headers.contains_key(&TRACEPARENT);
        let parent = has_parent.then(|| PROPAGATOR.extract_with_context(&Context::new(), &HeaderExtractor(headers)));
        let parent = parent.filter(|context| trace_id(context).is_some());
        let mut id = parent.as_ref().and_then(trace_id);
        let span = request_span(method, rpc);
        if !span.is_disabled() {
            if let Some(parent) = parent {
                // Fails only for a span that has started already.
                let _ = span.set_parent(parent);
            }
            id = id.or_else(|| trace_id(&span.context()));
        }
        Self { id: id.unwrap_or_else(|| RandomIdGenerator::default().new_trace_id()), span }
    }
}

fn trace_id(context: &Context) -> Option<TraceId> {
    let span = context.span();
    Some(span.span_context()).filter(|span| span.is_valid()).map(SpanContext::trace_id)
}

/// The attributes follow OpenTelemetry's conventions for remote procedure calls.
fn request_span(method: &str, rpc: bool) -> Span {
    let (service, name) = method.split_once('/').filter(|_| rpc).unzip();
    tracing::info_span!(
        target: TARGET,
        parent: None,
        "request",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = Empty,
        rpc.system = rpc.then_some("grpc"),
        rpc.service = service,
        rpc.method = name,
        rpc.grpc.status_code = Empty,
    )
}

/// The span of the commit of a batch with this many proposals, as a child of one proposal's span.
pub fn commit_span(parent: &Span, proposals: usize) -> Span {
    // OpenTelemetry's integers are signed.
    tracing::info_span!(target: TARGET, parent: parent, "commit", proposals = proposals as i64)
}

/// Records the outcome of a request in its span: the gRPC code, if it was a gRPC call, and whether the server failed.
pub fn record_outcome(span: &Span, code: Option<i32>, failed: bool) {
    if span.is_disabled() {
        return;
    }
    if let Some(code) = code {
        span.record("rpc.grpc.status_code", code);
    }
    if failed {
        span.record("otel.status_code", "ERROR");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_collector_requires_http_url() {
        let all = Sampling { follows_parent: true, ratio: 1.0 };
        assert!(TraceCollector::new("http://collector:4317", all).is_ok());
        assert!(TraceCollector::new("https://collector", all).unwrap().https);
        for bad in ["", "collector:4317", "collector", "ftp://x", "http://", "/x", "http://user:word@collector:4317"] {
            assert!(TraceCollector::new(bad, all).is_err(), "{bad}");
        }
    }

    #[test]
    fn request_continues_named_trace_or_begins_one() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(&TRACEPARENT, value.parse().unwrap());
            RequestTrace::from_headers(&headers, "a/b", true).id
        };
        let named = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(of(&format!("00-{named}-b7ad6b7169203331-01")).to_string(), named);
        let zero = "0".repeat(32);
        for bad in ["", "x", &format!("00-{named}-0000000000000000-01"), &format!("00-{zero}-b7ad6b7169203331-01")] {
            let (one, other) = (of(bad), of(bad));
            assert!(one != other && one != TraceId::INVALID && one.to_string() != named, "{bad}");
        }
    }
}
