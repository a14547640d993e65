//! Sends random bytes as a request of each method to a running server. No answer may report a defect of the server.
#![no_main]

use std::sync::{Arc, OnceLock};

use clap::{Args, Command};
use http::uri::PathAndQuery;
use libfuzzer_sys::fuzz_target;
use prost::bytes::Bytes;
use prost_reflect::DescriptorPool;
use tempfile::TempDir;
use toggled::api::AuthMethods;
use toggled::api::pb::DESCRIPTORS;
use toggled::auth::secret::Secret;
use toggled::config::{FollowerOptions, Limits, ShutdownOptions};
use toggled::domain::time::SystemClock;
use toggled::server::{self, CheckpointSettings, ServerContext};
use toggled::store;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Shared with the tests.
#[path = "../../tests/it/support/raw_codec.rs"]
mod raw_codec;

use raw_codec::RawCodec;

const TOKEN: &str = "bootstrap-token-of-the-fuzz-targets";

/// A server that runs until the process ends, and a connection to it.
struct Context {
    runtime: Runtime,
    channel: Channel,
    methods: Vec<PathAndQuery>,
    _folder: TempDir,
}

/// Default settings. Ignores the environment.
fn defaults<T: Args>() -> T {
    let command = T::augment_args(Command::new("toggled")).mut_args(|argument| argument.env(None::<&str>));
    T::from_arg_matches(&command.get_matches_from(["toggled"])).expect("the defaults")
}

impl Context {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let folder = TempDir::new().expect("a folder");
        let channel = runtime.block_on(start(&folder));
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
        let services = pool.services().filter(|service| !service.full_name().starts_with("grpc."));
        let methods = services.flat_map(|service| {
            let name = service.full_name().to_owned();
            service.methods().map(move |method| format!("/{name}/{}", method.name())).collect::<Vec<_>>()
        });
        let methods = methods.map(|path| PathAndQuery::try_from(path).expect("a path")).collect();
        Self { runtime, channel, methods, _folder: folder }
    }

    async fn call(&self, method: u8, message: &[u8]) -> Result<(), Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.expect("the server");
        let mut request = Request::new(Bytes::copy_from_slice(message));
        request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().expect("a header"));
        let path = self.methods[usize::from(method) % self.methods.len()].clone();
        let mut answer = grpc.server_streaming(request, path, RawCodec).await?.into_inner();
        answer.message().await.map(drop)
    }
}

async fn start(folder: &TempDir) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = ServerContext {
        listener,
        tls: None,
        auth_methods: AuthMethods::default(),
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

fuzz_target!(|input: (u8, &[u8])| {
    static CONTEXT: OnceLock<Context> = OnceLock::new();
    let context = CONTEXT.get_or_init(Context::new);
    let answer = context.runtime.block_on(context.call(input.0, input.1));
    let defects = [Code::Unknown, Code::Internal, Code::DataLoss, Code::Unavailable, Code::Unauthenticated];
    if let Err(status) = answer {
        assert!(!defects.contains(&status.code()), "{status:?}");
    }
});
