//! Questions to the log that take long: others do not wait for them, and they end with their calls.
//!
//! On PostgreSQL a locked table makes them take long. SQLite has no such lock; `src/store/log_query.rs` has its test.

use std::sync::Arc;

use toggled::domain::audit::EntityType;
use toggled::domain::filter::Filter;
use toggled::store::{EntryQuery, Order};
use tokio::task::JoinSet;

use super::world::*;
use crate::support::{Backend, with_timeout};

const LOCK: &str = "BEGIN; LOCK TABLE audit_logs IN ACCESS EXCLUSIVE MODE";

/// How many statements wait for the lock. `pg_stat_activity` would show the same until the transaction ends.
const WAITING: &str = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'audit_logs'::regclass";

/// Asks this many questions at once, none of which is answered while the log is locked.
async fn ask(world: &mut World, questions: usize) -> JoinSet<()> {
    world.raw.run(LOCK).await;
    let filter = Filter { entity_type: Some(EntityType::User), ..Filter::default() };
    let query = EntryQuery { filter, range: world.all(), order: Order::NewestFirst, offset: 0, limit: 10 };
    let mut asked = JoinSet::new();
    for number in 0..questions {
        let (store, query) = (Arc::clone(&world.store), query.clone());
        asked.spawn(async move {
            match number % 2 {
                0 => assert!(!store.entries(&query).await.unwrap().is_empty()),
                _ => assert!(store.count(&query.filter, query.range).await.unwrap() > 0),
            }
        });
    }
    with_timeout("the questions to wait for the lock", async { while world.raw.number(WAITING).await == 0 {} }).await;
    asked
}

#[tokio::test]
async fn lookups_do_not_wait_for_questions() {
    let mut world = World::new(Backend::Postgres).await;
    let asked = ask(&mut world, 40).await;
    for _ in 0..20 {
        assert_eq!(world.store.head().await.unwrap(), *world.state.head());
        assert!(world.store.checkpoint_keys().await.unwrap().is_empty());
        world.store.follow(world.state.head()).await.unwrap();
        world.store.requests(&[]).await.unwrap();
    }
    assert!(world.raw.number(WAITING).await <= 4, "more run at once than have a turn");
    world.raw.run("COMMIT").await;
    with_timeout("all questions to be answered", asked.join_all()).await;
}

#[tokio::test]
async fn question_ends_in_the_database_with_its_call() {
    let mut world = World::new(Backend::Postgres).await;
    let mut asked = ask(&mut world, 3).await;
    with_timeout("all to wait for the lock", async { while world.raw.number(WAITING).await < 3 {} }).await;
    asked.shutdown().await;
    with_timeout("the database to stop", async { while world.raw.number(WAITING).await > 0 {} }).await;
    world.raw.run("COMMIT").await;
    // The pool is as good as before.
    let asked = ask(&mut world, 9).await;
    world.raw.run("COMMIT").await;
    with_timeout("all questions to be answered", asked.join_all()).await;
}
