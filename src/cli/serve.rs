//! `toggled serve`: builds the server from its settings, runs it, and prints how to reach it.

use std::io;
use std::net::SocketAddr;
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{EXIT_FAILURE, Failure, print};
use crate::api::AuthMethods;
use crate::auth::jwks::Jwks;
use crate::auth::jwt::SignOn;
use crate::bootstrap::TokenLocation;
use crate::checkpoint::SigningKey;
use crate::server::{self, CheckpointSettings, Ready, ServerContext, ServerError};
use crate::store::{Store, StoreError};
use crate::telemetry::listener::MetricsListener;
use crate::tls::{ServerTls, TlsFiles};
use crate::visible::visible;
use crate::{config, store, telemetry};

/// The name of the file with the checkpoint key, beside a SQLite database. Created if missing.
const CHECKPOINT_KEY_FILE: &str = "toggled-checkpoint.key";

/// The commands that a first start suggests.
const FIRST_COMMANDS: [&str; 3] = [
    "toggled flag create hello --name \"My first flag\"",
    "toggled flag enable hello --reason \"first flip\"",
    "toggled audit list --flag hello",
];

/// Signals within this time of the first count as one: `timeout` sends one to the process and one to its group.
const SIGNAL_REPEAT_WINDOW: Duration = Duration::from_millis(500);

/// The section of `serve --help` about environment variables that are not options.
pub(super) fn standard_variables() -> String {
    let mut text = "Standard environment variables:\n".to_owned();
    for (name, default, meaning) in config::STANDARD_VARIABLES {
        let default = if default.is_empty() { String::new() } else { format!(" [default: {default}]") };
        text += &format!("  {name}\n          {meaning}{default}\n");
    }
    text
}

pub(super) async fn run(settings: config::ServeOptions) -> Result<(), Failure> {
    let parsed = settings.telemetry.parse(&settings.logging.log, config::variable).map_err(Failure::usage)?;
    let telemetry = telemetry::start(parsed).map_err(|error| Failure::usage(error.to_string()))?;
    let served = serve(settings).await;
    telemetry.shutdown().await;
    served
}

async fn serve(settings: config::ServeOptions) -> Result<(), Failure> {
    // Before anything else: in a container, process 1 ignores SIGTERM and SIGINT until it has handlers for them.
    let shutdown = CancellationToken::new();
    stop_on_signals(&shutdown)?;
    let bootstrap_token = settings.access.bootstrap_token().map_err(Failure::usage)?;
    let anonymous_reads = settings.access.anonymous_reads().map_err(Failure::usage)?.map(Arc::new);
    let files = settings.listening.tls_files().map_err(Failure::usage)?;
    let certificate_users = settings.listening.certificate_users().map_err(Failure::usage)?;
    let following = settings.following.checked().map_err(Failure::usage)?;
    let client = client_variables(files.as_ref());
    let tls = match files {
        Some(files) => Some(Arc::new(ServerTls::load(files).await.map_err(|e| Failure::usage(e.to_string()))?)),
        None => None,
    };
    let sign_on = sign_on(&settings.sign_on).await?;
    let configured_key = settings.checkpoints.key().map_err(Failure::usage)?;
    let store = store::open(&settings.database.database_url).map_err(super::invalid_database_url)?;
    let listener = TcpListener::bind(settings.listening.listen).await.map_err(|error| Failure {
        code: EXIT_FAILURE,
        message: format!(
            "cannot listen on {}: {error}; stop the other program, or choose another address with --listen (TOGGLED_LISTEN)",
            settings.listening.listen
        ),
    })?;
    let address = listener.local_addr()?;
    let metrics_listener = match settings.telemetry.metrics_listen {
        Some(address) => Some(MetricsListener::bind(address).await?),
        None => None,
    };
    // A broken key ends the program before a database is created.
    let has_key = store.folder().is_some_and(|folder| folder.join(CHECKPOINT_KEY_FILE).exists());
    let configured_key = if has_key { checkpoint_key(configured_key, &*store)? } else { configured_key };
    // A missing key is created only once the listeners are bound and the database's file is open: a server with wrong settings or
    // a port in use leaves no key behind. If the file is locked or the disk full, the server starts and waits.
    if let Err(error) = store.open_files().await
        && !matches!(error, StoreError::Unavailable(_) | StoreError::Unusable(_))
    {
        return Err(ServerError::from(error).into());
    }
    let key = checkpoint_key(configured_key, &*store)?;
    print(&format!("toggled listens on {address}"));
    let cors_origins = settings.listening.cors_origin;
    let context = ServerContext {
        listener,
        tls,
        auth_methods: AuthMethods { certificate_users, sign_on, anonymous_reads },
        cors_origins,
        clock: store.clock(),
        store,
        bootstrap_token,
        following,
        checkpoints: CheckpointSettings {
            key: key.map(Arc::new),
            interval: settings.checkpoints.checkpoint_interval,
            verify_all: settings.checkpoints.verify_on_start,
        },
        limits: settings.limits,
        shutdown_settings: settings.shutdown,
        metrics_listener,
        shutdown,
    };
    let ready = |ready: Ready| {
        print(&welcome(&ready, address, client));
        notify_systemd(NotifyState::Ready);
    };
    Ok(server::run(context, ready).await?)
}

