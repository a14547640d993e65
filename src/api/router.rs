//! Every service and layer, in order.

use std::sync::Arc;

use http::HeaderValue;
use prost_reflect::DescriptorError;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codec::CompressionEncoding;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_reflection::server::{v1, v1alpha};
use tower::Layer;
use tower::util::{Either, option_layer};
use tower_http::cors::Cors;

use super::access::Access;
use super::audit::Audit;
use super::change::Changes;
use super::connection::incoming;
use super::environments::Environments;
use super::flags::Flags;
use super::health::Health;
use super::middleware::admit::{Admit, AdmitLayer};
use super::middleware::authenticate::{AuthFailureLog, AuthMethods, Authenticator, IgnoredPermissionLog};
use super::middleware::authorize::{Authorize, AuthorizeLayer, Authorizer, Denials};
use super::middleware::limits::{ByteBudget, ChangeRateLimiter, StreamLimiter};
use super::middleware::observe::{Observe, ObserveLayer};
use super::openfeature::flagd::{Evaluation, FlagSync};
use super::openfeature::ofrep::{Ofrep, Tickets};
use super::pb;
use super::pb::access_service_server::AccessServiceServer;
use super::pb::audit_service_server::AuditServiceServer;
use super::pb::environment_service_server::EnvironmentServiceServer;
use super::pb::flagd::evaluation::v1::service_server::ServiceServer as EvaluationV1Server;
use super::pb::flagd::evaluation::v2::service_server::ServiceServer as EvaluationV2Server;
use super::pb::flagd::sync::v1::flag_sync_service_server::FlagSyncServiceServer;
use super::pb::health::health_server::HealthServer;
use super::pb::toggle_service_server::ToggleServiceServer;
use super::protocol::connect::{Transcode, TranscodeLayer};
use super::protocol::{Translate, TranslateLayer, cors_layer, ofrep};
use super::reader::StateReader;
use super::reflection::Reflection;
use super::transport;
use crate::auth::last_used::LastUsed;
use crate::auth::policy::{Policies, PolicyError};
use crate::auth::ticket::SharedTicketKey;
use crate::checkpoint::SigningKey;
use crate::committer::Proposals;
use crate::config::Limits;
use crate::domain::time::Clock;
use crate::mirror::{Mirror, WriteTime};
use crate::store::Store;
use crate::tls::ServerTls;

