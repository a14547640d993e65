//! The past, asked of a server that has not heard of it yet.

use std::time::Duration;

use toggled::api::pb::*;
use tonic::{Code, Request};
use tonic_types::StatusExt;

use super::{all, assert_fails, get, get_then, listed};
use crate::support::postgres_proxy::{Link, PostgresProxy};
use crate::support::{Backend, Database, Server, with_timeout};

/// So rare that what arrives has come another way.
const NEVER_POLLED: [(&str, &str); 2] = [("TOGGLED_POLL_INTERVAL", "1h"), ("TOGGLED_MAX_STALENESS", "2h")];

fn brief<T>(request: T) -> Request<T> {
    let mut request = Request::new(request);
    request.set_timeout(Duration::from_secs(2));
    request
}

/// It waits until it has, as long as the caller does: of what it does not know it can say nothing true.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lags_waits_until_it_has_come_as_far() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    let here = Server::start(&database).await;
    let there = Server::start_with(&proxy.database, &NEVER_POLLED).await;
    let (mut admin, mut reader) = (here.admin().await, there.admin().await);
    database.wait_for_listeners(2).await;
    // What was listened to first is behind it.
    let known = admin.create("a").await;
    listed(&mut reader, ListFeatureFlagsRequest { min_revision: Some(known.revision), ..all() }).await;

    proxy.set(Link::DropNotifications);
    let unheard = admin.flip("a").await;
    let (revision, time) = (Some(unheard.revision), unheard.audit_log.unwrap().timestamp);
    let gets = [get("a", revision), get_then("a", time.unwrap())];
    let lists = [
        ListFeatureFlagsRequest { as_of_revision: revision, ..all() },
        ListFeatureFlagsRequest { as_of_time: time, ..all() },
    ];
    let (mut one, mut two) = (reader.clone(), reader.clone());
    let (mut three, mut four) = (reader.clone(), reader.clone());
    let late = tokio::join!(
        one.toggle.get_feature_flag(brief(gets[0].clone())),
        two.toggle.get_feature_flag(brief(gets[1].clone())),
        three.toggle.list_feature_flags(brief(lists[0].clone())),
        four.toggle.list_feature_flags(brief(lists[1].clone())),
    );
    for late in [late.0.map(drop), late.1.map(drop), late.2.map(drop), late.3.map(drop)] {
        assert_fails(&late.unwrap_err(), Code::Unavailable, "STALE");
    }
    // What it has come to it knows, and of what does not exist yet the database tells it.
    let past = reader.toggle.get_feature_flag(get("a", Some(known.revision))).await.unwrap().into_inner();
    assert_eq!((past.feature_flag, past.revision), (Some(known.clone()), known.revision));
    let beyond = reader.toggle.get_feature_flag(get("a", Some(unheard.revision + 1))).await.unwrap_err();
    assert_fails(&beyond, Code::OutOfRange, "CURSOR_IN_FUTURE");
    let head = &beyond.get_details_error_info().unwrap().metadata["head_revision"];
    assert_eq!(*head, unheard.revision.to_string());

    let waiting = gets.map(|request| {
        let mut reader = reader.clone();
        tokio::spawn(async move { reader.toggle.get_feature_flag(request).await })
    });
    proxy.set(Link::Open);
    admin.flip("a").await;
    for answer in waiting {
        let answer = with_timeout("the past", answer).await.unwrap().unwrap().into_inner();
        assert_eq!((answer.feature_flag, answer.revision), (unheard.feature_flag.clone(), unheard.revision));
    }
    for request in lists {
        let answer = listed(&mut reader, request).await;
        assert_eq!((answer.feature_flags.first(), answer.revision), (unheard.feature_flag.as_ref(), unheard.revision));
    }
}
