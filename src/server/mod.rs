//! The server: builds all parts from a `ServerContext`, starts them and stops them.

mod checkpoints;
mod open;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use uuid::Uuid;

use crate::api;
use crate::auth::jwt::SignOn;
use crate::auth::last_used::LastUsed;
use crate::auth::secret::Secret;
use crate::auth::ticket::SharedTicketKey;
use crate::bootstrap::{BootstrapError, TokenLocation};
use crate::checkpoint::SigningKey;
use crate::committer::{Committer, Proposals};
use crate::config::{FollowerOptions, Limits, ShutdownOptions};
use crate::domain::Revision;
use crate::domain::time::Clock;
use crate::mirror::{self, Mirror};
use crate::store::{Store, StoreError};
use crate::telemetry::listener::{MetricsListener, Readiness};
use crate::tls::ServerTls;
use crate::verify::Fault;
use open::bootstrap;

/// The pause between two tries to reach the database.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// How long clients have to read their last answers and disconnect, after all calls were answered.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the last writes may take after all calls have ended.
const LAST_WRITES_TIMEOUT: Duration = Duration::from_secs(1);

/// How long closing the connections to the database may take. SQLite then moves its write-ahead log into the database.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the server needs from outside.
pub struct ServerContext {
    /// The bound listener.
    pub listener: TcpListener,
    /// TLS settings. Without TLS, anyone on the network path can read and change the traffic.
    pub tls: Option<Arc<ServerTls>>,
    /// The ways to authenticate besides API tokens.
    pub auth_methods: api::AuthMethods,
    /// The origins whose pages may call from a browser.
    pub cors_origins: Vec<HeaderValue>,
    /// The database.
    pub store: Arc<dyn Store>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The token that the operator chose for the first administrator; without it, one is generated.
    pub bootstrap_token: Option<Secret>,
    /// How the mirror follows other replicas.
    pub following: FollowerOptions,
    /// Checkpoints and the verification at the start.
    pub checkpoints: CheckpointSettings,
    /// Limits of requests, connections and streams.
    pub limits: Limits,
    /// Timeouts of the shutdown.
    pub shutdown_settings: ShutdownOptions,
    /// The listener for metrics and readiness, if there is one.
    pub metrics_listener: Option<MetricsListener>,
    /// Cancelled to stop the server.
    pub shutdown: CancellationToken,
}

/// Checkpoints, and the verification at the start.
#[derive(Debug, Clone)]
pub struct CheckpointSettings {
    /// The key that signs checkpoints; without it none are signed.
    pub key: Option<Arc<SigningKey>>,
    /// The number of revisions between two stored checkpoints.
    pub interval: Revision,
    /// Whether the start verifies the whole log, rather than its newest part.
    pub verify_all: bool,
}

/// What the server reports when it is ready.
#[derive(Debug)]
pub struct Ready {
    /// The log's id.
    pub log_id: Uuid,
    /// The head revision.
    pub revision: Revision,
    /// After a first start: where the administrator's token is.
    pub token: Option<TokenLocation>,
}

/// Why the server stopped or did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The services cannot be served: a method declares no policy, for example.
    #[error("{0}")]
    Router(#[from] api::RouterError),
    /// The database cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The database is damaged.
    #[error("{problem}; not serving; {advice}")]
    Damaged {
        /// What the database reports.
        problem: StoreError,
        /// What to do.
        advice: String,
    },
    /// The log is damaged.
    #[error(
        "DATA_LOSS: the audit log is not intact: {fault}; not serving; run toggled audit verify --database {database}"
    )]
    NotIntact {
        /// The first fault.
        fault: Fault,
        /// The database.
        database: String,
    },
    /// The first administrator could not be created.
    #[error("{0}")]
    Bootstrap(#[from] BootstrapError),
    /// The listener stopped.
    #[error("serving failed: {0}")]
    Serving(String),
    /// The committer has ended.
    #[error("the committer ended unexpectedly: {0}")]
    Committer(String),
    /// A background task has ended.
    #[error("a background task ended unexpectedly: {0}")]
    Background(String),
}

/// Runs the server until `shutdown` is cancelled. Calls `ready` once, when it has read the database and serves calls.
///
/// # Errors
/// Why the server stopped or did not start.
pub async fn run(context: ServerContext, ready: impl FnOnce(Ready)) -> Result<(), ServerError> {
    let store = Arc::clone(&context.store);
    let ended = serve(context, ready).await;
    if timeout(CLOSE_TIMEOUT, store.close()).await.is_err() {
        tracing::warn!("connections to the database not closed in time");
    }
    ended
}

