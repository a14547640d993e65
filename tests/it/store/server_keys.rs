//! Secrets that servers share.

use super::world::World;
use crate::support::on_both_databases;

on_both_databases! {
    async fn first_secret_under_a_name_stays(backend: Backend) {
        let world = World::new(backend).await;
        let store = &world.store;
        assert_eq!(store.server_key("a").await.unwrap(), None);
        // Servers that start together race for it.
        let added = (0..8).map(|number| store.add_server_key("a", [number; 32]));
        let stored: Vec<_> = futures::future::join_all(added).await.into_iter().map(Result::unwrap).collect();
        assert!(stored.iter().all(|secret| *secret == stored[0]), "{stored:?}");
        assert_eq!(store.server_key("a").await.unwrap(), Some(stored[0]));
        assert_eq!(store.add_server_key("b", [9; 32]).await.unwrap(), [9; 32]);
    }
}
