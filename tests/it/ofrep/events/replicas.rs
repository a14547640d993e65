//! Tickets and events on several replicas.

use super::*;
use crate::support::signing::Key;

/// Two replicas on one PostgreSQL.
async fn replicas(settings: &[(&str, &str)]) -> (Database, [Server; 2]) {
    let database = Database::new(Backend::Postgres).await;
    // Together, so that they race for the key.
    let (one, other) =
        futures::future::join(Server::start_with(&database, settings), Server::start_with(&database, settings)).await;
    (database, [one, other])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticket_of_a_replica_works_on_another() {
    let (_database, [one, other]) = replicas(&[]).await;
    let mut admin = one.admin().await;
    admin.create("a").await;
    let ann = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
    other.client(Some(&ann)).await.wait_until_authenticated().await;
    for (here, there) in Web::both(one.address).into_iter().zip(Web::both(other.address)) {
        let first = bulk(&here, &ann, "default", None, None).await;
        assert_eq!(bulk(&there, &ann, "default", Some(&first.etag), None).await.status, 304, "the same tag");
        let mut events = Events::open(&there, &first.events(), None).await;
        for _ in 0..10 {
            admin.flip("a").await;
            let event = events.next().await;
            // The replica that answers may not have what another one announced; then it waits.
            let now = bulk(&here, &ann, "default", None, Some(&event.id)).await;
            assert_eq!((now.status, now.tag()), (200, event.id));
        }
        let mut events = Events::open(&here, &first.events(), None).await;
        let mut seen = events.next().await.id;
        for _ in 0..10 {
            admin.flip("a").await;
            while events.next().await.id != read(&here, "default").await.tag() {}
            let tag = read(&here, "default").await.tag();
            let now = bulk(&there, &ann, "default", None, Some(&tag)).await;
            assert_eq!((now.status, now.tag()), (200, tag.clone()));
            assert_ne!(std::mem::replace(&mut seen, tag.clone()), tag);
        }
    }
    // Revoked on one, dead on the other.
    let [here, _] = Web::both(other.address);
    let uri = bulk(&here, &ann, "default", None, None).await.events();
    let events = Events::open(&here, &uri, None).await;
    let id = one.client(Some(&ann)).await.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().token_id;
    admin.access.revoke_token(RevokeTokenRequest { id, ..Default::default() }).await.unwrap();
    events.rest().await;
    assert_refused(&here, &uri).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_on_ticket_works_on_another_replica() {
    let issuer = Issuer::start().await;
    let (_database, [one, other]) = replicas(&issuer.settings()).await;
    let sue = issuer.token(&issuer.claims("sue@example.com", &["view_feature_flags", "manage_access"]));
    let ([here, _], [there, _]) = (Web::both(one.address), Web::both(other.address));
    let uri = bulk(&here, &sue, "default", None, None).await.events();
    // The other replica has never seen the token itself, and has the issuer's keys.
    let probe = issuer.token(&issuer.claims("bob@example.com", &["view_feature_flags"]));
    other.client(Some(&probe)).await.wait_until_authenticated().await;
    let mut events = Events::open(&there, &uri, None).await;
    one.admin().await.create("a").await;
    events.next().await;
    // The issuer withdraws the key.
    issuer.rotate(vec![Key::rsa("another")]);
    let unknown = issuer.token(&issuer.claims("ann@example.com", &[]));
    for server in [&one, &other] {
        server.client(Some(&unknown)).await.wait_until_authenticated().await;
    }
    events.rest().await;
    for web in [&here, &there] {
        assert_refused(web, &uri).await;
    }
}

/// The key is in the database: a ticket outlives the server that issued it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticket_survives_a_restart() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    server.admin().await.create("a").await;
    let first = read(&Web::both(server.address)[0], "default").await;
    let events = Events::open(&Web::both(server.address)[0], &first.events(), None).await;
    server.request_stop().await;
    assert_eq!(events.rest().await, 0);
    assert!(server.terminate().await.success());
    let server = Server::start(&database).await;
    let [web, _] = Web::both(server.address);
    assert_eq!(bulk(&web, TOKEN, "default", Some(&first.etag), None).await.status, 304);
    let mut events = Events::open(&web, &first.events(), None).await;
    server.admin().await.flip("a").await;
    assert_eq!(events.next().await.id, read(&web, "default").await.tag());
}