/// The services whose methods declare policies.
pub const SERVICES: [&str; 7] = [
    <ToggleServiceServer<Flags> as NamedService>::NAME,
    <AuditServiceServer<Audit> as NamedService>::NAME,
    <AccessServiceServer<Access> as NamedService>::NAME,
    <EnvironmentServiceServer<Environments> as NamedService>::NAME,
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
    /// The origins whose pages may call from a browser.
    pub cors_origins: Vec<HeaderValue>,
    /// The key of tickets for streams of events; set when the database was opened.
    pub ticket_key: SharedTicketKey,
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
    Reflection(#[from] DescriptorError),
}

/// All layers but CORS, outermost first.
type AllLayers = Translate<Observe<Admit<Authorize<Transcode<Routes>>>>>;

/// All services behind their layers, ready to serve.
pub struct Router {
    service: Either<Cors<AllLayers>, AllLayers>,
    write_time: WriteTime,
    bytes: Arc<ByteBudget>,
    limits: Limits,
    closing: CancellationToken,
}

impl Router {
    /// Assembles all services and layers. Their health is "not serving" until the server announces another.
    ///
    /// # Errors
    /// When a served method declares no policy, or the descriptors cannot be read.
    pub fn new(parts: ServiceContext) -> Result<(Self, Health), RouterError> {
        let (limits, closing) = (parts.limits.clone(), parts.closing.clone());
        let (write_time, bytes) = (parts.mirror.write_time(), Arc::clone(&parts.bytes));
        let policies = Policies::read(&descriptors(), &SERVICES, &PUBLIC)?.with_reads(&ofrep::ROUTES);
        let policies = Arc::new(policies);
        let health = Health::new(SERVICES.iter().chain(&PUBLIC).chain(&[""]).copied().collect());
        let (authorize, denials) = authorize(&parts, Arc::clone(&policies));
        let ServiceContext {
            store,
            mirror,
            clock,
            proposals,
            last_used,
            checkpoint_key,
            cors_origins,
            calls,
            auth_methods,
            ticket_key,
            ..
        } = parts;
        let changes = Changes::new(proposals, denials, ChangeRateLimiter::new(limits.max_changes_per_second));
        let reader = StateReader::new(Arc::clone(&mirror), Arc::clone(&store), Arc::clone(&clock));
        let flags = Flags::new(changes.clone(), reader.clone());
        let evaluation = Evaluation::new(Arc::clone(&mirror));
        let max_flag_set = limits.max_flag_set_bytes();
        let sync = FlagSync::new(Arc::clone(&mirror), max_flag_set);
        let tickets = Tickets { key: ticket_key, sign_on: auth_methods.sign_on, clock: Arc::clone(&clock) };
        let ofrep = Ofrep::new(Arc::clone(&mirror), tickets);
        let audit = Audit::new(changes.clone(), reader.clone(), Arc::clone(&store), mirror, checkpoint_key, clock);
        let environments = Environments::new(changes.clone(), reader.clone());
        let access = Access::new(changes, reader, store, last_used);
        // Requests may be compressed. Answers are not: most are small, and compressing one costs more than making it. The macro
        // takes the name of the field that limits a request, before and after decompression, and the limit of a response.
        macro_rules! limited {
            ($service:expr, $max_request:ident, $max_response:expr) => {
                $service
                    .accept_compressed(CompressionEncoding::Gzip)
                    .max_decoding_message_size(limits.fixed.$max_request)
                    .max_encoding_message_size($max_response)
            };
        }
        let max_response_bytes = limits.fixed.max_response_bytes;
        let health_service = HealthServer::new(health.clone());
        // Besides the services' files those of the details of errors, for which tools ask.
        let sets: Vec<_> = descriptors().into_iter().chain([tonic_types::pb::FILE_DESCRIPTOR_SET]).collect();
        let reflection = Reflection::of(&sets)?;
        let services = Routes::new(limited!(health_service, max_public_request_bytes, max_response_bytes))
            .add_service(limited!(
                v1::ServerReflectionServer::new(reflection.clone()),
                max_public_request_bytes,
                max_response_bytes
            ))
            .add_service(limited!(
                v1alpha::ServerReflectionServer::new(reflection),
                max_public_request_bytes,
                max_response_bytes
            ))
            .add_service(limited!(ToggleServiceServer::new(flags), max_request_bytes, max_response_bytes))
            .add_service(limited!(AuditServiceServer::new(audit), max_request_bytes, max_response_bytes))
            .add_service(limited!(AccessServiceServer::new(access), max_request_bytes, max_response_bytes))
            .add_service(limited!(EnvironmentServiceServer::new(environments), max_request_bytes, max_response_bytes))
            // An answer with all flags grows with their number.
            .add_service(limited!(EvaluationV1Server::new(evaluation.clone()), max_flagd_request_bytes, max_flag_set))
            .add_service(limited!(EvaluationV2Server::new(evaluation), max_flagd_request_bytes, max_flag_set))
            .add_service(limited!(FlagSyncServiceServer::new(sync), max_flagd_request_bytes, max_flag_set))
            .add_service(ofrep)
            .prepare();
        let admit = AdmitLayer::new(limits.request_timeout, Arc::clone(&bytes));
        let services = authorize.layer(TranscodeLayer::new(limits.fixed.clone()).layer(services));
        let observed = ObserveLayer::new(Arc::clone(&policies), calls).layer(admit.layer(services));
        let translated = TranslateLayer::new(policies).layer(observed);
        let service = option_layer(cors_layer(&cors_origins)).layer(translated);
        Ok((Self { service, write_time, bytes, limits, closing }, health))
    }

    /// Serves until `closing` is cancelled and open connections have ended; over TLS if `tls` is given.
    pub async fn serve(self, listener: TcpListener, tls: Option<Arc<ServerTls>>) {
        let incoming = incoming(listener, tls, &self.limits, self.write_time, self.bytes);
        transport::serve(incoming, self.service, &self.limits.fixed, self.closing).await;
    }
}

/// The authorization layer, and the recorder of refused changes.
fn authorize(parts: &ServiceContext, policies: Arc<Policies>) -> (AuthorizeLayer, Denials) {
    let ServiceContext {
        store,
        mirror,
        clock,
        proposals,
        last_used,
        auth_methods,
        ticket_key,
        limits,
        bytes,
        closing,
        ..
    } = parts;
    let denials = Denials::new(proposals.clone(), Arc::clone(store), Arc::clone(clock));
    let authenticator = Authenticator {
        mirror: Arc::clone(mirror),
        clock: Arc::clone(clock),
        methods: auth_methods.clone(),
        last_used: Arc::clone(last_used),
        failures: AuthFailureLog::default(),
        ignored: IgnoredPermissionLog::default(),
        ticket_key: Arc::clone(ticket_key),
    };
    let authorizer = Authorizer { policies, authenticator, closing: closing.clone() };
    let (streams, bytes) = (StreamLimiter::new(limits), Arc::clone(bytes));
    let layer = AuthorizeLayer::new(authorizer, denials.clone(), streams, bytes, limits.clone());
    (layer, denials)
}

/// The descriptors of all services, encoded: the decoded types would lose the options that declare policies.
fn descriptors() -> [&'static [u8]; 3] {
    [pb::DESCRIPTORS, tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET]
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
        assert_eq!(policy("/toggled.v1.EnvironmentService/ListEnvironments"), Policy::Authenticated);
        for method in ["Create", "Update", "Archive", "Unarchive"] {
            let path = format!("/toggled.v1.EnvironmentService/{method}Environment");
            assert_eq!(policy(&path), Policy::PermissionEverywhere(Permission::ManageEnvironments));
        }
        assert_eq!(policy("/grpc.health.v1.Health/Check"), Policy::Public);
        assert!(policies.method("/toggled.v1.ToggleService/Nothing").is_none());
        let view = Policy::Permission(Permission::ViewFeatureFlags);
        assert_eq!(policy("/ofrep/v1/evaluate/flags"), view);
        assert_eq!(policy("/ofrep/v1/evaluate/flags/a"), view);
        assert_eq!(policy("/ofrep/v1/evaluate/flags/a/b"), view);
        assert_eq!(policy("/ofrep/v1/events"), view);
        assert!(policies.method("/ofrep/v1/events").unwrap().is_server_streaming);
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
