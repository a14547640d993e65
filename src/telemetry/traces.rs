//! Traces, which OpenTelemetry collects: where a request belongs, and its span.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderMap, Uri};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt, TracerProvider};
use opentelemetry::{Context, Key, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig, tonic_types::transport::ClientTlsConfig};
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

/// The target of the spans that are collected, and of nothing else.
pub(super) const TARGET: &str = "toggled::trace";

const TRACEPARENT: &str = "traceparent";

static PROPAGATOR: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);

/// The service.name of traces, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` sets another.
const SERVICE_NAME: &str = "toggled";

/// Which traces are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Whether the caller's decision counts for a trace that a caller began.
    pub follows_parent: bool,
    /// The share of the other traces that is sent, 0 to 1.
    pub ratio: f64,
}

impl Sampling {
    fn sampler(self) -> Sampler {
        let root = Sampler::TraceIdRatioBased(self.ratio);
        if self.follows_parent { Sampler::ParentBased(Box::new(root)) } else { root }
    }
}

/// The OpenTelemetry collector of traces. It speaks OTLP over gRPC.
#[derive(Debug, Clone, PartialEq)]
pub struct Collector {
    endpoint: String,
    https: bool,
    sampling: Sampling,
}

impl Collector {
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

    /// A layer that collects spans, and what sends them: in batches, from a thread of its own, from a queue that drops what
    /// is too much.
    pub(super) fn start<S>(self) -> Result<(Box<dyn Layer<S> + Send + Sync>, SdkTracerProvider), String>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        // It reads its headers and timeout from the standard variables itself.
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(&self.endpoint);
        let exporter = match self.https {
            true => exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots()),
            false => exporter,
        };
        let exporter = exporter.build().map_err(|error| format!("OTEL_EXPORTER_OTLP_ENDPOINT: {error}"))?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Told { exporter, failing: AtomicBool::new(false) })
            .with_sampler(self.sampling.sampler())
            .with_resource(resource())
            .build();
        let spans = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("toggled"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        let ours = filter_fn(|metadata| metadata.target() == TARGET).with_max_level_hint(LevelFilter::INFO);
        Ok((spans.with_filter(ours).boxed(), provider))
    }
}

/// The attributes of this service: ours, and those of the standard variables.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_attribute(version);
    let name = Resource::builder().build().get(&Key::from_static_str("service.name"));
    // The SDK's name for a service that nobody named.
    match name.is_none_or(|name| name.as_str().starts_with("unknown_service")) {
        true => resource.with_service_name(SERVICE_NAME).build(),
        false => resource.build(),
    }
}

/// Tells of a collector that does not answer: once an outage, not once a batch.
#[derive(Debug)]
struct Told {
    exporter: SpanExporter,
    failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.exporter.export(batch).await;
        let failed_before = self.failing.swap(exported.is_err(), Ordering::Relaxed);
        match &exported {
            Err(error) if !failed_before => tracing::warn!(%error, "traces are not collected; trying on"),
            Ok(()) if failed_before => tracing::info!("traces are collected again"),
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

/// Where a request belongs.
pub struct Traced {
    /// Its trace: the caller's, or one that begins here.
    pub id: TraceId,
    /// Its span there; disabled unless traces are collected.
    pub span: Span,
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

impl Traced {
    /// The trace that a request to `method` goes on with, as its headers have it (W3C Trace Context), or begins. `rpc` tells
    /// the request of a remote procedure from others.
    pub fn of(headers: &HeaderMap, method: &str, rpc: bool) -> Self {
        let named = headers.contains_key(TRACEPARENT);
        let parent = named.then(|| PROPAGATOR.extract_with_context(&Context::new(), &Headers(headers)));
        let parent = parent.filter(|context| trace_id(context).is_some());
        let mut id = parent.as_ref().and_then(trace_id);
        let span = span(method, rpc);
        if !span.is_disabled() {
            if let Some(parent) = parent {
                // It fails only for a span that has begun to be sent.
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

/// By OpenTelemetry's conventions for remote procedures.
fn span(method: &str, rpc: bool) -> Span {
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

/// The span of writing a batch of `proposals`, in the trace of one of them.
pub fn commit(parent: &Span, proposals: usize) -> Span {
    // OpenTelemetry's integers have a sign.
    tracing::info_span!(target: TARGET, parent: parent, "commit", proposals = proposals as i64)
}

/// Notes in its span how a request ended: the number of gRPC's code, if it was gRPC, and whether the server failed.
pub fn end(span: &Span, code: Option<i32>, failed: bool) {
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
    fn collector_at_another_url_than_http_is_refused() {
        let all = Sampling { follows_parent: true, ratio: 1.0 };
        assert!(Collector::new("http://collector:4317", all).is_ok());
        assert!(Collector::new("https://collector", all).unwrap().https);
        for bad in ["", "collector:4317", "collector", "ftp://x", "http://", "/x", "http://user:word@collector:4317"] {
            assert!(Collector::new(bad, all).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_goes_on_with_the_trace_that_it_names_and_begins_one_otherwise() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, value.parse().unwrap());
            Traced::of(&headers, "a/b", true).id
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
