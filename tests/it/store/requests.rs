//! Stored requests: found by user and id, and deleted after they expire.

use toggled::domain::text::RequestId;
use toggled::domain::time::Timestamp;
use uuid::Uuid;

use super::world::*;
use crate::support::on_both_databases;

on_both_databases! {
    async fn lookup_returns_only_stored_requests(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a"))]).await;
        for request in ["first", "'; DROP TABLE requests; --", "third"] {
            world.commit(&[in_full(world.by_admin(toggle("a")), request)]).await;
        }
        let admin = world.user("admin@localhost").id;
        let ask = async |keys: &[(Uuid, &str)]| {
            let keys: Vec<_> = keys.iter().map(|(user, id)| (*user, RequestId::parse(id).unwrap())).collect();
            let mut found = world.store.requests(&keys).await.unwrap();
            found.sort_by(|a, b| a.request_id.cmp(&b.request_id));
            found
        };
        assert_eq!(ask(&[]).await, []);
        assert_eq!(ask(&[(admin, "fourth")]).await, []);
        assert_eq!(ask(&[(Uuid::now_v7(), "first")]).await, [], "another user with the same id");
        let found = ask(&[(admin, "third"), (admin, "fourth"), (admin, "first"), (Uuid::now_v7(), "third")]).await;
        assert_eq!(found, [world.requests[0].clone(), world.requests[2].clone()]);
        assert_eq!(ask(&[(admin, "'; DROP TABLE requests; --")]).await, [world.requests[1].clone()]);
        let many: Vec<String> = (0..5_000).map(|n| format!("r{n}")).collect();
        let many: Vec<_> = many.iter().map(|id| (admin, id.as_str())).chain([(admin, "first")]).collect();
        assert_eq!(ask(&many).await, [world.requests[0].clone()]);
    }

    async fn expired_request_is_deleted_and_others_stay(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a"))]).await;
        for request in ["first", "second", "third"] {
            world.commit(&[in_full(world.by_admin(toggle("a")), request)]).await;
        }
        let second = world.requests[1].expires_at;
        assert_eq!(world.store.delete_expired_requests(Timestamp::MIN).await.unwrap(), 0);
        assert_eq!(world.store.delete_expired_requests(second).await.unwrap(), 1, "one expires now, which is not before now");
        world.requests.remove(0);
        world.verify().await;
        assert_eq!(world.store.delete_expired_requests(Timestamp::from_micros(second.micros() + 1)).await.unwrap(), 1);
        world.requests.remove(0);
        world.verify().await;
        // Its id can be used again.
        world.commit(&[in_full(world.by_admin(toggle("a")), "first")]).await;
        assert_eq!(world.store.delete_expired_requests(Timestamp::MAX).await.unwrap(), 2);
        world.requests.clear();
        world.verify().await;
    }
}
