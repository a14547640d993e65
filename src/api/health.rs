//! Health: gRPC's health service for every service by name and for the whole as "", and readiness for the metrics listener.

use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::telemetry::listener::Readiness;

/// Reports the server's health to all who ask or watch.
#[derive(Clone)]
pub struct Health {
    reporter: HealthReporter,
    /// The services to report on, by name.
    services: Vec<&'static str>,
    readiness: watch::Sender<Readiness>,
}

impl Health {
    /// Reports `services` as not serving until the first [`Health::announce`].
    pub(super) async fn new(reporter: HealthReporter, services: Vec<&'static str>) -> Self {
        let health = Self { reporter, services, readiness: watch::Sender::new(Readiness::Starting) };
        health.announce(Readiness::Starting).await;
        health
    }

    /// The server's readiness, to watch: whether it serves, and if not, why.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// Changes the state of all services.
    pub async fn announce(&self, readiness: Readiness) {
        self.readiness.send_replace(readiness);
        let is_serving = readiness == Readiness::Serving;
        let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in &self.services {
            self.reporter.set_service_status(*service, status).await;
        }
    }
}
