//! A server inside the test process, for limits that are not options of the program.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::{Args, Command};
use toggled::api::AuthMethods;
use toggled::auth::secret::Secret;
use toggled::config::{FollowerOptions, Limits, ShutdownOptions};
use toggled::server::{self, CheckpointSettings, ServerContext, ServerError};
use toggled::store;
use toggled::tls::{ServerTls, TlsFiles};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Client, Database, TOKEN, with_timeout};

/// The default settings, without the environment.
pub fn defaults<T: Args>() -> T {
    let command = T::augment_args(Command::new("toggled")).mut_args(|argument| argument.env(None::<&str>));
    T::from_arg_matches(&command.get_matches_from(["toggled"])).unwrap()
}

/// A running server, stopped on drop.
pub struct EmbeddedServer {
    pub address: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ServerError>>,
}

impl EmbeddedServer {
    /// Starts a server and waits until it is ready.
    pub async fn start(database: &Database, limits: Limits) -> Self {
        Self::start_with(database, limits, defaults(), None).await
    }

    /// Like [`EmbeddedServer::start`], with settings of the shutdown and TLS.
    pub async fn start_with(
        database: &Database,
        limits: Limits,
        shutdown_settings: ShutdownOptions,
        tls: Option<TlsFiles>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        let store = store::open(&database.url).unwrap();
        let tls = match tls {
            Some(files) => Some(Arc::new(ServerTls::load(files).await.unwrap())),
            None => None,
        };
        let context = ServerContext {
            listener,
            tls,
            auth_methods: AuthMethods::default(),
            cors_origins: Vec::new(),
            clock: store.clock(),
            store,
            bootstrap_token: Some(Secret::parse(TOKEN.to_owned()).unwrap()),
            following: defaults::<FollowerOptions>(),
            checkpoints: CheckpointSettings { key: None, interval: 1_000, verify_all: false },
            limits,
            shutdown_settings,
            metrics_listener: None,
            shutdown: shutdown.clone(),
        };
        let (ready, is_ready) = oneshot::channel();
        let serving = tokio::spawn(server::run(context, |_| ready.send(()).unwrap()));
        with_timeout("the server to be ready", is_ready).await.unwrap();
        Self { address, shutdown, serving }
    }

    /// A client with the administrator's token.
    pub async fn admin(&self) -> Client {
        Client::connect(self.address, Some(TOKEN)).await
    }

    /// Starts the shutdown without waiting for it.
    pub fn request_stop(&self) {
        self.shutdown.cancel();
    }

    /// Waits for the end of the shutdown.
    pub async fn wait_for_exit(mut self) -> Result<(), ServerError> {
        with_timeout("the server to stop", &mut self.serving).await.unwrap()
    }
}

impl Drop for EmbeddedServer {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
