//! Who may listen, and how long.

use super::*;

/// The id of the only token of a user.
async fn token_of(server: &Server, secret: &str) -> WhoAmIResponse {
    server.client(Some(secret)).await.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner()
}

on_both_databases! {
    async fn stream_ends_with_its_credential(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let mut admin = server.admin().await;
        admin.new_environment("staging").await;
        let mut revoke = async |id: String| {
            admin.access.revoke_token(RevokeTokenRequest { id, ..Default::default() }).await.unwrap();
        };
        let mut second = server.admin().await;
        for (number, web) in Web::both(server.address).into_iter().enumerate() {
            let mut user = async |name: &str, permissions: &[&str]| {
                let secret = second.new_user(&format!("{name}-{number}@example.com"), permissions).await;
                let caller = token_of(&server, &secret).await;
                let uri = bulk(&web, &secret, "staging", None, None).await.events();
                (Events::open(&web, &uri, None).await, uri, caller)
            };
            let (revoked, revoked_uri, caller) = user("revoked", &["view_feature_flags"]).await;
            let (deactivated, deactivated_uri, other) = user("deactivated", &["view_feature_flags@staging"]).await;
            let (denied, denied_uri, third) = user("denied", &["view_feature_flags@staging"]).await;
            let (kept, kept_uri, _) = user("kept", &["view_feature_flags@staging"]).await;

            revoke(caller.token_id).await;
            let id = other.user.unwrap().id;
            second.access.deactivate_user(DeactivateUserRequest { id, ..Default::default() }).await.unwrap();
            // They can still view flags, in another environment.
            let permissions = vec!["view_feature_flags@default".to_owned()];
            let id = third.user.unwrap().id;
            second.access.update_user(UpdateUserRequest { id, permissions, ..Default::default() }).await.unwrap();
            for (events, uri) in [(revoked, revoked_uri), (deactivated, deactivated_uri), (denied, denied_uri)] {
                assert_eq!(events.rest().await, 0);
                assert_refused(&web, &uri).await;
            }
            let mut kept = kept;
            second.create_in("staging", &format!("new-{number}")).await;
            kept.next().await;
            drop(kept);
            Events::open(&web, &kept_uri, None).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_ticket_opens_a_stream() {
    let (_database, server, mut admin) = crate::ofrep::start().await;
    let elsewhere = Database::new(Backend::Sqlite).await;
    let other_server = Server::start(&elsewhere).await;
    let other_uri = read(&Web::both(other_server.address)[0], "default").await.events();
    let expiring = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
    for web in Web::both(server.address) {
        let uri = bulk(&web, &expiring, "default", None, None).await.events();
        Events::open(&web, &uri, None).await;
        let (path, _) = uri.split_once('?').unwrap();
        let ticket = uri.rsplit_once("ticket=").unwrap().1;
        let (content, mac) = ticket.split_once('.').unwrap();
        let refused = [
            path.to_owned(),
            format!("{path}?ticket="),
            format!("{path}?ticket={TOKEN}"),
            format!("{path}?ticket={content}"),
            format!("{path}?ticket={mac}.{content}"),
            format!("{path}?ticket={content}.{}", mac.chars().rev().collect::<String>()),
            format!("{path}?Ticket={ticket}"),
            format!("{path}?ticket=x&ticket={ticket}"),
            format!("{path}?ticket={}", "x".repeat(8_000)),
            other_uri.clone(),
        ];
        for uri in &refused {
            assert_refused(&web, uri).await;
            // A token makes no difference: a page of another site cannot use the credentials of its visitor.
            let request =
                Request::get(uri).header("authorization", format!("Bearer {TOKEN}")).body(Vec::new()).unwrap();
            assert_eq!(web.send(request).await.status(), 204);
        }
        // Nothing but the stream accepts a ticket.
        for path in [FLAGS.to_owned(), format!("{FLAGS}?ticket={ticket}")] {
            assert_eq!(web.send(post(&path, "application/json", Some(ticket), "{}")).await.status(), 401);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denied_environment_gives_no_ticket() {
    let (_database, server, mut admin) = crate::ofrep::start().await;
    admin.new_environment("staging").await;
    let ann = admin.new_user("ann@example.com", &["view_feature_flags@staging"]).await;
    for (number, web) in Web::both(server.address).into_iter().enumerate() {
        let denied = bulk(&web, &ann, "default", None, None).await;
        assert_eq!((denied.status, denied.body.get("eventStreams")), (403, None));
        let uri = bulk(&web, &ann, "staging", None, None).await.events();
        // A selector cannot turn a ticket to another environment.
        let request = Request::get(&uri).header("flagd-selector", "default").body(Vec::new()).unwrap();
        assert_eq!(web.open(request).await.status(), 200);
        let mut events = Events::open(&web, &format!("{uri}&selector=default"), None).await;
        flip(&mut admin, "default", "a").await;
        admin.create_in("staging", &format!("new-{number}")).await;
        assert_eq!(events.next().await.id, bulk(&web, &ann, "staging", None, None).await.tag());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_ends_when_sign_on_token_expires() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let server = Server::start_with(&database, &issuer.settings()).await;
    let mut claims = issuer.claims("sue@example.com", &["view_feature_flags"]);
    // Tokens are accepted for 30 seconds after they expire.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    claims["exp"] = json!(now - 26);
    let token = issuer.token(&claims);
    let [web, _] = Web::both(server.address);
    let uri = bulk(&web, &token, "default", None, None).await.events();
    let events = Events::open(&web, &uri, None).await;
    assert_eq!(events.rest().await, 0);
    assert_refused(&web, &uri).await;
}
