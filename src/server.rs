//! The server: its parts put together, started and stopped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::auth::jwt::SignOn;
use crate::auth::last_used::LastUsed;
use crate::auth::secret::Secret;
use crate::bootstrap::{BootstrapError, TokenPlace, bootstrap};
use crate::committer::{Committer, Proposals};
use crate::config::Following;
use crate::domain::Revision;
use crate::domain::access::Permission;
use crate::domain::state::State;
use crate::domain::text::Email;
use crate::domain::time::Clock;
use crate::grpc;
use crate::mirror::{self, Mirror};
use crate::store::{Connections, Store, StoreError};
use crate::telemetry::listener::Listener;
use crate::telemetry::metrics::DATABASE_CONNECTIONS;
use crate::tls::Tls;

/// How long to wait before trying a database again that does not answer.
const RETRY: Duration = Duration::from_millis(500);

/// How often expired requests are forgotten.
const SWEEP: Duration = Duration::from_secs(600);

/// How often it is written down when tokens were last used.
const WRITE_LAST_USED: Duration = Duration::from_secs(30);

/// How long calls that are under way may take to end once we are asked to stop.
const GRACE: Duration = Duration::from_secs(10);

/// What the server needs from outside.
pub struct Parts {
    /// Where it listens.
    pub listener: TcpListener,
    /// What it speaks there; without it, everybody on the way can read and change what is said.
    pub tls: Option<Arc<Tls>>,
    /// Whom clients are taken for, by an alternative name of their certificate.
    pub certificate_users: HashMap<String, Email>,
    /// Its database.
    pub store: Arc<dyn Store>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// The first administrator's own token.
    pub bootstrap_token: Option<Secret>,
    /// Whom it lets in besides its own users.
    pub sign_on: Option<Arc<SignOn>>,
    /// Whether callers who send no credentials may read flags through flagd's services.
    pub anonymous_flagd_reads: bool,
    /// How it keeps up with other replicas.
    pub following: Following,
    /// Where metrics and health are served besides, if they are.
    pub watched_at: Option<Listener>,
    /// Cancelled when it is to stop.
    pub shutdown: CancellationToken,
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
    Router(#[from] grpc::RouterError),
    /// The database cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
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
pub async fn run(parts: Parts, ready: impl FnOnce(Ready)) -> Result<(), ServerError> {
    let Parts { listener, tls, store, clock, bootstrap_token, following, shutdown, .. } = parts;
    let Parts { certificate_users, sign_on, anonymous_flagd_reads, watched_at, .. } = parts;
    let mirror = Mirror::new(following.max_staleness);
    let (committer, proposals) = Committer::new(Arc::clone(&mirror), Arc::clone(&store), Arc::clone(&clock));
    let last_used = Arc::new(LastUsed::default());
    let (router, health) = grpc::Router::new(grpc::Parts {
        store: Arc::clone(&store),
        mirror: Arc::clone(&mirror),
        clock: Arc::clone(&clock),
        proposals: proposals.clone(),
        last_used: Arc::clone(&last_used),
        certificate_users,
        sign_on: sign_on.clone(),
        anonymous_flagd_reads,
        shutdown: shutdown.clone(),
    })
    .await?;
    // Until the very end, so that a server that takes long to stop can be seen to.
    let _watched = watched_at.map(|listener| {
        let measure = measure(Arc::clone(&mirror), Arc::clone(&store), proposals.clone());
        AbortOnDropHandle::new(tokio::spawn(listener.serve(health.readiness(), measure)))
    });
    let mut background = JoinSet::new();
    if let Some(tls) = tls.clone() {
        background.spawn(async move { tls.follow().await });
    }
    // Calls are taken before the database answers, so that health can say that it does not.
    let mut serving = tokio::spawn(async move { router.serve(listener, tls).await.map_err(|e| e.to_string()) });

    tokio::select! {
        opened = open(&*store, &mirror) => opened?,
        () = shutdown.cancelled() => return finish(serving).await,
    }
    let stop_writing = CancellationToken::new();
    let mut committing = tokio::spawn(committer.run(stop_writing.clone()));
    let token = first_start(&mirror, &proposals, bootstrap_token.as_ref(), &*store).await?;
    drop(proposals);
    background.spawn(mirror::follow(Arc::clone(&mirror), Arc::clone(&store), following.poll_interval));
    background.spawn(sweep(Arc::clone(&store), clock));
    background.spawn(write_behind(Arc::clone(&store), Arc::clone(&last_used)));
    if let Some(sign_on) = sign_on {
        background.spawn(async move { sign_on.keep_fresh().await });
    }
    health.announce(true).await;
    background.spawn(tell_health(Arc::clone(&mirror), health.clone()));
    if let Some((log_id, revision)) = mirror.read(|state| (state.head().log_id, state.head().revision)) {
        ready(Ready { log_id, revision, token });
    }

    tokio::select! {
        // In this order: once we are asked to stop the others end as they should, perhaps before this is looked at.
        biased;
        () = shutdown.cancelled() => {}
        ended = &mut serving => return ended.map_err(|e| e.to_string()).flatten().map_err(ServerError::Serving),
        died = &mut committing => return Err(ServerError::Committer(format!("{died:?}"))),
        // None of them ever ends by itself: a server that no longer follows would let in whom others have shut out.
        Some(died) = background.join_next() => return Err(ServerError::Background(format!("{died:?}"))),
    }
    // First, so that none of them can say that it serves after all.
    background.shutdown().await;
    health.announce(false).await;
    let ended = finish(serving).await;
    if tokio::time::timeout(GRACE, write_last_used(&*store, &last_used)).await.is_err() {
        tracing::warn!("it was not written down when tokens were last used: no answer in time");
    }
    // Nothing more is taken up; what was handed in is finished first.
    stop_writing.cancel();
    if tokio::time::timeout(GRACE, committing).await.is_err() {
        tracing::warn!("changes are still being written; not waiting any longer");
    }
    ended
}

/// Sets what is told of the parts, when somebody asks.
fn measure(mirror: Arc<Mirror>, store: Arc<dyn Store>, proposals: Proposals) -> impl Fn() + Send + Sync {
    move || {
        mirror.measure();
        proposals.measure();
        let Connections { idle, used } = store.connections();
        for (state, connections) in [("idle", idle), ("used", used)] {
            metrics::gauge!(DATABASE_CONNECTIONS, "state" => state).set(f64::from(connections));
        }
    }
}

/// Waits for the calls under way to end, for a while.
async fn finish(mut serving: JoinHandle<Result<(), String>>) -> Result<(), ServerError> {
    match tokio::time::timeout(GRACE, &mut serving).await {
        Ok(ended) => ended.map_err(|e| e.to_string()).flatten().map_err(ServerError::Serving),
        Err(_) => {
            tracing::warn!("calls are still under way; not waiting any longer");
            serving.abort();
            Ok(())
        }
    }
}

/// Brings the schema up to date and reads everything; tries on while the database does not answer.
async fn open(store: &dyn Store, mirror: &Mirror) -> Result<(), StoreError> {
    let mut told = false;
    loop {
        let opened = match store.migrate_up().await {
            Ok(()) => mirror.follow(store).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(()) => return Ok(()),
            Err(StoreError::Unavailable(problem)) => {
                if !told {
                    tracing::warn!(%problem, database = store.describe(), "waiting for the database");
                }
                told = true;
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// A database in which nobody has ever held `manage_access` gets its first administrator.
async fn first_start(
    mirror: &Mirror,
    proposals: &Proposals,
    own: Option<&Secret>,
    store: &dyn Store,
) -> Result<Option<TokenPlace>, ServerError> {
    let managed = |state: &State| state.users(None).any(|user| user.permissions.contains(Permission::ManageAccess));
    if mirror.read(managed).unwrap_or(true) {
        return Ok(None);
    }
    let folder = store.folder().unwrap_or_default();
    Ok(bootstrap(proposals, own, &folder).await?)
}

/// Reports a server healthy only while it can show that it is up to date.
async fn tell_health(mirror: Arc<Mirror>, health: grpc::Health) {
    loop {
        mirror.until_stale().await;
        tracing::warn!(age = ?mirror.age(), "the database does not answer: flags are read from memory, all else is refused");
        health.announce(false).await;
        mirror.until_fresh().await;
        tracing::info!("up to date again");
        health.announce(true).await;
    }
}

/// Forgets expired requests, now and then.
async fn sweep(store: Arc<dyn Store>, clock: Arc<dyn Clock>) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        loop {
            match store.forget_requests(clock.now()).await {
                Ok(0) => break,
                Ok(forgotten) => tracing::debug!(forgotten, "forgot expired requests"),
                Err(error) => {
                    tracing::warn!(%error, "could not forget expired requests");
                    break;
                }
            }
        }
    }
}

/// Writes down when tokens were last used, now and then.
async fn write_behind(store: Arc<dyn Store>, last_used: Arc<LastUsed>) {
    let mut ticks = tokio::time::interval(WRITE_LAST_USED);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        write_last_used(&*store, &last_used).await;
    }
}

async fn write_last_used(store: &dyn Store, last_used: &LastUsed) {
    let uses = last_used.unwritten();
    if uses.is_empty() {
        return;
    }
    match store.write_last_used(&uses).await {
        Ok(()) => last_used.written(&uses),
        Err(error) => tracing::warn!(%error, "could not write down when tokens were last used; trying on"),
    }
}
