//! Requests for a past state on a server that does not know that state yet.

use toggled::api::pb::*;
use tonic::Code;
use tonic_types::StatusExt;

use super::{all, assert_fails, get, get_at, listed};
use crate::support::postgres_proxy::{Link, PostgresProxy};
use crate::support::{Backend, Database, RARE_POLLS, Server, with_deadline, with_timeout};

/// The server waits until it knows the state or the caller's deadline expires. It cannot answer correctly before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lagging_replica_waits_for_the_requested_point() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    let first = Server::start(&database).await;
    let second = Server::start_with(&proxy.database, &RARE_POLLS).await;
    let (mut admin, mut reader) = (first.admin().await, second.admin().await);
    database.wait_for_listeners(2).await;
    // Make sure that notifications from the start of listening have been handled.
    let known = admin.create("a").await;
    listed(&mut reader, ListFeatureFlagsRequest { min_revision: Some(known.revision), ..all() }).await;

    proxy.set(Link::DropNotifications);
    let missed = admin.flip("a").await;
    let (revision, time) = (Some(missed.revision), missed.audit_log.unwrap().timestamp);
    let by_revision = ListFeatureFlagsRequest { as_of_revision: revision, ..all() };
    let (mut one, mut two) = (reader.clone(), reader.clone());
    let late = tokio::join!(
        one.toggle.get_feature_flag(with_deadline(get("a", revision))),
        two.toggle.list_feature_flags(with_deadline(by_revision.clone())),
    );
    for late in [late.0.map(drop), late.1.map(drop)] {
        assert_fails(&late.unwrap_err(), Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    }
    // The server answers for states that it knows. The database tells it which revisions do not exist.
    let past = reader.toggle.get_feature_flag(get("a", Some(known.revision))).await.unwrap().into_inner();
    assert_eq!((past.feature_flag, past.revision), (Some(known.clone()), known.revision));
    let beyond = reader.toggle.get_feature_flag(get("a", Some(missed.revision + 1))).await.unwrap_err();
    assert_fails(&beyond, Code::OutOfRange, "CURSOR_IN_FUTURE");
    let head = &beyond.get_details_error_info().unwrap().metadata["head_revision"];
    assert_eq!(*head, missed.revision.to_string());

    let waiting = {
        let (mut reader, request) = (reader.clone(), get("a", revision));
        tokio::spawn(async move { reader.toggle.get_feature_flag(request).await })
    };
    // To answer for a time, the server closes it, which shows what it has missed.
    let answer = reader.toggle.get_feature_flag(get_at("a", time.unwrap())).await.unwrap().into_inner();
    assert_eq!((answer.feature_flag, answer.revision), (missed.feature_flag.clone(), missed.revision));
    let answer = with_timeout("the past state", waiting).await.unwrap().unwrap().into_inner();
    assert_eq!((answer.feature_flag, answer.revision), (missed.feature_flag.clone(), missed.revision));
    proxy.set(Link::Open);
    admin.flip("a").await;
    for request in [by_revision, ListFeatureFlagsRequest { as_of_time: time, ..all() }] {
        let answer = listed(&mut reader, request).await;
        assert_eq!((answer.feature_flags.first(), answer.revision), (missed.feature_flag.as_ref(), missed.revision));
    }
}
