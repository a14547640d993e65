//! Every service and layer, in order.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::Router as TonicRouter;
use tonic_health::server::health_reporter;
use tower::layer::util::{Identity, Stack};

use super::access::Access;
use super::audit::Audit;
use super::change::Changes;
use super::flags::Flags;
use super::health::Health;
use super::listener::incoming;
use super::middleware::authenticate::{AuthFailureLog, AuthMethods, Authenticator};
use super::middleware::authorize::{AuthorizeLayer, Authorizer, Denials};
use super::middleware::limits::{ByteBudget, ChangeRateLimiter, StreamLimiter};
use super::middleware::observe::ObserveLayer;
use super::openfeature::flagd::{Evaluation, FlagSync};
use super::openfeature::ofrep::Ofrep;
use super::pb;
use super::pb::access_service_server::AccessServiceServer;
use super::pb::audit_service_server::AuditServiceServer;
use super::pb::flagd::evaluation::v1::service_server::ServiceServer as EvaluationV1Server;
use super::pb::flagd::evaluation::v2::service_server::ServiceServer as EvaluationV2Server;
use super::pb::flagd::sync::v1::flag_sync_service_server::FlagSyncServiceServer;
use super::pb::toggle_service_server::ToggleServiceServer;
use super::protocol::ofrep;
use super::reader::StateReader;
use crate::auth::last_used::LastUsed;
use crate::auth::policy::{Policies, PolicyError};
use crate::checkpoint::SigningKey;
use crate::committer::Proposals;
use crate::config::{CONNECTION_WINDOW, FixedLimits, Limits, STREAM_WINDOW};
use crate::domain::time::Clock;
use crate::mirror::Mirror;
use crate::store::Store;
use crate::tls::ServerTls;

/// The services whose methods declare policies.
pub const SERVICES: [&str; 6] = [
    <ToggleServiceServer<Flags> as NamedService>::NAME,
    <AuditServiceServer<Audit> as NamedService>::NAME,
    <AccessServiceServer<Access> as NamedService>::NAME,
    <EvaluationV1Server<Evaluation> as NamedService>::NAME,
    <EvaluationV2Server<Evaluation> as NamedService>::NAME,
    <FlagSyncServiceServer<FlagSync> as NamedService>::NAME,
];

/// Public services for probes and tools. They reveal only what is in the .proto files, and whether the server serves.
const PUBLIC: [&str; 3] =
    ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// What the services need.
pub struct ServiceContext {
    /// The database.
    pub store: Arc<dyn Store>,
    /// The state in memory.
    pub mirror: Arc<Mirror>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The committer's queue.
    pub proposals: Proposals,
    /// The key that signs checkpoints, if there is one.
    pub checkpoint_key: Option<Arc<SigningKey>>,
    /// Records the last use of tokens.
    pub last_used: Arc<LastUsed>,
    /// The ways to authenticate besides API tokens.
    pub auth_methods: AuthMethods,
    /// Limits of requests, connections and streams.
    pub limits: Limits,
    /// The budget of buffered bytes.
    pub bytes: Arc<ByteBudget>,
    /// Cancelled when the server takes no more calls, and open streams have to end.
    pub closing: CancellationToken,
    /// Tracks open calls that are not streams.
    pub calls: TaskTracker,
}

/// Why the services cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// A served method declares no valid policy.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// The descriptors cannot be served by reflection.
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
    /// Assembles all services and layers. Their health is "not serving" until the server announces another.
    ///
    /// # Errors
    /// When a served method declares no policy, or the descriptors cannot be read.
    pub async fn new(parts: ServiceContext) -> Result<(Self, Health), RouterError> {
        let (limits, closing) = (parts.limits.clone(), parts.closing.clone());
        let policies = Policies::read(&descriptors(), &SERVICES, &PUBLIC)?.with_reads(&ofrep::ROUTES);
        let policies = Arc::new(policies);
        let (reporter, health_service) = health_reporter();
        let services = SERVICES.iter().chain(&PUBLIC).chain(&[""]).copied().collect();
        let health = Health::new(reporter, services).await;
        let (authorize, denials) = authorize(&parts, Arc::clone(&policies));
        let ServiceContext { store, mirror, clock, proposals, last_used, checkpoint_key, calls, .. } = parts;
        let changes = Changes::new(proposals, denials, ChangeRateLimiter::new(limits.max_changes_per_second));
        let reader = StateReader::new(Arc::clone(&mirror), Arc::clone(&store), Arc::clone(&clock));
        let flags = Flags::new(changes.clone(), reader.clone());
        let evaluation = Evaluation::new(Arc::clone(&mirror));
        let sync = FlagSync::new(Arc::clone(&mirror), limits.fixed.max_flagd_bytes);
        let ofrep = Ofrep::new(Arc::clone(&mirror));
        let audit = Audit::new(changes.clone(), reader.clone(), Arc::clone(&store), mirror, checkpoint_key, clock);
        let access = Access::new(changes, reader, store, last_used);
        // The names of the size limits of a request and a response.
        macro_rules! limited {
            ($service:expr, $max_request:ident, $max_response:ident) => {
                $service
                    .max_decoding_message_size(limits.fixed.$max_request)
                    .max_encoding_message_size(limits.fixed.$max_response)
            };
        }
        let router = transport(&limits.fixed)
            .layer(ObserveLayer::new(policies, calls))
            .layer(authorize)
            .add_service(limited!(health_service, max_public_request_bytes, max_response_bytes))
            .add_service(limited!(reflection().build_v1()?, max_public_request_bytes, max_response_bytes))
            .add_service(limited!(reflection().build_v1alpha()?, max_public_request_bytes, max_response_bytes))
            .add_service(limited!(ToggleServiceServer::new(flags), max_request_bytes, max_response_bytes))
            .add_service(limited!(AuditServiceServer::new(audit), max_request_bytes, max_response_bytes))
            .add_service(limited!(AccessServiceServer::new(access), max_request_bytes, max_response_bytes))
            // An answer with all flags grows with their number.
            .add_service(limited!(
                EvaluationV1Server::new(evaluation.clone()),
                max_flagd_request_bytes,
                max_flagd_bytes
            ))
            .add_service(limited!(EvaluationV2Server::new(evaluation), max_flagd_request_bytes, max_flagd_bytes))
            .add_service(limited!(FlagSyncServiceServer::new(sync), max_flagd_request_bytes, max_flagd_bytes))
            .add_service(ofrep);
        Ok((Self { router, limits, closing }, health))
    }

    /// Serves until `closing` is cancelled and open calls have ended; over TLS if `tls` is given.
    ///
    /// # Errors
    /// When the network fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Option<Arc<ServerTls>>,
    ) -> Result<(), tonic::transport::Error> {
        let incoming = incoming(listener, tls, &self.limits);
        self.router.serve_with_incoming_shutdown(incoming, self.closing.cancelled_owned()).await
    }
}

