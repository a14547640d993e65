//! A clock that is set back and jumps: along the log time never runs backwards, and what expires does so by this clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use clap::{Args, Command};
use tempfile::TempDir;
use toggled::api::Outsiders;
use toggled::api::pb::*;
use toggled::auth::jwks::{Jwks, KeySource};
use toggled::auth::jwt::{Rules, SignOn};
use toggled::auth::secret::Secret;
use toggled::checkpoint::SigningKey;
use toggled::config::{Following, Limits, Shutdown};
use toggled::domain::time::{Clock, SystemClock, Timestamp};
use toggled::server::{self, Parts, Proof, ServerError};
use toggled::store;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use uuid::Uuid;

use crate::load::Load;
use crate::support::issuer::AUDIENCE;
use crate::support::{Backend, Client, Database, Issuer, TOKEN, read_until_error, with_timeout};
use crate::{Form, Outcome};

/// How far the clock is set back and on, in seconds, one after the other.
const SKEWS: [i64; 7] = [-1, 0, -3_600, 3_600, -315_360_000, 60, 0];

/// How long our token works, and how long that of the issuer does, in seconds.
const OURS: i64 = 1_800;
const ISSUERS: i64 = 300;

/// How far the issuer's clock may be from ours, in seconds.
const LEEWAY: i64 = 30;

/// The operating system's clock, and so much more.
#[derive(Default)]
struct Skewed(AtomicI64);

impl Skewed {
    fn skew(&self, seconds: i64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

impl Clock for Skewed {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus_seconds(self.0.load(Ordering::Relaxed))
    }
}

pub async fn on_sqlite(form: Form) -> Outcome {
    jump(Backend::Sqlite, form).await
}

pub async fn on_postgres(form: Form) -> Outcome {
    jump(Backend::Postgres, form).await
}

/// Settings as they are where nothing is set.
fn defaults<T: Args>() -> T {
    let command = T::augment_args(Command::new("toggled")).mut_args(|argument| argument.env(None::<&str>));
    T::from_arg_matches(&command.get_matches_from(["toggled"])).unwrap()
}

type Serving = (SocketAddr, JoinHandle<Result<(), ServerError>>);

/// A server in this process, on this clock.
async fn serve(database: &Database, sign_on: SignOn, clock: Arc<Skewed>, shutdown: CancellationToken) -> Serving {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sign_on = Some(Arc::new(sign_on));
    let parts = Parts {
        listener,
        tls: None,
        outsiders: Outsiders { sign_on, ..Outsiders::default() },
        store: store::open(&database.url).unwrap(),
        clock,
        bootstrap_token: Some(Secret::own(TOKEN.to_owned()).unwrap()),
        following: defaults::<Following>(),
        proof: Proof { key: Some(Arc::new(SigningKey::generate().unwrap())), interval: 100, verify_all: false },
        limits: Limits { max_changes_per_second: 1_000_000, ..defaults() },
        stopping: defaults::<Shutdown>(),
        watched_at: None,
        shutdown,
    };
    let (ready, is_ready) = oneshot::channel();
    let serving = tokio::spawn(server::run(parts, |_| ready.send(()).unwrap()));
    with_timeout("the server to be ready", is_ready).await.unwrap();
    (address, serving)
}

/// Those who trust this issuer, whose keys lie in a file.
async fn trusting(issuer: &Issuer, folder: &TempDir) -> SignOn {
    let keys = folder.path().join("keys.json");
    std::fs::write(&keys, issuer.keys().to_string()).unwrap();
    let rules = Rules {
        issuer: issuer.name().into(),
        audience: AUDIENCE.to_owned(),
        permissions_claim: "permissions".to_owned(),
        groups: None,
    };
    let jwks = Jwks::open(KeySource::parse(keys.to_str().unwrap()).unwrap()).await.unwrap();
    SignOn::new(rules, Arc::new(jwks))
}

/// A token of ours, which works for a while from now on.
async fn brief_token(admin: &mut Client) -> String {
    let user = admin.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().user.unwrap();
    let expires_at = Some((SystemTime::now() + Duration::from_secs(OURS.unsigned_abs())).into());
    let request = CreateTokenRequest { user_id: user.id, name: "brief".into(), expires_at, ..Default::default() };
    admin.access.create_token(request).await.unwrap().into_inner().secret
}

/// Whether a token lets nobody in that should, or somebody that should not, with the clock so far off.
async fn misjudged(address: SocketAddr, tokens: [&str; 2], skew: i64) -> Vec<String> {
    // Ours ends, and does not begin; the issuer's does not work before it was issued either.
    let expected = [skew < OURS, (-LEEWAY..ISSUERS).contains(&skew)];
    let mut wrong = Vec::new();
    for (token, is_good) in tokens.into_iter().zip(expected) {
        let mut bearer = Client::connect(address, Some(token)).await;
        let answer = bearer.toggle.list_feature_flags(ListFeatureFlagsRequest::default()).await;
        let refused = answer.err().map(|status| status.code());
        if refused != (!is_good).then_some(Code::Unauthenticated) {
            wrong.push(format!("a token, with the clock {skew} seconds off, was refused with {refused:?}"));
        }
    }
    wrong
}

/// Sets the clock beyond the end of our token, which ends the stream that is open with it.
async fn expire(clock: &Skewed, skew: i64, admin: &mut Client, watcher: &mut Client) {
    let mut stream =
        watcher.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await.unwrap().into_inner();
    clock.skew(skew);
    // Streams look at the clock every half minute, and whenever users change.
    let email = format!("{}@example.com", Uuid::now_v7().simple());
    admin.access.create_user(CreateUserRequest { email, ..Default::default() }).await.unwrap();
    assert_eq!(read_until_error(&mut stream).await.code(), Code::Unauthenticated);
}

async fn jump(backend: Backend, form: Form) -> Outcome {
    let (database, issuer, folder) = (Database::new(backend).await, Issuer::start().await, TempDir::new().unwrap());
    let (clock, shutdown) = (Arc::new(Skewed::default()), CancellationToken::new());
    let sign_on = trusting(&issuer, &folder).await;
    let (address, serving) = serve(&database, sign_on, Arc::clone(&clock), shutdown.clone()).await;
    let mut admin = Client::connect(address, Some(TOKEN)).await;
    let ours = brief_token(&mut admin).await;
    let mut watcher = Client::connect(address, Some(&ours)).await;
    let load = Load::start(&[address]).await;
    let times = form.times(SKEWS.len(), 20 * SKEWS.len());
    let mut wrong = Vec::new();
    for skew in SKEWS.into_iter().cycle().take(times) {
        load.some(20).await;
        clock.skew(0);
        let issuers = issuer.token(&issuer.claims("sue@example.com", &["view_feature_flags"]));
        wrong.extend(misjudged(address, [&ours, &issuers], 0).await);
        if skew > OURS {
            expire(&clock, skew, &mut admin, &mut watcher).await;
        } else {
            clock.skew(skew);
        }
        // Both have been seen, and may be remembered, at the time that they are of.
        wrong.extend(misjudged(address, [&ours, &issuers], skew).await);
    }
    let mut verdict = load.finish(&database.url).await;
    verdict.problems.extend(wrong);
    shutdown.cancel();
    with_timeout("the server to stop", serving).await.unwrap().unwrap();
    Outcome::of(times, verdict)
}
