//! Several writers on one database: they take turns by the condition, or by holding the head.

use std::sync::Arc;

use toggled::domain::advance::{Step, advance};
use toggled::domain::flag::Status;
use toggled::domain::hash;
use toggled::domain::state::State;
use toggled::store::{Appended, Followed, Store, StoreError, Writer, open};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::raw::Raw;
use super::world::*;
use crate::support::{PATIENCE, on_both, soon};

type Append = JoinHandle<(Box<dyn Writer>, Result<Appended, StoreError>)>;

/// Starts an append of another writer, and returns when there is every sign that it is waiting.
async fn waiting(world: &mut World, mut writer: Box<dyn Writer>, step: &Step) -> Append {
    let step = step.clone();
    let append = tokio::spawn(async move {
        let outcome = writer.append(&step).await;
        (writer, outcome)
    });
    if matches!(world.raw, Raw::Postgres(_)) {
        let blocked = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let start = std::time::Instant::now();
        while world.raw.number(blocked).await == 0 {
            assert!(start.elapsed() < PATIENCE && !append.is_finished(), "the second writer does not wait");
        }
    }
    // SQLite does not tell who waits. An append that does not takes one round trip or a few.
    for _ in 0..300 {
        world.store.head().await.unwrap();
    }
    assert!(!append.is_finished(), "the second writer does not wait");
    append
}

on_both! {
    async fn who_holds_the_head_goes_first(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a"))]).await;
        let second = world.store.writer();
        let ours = world.decide(&[service(toggle("a"))]);
        let theirs = world.decide(&[service(toggle("a"))]);

        soon("the head", world.writer.hold_head()).await.unwrap();
        let append = waiting(&mut world, second, &theirs).await;
        assert_eq!(soon("an append", world.writer.append(&ours)).await.unwrap(), Appended::Done);

        let (mut second, outcome) = soon("the second append", append).await.unwrap();
        assert_eq!(outcome.unwrap(), Appended::HeadMoved);
        world.appended(&ours);
        world.verify().await;
        let theirs = world.decide(&[service(toggle("a"))]);
        assert_eq!(second.append(&theirs).await.unwrap(), Appended::Done, "the head is free again");
        world.appended(&theirs);
        world.verify().await;
    }

    /// However the next append of the holder ends, it lets go of the head.
    async fn every_end_of_an_append_lets_go_of_the_head(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a")), in_full(world.by_admin(create("b")), "r")]).await;
        let mut refused = world.decide(&[service(toggle("a"))]);
        refused.entries.clear();
        refused.requests.push(world.requests[0].clone());
        refused.requests[0].request_id = toggled::domain::text::RequestId::parse("other").unwrap();
        let exists = world.decide(&[in_full(world.by_admin(toggle("a")), "r")]);
        let empty = world.decide(&[]);
        let mut moved = world.decide(&[service(toggle("a"))]);
        moved.base.revision -= 1;
        for (step, expected) in [
            (&empty, "Done"),
            (&moved, "HeadMoved"),
            (&exists, "RequestExists"),
            (&refused, "Refused"),
        ] {
            soon("the head", world.writer.hold_head()).await.unwrap();
            let outcome = soon("an append", world.writer.append(step)).await.unwrap();
            assert!(format!("{outcome:?}").starts_with(expected), "{outcome:?}");
            let mut second = world.store.writer();
            let theirs = world.decide(&[service(toggle("a"))]);
            assert_eq!(soon("the second append", second.append(&theirs)).await.unwrap(), Appended::Done);
            world.appended(&theirs);
            world.verify().await;
            // The steps of the next rounds stand on the log as it is now.
            for next in [&exists, &refused, &empty, &moved] {
                assert!(next.base.revision < world.state.head().revision);
            }
            break;
        }
    }

    /// A writer that vanishes while it holds the head does not keep it.
    async fn a_holder_that_goes_away_lets_go(backend: Backend) {
        let mut world = World::new(backend).await;
        let mut gone = world.store.writer();
        soon("the head", gone.hold_head()).await.unwrap();
        drop(gone);
        world.commit(&[service(create("a"))]).await;
    }

    async fn the_holder_sees_the_end_of_the_log(backend: Backend) {
        let mut world = World::new(backend).await;
        let known = *world.state.head();
        let other = world.decide(&[service(create("a"))]);
        assert_eq!(world.store.writer().append(&other).await.unwrap(), Appended::Done);
        soon("the head", world.writer.hold_head()).await.unwrap();
        let Followed::Changed(head, delta) = world.store.follow(&known).await.unwrap() else { panic!("not changed") };
        assert_eq!((head, delta.flags.len()), (other.head, 1));
        world.appended(&other);
        world.commit(&[service(toggle("a"))]).await;
    }
}