async fn serve(context: ServerContext, ready: impl FnOnce(Ready)) -> Result<(), ServerError> {
    let (shutdown, chosen_token, queue) =
        (context.shutdown.clone(), context.bootstrap_token.clone(), context.limits.max_queue);
    let mirror = Mirror::new(context.following.max_staleness);
    let anonymous_reads = context.auth_methods.anonymous_reads.clone();
    let (store, clock) = (Arc::clone(&context.store), Arc::clone(&context.clock));
    let (committer, proposals) = Committer::new(Arc::clone(&mirror), store, clock, queue);
    let mut server = Server::listen(context, mirror, &proposals).await?;
    tokio::select! {
        opened = server.open() => opened?,
        () = shutdown.cancelled() => return server.stop_serving().await,
    }
    let stop_writing = CancellationToken::new();
    let mut committing = tokio::spawn(committer.run(stop_writing.clone()));
    let token = tokio::select! {
        token = bootstrap(&server.mirror, &proposals, chosen_token.as_ref(), &*server.store) => token?,
        () = shutdown.cancelled() => return server.stop(stop_writing, committing).await,
    };
    drop(proposals);
    if let Some(reads) = anonymous_reads {
        open::warn_of_unknown_environments(&reads, &server.mirror);
    }
    server.start_background_tasks();
    upkeep::probe(&*server.store).await;
    if server.store.usability().is_usable() {
        server.health.announce(Readiness::Serving);
    }
    // If the database is unusable, this task announces and logs it.
    let mut health_reporter = tokio::spawn(upkeep::report_health(
        Arc::clone(&server.mirror),
        Arc::clone(&server.store),
        server.health.clone(),
    ));
    if let Some((log_id, revision)) = server.mirror.read(|state| (state.head().log_id, state.head().revision)) {
        ready(Ready { log_id, revision, token });
    }
    tokio::select! {
        // Shutdown first: after it is requested the other tasks end as well, which is no error then.
        biased;
        () = shutdown.cancelled() => {}
        ended = &mut committing => return Err(ServerError::Committer(format!("{ended:?}"))),
        ended = &mut health_reporter => return Err(ServerError::Background(format!("{ended:?}"))),
        error = server.task_ended() => return Err(error),
    }
    // Waits for its end, so that it cannot announce "serving" again.
    health_reporter.abort();
    let _ = health_reporter.await;
    server.stop(stop_writing, committing).await
}

/// A listening server.
struct Server {
    store: Arc<dyn Store>,
    mirror: Arc<Mirror>,
    clock: Arc<dyn Clock>,
    last_used: Arc<LastUsed>,
    ticket_key: SharedTicketKey,
    sign_on: Option<Arc<SignOn>>,
    following: FollowerOptions,
    checkpoints: CheckpointSettings,
    shutdown_settings: ShutdownOptions,
    health: api::Health,
    /// Cancelled when no more calls are accepted.
    closing: CancellationToken,
    /// Open calls that are not streams.
    calls: TaskTracker,
    serving: JoinHandle<()>,
    /// Runs until the process ends, so that a slow shutdown can be observed.
    _metrics_server: Option<AbortOnDropHandle<()>>,
    /// Background tasks. One that ends by itself stops the server.
    background: JoinSet<()>,
}

