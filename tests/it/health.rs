//! gRPC's health service. When the health changes is tested with what changes it.

use toggled::api::pb::health::health_check_response::ServingStatus;
use toggled::api::pb::health::health_client::HealthClient;
use toggled::api::pb::health::{HealthCheckRequest, HealthListRequest};
use tonic::Code;

use crate::support::methods::channel;
use crate::support::{Backend, Database, Server, reason_of, with_timeout};

const SERVICES: [&str; 11] = [
    "",
    "flagd.evaluation.v1.Service",
    "flagd.evaluation.v2.Service",
    "flagd.sync.v1.FlagSyncService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "toggled.v1.AccessService",
    "toggled.v1.AuditService",
    "toggled.v1.EnvironmentService",
    "toggled.v1.ToggleService",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_has_every_service() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut health = HealthClient::new(channel(&server).await);

    let listed = health.list(HealthListRequest {}).await.unwrap().into_inner().statuses;

    let mut names: Vec<_> = listed.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, SERVICES);
    assert!(listed.values().all(|health| health.status() == ServingStatus::Serving), "{listed:?}");
    for service in names {
        let service = service.to_owned();
        let one = health.check(HealthCheckRequest { service }).await.unwrap().into_inner();
        assert_eq!(one.status(), ServingStatus::Serving);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_of_unknown_service_stays_open() {
    let database = Database::new(Backend::Sqlite).await;
    // Between the message and the end of the stream.
    let server = Server::start_with(&database, &[("TOGGLED_DRAIN_DELAY", "1s")]).await;
    let mut health = HealthClient::new(channel(&server).await);
    let request = |service: &str| HealthCheckRequest { service: service.into() };
    let refused = health.check(request("nothing")).await.unwrap_err();
    assert_eq!((refused.code(), &*reason_of(&refused)), (Code::NotFound, "UNKNOWN_SERVICE"));

    let mut unknown = health.watch(request("nothing")).await.unwrap().into_inner();
    let mut known = health.watch(request("toggled.v1.AuditService")).await.unwrap().into_inner();

    let first = with_timeout("the first message", unknown.message()).await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    let first = with_timeout("the first message", known.message()).await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    server.request_stop().await;
    let next = with_timeout("the next message", known.message()).await.unwrap().unwrap();
    assert_eq!(next.status(), ServingStatus::NotServing);
    // Nothing but the end of the server ends the stream.
    let ended = with_timeout("the end", unknown.message()).await.unwrap_err();
    assert_eq!((ended.code(), &*reason_of(&ended)), (Code::Unavailable, "DRAINING"));
}
