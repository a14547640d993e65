//! Streams of events: which changes they announce, and to whom.

mod access;
mod replicas;

use http::Request;
use serde_json::{Value, json};
use toggled::api::pb::*;

use crate::support::events::{Bulk, Events, ask, assert_refused, bulk};
use crate::support::http::header;
use crate::support::web::{Web, post};
use crate::support::{Backend, Client, Database, Issuer, Server, TOKEN, on_both_databases, with_timeout};

use super::FLAGS;

async fn flip(admin: &mut Client, environment: &str, key: &str) {
    let flag = Some(toggle_feature_flag_request::Flag::Key(key.into()));
    let request = ToggleFeatureFlagRequest { environment: Some(environment.into()), flag, ..Default::default() };
    admin.toggle.toggle_feature_flag(request).await.unwrap();
}

/// All flags of an environment, as the administrator reads them.
async fn read(web: &Web, environment: &str) -> Bulk {
    bulk(web, TOKEN, environment, None, None).await
}

on_both_databases! {
    async fn flip_is_announced_once_in_its_environment(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.new_environment("staging").await;
        for environment in ["default", "staging"] {
            admin.create_in(environment, "shared").await;
        }
        let mut streams = Vec::new();
        for web in Web::both(server.address) {
            for environment in ["default", "staging"] {
                let first = read(&web, environment).await;
                let stream = &first.body["eventStreams"][0];
                assert_eq!((&stream["type"], &stream["inactivityDelaySec"]), (&json!("sse"), &json!(120)));
                assert!(stream.get("url").is_none() && stream["endpoint"].get("origin").is_none());
                let events = Events::open(&web, &first.events(), None).await;
                assert!((1_000..3_000).contains(&events.retry_ms), "{}", events.retry_ms);
                streams.push((web.clone(), environment, events, first.etag));
            }
        }
        // Each stream announces every state of its own environment, and nothing else.
        for turn in 0..6 {
            let flipped = ["default", "staging", "staging"][turn % 3];
            flip(&mut admin, flipped, "shared").await;
            for (web, environment, events, etag) in streams.iter_mut().filter(|stream| stream.1 == flipped) {
                let event = events.next().await;
                let now = bulk(web, TOKEN, environment, Some(etag), Some(&event.id)).await;
                assert_eq!(now.status, 200);
                assert_eq!(event.id, now.tag());
                let last_modified = event.data["lastModified"].as_i64().unwrap();
                assert!(last_modified > 1_700_000_000, "{event:?}");
                let expected = json!({"type": "refetchEvaluation", "etag": event.id, "lastModified": last_modified});
                assert_eq!(event.data, expected);
                assert_eq!(bulk(web, TOKEN, environment, Some(&now.etag), Some(&event.id)).await.status, 304);
                *etag = now.etag;
            }
        }
        admin.create_in("default", "new").await;
        admin.new_user("ann@example.com", &[]).await;
        for (.., events, _) in streams.iter_mut().filter(|stream| stream.1 == "default") {
            events.next().await;
        }
        server.request_stop().await;
        for (_, environment, events, _) in streams {
            assert_eq!(events.rest().await, 0, "{environment}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_returns_learns_what_it_missed() {
    let (_database, server, mut admin) = super::start().await;
    for web in Web::both(server.address) {
        let first = read(&web, "default").await;
        let mut events = Events::open(&web, &first.events(), None).await;
        admin.flip("a").await;
        let seen = events.next().await;
        drop(events);
        // It has seen that: the next event is about the next flip.
        let mut events = Events::open(&web, &first.events(), Some(&seen.id)).await;
        admin.flip("a").await;
        let missed = events.next().await;
        assert_ne!(missed.id, seen.id);
        assert_eq!(missed.id, read(&web, "default").await.tag());
        drop(events);
        let long = "x".repeat(4_000);
        for last in [Some(&*seen.id), Some("of another server"), Some(&long), Some(""), None] {
            let mut events = Events::open(&web, &first.events(), last).await;
            assert_eq!(events.next().await, missed, "{last:?}");
        }
        // The address itself says what its client has: it missed nothing.
        let mut events = Events::open(&web, &read(&web, "default").await.events(), None).await;
        admin.flip("a").await;
        assert_ne!(events.next().await, missed);
        // Nothing is known of what this client has.
        let (path, ticket) =
            first.events().split_once("?").map(|(path, query)| (path.to_owned(), query.to_owned())).unwrap();
        let ticket = ticket.split('&').find(|parameter| parameter.starts_with("ticket=")).unwrap();
        assert_eq!(
            Events::open(&web, &format!("{path}?{ticket}"), None).await.next().await.id,
            read(&web, "default").await.tag()
        );
    }
}

/// Providers keep the address of an answer that has not changed, even for days.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unchanged_answer_has_a_valid_address() {
    let (_database, server, mut admin) = super::start().await;
    let [web, _] = Web::both(server.address);
    let ann = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
    let bob = admin.new_user("bob@example.com", &["view_feature_flags"]).await;
    let of_ann = bulk(&web, &ann, "default", None, None).await;
    let again = bulk(&web, &ann, "default", None, None).await;
    assert_eq!((again.etag, again.body), (of_ann.etag.clone(), of_ann.body.clone()), "the address is the same as well");
    assert_eq!(bulk(&web, &ann, "default", Some(&of_ann.etag), None).await.status, 304);
    // With another token, the old address may be dead.
    let of_bob = bulk(&web, &bob, "default", Some(&of_ann.etag), None).await;
    assert_eq!(of_bob.status, 200);
    assert_ne!(of_bob.events(), of_ann.events());
    assert_eq!(of_bob.tag(), of_ann.tag());
    // What an event announced may be anything.
    for announced in ["", "x", "%22%22", &of_bob.tag().replace("default", "other"), "default-0-99999999-0"] {
        assert_eq!(bulk(&web, &bob, "default", None, Some(announced)).await.status, 200, "{announced}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_bulk_answer_of_ofrep_has_event_streams() {
    let (_database, server, _) = super::start().await;
    for web in Web::both(server.address) {
        let one = web.send(post(&format!("{FLAGS}/a"), "application/json", Some(TOKEN), "{}")).await;
        let one: Value = serde_json::from_slice(one.body()).unwrap();
        assert!(one.get("eventStreams").is_none(), "{one}");
        let uri = read(&web, "default").await.events();
        for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"] {
            let request = Request::builder().method(method).uri(&uri).header("content-type", "application/json");
            let answer = web.send(request.body(Vec::new()).unwrap()).await;
            assert_eq!(
                (answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap()),
                (405, "GET"),
                "{method}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_listed_origins_may_listen() {
    const ORIGIN: &str = "https://flags.example.com";
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start_with(&database, &[("TOGGLED_CORS_ORIGIN", ORIGIN)]).await;
    for web in Web::both(server.address) {
        let uri = read(&web, "default").await.events();
        let dead = uri.replace("ticket=", "ticket=x");
        for (origin, allowed) in [(ORIGIN, true), ("https://evil.example.com", false)] {
            for (uri, status) in [(&uri, 200), (&dead, 204)] {
                let request = Request::get(uri).header("origin", origin).body(Vec::new()).unwrap();
                let answer = web.open(request).await;
                assert_eq!(answer.status(), status);
                assert_eq!(answer.headers().contains_key("access-control-allow-origin"), allowed);
            }
            // What replaces `EventSource` in other programs sends headers that need a preflight.
            let preflight = Request::options(&uri)
                .header("origin", origin)
                .header("access-control-request-method", "GET")
                .header("access-control-request-headers", "cache-control,last-event-id");
            let answer = web.send(preflight.body(Vec::new()).unwrap()).await;
            assert_eq!(answer.headers().contains_key("access-control-allow-origin"), allowed);
            let headers = answer.headers().get("access-control-allow-headers").map(|names| names.to_str().unwrap());
            assert!(
                ["cache-control", "last-event-id"].iter().all(|name| headers.is_some_and(|all| all.contains(name)))
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_streams_count_against_the_limit() {
    for version in 0..2 {
        let database = Database::new(Backend::Sqlite).await;
        let server = Server::start_with(&database, &[("TOGGLED_MAX_STREAMS_PER_CALLER", "2")]).await;
        let web = &Web::both(server.address)[version];
        let uri = read(web, "default").await.events();
        let mut held = vec![Events::open(web, &uri, None).await, Events::open(web, &uri, None).await];
        // It gives up at an error, and its provider asks again once a second: so it is sent away for a while.
        let refused = web.send(Request::get(&uri).body(Vec::new()).unwrap()).await;
        assert_eq!((refused.status().as_u16(), header(&refused, "content-type")), (200, Some("text/event-stream")));
        let text = std::str::from_utf8(refused.body()).unwrap();
        let (reason, retry) = text.strip_suffix("\n\n").and_then(|text| text.split_once("\nretry: ")).unwrap();
        assert!(reason.starts_with(": ") && reason.contains("--max-streams-per-caller"), "{reason}");
        assert!((60_000..180_000).contains(&retry.parse::<u32>().unwrap()), "{retry}");
        // A watch would be one more, too.
        let mut admin = server.admin().await;
        let watched = admin.toggle.watch_feature_flags(WatchFeatureFlagsRequest::default()).await;
        assert_eq!(watched.unwrap_err().code(), tonic::Code::ResourceExhausted);
        held.clear();
        with_timeout("a free stream", async {
            while ask(web, &uri, None).await.headers().contains_key("content-length") {}
        })
        .await;
    }
}

/// Neither the tickets nor the rest of the query are in the log, not even at level `trace`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticket_is_never_logged() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let mut settings = issuer.settings();
    settings.push(("TOGGLED_LOG", "trace"));
    let (mut server, log) = Server::launch_with_log(&database.url, &settings).await;
    let reading = tokio::spawn(async move { log.rest().await });
    server.ready().await;
    let mut admin = server.admin().await;
    let ann = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
    let sue = issuer.token(&issuer.claims("sue@example.com", &["view_feature_flags"]));
    let mut tickets = Vec::new();
    for web in Web::both(server.address) {
        for token in [&*ann, &sue] {
            let uri = bulk(&web, token, "default", None, None).await.events();
            let ticket = uri.rsplit_once("ticket=").unwrap().1.to_owned();
            Events::open(&web, &uri, None).await;
            assert_refused(&web, &format!("{uri}A")).await;
            // On paths that do not exist, and in a request that is refused.
            for path in ["/ofrep/v1/event", "/ofrep/v1/events/x", "/x"] {
                let answer = web.send(Request::get(format!("{path}?ticket={ticket}")).body(Vec::new()).unwrap()).await;
                assert_eq!(answer.status(), 405);
            }
            tickets.push(ticket);
        }
    }
    assert!(server.terminate().await.success());
    let text = with_timeout("the log", reading).await.unwrap();
    assert!(text.contains("OFREP/EventStream") && text.contains("TRACE"), "{text}");
    let mut fragments = vec!["ticket=".to_owned()];
    for ticket in &tickets {
        let (content, mac) = ticket.split_once('.').unwrap();
        fragments.extend([content.to_owned(), mac.to_owned(), mac[..12].to_owned()]);
    }
    for fragment in fragments {
        assert_eq!(text.lines().find(|line| line.contains(&fragment)), None, "{fragment}");
    }
}
