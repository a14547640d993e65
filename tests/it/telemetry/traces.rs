//! Traces, as a collector receives them.

use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::{assert_stops_in_time, get, toggle_because};
use crate::support::{Backend, Client, Database, Server, with_timeout};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A collector that forwards all requests to the test.
struct TestCollector(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for TestCollector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector() -> (SocketAddr, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = TraceServiceServer::new(TestCollector(sender));
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    (address, receiver)
}

fn attribute(attributes: &[KeyValue], name: &str) -> Option<Value> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    found.value.as_ref().and_then(|AnyValue { value }| value.clone())
}

fn text(text: &str) -> Option<Value> {
    Some(Value::StringValue(text.to_owned()))
}

/// Stops the server and returns all spans that it has sent.
async fn collected(server: Server, mut collected: mpsc::UnboundedReceiver<ExportTraceServiceRequest>) -> Vec<Span> {
    assert!(server.terminate().await.success());
    let mut spans = Vec::new();
    while let Ok(request) = collected.try_recv() {
        for resource in request.resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            assert_eq!(attribute(&attributes, "service.name"), text("toggled"));
            assert_eq!(attribute(&attributes, "service.version"), text(env!("CARGO_PKG_VERSION")));
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    spans
}

/// A flip within the caller's trace, which is sampled (flags `01`) or not (`00`).
async fn flip_within(admin: &mut Client, flags: &str) {
    let mut flip = Request::new(toggle_because("a", "the-plan-of-ann@example.com"));
    flip.metadata_mut().insert("traceparent", format!("00-{TRACE}-{PARENT}-{flags}").parse().unwrap());
    flip.metadata_mut().insert("tracestate", "vendor=word".parse().unwrap());
    admin.toggle.toggle_feature_flag(flip).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_span_joins_caller_trace_or_begins_one() {
    let (address, spans) = collector().await;
    let database = Database::new(Backend::Sqlite).await;
    let endpoint = format!("http://{address}");
    let server = Server::start_with(&database, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    flip_within(&mut admin, "01").await;
    admin.toggle.get_feature_flag(get("nowhere")).await.unwrap_err();
    let spans = collected(server, spans).await;
    let named = |name: &str| {
        let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
        assert_eq!(found.len(), 1, "{name} in {spans:?}");
        found[0]
    };
    let flip = named("toggled.v1.ToggleService/ToggleFeatureFlag");
    assert_eq!((hex::encode(&flip.trace_id).as_str(), hex::encode(&flip.parent_span_id).as_str()), (TRACE, PARENT));
    assert_eq!((flip.kind(), flip.trace_state.as_str()), (SpanKind::Server, "vendor=word"));
    assert_eq!(attribute(&flip.attributes, "rpc.system"), text("grpc"));
    assert_eq!(attribute(&flip.attributes, "rpc.service"), text("toggled.v1.ToggleService"));
    assert_eq!(attribute(&flip.attributes, "rpc.method"), text("ToggleFeatureFlag"));
    assert_eq!(attribute(&flip.attributes, "rpc.grpc.status_code"), Some(Value::IntValue(0)));

    let commit = spans.iter().find(|span| span.name == "commit" && span.parent_span_id == flip.span_id).unwrap();
    assert_eq!(attribute(&commit.attributes, "proposals"), Some(Value::IntValue(1)));
    assert_eq!(commit.trace_id, flip.trace_id);

    let lost = named("toggled.v1.ToggleService/GetFeatureFlag");
    assert!(lost.parent_span_id.is_empty() && hex::encode(&lost.trace_id) != TRACE, "{lost:?}");
    assert_eq!(attribute(&lost.attributes, "rpc.grpc.status_code"), Some(Value::IntValue(5)));
    let created = named("toggled.v1.ToggleService/CreateFeatureFlag");
    assert_ne!(created.trace_id, lost.trace_id);
    assert!(!format!("{spans:?}").contains("the-plan"), "a span contains the reason");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sampling_of_caller_trace_follows_the_caller() {
    let (address, spans) = collector().await;
    let database = Database::new(Backend::Sqlite).await;
    let endpoint = format!("http://{address}");
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0"),
    ];
    let (mut server, log) = Server::launch_with_log(&database.url, &settings).await;
    server.ready().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    flip_within(&mut admin, "00").await;
    flip_within(&mut admin, "01").await;
    let spans = collected(server, spans).await;
    let mut names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["commit", "toggled.v1.ToggleService/ToggleFeatureFlag"]);
    // The log has a trace id even for requests that are not sampled.
    let text_of_log = log.rest().await;
    let traces: Vec<_> = text_of_log.lines().filter_map(|line| line.split("trace_id=").nth(1)).collect();
    assert_eq!((traces.len(), &traces[1..]), (3, &[TRACE, TRACE][..]), "{text_of_log}");
    assert!(traces[0].len() == 32 && traces[0] != "0".repeat(32), "{text_of_log}");
}

/// Tests a collector that accepts connections and never answers, and one that does not exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_collector_is_logged_once_and_delays_nothing() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let absent = std::net::TcpListener::bind("127.0.0.3:0").unwrap().local_addr().unwrap();
    for address in [silent.local_addr().unwrap(), absent] {
        let database = Database::new(Backend::Sqlite).await;
        let endpoint = format!("http://{address}");
        let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
        let (mut server, mut log) = Server::launch_with_log(&database.url, &settings).await;
        server.ready().await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        if address == absent {
            log.wait_for_line("trace export failed").await;
        }
        for _ in 0..50 {
            admin.flip("a").await;
        }
        assert_stops_in_time(server).await;
        let text_of_log = with_timeout("the log", log.rest()).await;
        assert!(text_of_log.matches("trace export failed").count() <= 1, "{text_of_log}");
    }
}
