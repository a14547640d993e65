//! The server: its parts put together, started and stopped.

mod checkpoints;
mod intact;
mod open;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

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
use crate::bootstrap::{BootstrapError, TokenPlace};
use crate::checkpoint::SigningKey;
use crate::committer::{Committer, Proposals};
use crate::config::{Following, Limits, Shutdown};
use crate::domain::Revision;
use crate::domain::time::Clock;
use crate::mirror::{self, Mirror};
use crate::store::{Store, StoreError};
use crate::telemetry::listener::{Listener, Readiness};
use crate::tls::Tls;
use open::first_start;

pub use intact::NotIntact;

/// How long to wait before trying a database again that does not answer.
const RETRY: Duration = Duration::from_millis(500);

/// How long clients have to take their last answers and hang up, once all calls have been answered.
const TO_HANG_UP: Duration = Duration::from_secs(1);

/// How long what is left to write may take once all calls have ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What the server needs from outside.
pub struct ServerContext {
    /// Where it listens.
    pub listener: TcpListener,
    /// What it speaks there; without it, everybody on the way can read and change what is said.
    pub tls: Option<Arc<Tls>>,
    /// Who may call besides its own users.
    pub auth_methods: api::AuthMethods,
    /// Its database.
    pub store: Arc<dyn Store>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// The first administrator's own token.
    pub bootstrap_token: Option<Secret>,
    /// How it keeps up with other replicas.
    pub following: Following,
    /// How the log proves itself.
    pub proof: Proof,
    /// How much is too much.
    pub limits: Limits,
    /// How it stops.
    pub stopping: Shutdown,
    /// Where metrics and health are served besides, if they are.
    pub watched_at: Option<Listener>,
    /// Cancelled when it is to stop.
    pub shutdown: CancellationToken,
}

/// How the log proves itself.
#[derive(Debug, Clone)]
pub struct Proof {
    /// What checkpoints are signed with; without it there are none.
    pub key: Option<Arc<SigningKey>>,
    /// How many revisions lie between two that are stored.
    pub interval: Revision,
    /// Whether all of the log is verified before it is served.
    pub verify_all: bool,
}

/// What it tells when it is ready.
#[derive(Debug)]
pub struct Ready {
    /// Which log it serves.
    pub log_id: Uuid,
    /// The end of it.
    pub revision: Revision,
    /// On its first start: where the administrator's token is.
    pub token: Option<TokenPlace>,
}

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// What is served must not be.
    #[error("{0}")]
    Router(#[from] api::RouterError),
    /// The database cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The log is not what was written.
    #[error(
        "DATA_LOSS: the audit log is not intact: {fault}; not serving; run toggled audit verify --database {database}"
    )]
    NotIntact {
        /// Where, and how.
        fault: NotIntact,
        /// Which database.
        database: String,
    },
    /// There is no first administrator.
    #[error("{0}")]
    Bootstrap(#[from] BootstrapError),
    /// The network failed.
    #[error("serving: {0}")]
    Serving(String),
    /// The one task that writes has died, and with it the point of going on.
    #[error("the committer has stopped: {0}")]
    Committer(String),
    /// Something that keeps it up to date has died.
    #[error("a task in the background has stopped: {0}")]
    Background(String),
}

/// Serves until it is told to stop. `ready` is called once, when the database has answered and calls are served.
///
/// # Errors
/// Why it could not start, or not go on.
pub async fn run(parts: ServerContext, ready: impl FnOnce(Ready)) -> Result<(), ServerError> {
    let (shutdown, own_token, queue) = (parts.shutdown.clone(), parts.bootstrap_token.clone(), parts.limits.max_queue);
    let mirror = Mirror::new(parts.following.max_staleness);
    let (store, clock) = (Arc::clone(&parts.store), Arc::clone(&parts.clock));
    let (committer, proposals) = Committer::new(Arc::clone(&mirror), store, clock, queue);
    let mut server = Server::listen(parts, mirror, &proposals).await?;
    tokio::select! {
        opened = server.open() => opened?,
        () = shutdown.cancelled() => return server.stop_serving().await,
    }
    let stop_writing = CancellationToken::new();
    let mut committing = tokio::spawn(committer.run(stop_writing.clone()));
    let token = tokio::select! {
        token = first_start(&server.mirror, &proposals, own_token.as_ref(), &*server.store) => token?,
        () = shutdown.cancelled() => return server.stop_serving().await,
    };
    drop(proposals);
    server.keep_up();
    server.health.announce(Readiness::Serving).await;
    let mut telling = tokio::spawn(upkeep::tell_health(Arc::clone(&server.mirror), server.health.clone()));
    if let Some((log_id, revision)) = server.mirror.read(|state| (state.head().log_id, state.head().revision)) {
        ready(Ready { log_id, revision, token });
    }
    tokio::select! {
        // In this order: once we are asked to stop the others end as they should, perhaps before this is looked at.
        biased;
        () = shutdown.cancelled() => {}
        died = &mut committing => return Err(ServerError::Committer(format!("{died:?}"))),
        died = &mut telling => return Err(ServerError::Background(format!("{died:?}"))),
        died = server.died() => return Err(died),
    }
    // Its end is waited for, so that it cannot say that we serve after all.
    telling.abort();
    let _ = telling.await;
    let ended = server.stop_serving().await;
    server.write_the_rest(stop_writing, committing).await;
    ended
}

