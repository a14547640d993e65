//! A server that is killed and started again.

use toggled::api::pb::ListFeatureFlagsRequest;

use crate::load::Load;
use crate::support::tcp_proxy::{Route, TcpProxy};
use crate::support::{Backend, Client, Database, Server, with_timeout};
use crate::{FaultReport, RunLength};

pub async fn on_sqlite(length: RunLength) -> FaultReport {
    kill(Backend::Sqlite, length).await
}

pub async fn on_postgres(length: RunLength) -> FaultReport {
    kill(Backend::Postgres, length).await
}

async fn kill(backend: Backend, length: RunLength) -> FaultReport {
    let database = Database::new(backend).await;
    let mut server = Server::start(&database).await;
    let proxy = TcpProxy::new(Route::Forward(server.address)).await;
    let load = Load::start(&[proxy.address]).await;
    let rounds = length.rounds(5, 100);
    for number in 0..rounds {
        load.wait_for_some_flips().await;
        if number % 2 == 0 {
            // A flip is committed and its reply is lost, so that the client retries it. On a busy machine it may have been answered already.
            let mut direct = server.admin().await;
            let before = revision(&mut direct).await;
            proxy.set(Route::DropReplies(server.address));
            with_timeout("a flip without a reply", async { while revision(&mut direct).await == before {} }).await;
        }
        server.kill().await;
        // Another process may have taken the address.
        proxy.set(Route::Reject);
        server = Server::start(&database).await;
        proxy.set(Route::Forward(server.address));
    }
    load.wait_for_replays(rounds / 4).await;
    FaultReport::new(rounds, load.finish(&database.url).await)
}

async fn revision(client: &mut Client) -> i64 {
    client.toggle.list_feature_flags(ListFeatureFlagsRequest::default()).await.unwrap().into_inner().revision
}
