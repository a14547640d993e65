//! flagd's OpenFeature provider in both its modes, against a server with anonymous reads.

mod server;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use open_feature::{Client, EvaluationErrorCode, EvaluationReason, OpenFeature};
use open_feature_flagd::{FlagdOptions, FlagdProvider, ResolverType};
use tempfile::TempDir;

use server::{ANY_PORT, Server};

/// The generated client.
#[allow(dead_code, reason = "the tests use a part of it")]
mod pb {
    tonic::include_proto!("toggled.v1");
}

/// How long a test waits for any one thing before it fails.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Waits for a future; fails the test after [`TIMEOUT`].
async fn with_timeout<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(TIMEOUT, future).await {
        Ok(value) => value,
        Err(_) => panic!("timed out after {TIMEOUT:?} waiting for {what}"),
    }
}

/// An application whose provider reads from this address. The provider cannot send a token.
async fn new_application(mode: ResolverType, address: SocketAddr) -> Client {
    let provider = FlagdProvider::new(FlagdOptions {
        host: address.ip().to_string(),
        port: address.port(),
        resolver_type: mode,
        // This cache is never invalidated by changes, in either mode; it keeps values for their time to live.
        cache_settings: None,
        // A long deadline for slow machines, and quick retries after a broken connection.
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

/// Waits until a flag has the expected value or error.
async fn wait_until_read(application: &Client, key: &str, expected: Result<bool, EvaluationErrorCode>) {
    let is_read = async {
        while read(application, key).await != expected {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(&format!("{key} to read {expected:?}"), is_read).await;
}

const NOT_FOUND: Result<bool, EvaluationErrorCode> = Err(EvaluationErrorCode::FlagNotFound);

/// How an archived flag reads. This provider does not know the reason DISABLED, which flagd sends too.
fn archived(mode: &ResolverType) -> Result<bool, EvaluationErrorCode> {
    match mode {
        ResolverType::Rpc => Ok(false),
        _ => NOT_FOUND,
    }
}

/// Defines each test in both modes: a call per value, and a local copy of all flags.
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
    async fn flag_is_read_with_its_variant(mode: ResolverType) {
        let folder = TempDir::new().unwrap();
        let mut server = Server::start(folder.path(), ANY_PORT).await;
        server.admin.create("off").await;
        server.admin.create("on").await;
        server.admin.flip("on").await;
        let application = new_application(mode.clone(), server.address).await;

        for (key, value) in [("off", false), ("on", true)] {
            let details = application.get_bool_details(key, None, None).await.unwrap();
            assert_eq!((details.value, details.variant.as_deref()), (value, Some(key)));
            // The RPC mode passes on the server's reason, the in-process mode has its own.
            let reason = match mode {
                ResolverType::Rpc => EvaluationReason::Other("STATIC".into()),
                _ => EvaluationReason::Static,
            };
            assert_eq!(details.reason, Some(reason));
        }
    }

    async fn missing_flag_is_not_found_and_archived_one_has_no_value(mode: ResolverType) {
        let folder = TempDir::new().unwrap();
        let mut server = Server::start(folder.path(), ANY_PORT).await;
        server.admin.create("archived").await;
        server.admin.archive("archived").await;
        let application = new_application(mode.clone(), server.address).await;

        assert_eq!(read(&application, "missing").await, NOT_FOUND);
        assert_eq!(read(&application, "archived").await, archived(&mode));
    }

    async fn reading_another_type_is_an_error(mode: ResolverType) {
        let folder = TempDir::new().unwrap();
        let mut server = Server::start(folder.path(), ANY_PORT).await;
        server.admin.create("a").await;
        let application = new_application(mode.clone(), server.address).await;

        let errors = [
            application.get_string_value("a", None, None).await.unwrap_err(),
            application.get_int_value("a", None, None).await.unwrap_err(),
            application.get_float_value("a", None, None).await.unwrap_err(),
        ];
        // The RPC mode's error for INVALID_ARGUMENT, and the in-process mode's own error.
        let code = match mode {
            ResolverType::Rpc => EvaluationErrorCode::InvalidContext,
            _ => EvaluationErrorCode::TypeMismatch,
        };
        for error in errors {
            assert_eq!(error.code, code);
        }
    }

    async fn flips_and_archiving_are_read(mode: ResolverType) {
        let folder = TempDir::new().unwrap();
        let mut server = Server::start(folder.path(), ANY_PORT).await;
        server.admin.create("a").await;
        let application = new_application(mode.clone(), server.address).await;
        assert_eq!(read(&application, "a").await, Ok(false));

        for expected in [true, false, true] {
            server.admin.flip("a").await;
            wait_until_read(&application, "a", Ok(expected)).await;
        }
        server.admin.archive("a").await;
        wait_until_read(&application, "a", archived(&mode)).await;
        server.admin.create("new").await;
        wait_until_read(&application, "new", Ok(false)).await;
    }

    async fn values_match_the_server_after_many_flips(mode: ResolverType) {
        let folder = TempDir::new().unwrap();
        let mut server = Server::start(folder.path(), ANY_PORT).await;
        let keys: Vec<String> = (0..20).map(|n| format!("flag-{n}")).collect();
        for key in &keys {
            server.admin.create(key).await;
        }
        let application = new_application(mode, server.address).await;

        // Concurrently: every flag an even number of times, and every second flag once more.
        let mut flips = tokio::task::JoinSet::new();
        for (n, key) in keys.iter().enumerate() {
            for _ in 0..20 + n % 2 {
                let (mut admin, key) = (server.admin.clone(), key.clone());
                flips.spawn(async move { admin.flip(&key).await });
            }
        }
        flips.join_all().await;

        for (n, key) in keys.iter().enumerate() {
            wait_until_read(&application, key, Ok(n % 2 == 1)).await;
        }
    }

    async fn flip_during_server_downtime_is_read_later(mode: ResolverType) {
        let folder = TempDir::new().unwrap();
        // Other tests ask for free ports on another loopback address, so this port stays free while the server is down.
        let mut server = Server::start(folder.path(), "127.0.0.5:0").await;
        let address = server.address;
        server.admin.create("flipped").await;
        server.admin.create("left").await;
        let application = new_application(mode, address).await;
        assert_eq!(read(&application, "flipped").await, Ok(false));
        server.stop().await;

        // A server at another address, which the provider does not know.
        let mut elsewhere = Server::start(folder.path(), ANY_PORT).await;
        elsewhere.admin.flip("flipped").await;
        elsewhere.stop().await;
        let mut server = Server::start(folder.path(), &address.to_string()).await;

        wait_until_read(&application, "flipped", Ok(true)).await;
        server.admin.flip("left").await;
        wait_until_read(&application, "left", Ok(true)).await;
    }
}