/// A server that listens, and what it works with.
struct Server {
    store: Arc<dyn Store>,
    mirror: Arc<Mirror>,
    clock: Arc<dyn Clock>,
    last_used: Arc<LastUsed>,
    sign_on: Option<Arc<SignOn>>,
    following: Following,
    proof: Proof,
    stopping: Shutdown,
    health: api::Health,
    /// Cancelled when no more calls are taken.
    closing: CancellationToken,
    /// The calls under way that are no streams.
    calls: TaskTracker,
    serving: JoinHandle<Result<(), String>>,
    /// Served until the very end, so that a server that takes long to stop can be seen to.
    _watched: Option<AbortOnDropHandle<()>>,
    /// What keeps it up to date. None of it ever ends by itself.
    background: JoinSet<()>,
}

impl Server {
    /// Takes calls already before the database answers, so that health can say that it does not.
    async fn listen(parts: ServerContext, mirror: Arc<Mirror>, proposals: &Proposals) -> Result<Self, ServerError> {
        let ServerContext {
            listener,
            tls,
            auth_methods,
            store,
            clock,
            following,
            proof,
            limits,
            stopping,
            watched_at,
            ..
        } = parts;
        let (last_used, closing, calls) = (Arc::new(LastUsed::default()), CancellationToken::new(), TaskTracker::new());
        let sign_on = auth_methods.sign_on.clone();
        let (router, health) = api::Router::new(api::ServiceContext {
            store: Arc::clone(&store),
            mirror: Arc::clone(&mirror),
            clock: Arc::clone(&clock),
            proposals: proposals.clone(),
            last_used: Arc::clone(&last_used),
            auth_methods,
            checkpoint_key: proof.key.clone(),
            limits,
            closing: closing.clone(),
            calls: calls.clone(),
        })
        .await?;
        let watched = watched_at.map(|listener| {
            let measure = upkeep::measure(Arc::clone(&mirror), Arc::clone(&store), proposals.clone());
            AbortOnDropHandle::new(tokio::spawn(listener.serve(health.readiness(), measure)))
        });
        let mut background = JoinSet::new();
        if let Some(tls) = tls.clone() {
            background.spawn(async move { tls.follow().await });
        }
        let serving = tokio::spawn(async move { router.serve(listener, tls).await.map_err(|e| e.to_string()) });
        Ok(Self {
            store,
            mirror,
            clock,
            last_used,
            sign_on,
            following,
            proof,
            stopping,
            health,
            closing,
            calls,
            serving,
            _watched: watched,
            background,
        })
    }

    /// Starts what keeps it up to date.
    fn keep_up(&mut self) {
        let (store, every) = (|| Arc::clone(&self.store), self.following.poll_interval);
        self.background.spawn(mirror::follow(Arc::clone(&self.mirror), store(), every));
        self.background.spawn(upkeep::sweep(store(), Arc::clone(&self.clock)));
        self.background.spawn(upkeep::remove_trimmed(store(), Arc::clone(&self.mirror)));
        self.background.spawn(upkeep::count_ahead(store()));
        self.background.spawn(upkeep::write_behind(store(), Arc::clone(&self.last_used)));
        self.sign_checkpoints();
        if let Some(sign_on) = self.sign_on.clone() {
            self.background.spawn(async move { sign_on.keep_fresh().await });
        }
    }

    /// Waits until something has died that it cannot go on without: a server that no longer follows would let in whom
    /// others have shut out.
    async fn died(&mut self) -> ServerError {
        tokio::select! {
            ended = &mut self.serving => match ended.map_err(|e| e.to_string()).flatten() {
                Ok(()) => ServerError::Serving("it has ended by itself".to_owned()),
                Err(problem) => ServerError::Serving(problem),
            },
            Some(died) = self.background.join_next() => ServerError::Background(format!("{died:?}")),
        }
    }

    /// Says that it does not serve, goes on serving until that is known everywhere, then takes no more calls, ends all
    /// streams and waits for the calls under way, for a while. Connections whose clients neither call nor hang up are not
    /// waited for, nor are streams whose clients do not read on.
    async fn stop_serving(&mut self) -> Result<(), ServerError> {
        self.health.announce(Readiness::Draining).await;
        sleep(self.stopping.drain_delay).await;
        self.closing.cancel();
        self.calls.close();
        let answered = async {
            self.calls.wait().await;
            sleep(TO_HANG_UP).await;
        };
        tokio::select! {
            ended = &mut self.serving => return ended.map_err(|e| e.to_string()).flatten().map_err(ServerError::Serving),
            () = answered => {}
            () = sleep(self.stopping.shutdown_timeout) => tracing::warn!("calls are still under way; not waiting any longer"),
        }
        self.serving.abort();
        Ok(())
    }

    /// Writes what has been handed in. Nothing more is taken up.
    async fn write_the_rest(mut self, stop_writing: CancellationToken, committing: JoinHandle<()>) {
        stop_writing.cancel();
        let rest = async {
            self.background.shutdown().await;
            tokio::join!(committing, upkeep::write_last_used(&*self.store, &self.last_used))
        };
        if timeout(LAST_WORDS, rest).await.is_err() {
            tracing::warn!("the database does not answer; not waiting any longer");
        }
    }
}
