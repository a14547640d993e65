//! The layer around services that panic.

use std::convert::Infallible;
use std::sync::Arc;

use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::bytes::Bytes;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::api::pb::DESCRIPTORS;
use crate::api::protocol::ofrep;
use crate::telemetry::{errors, metrics};

const STREAM: &str = "/toggled.v1.ToggleService/WatchFeatureFlags";
const READ: &str = "/toggled.v1.ToggleService/GetFeatureFlag";
const OFREP: &str = "/ofrep/v1/evaluate/flags";

fn layer() -> ObserveLayer {
    let services = ["toggled.v1.ToggleService"];
    let policies = Policies::read(&[DESCRIPTORS], &services, &[]).unwrap().with_reads(&ofrep::ROUTES);
    ObserveLayer::new(Arc::new(policies), TaskTracker::new())
}

/// A service that panics: in the middle of its body for `STREAM`, before its answer for other paths.
async fn panics(ReadRequest { request, .. }: ReadRequest) -> Result<Response<Body>, Infallible> {
    if request.uri().path() != STREAM {
        tokio::task::yield_now().await;
        panic!("on purpose");
    }
    let frames = futures::stream::iter(0..2).map(|n| {
        assert!(n == 0, "on purpose");
        Ok::<_, Status>(Frame::data(Bytes::from_static(b"first")))
    });
    Ok(Response::new(Body::new(StreamBody::new(frames))))
}

async fn call(path: &str) -> Response<Body> {
    let protocol = Ok(if path == OFREP { Protocol::Ofrep } else { Protocol::Grpc });
    let request = Request::post(path).body(Body::empty()).unwrap();
    layer().layer(service_fn(panics)).oneshot(ReadRequest { protocol, request }).await.unwrap()
}

/// The metrics after a future has run.
fn metrics_after(future: impl Future<Output = ()>) -> String {
    errors::install_panic_hook_for_this_thread();
    let recorder = metrics::recorder();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    ::metrics::with_local_recorder(&recorder, || runtime.block_on(future));
    recorder.handle().render()
}

#[test]
fn panic_is_an_internal_error_of_its_call_alone() {
    let metrics = metrics_after(async {
        let response = call(READ).await;
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("purpose"), "{status}");
        // The next call is not affected.
        assert_eq!(call(OFREP).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    });
    for line in [
        r#"toggled_requests_total{method="toggled.v1.ToggleService/GetFeatureFlag",code="INTERNAL"} 1"#,
        r#"toggled_requests_total{method="OFREP/EvaluateFlags",code="INTERNAL"} 1"#,
        r#"toggled_refusals_total{reason="INTERNAL"} 2"#,
        "toggled_panics_total 2",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[test]
fn panicking_stream_ends_with_an_internal_error() {
    let metrics = metrics_after(async {
        let mut body = call(STREAM).await.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(Status::from_header_map(&trailers).unwrap().code(), Code::Internal);
        assert!(body.frame().await.is_none());
    });
    let method = r#"method="toggled.v1.ToggleService/WatchFeatureFlags""#;
    for line in [
        format!(r#"toggled_requests_total{{{method},code="INTERNAL"}} 1"#),
        format!("toggled_streams_open{{{method}}} 0"),
        "toggled_panics_total 1".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}
