//! Every service and layer, in order, and health.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::Router as TonicRouter;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};
use tower::layer::util::{Identity, Stack};

use super::access::Access;
use super::audit::Audit;
use super::change::Changes;
use super::flags::{Past, Toggle};
use super::listener::incoming;
use super::middleware::authenticate::Failures;
use super::middleware::authorize::{AuthorizeLayer, Denials, Gate};
use super::middleware::limits::{Fairness, Streams};
use super::middleware::observe::ObserveLayer;
use super::openfeature::flagd::{Evaluation, FlagSync};
use super::openfeature::ofrep::{self, Ofrep};
use super::pb;
use super::pb::access_service_server::AccessServiceServer;
use super::pb::audit_service_server::AuditServiceServer;
use super::pb::flagd::evaluation::v1::service_server::ServiceServer as EvaluationV1Server;
use super::pb::flagd::evaluation::v2::service_server::ServiceServer as EvaluationV2Server;
use super::pb::flagd::sync::v1::flag_sync_service_server::FlagSyncServiceServer;
use super::pb::toggle_service_server::ToggleServiceServer;
use super::reader::Reads;
use crate::auth::jwt::SignOn;
use crate::auth::last_used::LastUsed;
use crate::auth::policy::{Policies, PolicyError};
use crate::checkpoint::SigningKey;
use crate::committer::Proposals;
use crate::config::Limits;
use crate::domain::text::Email;
use crate::domain::time::Clock;
use crate::mirror::Mirror;
use crate::store::Store;
use crate::telemetry::listener::Readiness;
use crate::tls::Tls;

/// Our services: each of their methods declares a policy.
pub const SERVICES: [&str; 6] = [
    <ToggleServiceServer<Toggle> as NamedService>::NAME,
    <AuditServiceServer<Audit> as NamedService>::NAME,
    <AccessServiceServer<Access> as NamedService>::NAME,
    <EvaluationV1Server<Evaluation> as NamedService>::NAME,
    <EvaluationV2Server<Evaluation> as NamedService>::NAME,
    <FlagSyncServiceServer<FlagSync> as NamedService>::NAME,
];

/// Services for probes and tools, open to everybody: they tell nothing that is not in the .proto files.
const PUBLIC: [&str; 3] =
    ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// What the services work with.
pub struct Parts {
    /// The database.
    pub store: Arc<dyn Store>,
    /// The state in memory.
    pub mirror: Arc<Mirror>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Where changes are handed in.
    pub proposals: Proposals,
    /// What checkpoints are signed with, if there is anything.
    pub checkpoint_key: Option<Arc<SigningKey>>,
    /// Where the use of tokens is noted.
    pub last_used: Arc<LastUsed>,
    /// Who may call besides our own users.
    pub outsiders: Outsiders,
    /// How much is too much.
    pub limits: Limits,
    /// Cancelled when no more calls are to be taken, and streams have to end.
    pub closing: CancellationToken,
    /// Holds the calls under way that are no streams.
    pub calls: TaskTracker,
}

/// Who may call besides our own users with their tokens.
#[derive(Clone, Default)]
pub struct Outsiders {
    /// Whom clients are taken for, by an alternative name of their certificate.
    pub certificate_users: HashMap<String, Email>,
    /// Whose tokens count besides our own.
    pub sign_on: Option<Arc<SignOn>>,
    /// Whether callers who send no credentials may read flags through flagd's services.
    pub anonymous_flagd_reads: bool,
}

/// Why the services cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// A method is served that must not be.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// The descriptors cannot be shown.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// All services behind their layers, ready to serve.
pub struct Router {
    router: TonicRouter<Stack<AuthorizeLayer, Stack<ObserveLayer, Identity>>>,
    limits: Limits,
    closing: CancellationToken,
}

impl Router {
    /// Puts everything together, and reports the health of it all: not serving, until told otherwise.
    ///
    /// # Errors
    /// When a method is served that declares no policy, or the descriptors cannot be read.
    pub async fn new(parts: Parts) -> Result<(Self, Health), RouterError> {
        let (limits, closing) = (parts.limits.clone(), parts.closing.clone());
        let policies = Policies::read(&descriptors(), &SERVICES, &PUBLIC)?.with_reads(&ofrep::ROUTES);
        let policies = Arc::new(policies);
        let (reporter, health_service) = health_reporter();
        let health = Health::new(reporter).await;
        let (authorize, denials) = authorize(&parts, Arc::clone(&policies));
        let Parts { store, mirror, clock, proposals, last_used, checkpoint_key, calls, .. } = parts;
        let changes = Changes::new(proposals, denials, Fairness::new(limits.max_changes_per_second));
        let reads = Reads::new(Arc::clone(&mirror), Arc::clone(&store));
        let past = Past::new(reads.clone(), Arc::clone(&store), Arc::clone(&clock));
        let toggle = Toggle::new(changes.clone(), reads.clone(), past);
        let evaluation = Evaluation::new(Arc::clone(&mirror));
        let sync = FlagSync::new(Arc::clone(&mirror));
        let ofrep = Ofrep::new(Arc::clone(&mirror));
        let audit = Audit::new(changes.clone(), Arc::clone(&store), mirror, checkpoint_key, clock);
        let access = Access::new(changes, reads, store, last_used);
        // Every service has the same limits, but for how much it may say at once.
        macro_rules! limited {
            ($service:expr, $most:ident) => {
                $service.max_decoding_message_size(limits.max_request_bytes).max_encoding_message_size(limits.$most)
            };
        }
        let router = transport(&limits)
            .layer(ObserveLayer::new(policies, calls))
            .layer(authorize)
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .add_service(limited!(ToggleServiceServer::new(toggle), max_response_bytes))
            .add_service(limited!(AuditServiceServer::new(audit), max_response_bytes))
            .add_service(limited!(AccessServiceServer::new(access), max_response_bytes))
            // What tells all flags at once grows with them.
            .add_service(limited!(EvaluationV1Server::new(evaluation.clone()), max_flagd_bytes))
            .add_service(limited!(EvaluationV2Server::new(evaluation), max_flagd_bytes))
            .add_service(limited!(FlagSyncServiceServer::new(sync), max_flagd_bytes))
            .add_service(ofrep);
        Ok((Self { router, limits, closing }, health))
    }

