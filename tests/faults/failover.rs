//! A primary that dies, and a synchronous standby that takes its place at the same address.

use crate::load::Load;
use crate::support::tcp_proxy::{Leads, Way};
use crate::support::{Backend, Cluster, Database, Server, alter_system, free_port, soon};
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
    cluster.order(&format!("standby {standby}")).await;
    let mut primary = cluster.administrator().await;
    alter_system(&mut primary, "SET synchronous_standby_names = '*'").await;
    let is_synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    soon("the standby to be a synchronous one", async {
        while sqlx::query_scalar::<_, i64>(is_synchronous).fetch_one(&mut primary).await.unwrap() == 0 {}
    })
    .await;
    let url = cluster.new_database().await;
    // What leads to the primary, whichever that is: a name, a virtual address, a proxy.
    let way = Way::new(Leads::To(cluster.address())).await;
    let moving =
        Database::at(&url.replace(&cluster.address().to_string(), &way.address.to_string()), Backend::Postgres);
    let server = Server::start(&moving).await;
    let load = Load::start(&[server.address]).await;
    load.a_while().await;
    cluster.order("kill").await;
    way.set(Leads::Nowhere);
    cluster.order("promote").await;
    way.set(Leads::To(([127, 0, 0, 1], standby).into()));
    load.finish(&moving.url).await
}
