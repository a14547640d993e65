//! Several writers on one database: the condition on the head, and the lock on the head.

use std::sync::Arc;
use std::time::Instant;

use toggled::domain::advance::{Step, advance};
use toggled::domain::flag::Status;
use toggled::domain::hash;
use toggled::domain::time::Timestamp;
use toggled::store::{AppendOutcome, FollowOutcome, Store, StoreError, Writer, open};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::raw::Raw;
use super::world::*;
use crate::support::{Backend, TIMEOUT, on_both_databases, with_timeout};

/// How many writers race each other, and how many flips each makes.
const RACERS: usize = 4;
const FLIPS: usize = 25;

/// Starts an append of another writer, and returns once it seems to wait for the lock.
pub async fn waiting(
    world: &mut World,
    step: &Step,
) -> JoinHandle<(Box<dyn Writer>, Result<AppendOutcome, StoreError>)> {
    let (mut writer, step) = (world.store.writer(), step.clone());
    let append = tokio::spawn(async move {
        let outcome = writer.append(&step).await;
        (writer, outcome)
    });
    if matches!(world.raw, Raw::Postgres(_)) {
        let blocked = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let start = Instant::now();
        while world.raw.number(blocked).await == 0 {
            assert!(start.elapsed() < TIMEOUT && !append.is_finished(), "the second writer does not wait");
        }
    }
    // SQLite does not report waiting writers, but an append that does not wait ends within a few round trips. Few enough:
    // the second writer gives up after five seconds.
    for _ in 0..50 {
        world.store.head().await.unwrap();
    }
    assert!(!append.is_finished(), "the second writer does not wait");
    append
}

/// Flips a flag repeatedly, as one of several servers does: decide, append, and if the head has moved, follow and decide
/// again.
async fn race(store: Arc<dyn Store>) {
    let mut state = store.load().await.unwrap();
    let mut writer = store.writer();
    for _ in 0..FLIPS {
        let mut losses = 0;
        loop {
            let step = advance(&state, &[service(toggle("a"))], Timestamp::default(), &mut Uuid::now_v7);
            match writer.append(&step).await.unwrap() {
                AppendOutcome::Appended => {
                    state.apply(step.head, &step.delta);
                    break;
                }
                AppendOutcome::HeadMoved => losses += 1,
                other => panic!("{other:?}"),
            }
            if losses >= 3 {
                writer.lock_head().await.unwrap();
            }
            match store.follow(state.head()).await.unwrap().outcome {
                FollowOutcome::Changed(head, delta) => state.apply(head, &delta),
                other => panic!("{other:?}"),
            }
        }
        assert!(losses <= 3, "a writer that has locked the head does not lose");
    }
}

