//! Counting ahead: the same counts, without walking the log.

use toggled::domain::Revision;
use toggled::domain::audit::{Action, EntityType};
use toggled::domain::filter::{Filter, KeyFilter, Range};
use toggled::domain::text::EnvironmentKey;
use toggled::store::{EntryQuery, Order, open};
use uuid::Uuid;

use super::queries::passes;
use super::retention::trim;
use super::world::*;
use crate::support::{Backend, Server, on_both_databases, with_timeout};

/// Entries per block, as in the migrations.
const BLOCK: Revision = 16_384;

/// The sum of the counts of each user, and the sum of those of all users together.
const OF_USERS: &str =
    "SELECT CAST(sum(entries) AS BIGINT) FROM audit_log_counts WHERE user_email <> '' AND environment = ''";
const OF_ALL_USERS: &str =
    "SELECT CAST(sum(entries) AS BIGINT) FROM audit_log_counts WHERE user_email = '' AND environment = ''";

/// A log slightly longer than this many blocks, written by the service and the administrator, partly about users.
async fn long(backend: Backend, blocks: Revision) -> World {
    let mut world = World::new(backend).await;
    world.commit(&[service(create("a")), service(create("b"))]).await;
    world.commit(&[service(create_environment("staging")), service(create_in("staging", "a"))]).await;
    for part in 1..=3 * blocks {
        let rename = world.by_admin(rename("a", &format!("Part {part}")));
        world.extend(&[rename, service(create_user(&format!("user{part}@example.com"), Default::default()))]).await;
        let flip = match part % 3 {
            0 => world.by_admin(toggle("a")),
            1 => service(toggle("b")),
            _ => world.by_admin(toggle_in("staging", "a")),
        };
        world.lengthen(flip, part * BLOCK / 3).await;
    }
    world.commit(&[service(toggle("b")), world.by_admin(toggle("b"))]).await;
    world
}

/// The revisions of the entries that pass a filter, in order.
fn passing(world: &World, filter: &Filter) -> Vec<Revision> {
    world.entries.iter().filter(|entry| passes(entry, filter)).map(|entry| entry.revision).collect()
}

/// Those in a range.
fn within(revisions: &[Revision], range: Range) -> &[Revision] {
    let start = revisions.partition_point(|revision| *revision < range.first);
    let end = revisions.partition_point(|revision| *revision <= range.last);
    &revisions[start..end.max(start)]
}

fn filters(world: &World) -> Vec<Filter> {
    let (admin, none) = (world.admin(), Filter::default());
    let environment = |key| Some(EnvironmentKey::parse(key).unwrap());
    vec![
        Filter { environment: environment("default"), ..none.clone() },
        Filter { environment: environment("staging"), ..none.clone() },
        Filter { environment: environment("nowhere"), ..none.clone() },
        Filter { environment: environment("staging"), user_id: Some(admin), ..none.clone() },
        Filter { environment: environment("default"), actions: vec![Action::ToggleEnabled], ..none.clone() },
        Filter { environment: environment("staging"), entity_type: Some(EntityType::FeatureFlag), ..none.clone() },
        Filter { environment: environment("staging"), entity_id: Some(world.flag("a").id), ..none.clone() },
        none.clone(),
        Filter { user_id: Some(admin), ..none.clone() },
        Filter { user_id: Some(Uuid::nil()), ..none.clone() },
        Filter { user_email: Some("admin@localhost".into()), ..none.clone() },
        Filter { entity_type: Some(EntityType::FeatureFlag), ..none.clone() },
        Filter { entity_type: Some(EntityType::User), ..none.clone() },
        Filter { entity_id: Some(world.flag("a").id), ..none.clone() },
        Filter { actions: vec![Action::ToggleEnabled], ..none.clone() },
        Filter { actions: vec![Action::FlagUpdated], user_id: Some(admin), ..none.clone() },
        Filter { actions: vec![Action::ToggleDisabled], entity_type: Some(EntityType::FeatureFlag), ..none.clone() },
        Filter { actions: vec![Action::LogTrimmed], ..none.clone() },
        Filter { actions: vec![Action::FlagUpdated, Action::ToggleEnabled], ..none.clone() },
        Filter { without_reason: true, ..none.clone() },
        Filter { without_reason: true, user_id: Some(admin), ..none.clone() },
        Filter { without_reason: true, actions: vec![Action::FlagUpdated], ..none.clone() },
        Filter { key: Some(KeyFilter::Exact("a".into())), ..none.clone() },
        Filter { key: Some(KeyFilter::Prefix("a".into())), user_id: Some(admin), ..none },
    ]
}

/// Asserts that every count is correct, for every range between the edges of blocks, and for some that are empty.
async fn check(world: &World) {
    let (floor, end) = (world.state.head().floor, world.state.head().revision);
    let edges = [1, 2, 100, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 77, 2 * BLOCK, 2 * BLOCK + 1, end - 1, end, end + 5];
    for filter in filters(world) {
        let passing = passing(world, &filter);
        for first in edges.into_iter().filter(|first| *first > floor).chain([floor + 1]) {
            for last in edges.into_iter().filter(|last| *last >= first || *last == 2) {
                let range = Range { first, last };
                let count = world.store.count(&filter, range).await.unwrap();
                assert_eq!(usize::try_from(count), Ok(within(&passing, range).len()), "{filter:?}, {range:?}");
            }
        }
    }
}