/// The key that signs checkpoints: the configured one, or else [`CHECKPOINT_KEY_FILE`] beside a SQLite database, created if missing.
/// `None` with PostgreSQL and no configured key.
fn checkpoint_key(configured_key: Option<SigningKey>, store: &dyn Store) -> Result<Option<SigningKey>, Failure> {
    let Some(folder) = store.folder().filter(|_| configured_key.is_none()) else { return Ok(configured_key) };
    let path = folder.join(CHECKPOINT_KEY_FILE);
    let key = SigningKey::read_or_create(&path).map_err(|error| Failure {
        code: EXIT_FAILURE,
        message: format!(
            "cannot read or create the checkpoint key {}: {error}; correct the file, delete it if the first start was \
             interrupted while writing it, or name another file with --checkpoint-key-file",
            path.display()
        ),
    });
    key.map(Some)
}

/// Single sign-on as configured; `None` if it is not.
async fn sign_on(settings: &config::SignOnOptions) -> Result<Option<Arc<SignOn>>, Failure> {
    let Some((rules, source)) = settings.parse().map_err(Failure::usage)? else { return Ok(None) };
    let jwks = Jwks::open(source.clone()).await;
    let jwks = jwks.map_err(|error| Failure::usage(format!("--oidc-jwks (TOGGLED_OIDC_JWKS): {source}: {error}")))?;
    Ok(Some(Arc::new(SignOn::new(rules, Arc::new(jwks)))))
}

/// Cancels `shutdown` at the first SIGTERM or SIGINT. A second signal, after [`SIGNAL_REPEAT_WINDOW`], ends the process at once.
fn stop_on_signals(shutdown: &CancellationToken) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut next_signal = async move || {
        tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
        }
    };
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        next_signal().await;
        let first = Instant::now();
        notify_systemd(NotifyState::Stopping);
        shutdown.cancel();
        let again = loop {
            let again = next_signal().await;
            if first.elapsed() >= SIGNAL_REPEAT_WINDOW {
                break again;
            }
        };
        tracing::warn!("second stop signal; exiting at once");
        process::exit(128 + again.as_raw_value());
    });
    Ok(())
}

/// Notifies systemd, if it started the server (`Type=notify`).
fn notify_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd not notified");
    }
}

/// The scheme of the server's address, and the variables with which the program as client connects to it.
fn client_variables(files: Option<&TlsFiles>) -> (&'static str, &'static str) {
    match files {
        None => ("http", ""),
        Some(TlsFiles { client_ca: None, .. }) => ("https", " TOGGLED_CA_CERTIFICATE=CA.pem"),
        Some(_) => (
            "https",
            " TOGGLED_CA_CERTIFICATE=CA.pem TOGGLED_CLIENT_CERTIFICATE=CLIENT.pem TOGGLED_CLIENT_KEY=CLIENT.key",
        ),
    }
}

fn welcome(ready: &Ready, address: SocketAddr, (scheme, variables): (&str, &str)) -> String {
    let mut text = format!("ready: log {} at revision {}", ready.log_id, ready.revision);
    let Some(location) = &ready.token else { return text };
    let token = match location {
        TokenLocation::File(path) => {
            let path = path.display().to_string();
            let path = visible(&path);
            text += &format!("\n\nThe token of admin@localhost, who may do everything, is in\n  {path}");
            format!("TOGGLED_TOKEN_FILE='{path}'")
        }
        TokenLocation::Setting => {
            text += "\n\nThe token of admin@localhost, who may do everything, is the one that you gave: put it into \
                     TOGGLED_BOOTSTRAP_TOKEN for the commands below.";
            "TOGGLED_TOKEN=\"$TOGGLED_BOOTSTRAP_TOKEN\"".to_owned()
        }
    };
    text += "\n\nTo create a flag, flip it, and read who did, in another terminal:\n";
    let mut commands = vec![format!("export TOGGLED_ADDR={scheme}://{address} {token}{variables}")];
    if let Some(folder) = folder_outside_path() {
        commands.insert(0, format!("export PATH='{}':\"$PATH\"", visible(&folder)));
    }
    commands.extend(FIRST_COMMANDS.map(str::to_owned));
    for command in commands {
        text += &format!("  {command}\n");
    }
    text
}

/// The folder of this program, if a shell would not find the program by its name.
fn folder_outside_path() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    let path = std::env::var_os("PATH")?;
    let is_on_path = std::env::split_paths(&path).any(|one| one == folder);
    (!is_on_path).then(|| folder.display().to_string())
}
