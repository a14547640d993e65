//! Whose request it is, when the same batch ties the caller's account to a user.

use toggled::api::pb::*;
use tonic::Response;

use crate::support::{Backend, Client, Database, Issuer, toggle, with_timeout};
use crate::telemetry::MonitoredServer;

/// The user of an address.
async fn user(admin: &mut Client, email: &str) -> User {
    let users = admin.access.list_users(ListUsersRequest::default()).await.unwrap().into_inner().users;
    users.into_iter().find(|user| user.email == email).unwrap()
}

/// The user has used the `request_id` that the account's call has. In one batch, the account becomes the user's: the call is then
/// a retry of the user's request, and the batch must be written without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn account_tied_in_the_batch_of_its_call_is_answered() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Postgres).await);
    let monitored = MonitoredServer::start(&database, &issuer.settings()).await;
    let mut admin = monitored.server.admin().await;
    admin.create("a").await;
    let secret = admin.new_user("sue@example.com", &["toggle_feature_flags"]).await;
    let request = ToggleFeatureFlagRequest { request_id: Some("flip-1".into()), ..toggle("a") };
    let mut sue = monitored.server.client(Some(&secret)).await;
    let first = sue.toggle.toggle_feature_flag(request.clone()).await.unwrap().into_inner();
    let token = issuer.token(&issuer.claims("joe@example.com", &["toggle_feature_flags"]));
    let mut joe = monitored.server.client(Some(&token)).await;
    joe.wait_until_authenticated().await;
    let sue = user(&mut admin, "sue@example.com").await;
    let tie = UpdateUserRequest {
        id: sue.id.clone(),
        permissions: sue.permissions.clone(),
        issuer: Some(issuer.name().to_owned()),
        subject: Some("subject of joe@example.com".to_owned()),
        ..Default::default()
    };

    // The committer is writing a flip, so that all later changes are in one batch.
    let held = database.lock_head().await;
    let spawn_flip = |mut client: Client, request| {
        tokio::spawn(async move { client.toggle.toggle_feature_flag(request).await.map(Response::into_inner) })
    };
    let before = spawn_flip(admin.clone(), toggle("a"));
    held.wait_for_waiter().await;
    let tying = {
        let mut admin = admin.clone();
        tokio::spawn(async move { admin.access.update_user(tie).await })
    };
    monitored.until_queued(1).await;
    let retries = [spawn_flip(joe.clone(), request.clone()), spawn_flip(joe.clone(), request)];
    monitored.until_queued(3).await;
    let after = spawn_flip(admin.clone(), toggle("a"));
    monitored.until_queued(4).await;
    drop(held);

    with_timeout("the flip before", before).await.unwrap().unwrap();
    let tied = with_timeout("the account to be tied", tying).await.unwrap().unwrap().into_inner().user.unwrap();
    assert_eq!((tied.id, tied.subject.unwrap()), (sue.id.clone(), "subject of joe@example.com".to_owned()));
    for retry in retries {
        assert_eq!(with_timeout("the retry", retry).await.unwrap().unwrap(), first, "not the first answer");
    }
    with_timeout("the flip after", after).await.unwrap().unwrap();
    let log = admin.log().await;
    let flips: Vec<_> = log.iter().filter(|entry| entry.action_type.starts_with("toggle_")).collect();
    assert_eq!(flips.len(), 3, "{flips:?}");
    assert!(!log.iter().any(|entry| entry.user_email == "joe@example.com"), "the account became a user of its own");
}
