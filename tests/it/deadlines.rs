//! Deadlines: what is answered then, and what was written.

use toggled::api::pb::health::HealthCheckRequest;
use toggled::api::pb::*;
use tonic::{Code, Status};

use crate::support::h2_client::{H2Client, framed, grpc_call};
use crate::support::{Backend, Database, Server, TOKEN, on_both_databases, reason_of, toggle};

const TOGGLE: &str = "/toggled.v1.ToggleService/ToggleFeatureFlag";

fn code_and_reason(status: &Status) -> (Code, String) {
    (status.code(), reason_of(status))
}

on_both_databases! {
    async fn answer_at_the_deadline_tells_what_was_written(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let client = H2Client::connect(server.address).await;
        let (mut answered, mut refused, mut possible) = (0, 0, 0);
        // A flip takes a few milliseconds: these deadlines pass before, during and after it.
        for microseconds in [100, 300, 1_000, 2_000, 4_000, 10_000, 2_000_000].repeat(20) {
            let calls = (0..4).map(|_| {
                let call = grpc_call(TOGGLE, Some(TOKEN)).header("grpc-timeout", format!("{microseconds}u"));
                client.call(call, framed(&toggle("a")))
            });
            for answer in futures::future::join_all(calls).await {
                let status = answer.status();
                match (status.code(), reason_of(&status).as_str()) {
                    (Code::Ok, _) => answered += 1,
                    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED" | "DEADLINE_BEFORE_START") => refused += 1,
                    (Code::DeadlineExceeded, "DEADLINE_DURING_CHANGE") => possible += 1,
                    _ => panic!("{status:?}"),
                }
            }
        }
        // The last flip is made after all others.
        admin.flip("a").await;
        let flips = admin.log().await.iter().filter(|entry| entry.action_type.starts_with("toggle_")).count() - 1;
        assert!((answered..=answered + possible).contains(&flips), "{flips} flips, {answered} answers, {possible} possible");
        assert!(refused > 0 && answered > 0, "{refused} refused, {answered} answered, so this test proves little");
    }
}

/// While the head is locked, a flip has begun and cannot end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_that_has_begun_is_finished_after_its_deadline() {
    let database = Database::new(Backend::Postgres).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let held = database.lock_head().await;
    let client = H2Client::connect(server.address).await;
    let request = ToggleFeatureFlagRequest { request_id: Some("once".into()), ..toggle("a") };
    let call = grpc_call(TOGGLE, Some(TOKEN)).header("grpc-timeout", "500m");

    let late = client.call(call, framed(&request)).await.status();

    assert_eq!(code_and_reason(&late), (Code::DeadlineExceeded, "DEADLINE_DURING_CHANGE".into()));
    assert!(late.message().contains("request_id"), "{late}");
    drop(held);
    let retry = admin.toggle.toggle_feature_flag(request).await.unwrap();
    assert_eq!(retry.metadata().get("x-request-replayed").unwrap(), "true");
    assert_eq!(admin.get("a").await.status(), FeatureFlagStatus::Enabled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passed_deadline_begins_nothing() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    let flag = admin.create("a").await;
    let client = H2Client::connect(server.address).await;
    let unused = admin.new_user("ann@example.com", &["toggle_feature_flags"]).await;
    // The token is not even looked at.
    for token in [Some(TOKEN), Some(&unused), None] {
        let call = grpc_call(TOGGLE, token).header("grpc-timeout", "0n");
        let late = client.call(call, framed(&toggle("a"))).await.status();
        assert_eq!(code_and_reason(&late), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into()));
    }
    assert_eq!(admin.get("a").await, flag);
    let users = admin.access.list_users(ListUsersRequest::default()).await.unwrap().into_inner().users;
    let user_id = users.into_iter().find(|user| user.email == "ann@example.com").unwrap().id;
    let request = ListTokensRequest { user_id, ..Default::default() };
    let tokens = admin.access.list_tokens(request).await.unwrap().into_inner().tokens;
    assert_eq!(tokens.iter().map(|token| token.last_used_at).collect::<Vec<_>>(), [None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_timeout_is_refused() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    let flag = admin.create("a").await;
    let client = H2Client::connect(server.address).await;
    let calls = [
        (TOGGLE, Some(TOKEN), framed(&toggle("a"))),
        (TOGGLE, None, framed(&toggle("a"))),
        ("/grpc.health.v1.Health/Check", None, framed(&HealthCheckRequest::default())),
        ("/toggled.v1.ToggleService/WatchFeatureFlags", Some(TOKEN), framed(&WatchFeatureFlagsRequest::default())),
    ];
    for (path, token, body) in calls {
        for timeout in ["", "S", "1", "1s", "-1S", "1.5S", "123456789S", "1 S", "1S, 2S", "\u{661}S"] {
            let call = grpc_call(path, token).header("grpc-timeout", timeout);
            let refused = client.call(call, body.clone()).await.status();
            assert_eq!(code_and_reason(&refused), (Code::InvalidArgument, "MALFORMED".into()), "{path} {timeout:?}");
            assert!(refused.message().contains("grpc-timeout"), "{refused}");
        }
        let twice = grpc_call(path, token).header("grpc-timeout", "1S").header("grpc-timeout", "2S");
        let refused = client.call(twice, body).await.status();
        assert_eq!(code_and_reason(&refused), (Code::InvalidArgument, "MALFORMED".into()), "{path}");
    }
    assert_eq!(admin.get("a").await, flag);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_ends_at_its_deadline() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let client = H2Client::connect(server.address).await;
    let follow = StreamAuditLogsRequest { follow: true, ..Default::default() };
    let streams = [
        ("/toggled.v1.ToggleService/WatchFeatureFlags", framed(&WatchFeatureFlagsRequest::default())),
        ("/toggled.v1.AuditService/StreamAuditLogs", framed(&follow)),
        ("/grpc.health.v1.Health/Watch", framed(&HealthCheckRequest::default())),
    ];
    let client = &client;
    let answers = streams.map(async |(path, body)| {
        let call = grpc_call(path, Some(TOKEN)).header("grpc-timeout", "2S");
        (path, client.call(call, body).await)
    });
    for (path, answer) in futures::future::join_all(answers).await {
        assert!(!answer.body.is_empty(), "{path} sent nothing before its deadline");
        let ended = answer.status();
        assert_eq!(code_and_reason(&ended), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into()), "{path}");
    }
}