impl Server {
    /// Listens before the database answers, so that health checks can report it.
    async fn listen(context: ServerContext, mirror: Arc<Mirror>, proposals: &Proposals) -> Result<Self, ServerError> {
        let ServerContext {
            listener,
            tls,
            auth_methods,
            cors_origins,
            store,
            clock,
            following,
            checkpoints,
            limits,
            shutdown_settings,
            metrics_listener,
            ..
        } = context;
        let (last_used, closing, calls) = (Arc::new(LastUsed::default()), CancellationToken::new(), TaskTracker::new());
        let (sign_on, ticket_key) = (auth_methods.sign_on.clone(), SharedTicketKey::default());
        let bytes = api::ByteBudget::new(&limits);
        let (router, health) = api::Router::new(api::ServiceContext {
            store: Arc::clone(&store),
            mirror: Arc::clone(&mirror),
            clock: Arc::clone(&clock),
            proposals: proposals.clone(),
            last_used: Arc::clone(&last_used),
            auth_methods,
            cors_origins,
            checkpoint_key: checkpoints.key.clone(),
            ticket_key: Arc::clone(&ticket_key),
            limits,
            bytes: Arc::clone(&bytes),
            closing: closing.clone(),
            calls: calls.clone(),
        })?;
        let metrics_server = metrics_listener.map(|listener| {
            let measure = upkeep::measure(Arc::clone(&mirror), Arc::clone(&store), proposals.clone(), bytes);
            AbortOnDropHandle::new(tokio::spawn(listener.serve(health.readiness(), measure)))
        });
        let mut background = JoinSet::new();
        if let Some(tls) = tls.clone() {
            background.spawn(async move { tls.reload_on_change().await });
        }
        let serving = tokio::spawn(router.serve(listener, tls));
        Ok(Self {
            store,
            mirror,
            clock,
            last_used,
            ticket_key,
            sign_on,
            following,
            checkpoints,
            shutdown_settings,
            health,
            closing,
            calls,
            serving,
            _metrics_server: metrics_server,
            background,
        })
    }

    /// Starts the background tasks.
    fn start_background_tasks(&mut self) {
        let (store, every) = (|| Arc::clone(&self.store), self.following.poll_interval);
        self.background.spawn(mirror::follow(Arc::clone(&self.mirror), store(), every));
        self.background.spawn(upkeep::delete_expired_requests(store(), Arc::clone(&self.clock)));
        self.background.spawn(upkeep::delete_trimmed(store(), Arc::clone(&self.mirror)));
        self.background.spawn(upkeep::keep_counting_ahead(store()));
        self.background.spawn(upkeep::watch_usability(store()));
        self.background.spawn(upkeep::keep_writing_last_used(store(), Arc::clone(&self.last_used)));
        self.sign_checkpoints();
        if let Some(sign_on) = self.sign_on.clone() {
            self.background.spawn(async move { sign_on.refresh_keys().await });
        }
    }

    /// Waits until a task ends that the server cannot run without: a server that does not follow the log, for example, would
    /// accept revoked tokens.
    async fn task_ended(&mut self) -> ServerError {
        tokio::select! {
            ended = &mut self.serving => match ended {
                Ok(()) => ServerError::Serving("the listener stopped unexpectedly".to_owned()),
                Err(panicked) => ServerError::Serving(panicked.to_string()),
            },
            Some(ended) = self.background.join_next() => ServerError::Background(format!("{ended:?}")),
        }
    }

    /// Stops serving, then finishes writing.
    async fn stop(mut self, stop_writing: CancellationToken, committing: JoinHandle<()>) -> Result<(), ServerError> {
        let ended = self.stop_serving().await;
        self.finish_writing(stop_writing, committing).await;
        ended
    }

    /// Stops serving: announces "not serving", waits until load balancers know, then accepts no more calls, ends all
    /// streams and waits for open calls up to a timeout. Does not wait for idle connections, nor for streams whose
    /// clients do not read.
    async fn stop_serving(&mut self) -> Result<(), ServerError> {
        self.health.announce(Readiness::Draining);
        sleep(self.shutdown_settings.drain_delay).await;
        self.closing.cancel();
        self.calls.close();
        let answered = async {
            self.calls.wait().await;
            sleep(DISCONNECT_TIMEOUT).await;
        };
        tokio::select! {
            ended = &mut self.serving => return ended.map_err(|e| ServerError::Serving(e.to_string())),
            () = answered => {}
            () = sleep(self.shutdown_settings.shutdown_timeout) => tracing::warn!("shutdown timeout reached with calls still open"),
        }
        self.serving.abort();
        Ok(())
    }

    /// Writes the queued proposals and the last uses of tokens. No new proposals are accepted.
    async fn finish_writing(mut self, stop_writing: CancellationToken, committing: JoinHandle<()>) {
        stop_writing.cancel();
        let rest = async {
            self.background.shutdown().await;
            tokio::join!(committing, upkeep::write_last_used(&*self.store, &self.last_used))
        };
        if timeout(LAST_WRITES_TIMEOUT, rest).await.is_err() {
            tracing::warn!("last writes not finished: the database does not answer");
        }
    }
}
