//! A server for fuzz targets that send requests.

use std::sync::Arc;

use clap::{Args, Command};
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tempfile::TempDir;
use toggled::api::AuthMethods;
use toggled::api::pb::DESCRIPTORS;
use toggled::auth::secret::Secret;
use toggled::config::{FollowerOptions, Limits, ShutdownOptions};
use toggled::domain::time::SystemClock;
use toggled::server::{self, CheckpointSettings, ServerContext};
use toggled::store;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

pub const TOKEN: &str = "bootstrap-token-of-the-fuzz-targets";

/// Default settings. Ignores the environment.
fn defaults<T: Args>() -> T {
    let command = T::augment_args(Command::new("toggled")).mut_args(|argument| argument.env(None::<&str>));
    T::from_arg_matches(&command.get_matches_from(["toggled"])).expect("the defaults")
}

/// All methods, except those of gRPC's standard services, with their paths.
pub fn methods() -> Vec<(String, MethodDescriptor)> {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
    let services = pool.services().filter(|service| !service.full_name().starts_with("grpc."));
    let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
    methods.map(|method| (format!("/{}/{}", method.parent_service().full_name(), method.name()), method)).collect()
}

/// Starts a server with its files in `folder`, and connects to it.
pub async fn start(folder: &TempDir) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = ServerContext {
        listener,
        tls: None,
        auth_methods: AuthMethods::default(),
        cors_origins: Vec::new(),
        store: store::open(&format!("sqlite://{}/fuzz.db", folder.path().display())).expect("a database"),
        clock: Arc::new(SystemClock),
        bootstrap_token: Some(Secret::parse(TOKEN.to_owned()).expect("a token")),
        following: defaults::<FollowerOptions>(),
        checkpoints: CheckpointSettings { key: None, interval: 1_000, verify_all: false },
        limits: Limits { max_changes_per_second: 1_000_000, ..defaults() },
        shutdown_settings: defaults::<ShutdownOptions>(),
        metrics_listener: None,
        shutdown: CancellationToken::new(),
    };
    let (ready, is_ready) = oneshot::channel();
    tokio::spawn(server::run(server, |_| ready.send(()).expect("a receiver")));
    is_ready.await.expect("a server");
    Endpoint::from_shared(format!("http://{address}")).expect("a URL").connect().await.expect("a connection")
}