/// The authorization layer, and the recorder of refused changes.
fn authorize(parts: &ServiceContext, policies: Arc<Policies>) -> (AuthorizeLayer, Denials) {
    let ServiceContext { store, mirror, clock, proposals, last_used, auth_methods, limits, bytes, closing, .. } = parts;
    let denials = Denials::new(proposals.clone(), Arc::clone(store), Arc::clone(clock));
    let authenticator = Authenticator {
        mirror: Arc::clone(mirror),
        clock: Arc::clone(clock),
        methods: auth_methods.clone(),
        last_used: Arc::clone(last_used),
        failures: AuthFailureLog::default(),
    };
    let authorizer =
        Authorizer { policies, authenticator, request_timeout: limits.request_timeout, closing: closing.clone() };
    let layer = AuthorizeLayer::new(authorizer, denials.clone(), StreamLimiter::new(limits), Arc::clone(bytes));
    (layer, denials)
}

/// HTTP/2 with limits. By default, tonic limits neither concurrent streams nor streams that are reset for errors.
fn transport(limits: &FixedLimits) -> Server {
    Server::builder()
        // Only OFREP is served over HTTP/1.1.
        .accept_http1(true)
        .max_concurrent_streams(limits.max_calls_per_connection)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(Some(limits.max_header_bytes))
        .http2_keepalive_interval(Some(limits.keepalive_interval))
        .http2_keepalive_timeout(Some(limits.keepalive_timeout))
        .http2_max_pending_accept_reset_streams(Some(limits.max_pending_resets))
        .http2_max_local_error_reset_streams(Some(limits.max_error_resets))
}

/// The descriptors of all services, encoded: the decoded types would lose the options that declare policies.
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
    fn every_served_method_has_a_policy() {
        let policies = Policies::read(&descriptors(), &SERVICES, &PUBLIC).unwrap().with_reads(&ofrep::ROUTES);
        let policy = |path: &str| policies.method(path).unwrap().policy;
        assert_eq!(
            policy("/toggled.v1.ToggleService/ToggleFeatureFlag"),
            Policy::Permission(Permission::ToggleFeatureFlags)
        );
        assert_eq!(policy("/toggled.v1.AccessService/WhoAmI"), Policy::Authenticated);
        assert_eq!(policy("/grpc.health.v1.Health/Check"), Policy::Public);
        assert!(policies.method("/toggled.v1.ToggleService/Nothing").is_none());
        let view = Policy::Permission(Permission::ViewFeatureFlags);
        assert_eq!(policy("/ofrep/v1/evaluate/flags"), view);
        assert_eq!(policy("/ofrep/v1/evaluate/flags/a"), view);
        assert_eq!(policy("/ofrep/v1/evaluate/flags/a/b"), view);
        for nothing in ["/ofrep/v1/evaluate/", "/ofrep/v1/evaluate/flag", "/a", "/", ""] {
            assert!(policies.method(nothing).is_none(), "{nothing}");
        }
        let open = policies.methods().filter(|m| m.policy == Policy::Public && m.name.starts_with("toggled"));
        assert_eq!(open.count(), 0);
    }

    #[test]
    fn method_without_a_policy_is_refused() {
        let served = ["grpc.health.v1.Health"];
        let refused = Policies::read(&descriptors(), &served, &[]).unwrap_err();
        assert!(
            matches!(&refused, PolicyError::Undeclared(name) if name == "grpc.health.v1.Health/Check"),
            "{refused}"
        );
        let refused = Policies::read(&descriptors(), &["toggled.v1.NoService"], &[]).unwrap_err();
        assert!(matches!(&refused, PolicyError::UnknownService(name) if name == "toggled.v1.NoService"), "{refused}");
    }
}
