//! A clock that jumps back and forth. Timestamps in the log never decrease, and credentials expire by this clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use toggled::api::AuthMethods;
use toggled::api::pb::*;
use toggled::auth::jwks::{Jwks, KeySource};
use toggled::auth::jwt::{SignOn, SignOnRules};
use toggled::auth::secret::Secret;
use toggled::checkpoint::SigningKey;
use toggled::config::{FollowerOptions, Limits, ShutdownOptions};
use toggled::domain::time::{Clock, SystemClock, Timestamp};
use toggled::server::{self, CheckpointSettings, ServerContext, ServerError};
use toggled::store;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use uuid::Uuid;

use crate::load::Load;
use crate::support::issuer::AUDIENCE;
use crate::support::{Backend, Client, Database, Issuer, TOKEN, defaults, read_until_error, with_timeout};
use crate::{FaultReport, RunLength};

/// The offsets of the clock, in seconds, applied in turn.
const SKEWS: [i64; 7] = [-1, 0, -3_600, 3_600, -315_360_000, 60, 0];

/// The lifetime of the API token, in seconds.
const API_TOKEN_LIFETIME: i64 = 1_800;

/// The lifetime of the issuer's token (JWT), in seconds.
const JWT_LIFETIME: i64 = 300;

/// The tolerated difference between the issuer's clock and the server's, in seconds.
const LEEWAY: i64 = 30;

/// The operating system's clock plus an offset.
#[derive(Default)]
struct SkewedClock(AtomicI64);

impl SkewedClock {
    fn skew(&self, seconds: i64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus_seconds(self.0.load(Ordering::Relaxed))
    }
}

pub async fn on_sqlite(length: RunLength) -> FaultReport {
    jump(Backend::Sqlite, length).await
}

pub async fn on_postgres(length: RunLength) -> FaultReport {
    jump(Backend::Postgres, length).await
}

type Serving = (SocketAddr, JoinHandle<Result<(), ServerError>>);

/// Starts a server in this process, with this clock.
async fn serve(database: &Database, sign_on: SignOn, clock: Arc<SkewedClock>, shutdown: CancellationToken) -> Serving {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sign_on = Some(Arc::new(sign_on));
    let parts = ServerContext {
        listener,
        tls: None,
        auth_methods: AuthMethods { sign_on, ..AuthMethods::default() },
        cors_origins: Vec::new(),
        store: store::open(&database.url).unwrap(),
        clock,
        bootstrap_token: Some(Secret::parse(TOKEN.to_owned()).unwrap()),
        following: defaults::<FollowerOptions>(),
        checkpoints: CheckpointSettings {
            key: Some(Arc::new(SigningKey::generate().unwrap())),
            interval: 100,
            verify_all: false,
        },
        limits: Limits { max_changes_per_second: 1_000_000, ..defaults() },
        shutdown_settings: defaults::<ShutdownOptions>(),
        metrics_listener: None,
        shutdown,
    };
    let (ready, is_ready) = oneshot::channel();
    let serving = tokio::spawn(server::run(parts, |_| ready.send(()).unwrap()));
    with_timeout("the server to be ready", is_ready).await.unwrap();
    (address, serving)
}

/// Sign-on that trusts this issuer, with its keys in a file.
async fn sign_on(issuer: &Issuer, folder: &TempDir) -> SignOn {
    let keys = folder.path().join("keys.json");
    std::fs::write(&keys, issuer.keys().to_string()).unwrap();
    let rules = SignOnRules {
        issuer: issuer.name().into(),
        audience: AUDIENCE.to_owned(),
        permissions_claim: "permissions".to_owned(),
        groups: None,
        environment_claim: None,
    };
    let jwks = Jwks::open(KeySource::parse(keys.to_str().unwrap()).unwrap()).await.unwrap();
    SignOn::new(rules, Arc::new(jwks))
}

/// Creates an API token that expires after [`API_TOKEN_LIFETIME`].
async fn expiring_token(admin: &mut Client) -> String {
    let user = admin.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().user.unwrap();
    let expires_at = Some((SystemTime::now() + Duration::from_secs(API_TOKEN_LIFETIME.unsigned_abs())).into());
    let request = CreateTokenRequest { user_id: user.id, name: "expiring".into(), expires_at, ..Default::default() };
    admin.access.create_token(request).await.unwrap().into_inner().secret
}

/// Checks whether each token is accepted or rejected as it should be at this offset; returns the mistakes.
async fn token_mistakes(address: SocketAddr, tokens: [&str; 2], skew: i64) -> Vec<String> {
    // Only the JWT has a start time.
    let expected = [skew < API_TOKEN_LIFETIME, (-LEEWAY..JWT_LIFETIME).contains(&skew)];
    let mut mistakes = Vec::new();
    for (token, is_good) in tokens.into_iter().zip(expected) {
        let mut bearer = Client::connect(address, Some(token)).await;
        let answer = bearer.toggle.list_feature_flags(ListFeatureFlagsRequest::default()).await;
        let refused = answer.err().map(|status| status.code());
        if refused != (!is_good).then_some(Code::Unauthenticated) {
            mistakes.push(format!("a token was answered with {refused:?} when the clock was off by {skew} seconds"));
        }
    }
    mistakes
}

/// Sets the clock past the expiry of the API token, which ends the open stream.
async fn expire(clock: &SkewedClock, skew: i64, admin: &mut Client, watcher: &mut Client) {
    let mut stream =
        watcher.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await.unwrap().into_inner();
    clock.skew(skew);
    // Streams check the clock every 30 seconds, and whenever users change.
    let email = format!("{}@example.com", Uuid::now_v7().simple());
    admin.access.create_user(CreateUserRequest { email, ..Default::default() }).await.unwrap();
    assert_eq!(read_until_error(&mut stream).await.code(), Code::Unauthenticated);
}

async fn jump(backend: Backend, length: RunLength) -> FaultReport {
    let (database, issuer, folder) = (Database::new(backend).await, Issuer::start().await, TempDir::new().unwrap());
    let (clock, shutdown) = (Arc::new(SkewedClock::default()), CancellationToken::new());
    let sign_on = sign_on(&issuer, &folder).await;
    let (address, serving) = serve(&database, sign_on, Arc::clone(&clock), shutdown.clone()).await;
    let mut admin = Client::connect(address, Some(TOKEN)).await;
    let api_token = expiring_token(&mut admin).await;
    let mut watcher = Client::connect(address, Some(&api_token)).await;
    let load = Load::start(&[address]).await;
    let rounds = length.rounds(SKEWS.len(), 20 * SKEWS.len());
    let mut mistakes = Vec::new();
    for skew in SKEWS.into_iter().cycle().take(rounds) {
        load.wait_for_flips(20).await;
        clock.skew(0);
        let jwt = issuer.token(&issuer.claims("sue@example.com", &["view_feature_flags"]));
        mistakes.extend(token_mistakes(address, [&api_token, &jwt], 0).await);
        if skew > API_TOKEN_LIFETIME {
            expire(&clock, skew, &mut admin, &mut watcher).await;
        } else {
            clock.skew(skew);
        }
        // The server has seen both tokens when they were valid, and may have cached them.
        mistakes.extend(token_mistakes(address, [&api_token, &jwt], skew).await);
    }
    let mut comparison = load.finish(&database.url).await;
    comparison.problems.extend(mistakes);
    shutdown.cancel();
    with_timeout("the server to stop", serving).await.unwrap().unwrap();
    FaultReport::new(rounds, comparison)
}
