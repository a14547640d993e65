//! Health: gRPC's health service for every service by name and for the whole as "", and readiness for the metrics listener.

use std::pin::Pin;

use futures::{Stream, StreamExt};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::errors::ApiError;
use super::pb::health::health_check_response::ServingStatus;
use super::pb::health::health_server;
use super::pb::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use crate::telemetry::listener::Readiness;

/// Reports the server's health to all who ask or watch. All services have the same.
#[derive(Clone)]
pub struct Health {
    /// The services to report on, by name.
    services: Vec<&'static str>,
    readiness: watch::Sender<Readiness>,
}

impl Health {
    /// Reports `services` as not serving until the first [`Health::announce`].
    pub(super) fn new(services: Vec<&'static str>) -> Self {
        Self { services, readiness: watch::Sender::new(Readiness::Starting) }
    }

    /// The server's readiness, to watch: whether it serves, and if not, why.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// Changes the state of all services.
    pub fn announce(&self, readiness: Readiness) {
        self.readiness.send_replace(readiness);
    }

    fn serves(&self, service: &str) -> bool {
        self.services.contains(&service)
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        if !self.serves(service) {
            return Err(ApiError::UnknownService(service.chars().take(200).collect()).into());
        }
        Ok(Response::new(response(status(*self.readiness.borrow()))))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let health = response(status(*self.readiness.borrow()));
        let statuses = self.services.iter().map(|service| ((*service).to_owned(), health)).collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if !self.serves(&request.get_ref().service) {
            // A service that is not served now never will be by this server.
            let unknown = futures::stream::iter([Ok(response(ServingStatus::ServiceUnknown))]);
            return Ok(Response::new(unknown.chain(futures::stream::pending()).boxed()));
        }
        let mut last = None;
        let changes = WatchStream::new(self.readiness()).map(status).filter(move |status| {
            let is_new = last.replace(*status) != Some(*status);
            std::future::ready(is_new)
        });
        Ok(Response::new(changes.map(|status| Ok(response(status))).boxed()))
    }
}

fn status(readiness: Readiness) -> ServingStatus {
    if readiness == Readiness::Serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
