//! flagd's OpenFeature provider, in both its modes, against a server that serves everybody its flags.

mod server;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use open_feature::{Client, EvaluationErrorCode, EvaluationReason, OpenFeature};
use open_feature_flagd::{FlagdOptions, FlagdProvider, ResolverType};
use tempfile::TempDir;

use server::{ANYWHERE, Server};

/// What the administrator calls.
#[allow(dead_code, reason = "the tests need a part of it")]
mod pb {
    tonic::include_proto!("toggled.v1");
}

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something that may take a while, but not for ever.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain: {what}"),
    }
}

/// An application whose provider reads from this address. It has no way to send a token.
async fn reading(mode: ResolverType, address: SocketAddr) -> Client {
    let provider = FlagdProvider::new(FlagdOptions {
        host: address.ip().to_string(),
        port: address.port(),
        resolver_type: mode,
        // Nothing tells this cache of changes, in either mode: it keeps each value for its time to live.
        cache_settings: None,
        // The longest call, for slow machines, and soon again after a broken connection.
        deadline_ms: 10_000,
        retry_backoff_ms: 50,
        retry_backoff_max_ms: 100,
        ..Default::default()
    });
    let mut api = OpenFeature::default();
    api.set_provider(provider.await.unwrap()).await;
    api.create_client()
}

async fn read(application: &Client, key: &str) -> Result<bool, EvaluationErrorCode> {
    application.get_bool_value(key, None, None).await.map_err(|error| error.code)
}

/// Waits until a flag reads so.
async fn until(application: &Client, key: &str, expected: Result<bool, EvaluationErrorCode>) {
    let reads_so = async {
        while read(application, key).await != expected {
            tokio::task::yield_now().await;
        }
    };
    soon(&format!("{key} to read {expected:?}"), reads_so).await;
}

const NOT_FOUND: Result<bool, EvaluationErrorCode> = Err(EvaluationErrorCode::FlagNotFound);

/// The same test in both modes: by a call for each value, and from a copy of all flags.
macro_rules! in_both_modes {
    ($($(#[$meta:meta])* async fn $name:ident($mode:ident: ResolverType) $body:block)*) => {
        $($(#[$meta])*
        mod $name {
            use super::*;

            async fn run($mode: ResolverType) $body

            #[tokio::test]
            async fn rpc() {
                run(ResolverType::Rpc).await;
            }

            #[tokio::test]
            async fn in_process() {
                run(ResolverType::InProcess).await;
            }
        })*
    };
}

in_both_modes! {
    async fn a_flag_is_read_with_its_variant(mode: ResolverType) {
        let folder = TempDir::new().unwrap();
        let mut server = Server::start(folder.path(), ANYWHERE).await;
        server.admin.create("off").await;
        server.admin.create("on").await;
        server.admin.flip("on").await;
        let application = reading(mode.clone(), server.address).await;

        for (key, value) in [("off", false), ("on", true)] {
            let details = application.get_bool_details(key, None, None).await.unwrap();
            assert_eq!((details.value, details.variant.as_deref()), (value, Some(key)));
            // The one mode passes the server's word on, the other has its own.
            let reason = match mode {
                ResolverType::Rpc => EvaluationReason::Other("STATIC".into()),
                _ => EvaluationReason::Static,
            };
            assert_eq!(details.reason, Some(reason));
        }
    }

    async fn a_flag_that_is_missing_or_archived_is_not_found(mode: ResolverType) {
        let folder = TempDir::new().unwrap();
        let mut server = Server::start(folder.path(), ANYWHERE).await;
        server.admin.create("archived").await;
        server.admin.archive("archived").await;
        let application = reading(mode, server.address).await;

        assert_eq!(read(&application, "missing").await, NOT_FOUND);
        assert_eq!(read(&application, "archived").await, NOT_FOUND);
    }

    async fn a_toggle_read_as_something_else_is_an_error(mode: ResolverType) {
        let folder = TempDir::new().unwrap();
        let mut server = Server::start(folder.path(), ANYWHERE).await;
        server.admin.create("a").await;
        let application = reading(mode.clone(), server.address).await;

        let errors = [
            application.get_string_value("a", None, None).await.unwrap_err(),
            application.get_int_value("a", None, None).await.unwrap_err(),
            application.get_float_value("a", None, None).await.unwrap_err(),
        ];
        // What the one mode makes of INVALID_ARGUMENT.
        let code = match mode {
            ResolverType::Rpc => EvaluationErrorCode::InvalidContext,
            _ => EvaluationErrorCode::TypeMismatch,
        };
        for error in errors {
            assert_eq!(error.code, code);
        }
    }

    async fn flips_and_archiving_are_seen(mode: ResolverType) {
        let folder = TempDir::new().unwrap();
        let mut server = Server::start(folder.path(), ANYWHERE).await;
        server.admin.create("a").await;
        let application = reading(mode, server.address).await;
        assert_eq!(read(&application, "a").await, Ok(false));

        for expected in [true, false, true] {
            server.admin.flip("a").await;
            until(&application, "a", Ok(expected)).await;
        }
        server.admin.archive("a").await;
        until(&application, "a", NOT_FOUND).await;
        server.admin.create("new").await;
        until(&application, "new", Ok(false)).await;
    }

    async fn after_hundreds_of_flips_every_value_is_the_servers(mode: ResolverType) {
        let folder = TempDir::new().unwrap();
        let mut server = Server::start(folder.path(), ANYWHERE).await;
        let keys: Vec<String> = (0..20).map(|n| format!("flag-{n}")).collect();
        for key in &keys {
            server.admin.create(key).await;
        }
        let application = reading(mode, server.address).await;

        // All at once: every flag an even number of times, and every second of them once more.
        let mut flips = tokio::task::JoinSet::new();
        for (n, key) in keys.iter().enumerate() {
            for _ in 0..20 + n % 2 {
                let (mut admin, key) = (server.admin.clone(), key.clone());
                flips.spawn(async move { admin.flip(&key).await });
            }
        }
        flips.join_all().await;

        for (n, key) in keys.iter().enumerate() {
            until(&application, key, Ok(n % 2 == 1)).await;
        }
    }

    async fn a_flip_while_the_server_was_away_is_seen_when_it_is_back(mode: ResolverType) {
        let folder = TempDir::new().unwrap();
        // All else that asks for a free port does so at another loopback address, and leaves it while nobody listens.
        let mut server = Server::start(folder.path(), "127.0.0.5:0").await;
        let address = server.address;
        server.admin.create("flipped").await;
        server.admin.create("left").await;
        let application = reading(mode, address).await;
        assert_eq!(read(&application, "flipped").await, Ok(false));
        server.stop().await;

        // Elsewhere, where the provider does not look.
        let mut elsewhere = Server::start(folder.path(), ANYWHERE).await;
        elsewhere.admin.flip("flipped").await;
        elsewhere.stop().await;
        let mut server = Server::start(folder.path(), &address.to_string()).await;

        until(&application, "flipped", Ok(true)).await;
        server.admin.flip("left").await;
        until(&application, "left", Ok(true)).await;
    }
}
