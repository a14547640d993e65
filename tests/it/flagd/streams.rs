//! Event and sync streams.

use futures::{FutureExt, StreamExt};
use prost_types::Struct;
use toggled::api::pb::*;
use tonic::Code;

use super::{
    Event, assert_next, configuration, flags, next, open_events, open_sync, open_v1, open_v2, unarchive,
    wait_for_configuration,
};
use crate::support::{Backend, Client, Database, Server, on_both_databases, read_until_error, reason_of, with_timeout};

on_both_databases! {
    async fn event_stream_sends_all_flags_and_then_changes(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        for key in ["created", "flipped", "archived"] {
            admin.create(key).await;
        }
        admin.flip("flipped").await;
        admin.archive("archived").await;

        let mut streams = open_events(&mut admin).await;
        assert_next(&mut streams, &Event::ready()).await;
        assert_next(&mut streams, &Event::change([("archived", "update"), ("created", "write"), ("flipped", "update")])).await;
        admin.flip("created").await;
        assert_next(&mut streams, &Event::change([("created", "update")])).await;
        admin.archive("flipped").await;
        assert_next(&mut streams, &Event::change([("flipped", "update")])).await;
        unarchive(&mut admin, "flipped").await;
        assert_next(&mut streams, &Event::change([("flipped", "update")])).await;
        admin.create("new").await;
        assert_next(&mut streams, &Event::change([("new", "write")])).await;
    }

    async fn every_stream_delivers_a_flip(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let mut streams = open_events(&mut admin).await;
        let mut sync = open_sync(&mut admin).await;
        assert_next(&mut streams, &Event::ready()).await;
        assert_next(&mut streams, &Event::change([("a", "write")])).await;
        let first = next(&mut sync).await;
        assert_eq!(flags(&first.flag_configuration), configuration([("a", false)]));
        assert_eq!(first.sync_context, Some(Struct::default()));

        for on in [true, false, true] {
            admin.flip("a").await;
            assert_next(&mut streams, &Event::change([("a", "update")])).await;
            assert_eq!(flags(&next(&mut sync).await.flag_configuration), configuration([("a", on)]));
        }
        admin.archive("a").await;
        let archived = configuration([("a", true)]).replace("ENABLED", "DISABLED");
        assert_eq!(flags(&next(&mut sync).await.flag_configuration), archived);
    }

    async fn streams_after_a_restart_send_existing_flags(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        admin.create("b").await;
        admin.flip("b").await;
        assert!(server.terminate().await.success());

        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        let mut streams = open_events(&mut admin).await;
        assert_next(&mut streams, &Event::ready()).await;
        assert_next(&mut streams, &Event::change([("a", "write"), ("b", "update")])).await;
        let configured = next(&mut open_sync(&mut admin).await).await.flag_configuration;
        assert_eq!(flags(&configured), configuration([("a", false), ("b", true)]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_without_flags_send_an_empty_set() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    let mut sync = open_sync(&mut admin).await;
    let first = next(&mut sync).await;
    assert_eq!(first.flag_configuration, r#"{"flags":{},"metadata":{"flagSetId":"default","version":"0"}}"#);
    assert_eq!(first.sync_context, Some(Struct::default()));
    let mut streams = open_events(&mut admin).await;
    assert_next(&mut streams, &Event::ready()).await;
    assert_next(&mut streams, &Event::change([])).await;
    admin.create("first").await;
    assert_next(&mut streams, &Event::change([("first", "write")])).await;
    assert_eq!(flags(&next(&mut sync).await.flag_configuration), configuration([("first", false)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reader_gets_few_messages_and_the_last_state() {
    const KEYS: [&str; 4] = ["a", "b", "c", "d"];
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    for key in KEYS {
        admin.create(key).await;
    }
    let mut slow = Client::with_window(server.address, 1_024).await;
    let mut streams = open_events(&mut slow).await;
    let mut sync = open_sync(&mut slow).await;
    // A second client that reads at once shows how many messages there were.
    let mut fast_client = server.admin().await;
    let [_, mut fast] = open_events(&mut fast_client).await;
    let mut fast_sync = open_sync(&mut fast_client).await;
    let (mut rounds, mut synced) = (0, 0);
    while rounds < 100 || synced < 20 {
        for key in KEYS {
            admin.flip(key).await;
        }
        let last = admin.flip("a").await.feature_flag.unwrap();
        admin.flip("a").await;
        with_timeout("the other event stream", async { while !next(&mut fast).await.flags.contains_key(&last.key) {} })
            .await;
        while fast_sync.next().now_or_never().is_some() {
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
    assert!(messages < synced / 2, "{messages} messages where another client got {synced}");
    let now = next(&mut open_sync(&mut admin).await).await.flag_configuration;
    assert_eq!(next(&mut open_sync(&mut slow).await).await.flag_configuration, now);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_when_the_token_is_revoked() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    let secret = admin.new_user("reader@example.com", &["view_feature_flags"]).await;
    let mut reader = server.client(Some(&secret)).await;
    let (mut v1, mut v2) = (open_v1(&mut reader).await, open_v2(&mut reader).await);
    let mut sync = open_sync(&mut reader).await;
    wait_for_configuration(&mut sync, &configuration([])).await;

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
    let (mut v1, mut v2) = (open_v1(&mut admin).await, open_v2(&mut admin).await);
    let mut sync = open_sync(&mut admin).await;
    wait_for_configuration(&mut sync, &configuration([])).await;

    let stopping = tokio::spawn(server.terminate());

    for status in [read_until_error(&mut v1).await, read_until_error(&mut v2).await, read_until_error(&mut sync).await]
    {
        assert_eq!((status.code(), reason_of(&status).as_str()), (Code::Unavailable, "DRAINING"));
    }
    assert!(stopping.await.unwrap().success());
}