/// Counts ahead until nothing is left, and returns how many blocks were counted.
async fn count_ahead(world: &World) -> i64 {
    let mut blocks = 0;
    while world.store.count_ahead().await.unwrap() {
        blocks += 1;
    }
    blocks
}

on_both_databases! {
    async fn counted_blocks_add_up_to_the_log(backend: Backend) {
        let mut world = long(backend, 2).await;
        check(&world).await;
        assert_eq!(count_ahead(&world).await, 2, "the third is not full yet");
        check(&world).await;
        // The counts are used: an invented one is added.
        let sql = "INSERT INTO audit_log_counts (block, user_email, action_type, entity_type, environment, entries, without_reason)
            VALUES (1, '', 'log_trimmed', 'log', '', 7, 0)";
        world.raw.run(sql).await;
        let trims = Filter { actions: vec![Action::LogTrimmed], ..Filter::default() };
        for (range, count) in [
            (world.all(), 7),
            (Range { first: BLOCK + 1, last: 2 * BLOCK }, 7),
            (Range { first: BLOCK + 2, last: 2 * BLOCK }, 0),
            (Range { first: 1, last: 2 * BLOCK - 1 }, 0),
        ] {
            assert_eq!(world.store.count(&trims, range).await.unwrap(), count, "{range:?}");
        }
    }

    /// Pages at every depth, in both orders, before and after the log was counted.
    async fn pages_of_counted_blocks_are_exact(backend: Backend) {
        let world = long(backend, 2).await;
        let (admin, none) = (world.admin(), Filter::default());
        let of_a = Filter { entity_id: Some(world.flag("a").id), user_id: Some(admin), ..none.clone() };
        let created = Filter { actions: vec![Action::UserCreated], entity_type: Some(EntityType::User), ..none };
        for is_counted in [false, true] {
            if is_counted {
                assert_eq!(count_ahead(&world).await, 2);
            }
            for filter in filters(&world).into_iter().chain([of_a.clone(), created.clone()]) {
                let all = passing(&world, &filter);
                for (first, last) in [(1, 3 * BLOCK), (5, 2 * BLOCK + 1), (BLOCK / 2, 3 * BLOCK / 2), (9, 300)] {
                    let range = Range { first, last };
                    let passing = within(&all, range);
                    for order in [Order::NewestFirst, Order::OldestFirst] {
                        let length = i64::try_from(passing.len()).unwrap();
                        for offset in [0, 1, BLOCK / 2, BLOCK, length / 2, length - 1, length, length + 1] {
                            let query = EntryQuery { filter: filter.clone(), range, order, offset: offset.max(0), limit: 7 };
                            let found = world.store.entries(&query).await.unwrap();
                            let found: Vec<_> = found.iter().map(|e| e.revision).collect();
                            let skipped = usize::try_from(query.offset).unwrap();
                            let expected: Vec<_> = match order {
                                Order::NewestFirst => passing.iter().rev().skip(skipped).take(7).copied().collect(),
                                Order::OldestFirst => passing.iter().skip(skipped).take(7).copied().collect(),
                            };
                            assert_eq!(found, expected, "{query:?}");
                        }
                    }
                }
            }
        }
    }

    async fn block_counted_by_many_servers_is_stored_once(backend: Backend) {
        let mut world = long(backend, 1).await;
        let others: Vec<_> = (0..4).map(|_| open(&world.database.url).unwrap()).collect();
        let counting = others.iter().map(|store| async { while store.count_ahead().await.unwrap() {} });
        with_timeout("all of it to be counted", futures::future::join_all(counting)).await;
        assert_eq!(count_ahead(&world).await, 0);
        assert_eq!(world.raw.number(OF_USERS).await, BLOCK);
        assert_eq!(world.raw.number(OF_ALL_USERS).await, BLOCK);
        check(&world).await;
    }

    /// They hold addresses.
    async fn counts_of_trimmed_blocks_are_deleted(backend: Backend) {
        let mut world = long(backend, 3).await;
        assert_eq!(count_ahead(&world).await, 3);
        trim(&mut world, BLOCK + 77).await;
        assert_eq!(world.raw.number("SELECT min(block) FROM audit_log_counts").await, 2);
        assert_eq!(count_ahead(&world).await, 0);
        check(&world).await;
        world.raw.run("DELETE FROM audit_log_counts").await;
        assert_eq!(count_ahead(&world).await, 1, "only what is whole");
        check(&world).await;
    }

    async fn server_counts_its_log_ahead(backend: Backend) {
        let mut world = long(backend, 1).await;
        let _server = Server::start(&world.database).await;
        with_timeout("the log to be counted", async {
            while world.raw.number("SELECT count(*) FROM audit_log_counts").await == 0 {}
        })
        .await;
        assert_eq!(world.raw.number(OF_USERS).await, BLOCK);
        assert_eq!(world.raw.number(OF_ALL_USERS).await, BLOCK);
    }
}
