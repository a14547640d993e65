//! Servers that reach PostgreSQL through a pooler in session mode, with its default settings and room for their connections.

use toggled::api::pb::*;

use crate::support::pgbouncer::PgBouncer;
use crate::support::{Backend, Database, RARE_POLLS, Server, invoke, with_timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_work_through_pgbouncer() {
    let database = Database::new(Backend::Postgres).await;
    // 13 for each server, and some for the command line.
    let pooler = PgBouncer::with_settings(&database, "default_pool_size = 30\n").await;
    let first = Server::start(&pooler.database).await;
    let second = Server::start_with(&pooler.database, &RARE_POLLS).await;
    database.wait_for_listeners(2).await;
    let (mut admin, mut other) = (first.admin().await, second.admin().await);
    let follow = StreamAuditLogsRequest { follow: true, ..Default::default() };
    let mut log = admin.audit.stream_audit_logs(follow).await.unwrap().into_inner();
    let flag = admin.create("a").await;
    let flipped = admin.flip("a").await.feature_flag.unwrap();
    assert!(flipped.revision > flag.revision);

    // Polls are rare, so this comes by notification. A read waits for its revision.
    let selector = Some(get_feature_flag_request::Flag::Key("a".into()));
    let request = GetFeatureFlagRequest { flag: selector, min_revision: Some(flipped.revision), ..Default::default() };
    let seen = with_timeout("the flip", other.toggle.get_feature_flag(request)).await.unwrap().into_inner();
    assert_eq!(seen.feature_flag, Some(flipped.clone()));
    with_timeout("the entry of the flip", async {
        while !log.message().await.unwrap().unwrap().items.iter().any(|entry| entry.revision == flipped.revision) {}
    })
    .await;
    other.flip("a").await;

    let url = pooler.database.url.as_str();
    for arguments in [&["migrate", "status"][..], &["user", "list"], &["audit", "verify", "--database", url]] {
        let output = invoke(arguments, &[("TOGGLED_DATABASE_URL", url)]).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_mode_is_refused_by_name() {
    let database = Database::new(Backend::Postgres).await;
    drop(Server::start(&database).await);
    let settings = "pool_mode = transaction\ndefault_pool_size = 1\n";
    let pooler = PgBouncer::with_settings(&database, settings).await;
    let arguments = ["serve", "--listen", "127.0.0.1:0"];
    let output = invoke(&arguments, &[("TOGGLED_DATABASE_URL", &pooler.database.url)]).await;
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && text.contains("session mode"), "{text}");
}