    /// Serves until no more calls are to be taken and those under way have ended; inside TLS if there is one.
    ///
    /// # Errors
    /// When the network fails.
    pub async fn serve(self, listener: TcpListener, tls: Option<Arc<Tls>>) -> Result<(), tonic::transport::Error> {
        let incoming = incoming(listener, tls, &self.limits);
        self.router.serve_with_incoming_shutdown(incoming, self.closing.cancelled_owned()).await
    }
}

/// The one layer that every call passes, and where it records whom it refuses.
fn authorize(parts: &Parts, policies: Arc<Policies>) -> (AuthorizeLayer, Denials) {
    let Parts { store, mirror, clock, proposals, last_used, outsiders, limits, closing, .. } = parts;
    let denials = Denials::new(proposals.clone(), Arc::clone(store), Arc::clone(clock));
    let gate = Gate {
        policies,
        mirror: Arc::clone(mirror),
        clock: Arc::clone(clock),
        last_used: Arc::clone(last_used),
        outsiders: outsiders.clone(),
        failures: Failures::default(),
        request_timeout: limits.request_timeout,
        closing: closing.clone(),
    };
    (AuthorizeLayer::new(gate, denials.clone(), Streams::new(limits)), denials)
}

/// HTTP/2 within its limits. The transport's own defaults leave two of them out: how many streams a connection may have
/// reset for its errors, and how many there may be at all.
fn transport(limits: &Limits) -> Server {
    Server::builder()
        // For OFREP: nothing else is served over it.
        .accept_http1(true)
        .max_concurrent_streams(limits.max_calls_per_connection)
        .http2_max_header_list_size(Some(limits.max_header_bytes))
        .http2_keepalive_interval(Some(limits.keepalive_interval))
        .http2_keepalive_timeout(Some(limits.keepalive_timeout))
        .http2_max_pending_accept_reset_streams(Some(limits.max_pending_resets))
        .http2_max_local_error_reset_streams(Some(limits.max_error_resets))
}

/// The health that is reported, of every service by name and of the whole as "".
#[derive(Clone)]
pub struct Health {
    reporter: HealthReporter,
    readiness: watch::Sender<Readiness>,
}

impl Health {
    async fn new(reporter: HealthReporter) -> Self {
        let health = Self { reporter, readiness: watch::Sender::new(Readiness::Starting) };
        health.announce(Readiness::Starting).await;
        health
    }

    /// The same, for who speaks no gRPC, and in one word why.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// Tells everybody who asks or watches.
    pub async fn announce(&self, readiness: Readiness) {
        self.readiness.send_replace(readiness);
        let serving = readiness == Readiness::Serving;
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES.iter().chain(&PUBLIC).chain(&[""]) {
            self.reporter.set_service_status(service, status).await;
        }
    }
}

/// Everything that is served, as bytes: decoded, it would lose the options that policies are declared in.
fn descriptors() -> [&'static [u8]; 4] {
    [
        pb::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ]
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    let [ours, health, ..] = descriptors();
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(ours)
        .register_encoded_file_descriptor_set(health)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::policy::Policy;
    use crate::domain::access::Permission;

    #[test]
    fn every_served_method_declares_what_it_demands() {
        let policies = Policies::read(&descriptors(), &SERVICES, &PUBLIC).unwrap().with_reads(&ofrep::ROUTES);
        let demanded = |path: &str| policies.method(path).unwrap().policy;
        assert_eq!(
            demanded("/toggled.v1.ToggleService/ToggleFeatureFlag"),
            Policy::Permission(Permission::ToggleFeatureFlags)
        );
        assert_eq!(demanded("/toggled.v1.AccessService/WhoAmI"), Policy::Authenticated);
        assert_eq!(demanded("/grpc.health.v1.Health/Check"), Policy::Public);
        assert!(policies.method("/toggled.v1.ToggleService/Nothing").is_none());
        let view = Policy::Permission(Permission::ViewFeatureFlags);
        assert_eq!(demanded("/ofrep/v1/evaluate/flags"), view);
        assert_eq!(demanded("/ofrep/v1/evaluate/flags/a"), view);
        assert_eq!(demanded("/ofrep/v1/evaluate/flags/a/b"), view);
        for nothing in ["/ofrep/v1/evaluate/", "/ofrep/v1/evaluate/flag", "/a", "/", ""] {
            assert!(policies.method(nothing).is_none(), "{nothing}");
        }
        let open = policies.methods().filter(|m| m.policy == Policy::Public && m.name.starts_with("toggled"));
        assert_eq!(open.count(), 0);
    }

    #[test]
    fn a_served_method_without_a_policy_stops_the_start() {
        let served = ["grpc.health.v1.Health"];
        let refused = Policies::read(&descriptors(), &served, &[]).unwrap_err();
        assert_eq!(refused, PolicyError::Undeclared("grpc.health.v1.Health/Check".into()));
        let refused = Policies::read(&descriptors(), &["toggled.v1.NoService"], &[]).unwrap_err();
        assert_eq!(refused, PolicyError::UnknownService("toggled.v1.NoService".into()));
    }
}
