//! A primary that is killed, and a synchronous standby that is promoted at the same address.

use crate::comparison::Comparison;
use crate::load::Load;
use crate::support::tcp_proxy::{Route, TcpProxy};
use crate::support::{Backend, Cluster, Database, Server, alter_system, free_port, with_timeout};
use crate::{FaultReport, RunLength};

pub async fn promoted(length: RunLength) -> FaultReport {
    let rounds = length.rounds(1, 5);
    let mut all = Comparison { chain_is_intact: true, ..Comparison::default() };
    for _ in 0..rounds {
        all = all.and(promote().await);
    }
    FaultReport::new(rounds, all)
}

async fn promote() -> Comparison {
    let mut cluster = Cluster::start("").await;
    let standby = free_port();
    cluster.command(&format!("standby {standby}")).await;
    let mut primary = cluster.admin_connection().await;
    alter_system(&mut primary, "SET synchronous_standby_names = '*'").await;
    let is_synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    with_timeout("the standby to become synchronous", async {
        while sqlx::query_scalar::<_, i64>(is_synchronous).fetch_one(&mut primary).await.unwrap() == 0 {}
    })
    .await;
    let url = cluster.new_database().await;
    // Stands for whatever leads to the current primary: a DNS name, a virtual address, a proxy.
    let proxy = TcpProxy::new(Route::Forward(cluster.address())).await;
    let moving =
        Database::from_url(&url.replace(&cluster.address().to_string(), &proxy.address.to_string()), Backend::Postgres);
    let server = Server::start(&moving).await;
    let load = Load::start(&[server.address]).await;
    load.wait_for_some_flips().await;
    cluster.command("kill").await;
    proxy.set(Route::Reject);
    cluster.command("promote").await;
    proxy.set(Route::Forward(([127, 0, 0, 1], standby).into()));
    load.finish(&moving.url).await
}
