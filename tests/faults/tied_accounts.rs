//! Single sign-on accounts that are tied to a user in the same batch as a call of theirs, whose `request_id` the user has used.

use std::time::Duration;

use toggled::api::pb::*;
use tokio::time::sleep;
use tonic::Status;

use crate::load::{Load, in_default};
use crate::support::{Backend, Client, Database, Issuer, Server, with_timeout};
use crate::{FaultReport, RunLength};

/// The time between two calls that must be queued in this order.
const BETWEEN_CALLS: Duration = Duration::from_millis(50);

pub async fn tied(length: RunLength) -> FaultReport {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Postgres).await);
    let server = Server::start_with(&database, &issuer.settings()).await;
    let mut admin = server.admin().await;
    admin.create("tied").await;
    let load = Load::start(&[server.address]).await;
    let rounds = length.rounds(3, 30);
    for round in 0..rounds {
        load.wait_for_some_flips().await;
        tie(&server, &mut admin, &issuer, &database, round).await;
        // All other callers go on.
        load.wait_for_flips(50).await;
    }
    FaultReport::new(rounds, load.finish(&database.url).await)
}

async fn tie(server: &Server, admin: &mut Client, issuer: &Issuer, database: &Database, round: usize) {
    let (user, account) = (format!("user-{round}@example.com"), format!("account-{round}@example.com"));
    let secret = admin.new_user(&user, &["toggle_feature_flags"]).await;
    // Nothing changes, so this flag has no flips that the load would not know of.
    let no_op = DisableFeatureFlagRequest {
        flag: Some(disable_feature_flag_request::Flag::Key("tied".into())),
        request_id: Some("the-same".into()),
        environment: in_default(),
        ..Default::default()
    };
    server.client(Some(&secret)).await.toggle.disable_feature_flag(no_op.clone()).await.unwrap();
    let mut caller = server.client(Some(&issuer.token(&issuer.claims(&account, &["toggle_feature_flags"])))).await;
    caller.wait_until_authenticated().await;
    let users = admin.access.list_users(ListUsersRequest::default()).await.unwrap().into_inner().users;
    let user = users.into_iter().find(|found| found.email == user).unwrap();
    let request = UpdateUserRequest {
        id: user.id,
        permissions: user.permissions,
        issuer: Some(issuer.name().to_owned()),
        subject: Some(format!("subject of {account}")),
        ..Default::default()
    };
    let held = database.lock_head().await;
    held.wait_for_waiter().await;
    let tying = {
        let mut admin = admin.clone();
        tokio::spawn(async move { admin.access.update_user(request).await.map(drop) })
    };
    // The order of the calls is the fault.
    sleep(BETWEEN_CALLS).await;
    let calling = tokio::spawn(async move { caller.toggle.disable_feature_flag(no_op).await.map(drop) });
    sleep(BETWEEN_CALLS).await;
    drop(held);
    let answers: [Result<(), Status>; 2] = [
        with_timeout("the account to be tied", tying).await.unwrap(),
        with_timeout("the account's call", calling).await.unwrap(),
    ];
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}
