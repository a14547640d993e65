//! What changes, told as it does.

use futures::{FutureExt, StreamExt};
use prost_types::Struct;
use toggled::api::pb::*;
use tonic::Code;
use tonic::transport::Endpoint;

use super::{Event, both_tell, configuration, events, next, raw_sync, raw_v1, raw_v2, unarchive, until_configured};
use crate::support::{
    Backend, Client, Database, Server, TOKEN, on_both_databases, read_until_error, reason_of, with_timeout,
};

on_both_databases! {
    async fn an_event_stream_begins_with_all_flags_and_goes_on_with_those_that_change(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        for key in ["created", "flipped", "archived"] {
            admin.create(key).await;
        }
        admin.flip("flipped").await;
        admin.archive("archived").await;

        let mut streams = events(&mut admin).await;
        both_tell(&mut streams, &Event::ready()).await;
        both_tell(&mut streams, &Event::change([("archived", "delete"), ("created", "write"), ("flipped", "update")])).await;
        admin.flip("created").await;
        both_tell(&mut streams, &Event::change([("created", "update")])).await;
        admin.archive("flipped").await;
        both_tell(&mut streams, &Event::change([("flipped", "delete")])).await;
        unarchive(&mut admin, "flipped").await;
        both_tell(&mut streams, &Event::change([("flipped", "update")])).await;
        admin.create("new").await;
        both_tell(&mut streams, &Event::change([("new", "write")])).await;
    }

    async fn every_stream_of_every_version_sees_a_flip(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let mut streams = events(&mut admin).await;
        let mut sync = raw_sync(&mut admin).await;
        both_tell(&mut streams, &Event::ready()).await;
        both_tell(&mut streams, &Event::change([("a", "write")])).await;
        let first = next(&mut sync).await;
        assert_eq!(first.flag_configuration, configuration([("a", false)]));
        assert_eq!(first.sync_context, Some(Struct::default()));

        for on in [true, false, true] {
            admin.flip("a").await;
            both_tell(&mut streams, &Event::change([("a", "update")])).await;
            assert_eq!(next(&mut sync).await.flag_configuration, configuration([("a", on)]));
        }
        admin.archive("a").await;
        assert_eq!(next(&mut sync).await.flag_configuration, configuration([]));
    }

    async fn a_server_that_starts_again_tells_what_there_was(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        admin.create("b").await;
        admin.flip("b").await;
        assert!(server.terminate().await.success());

        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let mut streams = events(&mut admin).await;
        both_tell(&mut streams, &Event::ready()).await;
        both_tell(&mut streams, &Event::change([("a", "write"), ("b", "update")])).await;
        let configured = next(&mut raw_sync(&mut admin).await).await.flag_configuration;
        assert_eq!(configured, configuration([("a", false), ("b", true)]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_flags_says_so() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    let mut sync = raw_sync(&mut admin).await;
    let first = next(&mut sync).await;
    assert_eq!(first.flag_configuration, r#"{"flags":{}}"#);
    assert_eq!(first.sync_context, Some(Struct::default()));
    let mut streams = events(&mut admin).await;
    both_tell(&mut streams, &Event::ready()).await;
    both_tell(&mut streams, &Event::change([])).await;
    admin.create("first").await;
    both_tell(&mut streams, &Event::change([("first", "write")])).await;
    assert_eq!(next(&mut sync).await.flag_configuration, configuration([("first", false)]));
}

/// A client with hardly any room for what it has not read yet.
async fn narrow(server: &Server) -> Client {
    let endpoint =
        Endpoint::from_shared(format!("http://{}", server.address)).unwrap().initial_stream_window_size(1_024);
    Client::with_channel(with_timeout("a connection", endpoint.connect()).await.unwrap(), Some(TOKEN))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_slowly_gets_few_messages_and_the_last_state() {
    const KEYS: [&str; 4] = ["a", "b", "c", "d"];
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    for key in KEYS {
        admin.create(key).await;
    }
    let mut slow = narrow(&server).await;
    let mut streams = events(&mut slow).await;
    let mut sync = raw_sync(&mut slow).await;
    // Neighbours who read everything at once show how much there was to read.
    let mut neighbour = server.admin().await;
    let [_, mut quick] = events(&mut neighbour).await;
    let mut quick_sync = raw_sync(&mut neighbour).await;
    let (mut rounds, mut synced) = (0, 0);
    while rounds < 100 || synced < 20 {
        for key in KEYS {
            admin.flip(key).await;
        }
        let last = admin.flip("a").await.feature_flag.unwrap();
        admin.flip("a").await;
        with_timeout("the neighbour's event", async { while !next(&mut quick).await.flags.contains_key(&last.key) {} })
            .await;
        while quick_sync.next().now_or_never().is_some() {
            synced += 1;
        }
        rounds += 1;
    }
    admin.create("last").await;

    for stream in &mut streams {
        let mut messages = 1;
        while !next(stream).await.flags.contains_key("last") {
            messages += 1;
        }
        assert!(messages < rounds / 2, "{messages} messages in {rounds} rounds");
    }
    let mut messages = 1;
    while !next(&mut sync).await.flag_configuration.contains(r#""last""#) {
        messages += 1;
    }
    assert!(messages < synced / 2, "{messages} messages where a neighbour got {synced}");
    let now = next(&mut raw_sync(&mut admin).await).await.flag_configuration;
    assert_eq!(next(&mut raw_sync(&mut slow).await).await.flag_configuration, now);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_when_their_caller_may_no_longer_have_them() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    let secret = admin.new_user("reader@example.com", &["view_feature_flags"]).await;
    let mut reader = server.client(Some(&secret)).await;
    let (mut v1, mut v2) = (raw_v1(&mut reader).await, raw_v2(&mut reader).await);
    let mut sync = raw_sync(&mut reader).await;
    until_configured(&mut sync, &configuration([])).await;

    let id = reader.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().token_id;
    admin.access.revoke_token(RevokeTokenRequest { id, ..Default::default() }).await.unwrap();

    for status in [read_until_error(&mut v1).await, read_until_error(&mut v2).await, read_until_error(&mut sync).await]
    {
        assert_eq!((status.code(), reason_of(&status).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_as_unavailable_when_the_server_stops() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    let (mut v1, mut v2) = (raw_v1(&mut admin).await, raw_v2(&mut admin).await);
    let mut sync = raw_sync(&mut admin).await;
    until_configured(&mut sync, &configuration([])).await;

    let stopping = tokio::spawn(server.terminate());

    for status in [read_until_error(&mut v1).await, read_until_error(&mut v2).await, read_until_error(&mut sync).await]
    {
        assert_eq!((status.code(), reason_of(&status).as_str()), (Code::Unavailable, "DRAINING"));
    }
    assert!(stopping.await.unwrap().success());
}
