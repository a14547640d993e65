//! The SQLite file is moved away while clients flip flags, and back.

use std::fs;
use std::path::PathBuf;

use tonic_health::pb::health_check_response::ServingStatus;

use crate::load::Load;
use crate::support::tcp_proxy::{Route, TcpProxy};
use crate::support::{Backend, Database, Server, with_timeout};
use crate::{FaultReport, RunLength};

pub async fn moved(length: RunLength) -> FaultReport {
    let database = Database::new(Backend::Sqlite).await;
    let file = PathBuf::from(database.url.strip_prefix("sqlite://").unwrap());
    let aside = file.with_extension("aside");
    let mut server = Server::start(&database).await;
    let proxy = TcpProxy::new(Route::Forward(server.address)).await;
    let load = Load::start(&[proxy.address]).await;
    let rounds = length.rounds(4, 50);
    for number in 0..rounds {
        load.wait_for_some_flips().await;
        let before = load.progress();
        fs::rename(&file, &aside).unwrap();
        load.wait_for_refusal(&before).await;
        wait_for_health(&server, ServingStatus::NotServing).await;
        assert!(!file.exists(), "another file was created");
        let is_stopped = number % 3 > 0;
        if is_stopped {
            // Another process may take the address.
            proxy.set(Route::Reject);
            server =
                stopped_and_started(server, number % 3 == 1, || fs::rename(&aside, &file).unwrap(), &database).await;
            proxy.set(Route::Forward(server.address));
        } else {
            fs::rename(&aside, &file).unwrap();
            wait_for_health(&server, ServingStatus::Serving).await;
        }
        load.wait_for_flips(50).await;
    }
    FaultReport::new(rounds, load.finish(&database.url).await)
}

/// Stops the server while the file is away, and starts it again.
async fn stopped_and_started(server: Server, is_killed: bool, move_back: impl FnOnce(), database: &Database) -> Server {
    if is_killed {
        server.kill().await;
    } else {
        assert!(server.terminate().await.success());
    }
    move_back();
    Server::start(database).await
}

/// Waits until the server reports this status.
pub async fn wait_for_health(server: &Server, status: ServingStatus) {
    with_timeout("the health status", async { while server.health().await != status {} }).await;
}