on_both_databases! {
    async fn writer_with_the_lock_appends_first(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a"))]).await;
        let ours = world.decide(&[service(toggle("a"))]);
        let theirs = world.decide(&[service(toggle("a"))]);

        with_timeout("the head", world.writer.lock_head()).await.unwrap();
        let append = waiting(&mut world, &theirs).await;
        assert_eq!(with_timeout("an append", world.writer.append(&ours)).await.unwrap(), AppendOutcome::Appended);

        let (mut second, outcome) = with_timeout("the second append", append).await.unwrap();
        assert_eq!(outcome.unwrap(), AppendOutcome::HeadMoved);
        world.appended(&ours);
        world.verify().await;
        let theirs = world.decide(&[service(toggle("a"))]);
        assert_eq!(second.append(&theirs).await.unwrap(), AppendOutcome::Appended, "the head is free again");
        world.appended(&theirs);
        world.verify().await;
    }

    async fn writer_with_the_lock_can_follow_and_append(backend: Backend) {
        let mut world = World::new(backend).await;
        let known = *world.state.head();
        let other = world.decide(&[service(create("a"))]);
        assert_eq!(world.store.writer().append(&other).await.unwrap(), AppendOutcome::Appended);

        with_timeout("the head", world.writer.lock_head()).await.unwrap();
        with_timeout("the head that it has", world.writer.lock_head()).await.unwrap();
        let FollowOutcome::Changed(head, delta) = world.store.follow(&known).await.unwrap().outcome else { panic!("not changed") };

        assert_eq!((head, delta.flags.len()), (other.head, 1));
        world.appended(&other);
        world.commit(&[service(toggle("a"))]).await;
    }

    /// The next append releases the lock, whatever its outcome.
    async fn every_outcome_of_an_append_releases_the_lock(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a")), in_full(world.by_admin(create("b")), "r")]).await;
        for end in ["Appended", "HeadMoved", "RequestExists", "Refused"] {
            let step = match end {
                "Appended" => world.decide(&[]),
                "RequestExists" => world.decide(&[in_full(world.by_admin(toggle("a")), "r")]),
                _ => {
                    let mut step = world.decide(&[service(toggle("a")), service(create(end))]);
                    match end {
                        "HeadMoved" => step.base.revision -= 1,
                        _ => drop(step.entries.pop()),
                    }
                    step
                }
            };
            with_timeout("the head", world.writer.lock_head()).await.unwrap();
            let outcome = with_timeout("an append", world.writer.append(&step)).await.unwrap();
            assert!(format!("{outcome:?}").starts_with(end), "{outcome:?}");

            let theirs = world.decide(&[service(toggle("a"))]);
            let mut second = world.store.writer();
            assert_eq!(with_timeout("the second append", second.append(&theirs)).await.unwrap(), AppendOutcome::Appended);
            world.appended(&theirs);
            world.verify().await;
        }
        world.commit(&[service(toggle("a"))]).await;
    }

    async fn dropped_writer_releases_the_lock(backend: Backend) {
        let mut world = World::new(backend).await;
        let mut gone = world.store.writer();
        with_timeout("the head", gone.lock_head()).await.unwrap();
        drop(gone);
        world.commit(&[service(create("a"))]).await;
    }

    async fn racing_writers_append_each_flip_once(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a"))]).await;
        let before = *world.state.head();
        let racers = (0..RACERS).map(|_| tokio::spawn(race(open(&world.database.url).unwrap())));
        for racer in racers.collect::<Vec<_>>() {
            with_timeout("a racer", racer).await.unwrap();
        }

        let state = world.store.load().await.unwrap();
        let flips = i64::try_from(RACERS * FLIPS).unwrap();
        assert_eq!(state.head().revision, before.revision + flips);
        assert_eq!(state.flag(&flag("a")).unwrap().status, Status::Disabled, "{flips} flips");
        let FollowOutcome::Changed(head, delta) = world.store.follow(&before).await.unwrap().outcome else { panic!("not changed") };
        world.state.apply(head, &delta);
        let mut previous = before.hash;
        for entry in world.read(Default::default(), toggled::store::Order::OldestFirst).await.split_off(4) {
            assert_eq!(
                hash::entry_hash(&previous, before.log_id, &entry),
                entry.hash,
                "the chain breaks at {}",
                entry.revision
            );
            previous = entry.hash;
        }
        assert_eq!(previous, head.hash);
    }

    /// A writer does not wait for ever for another session's transaction. Nothing is written.
    async fn head_locked_too_long_is_unavailable(backend: Backend) {
        let mut world = World::new(backend).await;
        let hold = match world.raw {
            Raw::Sqlite(_) => "BEGIN IMMEDIATE",
            Raw::Postgres(_) => "BEGIN; SELECT * FROM log_head FOR UPDATE",
        };
        world.raw.run(hold).await;
        let step = world.decide(&[service(create("a"))]);
        let mut second = world.store.writer();
        let (append, held) =
            with_timeout("two timeouts", async { tokio::join!(world.writer.append(&step), second.lock_head()) }).await;
        assert!(matches!(append, Err(StoreError::Unavailable(_))), "{append:?}");
        assert!(matches!(held, Err(StoreError::Unavailable(_))), "{held:?}");
        world.raw.run("ROLLBACK").await;
        world.verify().await;
        world.append(&step).await;
    }
}

/// A stopped process, say, keeps its connection and does nothing. PostgreSQL then ends its transaction. SQLite has no such
/// limit, and only one server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_writer_loses_the_lock() {
    let mut world = World::new(Backend::Postgres).await;
    let late = world.decide(&[service(create("late"))]);
    let mut idle = world.store.writer();
    with_timeout("the head", idle.lock_head()).await.unwrap();
    let step = world.decide(&[service(create("a"))]);
    let waited = with_timeout("the second writer's turn", async {
        loop {
            match world.writer.append(&step).await {
                Err(StoreError::Unavailable(_)) => {}
                other => return other,
            }
        }
    });
    assert_eq!(waited.await.unwrap(), AppendOutcome::Appended);
    world.appended(&step);
    // Its step no longer fits, whichever error it gets.
    let outcome = with_timeout("the holder's append", idle.append(&late)).await;
    assert!(!matches!(outcome, Ok(AppendOutcome::Appended)), "{outcome:?}");
    world.verify().await;
}
