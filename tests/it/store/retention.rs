//! Trimmed entries: hidden at once, and removed in portions.

use toggled::domain::Revision;
use toggled::domain::advance::{Command, TrimLog};
use toggled::store::RemovedEntries;

use super::world::*;
use crate::support::{Server, on_both_databases, with_timeout};

/// Trims the log through an entry, and keeps the rows.
pub async fn trim_only(world: &mut World, through: Revision) {
    let (hash, generation) = (world.entry_at(through).hash, world.state.generation());
    world.commit(&[service(Command::TrimLog(TrimLog { through, hash, found_hash: Some(hash), generation }))]).await;
}

/// The same, and removes the rows.
pub async fn trim(world: &mut World, through: Revision) {
    trim_only(world, through).await;
    while world.store.delete_trimmed(0).await.unwrap().entries > 0 {}
    world.entries.retain(|entry| entry.revision > through);
}

on_both_databases! {
    async fn trimmed_entries_are_hidden_before_removal(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a")), service(toggle("a")), service(toggle("a"))]).await;
        trim_only(&mut world, 4).await;
        assert_eq!(world.raw.number("SELECT count(*) FROM audit_logs WHERE revision <= 4").await, 4);
        for entry in world.entries.clone() {
            let kept = entry.revision > 4;
            assert_eq!(world.store.entry(entry.id).await.unwrap().is_some(), kept, "{}", entry.revision);
            let at = world.store.entry_at(entry.revision).await.unwrap();
            assert_eq!(at, kept.then_some((entry.id, entry.hash)));
        }
        assert_eq!(world.store.head().await.unwrap().floor_hash, world.entry_at(4).hash);
    }

    async fn trimmed_rows_are_removed_in_portions(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a"))]).await;
        world.commit(&vec![service(toggle("a")); 2_500]).await;
        let none = |through| RemovedEntries { entries: 0, through };
        assert_eq!(world.store.delete_trimmed(0).await.unwrap(), none(0), "nothing was trimmed");
        let floor = 2_400;
        trim_only(&mut world, floor).await;
        assert_eq!(world.store.delete_trimmed(floor).await.unwrap(), none(floor), "those before are not looked for");
        let first = world.store.delete_trimmed(2_390).await.unwrap();
        assert_eq!(first, RemovedEntries { entries: 10, through: floor });
        let (left, mut removed) = (2_390, 0);
        loop {
            let portion = world.store.delete_trimmed(removed).await.unwrap();
            if portion.entries == 0 {
                assert_eq!(portion, none(removed));
                break;
            }
            assert!(portion.entries <= 2_000, "{portion:?} at once");
            removed += i64::try_from(portion.entries).unwrap();
            assert_eq!(portion.through, removed);
            let next = if removed == left { floor } else { removed } + 1;
            assert_eq!(world.raw.number("SELECT min(revision) FROM audit_logs").await, next);
        }
        assert_eq!(removed, left);
        world.entries.retain(|entry| entry.revision > floor);
        world.verify().await;
    }

    async fn server_resumes_an_interrupted_removal(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a"))]).await;
        world.commit(&vec![service(toggle("a")); 2_500]).await;
        trim_only(&mut world, 2_400).await;
        assert!(world.store.delete_trimmed(0).await.unwrap().entries > 0);
        assert!(world.raw.number("SELECT count(*) FROM audit_logs WHERE revision <= 2400").await > 0);
        let _server = Server::start(&world.database).await;
        with_timeout("the rest to go", async {
            while world.raw.number("SELECT count(*) FROM audit_logs WHERE revision <= 2400").await > 0 {}
        })
        .await;
    }
}
