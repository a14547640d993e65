//! A server that is killed and started again.

use toggled::api::pb::ListFeatureFlagsRequest;

use crate::load::Load;
use crate::support::tcp_proxy::{Route, TcpProxy};
use crate::support::{Backend, Client, Database, Server, with_timeout};
use crate::{Form, Outcome};

pub async fn on_sqlite(form: Form) -> Outcome {
    kill(Backend::Sqlite, form).await
}

pub async fn on_postgres(form: Form) -> Outcome {
    kill(Backend::Postgres, form).await
}

async fn kill(backend: Backend, form: Form) -> Outcome {
    let database = Database::new(backend).await;
    let mut server = Server::start(&database).await;
    let proxy = TcpProxy::new(Route::Forward(server.address)).await;
    let load = Load::start(&[proxy.address]).await;
    let times = form.times(5, 100);
    for number in 0..times {
        load.a_while().await;
        if number % 2 == 0 {
            // Something is made of which nobody is told, so that somebody asks for it again.
            let mut direct = server.admin().await;
            let before = revision(&mut direct).await;
            proxy.set(Route::DropReplies(server.address));
            with_timeout("a flip without an answer", async { while revision(&mut direct).await == before {} }).await;
        }
        server.kill().await;
        // Its address may be somebody else's now.
        proxy.set(Route::Reject);
        server = Server::start(&database).await;
        proxy.set(Route::Forward(server.address));
    }
    let replayed = load.told().replayed;
    let mut verdict = load.finish(&database.url).await;
    if replayed < times.div_ceil(2) {
        verdict.problems.push(format!("only {replayed} flips were asked for again that had been made"));
    }
    Outcome::of(times, verdict)
}

async fn revision(client: &mut Client) -> i64 {
    client.toggle.list_feature_flags(ListFeatureFlagsRequest::default()).await.unwrap().into_inner().revision
}
