//! A primary that dies, and a synchronous standby that takes its place at the same address.

use crate::load::Load;
use crate::support::tcp_proxy::{Route, TcpProxy};
use crate::support::{Backend, Cluster, Database, Server, alter_system, free_port, with_timeout};
use crate::verdict::Verdict;
use crate::{Form, Outcome};

pub async fn promoted(form: Form) -> Outcome {
    let times = form.times(1, 5);
    let mut all = Verdict { chain_is_intact: true, ..Verdict::default() };
    for _ in 0..times {
        all = all.and(promote().await);
    }
    Outcome::of(times, all)
}

async fn promote() -> Verdict {
    let mut cluster = Cluster::start("").await;
    let standby = free_port();
    cluster.command(&format!("standby {standby}")).await;
    let mut primary = cluster.admin_connection().await;
    alter_system(&mut primary, "SET synchronous_standby_names = '*'").await;
    let is_synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    with_timeout("the standby to be a synchronous one", async {
        while sqlx::query_scalar::<_, i64>(is_synchronous).fetch_one(&mut primary).await.unwrap() == 0 {}
    })
    .await;
    let url = cluster.new_database().await;
    // What leads to the primary, whichever that is: a name, a virtual address, a proxy.
    let proxy = TcpProxy::new(Route::Forward(cluster.address())).await;
    let moving =
        Database::from_url(&url.replace(&cluster.address().to_string(), &proxy.address.to_string()), Backend::Postgres);
    let server = Server::start(&moving).await;
    let load = Load::start(&[server.address]).await;
    load.a_while().await;
    cluster.command("kill").await;
    proxy.set(Route::Reject);
    cluster.command("promote").await;
    proxy.set(Route::Forward(([127, 0, 0, 1], standby).into()));
    load.finish(&moving.url).await
}
