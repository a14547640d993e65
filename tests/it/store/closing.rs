//! Closed times: what is closed stays closed, and no entry is dated into it.

use toggled::domain::advance::Command;
use toggled::domain::flag::Status;
use toggled::domain::time::Timestamp;
use toggled::store::{AppendOutcome, FollowOutcome};
use uuid::Uuid;

use super::world::*;
use crate::support::on_both_databases;

on_both_databases! {
    async fn closed_time_is_read_with_the_head(backend: Backend) {
        let mut world = World::new(backend).await;
        let (head, closed) = (*world.state.head(), world.now.next());
        let before = world.store.follow(&head).await.unwrap();
        assert_eq!(before.closed_at, Timestamp::MIN);
        assert_eq!(world.writer.close_time(head.log_id, closed).await.unwrap(), Some(head));
        let followed = world.store.follow(&head).await.unwrap();
        assert!(matches!(followed.outcome, FollowOutcome::Unchanged), "{followed:?}");
        assert_eq!(followed.closed_at, closed);
        assert_eq!(world.store.load().await.unwrap().closed_at(), closed);
        world.state.close(closed);
        world.commit(&[service(create("a"))]).await;
        let followed = world.store.follow(&head).await.unwrap();
        assert!(matches!(followed.outcome, FollowOutcome::Changed(..)), "{followed:?}");
        assert_eq!(followed.closed_at, closed);
    }

    async fn closed_time_never_decreases(backend: Backend) {
        let mut world = World::new(backend).await;
        let (head, closed) = (*world.state.head(), world.now);
        assert_eq!(world.writer.close_time(head.log_id, closed).await.unwrap(), Some(head));
        // Neither a time that is closed, nor one of another log.
        assert_eq!(world.writer.close_time(head.log_id, closed).await.unwrap(), None);
        assert_eq!(world.writer.close_time(head.log_id, Timestamp::default()).await.unwrap(), None);
        assert_eq!(world.writer.close_time(Uuid::now_v7(), Timestamp::MAX).await.unwrap(), None);
        assert_eq!(world.store.follow(&head).await.unwrap().closed_at, closed);
        let earlier = world.raw.time(Timestamp::default());
        world.raw.refuses(&format!("UPDATE log_head SET closed_at = {earlier}"), "closed_at never decreases").await;
        let hash = world.raw.hash(3);
        let moved = format!("UPDATE log_head SET revision = revision + 1, hash = {hash}");
        world.raw.refuses(&moved, "an entry is dated after closed_at").await;
        world.verify().await;
    }

    async fn step_dated_into_a_closed_time_is_not_appended(backend: Backend) {
        let mut world = World::new(backend).await;
        let log_id = world.state.head().log_id;
        for lock in [false, true] {
            let key = if lock { "locked" } else { "not-locked" };
            let step = world.decide(&[in_full(service(create(key)), key)]);
            let date = step.first_timestamp();
            world.writer.close_time(log_id, date).await.unwrap().unwrap();
            if lock {
                world.writer.lock_head().await.unwrap();
            }
            assert_eq!(world.append_in_vain(&step).await, AppendOutcome::HeadMoved);
            // Decided again with the closed time, the step is dated after it, whatever the clock says.
            world.state.close(date);
            world.now = Timestamp::default();
            let step = world.commit(&[service(create(key))]).await;
            assert_eq!(step.first_timestamp(), date.next());
            world.now = date.next();
        }
    }

    /// A step without entries has no date.
    async fn requests_alone_are_stored_after_any_time(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a"))]).await;
        let nothing = Command::SetStatus(set("a", Status::Disabled));
        let (requests, empty) = (world.decide(&[in_full(world.by_admin(nothing), "no-op")]), world.decide(&[]));
        let later = world.now.plus_seconds(60);
        world.writer.close_time(world.state.head().log_id, later).await.unwrap().unwrap();
        world.append(&requests).await;
        world.append(&empty).await;
    }

    /// The head stays locked only until the next statement of the writer.
    async fn close_releases_a_locked_head(backend: Backend) {
        let mut world = World::new(backend).await;
        world.writer.lock_head().await.unwrap();
        let closed = world.now;
        world.writer.close_time(world.state.head().log_id, closed).await.unwrap().unwrap();
        assert_eq!(world.store.load().await.unwrap().closed_at(), closed, "the close was not committed");
        world.state.close(closed);
        world.commit(&[service(create("a"))]).await;
    }
}
