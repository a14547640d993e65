//! Reading the log: filters, order, ranges and pages.

use toggled::domain::access::Permissions;
use toggled::domain::audit::{Action, EntityType, Entry};
use toggled::domain::filter::{Filter, KeyFilter, Period, Range};
use toggled::domain::flag::Status;
use toggled::domain::text::EnvironmentKey;
use toggled::domain::time::Timestamp;
use toggled::store::{EntryQuery, Order};
use uuid::Uuid;

use super::world::*;
use crate::support::{Backend, on_both_databases};

/// A log with changes by two users and the service, to every kind of object, in batches of several sizes.
async fn busy(backend: Backend) -> World {
    let mut world = World::new(backend).await;
    world.commit(&[service(create_user("ann@example.com", Permissions::all())), service(create("a"))]).await;
    world.commit(&[service(create_token(world.user("ann@example.com").id, 2)), service(create("b"))]).await;
    world.commit(&[service(create_environment("staging")), service(create_in("staging", "a"))]).await;
    let ann = world.token(2).id;
    for round in 0..12 {
        let mut proposals = vec![world.by_admin(toggle("a")), service(toggle("b"))];
        if round % 2 == 0 {
            proposals.push(world.by_admin(toggle_in("staging", "a")));
        }
        if round % 3 == 0 {
            let mut rename = world.by_admin(rename("a", &format!("Round {round}")));
            rename.actor = toggled::domain::advance::Actor::Caller {
                credential: toggled::domain::access::Credential::Token(ann),
                permission: toggled::domain::access::Permission::ManageFeatureFlags,
            };
            proposals.push(rename);
        }
        if round % 4 == 1 {
            proposals.push(world.by_admin(create_user(&format!("user{round}@example.com"), Permissions::default())));
        }
        if round % 5 == 2 {
            proposals.extend([service(archive("b", true)), service(archive("b", false))]);
        }
        world.commit(&proposals).await;
    }
    world.commit(&[service(create_as("c", Status::Enabled))]).await;
    world
}

/// Every combination of values in the log, unknown values and absent values, so also filters that few entries or none pass; and each
/// again in one of the environments.
fn filters(world: &World) -> Vec<Filter> {
    let ids = |ids: &[Uuid]| -> Vec<Option<Uuid>> { [None].into_iter().chain(ids.iter().copied().map(Some)).collect() };
    let users = ids(&[world.user("admin@localhost").id, world.user("ann@example.com").id, Uuid::nil()]);
    let emails = [None, Some("admin@localhost"), Some("bootstrap@localhost"), Some("'; DROP TABLE audit_logs; --")];
    let types = [None, Some(EntityType::FeatureFlag), Some(EntityType::User), Some(EntityType::Log)];
    let staging = world.environment("staging").id;
    let entities =
        ids(&[world.flag("a").id, staging, world.user("ann@example.com").id, world.token(2).id, Uuid::nil()]);
    let actions = [None, Some(Action::ToggleEnabled), Some(Action::UserCreated), Some(Action::AccessDenied)];
    let mut environments =
        ["default", "staging", "nowhere"].map(|key| EnvironmentKey::parse(key).unwrap()).into_iter().cycle();
    let exact = |key: &str| Some(KeyFilter::Exact(key.into()));
    let prefix = |key: &str| Some(KeyFilter::Prefix(key.into()));
    let mut keys_and_actions = [
        (exact("a"), vec![]),
        (prefix("a"), vec![Action::ToggleDisabled, Action::ToggleEnabled]),
        (None, vec![Action::FlagUpdated, Action::UserCreated]),
        (exact("ann@example.com"), vec![]),
        (prefix("\u{10ffff}"), vec![]),
        (None, vec![Action::FlagCreated, Action::ToggleEnabled]),
        (exact("nothing"), vec![Action::ToggleEnabled]),
    ]
    .into_iter()
    .cycle();
    let mut filters = Vec::new();
    for user_id in users {
        for user_email in emails {
            for entity_type in types {
                for &entity_id in &entities {
                    for action in actions {
                        let user_email = user_email.map(Into::into);
                        let actions = Vec::from_iter(action);
                        let filter =
                            Filter { user_id, user_email, entity_type, entity_id, actions, ..Filter::default() };
                        filters.push(Filter { environment: environments.next(), ..filter.clone() });
                        let (key, actions) = keys_and_actions.next().unwrap();
                        let without_reason = filters.len() % 3 == 0;
                        filters.push(Filter { key, actions, without_reason, ..filter.clone() });
                        filters.push(filter);
                    }
                }
            }
        }
    }
    filters
}

/// A second implementation of the filter.
pub fn passes(entry: &Entry, filter: &Filter) -> bool {
    let Filter { user_id, user_email, entity_type, entity_id, key, actions, without_reason, environment } = filter;
    let has_key = key.as_ref().is_none_or(|key| match key {
        KeyFilter::Exact(key) => *key == entry.entity_key,
        KeyFilter::Prefix(prefix) => entry.entity_key.starts_with(&**prefix),
    });
    let is_flip = matches!(entry.action, Action::ToggleEnabled | Action::ToggleDisabled);
    !(user_id.is_some() && *user_id != entry.user_id
        || user_email.as_deref().is_some_and(|email| email != &*entry.user_email)
        || entity_type.is_some_and(|kind| kind != entry.entity_type)
        || entity_id.is_some() && *entity_id != entry.entity_id
        || !has_key
        || !actions.is_empty() && !actions.contains(&entry.action)
        || *without_reason && !(is_flip && entry.reason.is_none())
        || environment.as_ref().is_some_and(|key| Some(key.as_str()) != entry.environment.as_deref()))
}

/// The query for all entries.
fn whole(world: &World) -> EntryQuery {
    let range = Range { first: 1, last: world.entries.len() as i64 };
    EntryQuery { filter: Filter::default(), range, order: Order::OldestFirst, offset: 0, limit: 1_000 }
}

/// The expected result of a query.
fn expected(world: &World, query: &EntryQuery) -> Vec<Entry> {
    let within = |entry: &Entry| (query.range.first..=query.range.last).contains(&entry.revision);
    let mut found: Vec<Entry> =
        world.entries.iter().map(|e| Entry::clone(e)).filter(|e| within(e) && passes(e, &query.filter)).collect();
    if query.order == Order::NewestFirst {
        found.reverse();
    }
    let skipped = found.into_iter().skip(usize::try_from(query.offset).unwrap());
    skipped.take(usize::try_from(query.limit).unwrap()).collect()
}

on_both_databases! {
    async fn entry_chunk_ends_at_a_size(backend: Backend) {
        let world = busy(backend).await;
        let all = expected(&world, &whole(&world));
        for order in [Order::OldestFirst, Order::NewestFirst] {
            let query = EntryQuery { order, ..whole(&world) };
            let all = expected(&world, &query);
            let whole: usize = all.iter().map(Entry::size).sum();
            for max_bytes in [0, 1, whole / 3, whole - 1, whole, whole + 1, usize::MAX] {
                let chunk = world.store.entry_chunk(&query, max_bytes).await.unwrap();
                let mut bytes = 0;
                let fit = all.iter().take_while(|entry| { let before = bytes; bytes += entry.size(); before < max_bytes }).count().max(2);
                assert_eq!(chunk.entries, all[..fit], "{max_bytes} of {whole}");
                assert_eq!(chunk.is_cut, whole >= max_bytes, "{max_bytes} of {whole}");
            }
        }
        // What the database sent beyond the size disturbs no later query.
        for _ in 0..20 {
            world.store.entry_chunk(&whole(&world), 1).await.unwrap();
            assert_eq!(world.store.entries(&whole(&world)).await.unwrap(), all);
        }
    }

    /// Each filter alone and all together: entries, counts and plans.
    async fn filter_returns_exactly_what_passes(backend: Backend) {
        let world = busy(backend).await;
        let (mut some, mut none) = (0, 0);
        for (number, filter) in filters(&world).into_iter().enumerate() {
            let order = if number % 2 == 0 { Order::NewestFirst } else { Order::OldestFirst };
            let query = EntryQuery { filter, range: world.all(), order, offset: 0, limit: 1_000 };
            let found = world.store.entries(&query).await.unwrap();
            assert_eq!(found, expected(&world, &query), "{query:?}");
            let count = world.store.count(&query.filter, query.range).await.unwrap();
            assert_eq!(usize::try_from(count), Ok(found.len()), "{query:?}");
            *if found.is_empty() { &mut none } else { &mut some } += 1;
        }
        assert!(some > 50 && none > 50, "{some} filters let something through, {none} nothing");
    }

    async fn offset_limit_and_range_are_exact(backend: Backend) {
        let world = busy(backend).await;
        let end = world.state.head().revision;
        let admin = Filter { user_id: Some(world.user("admin@localhost").id), ..Filter::default() };
        for filter in [Filter::default(), admin] {
            for order in [Order::NewestFirst, Order::OldestFirst] {
                for (first, last) in
                    [(1, end), (1, 1), (end, end), (5, 20), (end - 3, end + 100), (-5, 7), (9, 8), (end + 1, end + 2)]
                {
                    let range = Range { first, last };
                    for (offset, limit) in [(0, 1), (0, 7), (3, 4), (1, 1_000), (1_000, 10), (0, 0)] {
                        let query = EntryQuery { filter: filter.clone(), range, order, offset, limit };
                        assert_eq!(world.store.entries(&query).await.unwrap(), expected(&world, &query), "{query:?}");
                    }
                    let all = EntryQuery { filter: filter.clone(), range, order, offset: 0, limit: 1_000 };
                    let count = world.store.count(&filter, range).await.unwrap();
                    assert_eq!(usize::try_from(count), Ok(expected(&world, &all).len()), "{range:?}");
                }
            }
        }
    }

    async fn entry_is_found_by_id_and_revision(backend: Backend) {
        let world = busy(backend).await;
        for entry in &world.entries {
            assert_eq!(world.store.entry(entry.id).await.unwrap().as_ref(), Some(&**entry));
            assert_eq!(world.store.entry_at(entry.revision).await.unwrap(), Some((entry.id, entry.hash)));
        }
        for unknown in [Uuid::nil(), Uuid::max(), world.flag("a").id] {
            assert_eq!(world.store.entry(unknown).await.unwrap(), None);
        }
        for unknown in [-1, 0, world.state.head().revision + 1, i64::MAX] {
            assert_eq!(world.store.entry_at(unknown).await.unwrap(), None);
        }
    }

    /// Both ends belong to a period, and all entries with the same time are included or excluded together.
    async fn period_becomes_a_range_of_revisions(backend: Backend) {
        let world = busy(backend).await;
        let end = world.state.head().revision;
        let moments: Vec<i64> = world.entries.iter().map(|e| e.timestamp.micros()).collect();
        let at = |index: usize| moments[index];
        let (begin, middle, last) = (at(0), at(17), at(moments.len() - 1));
        let ends = [
            None,
            Some(i64::MIN),
            Some(begin - 1),
            Some(begin),
            Some(begin + 1),
            Some(middle - 1),
            Some(middle),
            Some(middle + 1),
            Some(last - 1),
            Some(last),
            Some(last + 1),
            Some(i64::MAX),
        ];
        for time in ends.into_iter().flatten().map(Timestamp::from_micros) {
            let first = world.entries.iter().find(|e| e.timestamp >= time).map(|e| e.revision);
            let last = world.entries.iter().rev().find(|e| e.timestamp <= time).map(|e| e.revision);
            assert_eq!(world.store.first_since(time).await.unwrap(), first);
            assert_eq!(world.store.last_until(time).await.unwrap(), last);
        }
        for from in ends {
            for to in ends {
                let period = Period { from: from.map(Timestamp::from_micros), to: to.map(Timestamp::from_micros) };
                for within in [(1, end), (4, 18), (19, 19), (end, end), (12, 11), (end + 1, end)] {
                    let within = Range { first: within.0, last: within.1 };
                    let inside = |e: &Entry| {
                        (within.first..=within.last).contains(&e.revision)
                            && period.from.is_none_or(|from| e.timestamp >= from)
                            && period.to.is_none_or(|to| e.timestamp <= to)
                    };
                    let expected: Vec<i64> = world.entries.iter().filter(|e| inside(e)).map(|e| e.revision).collect();
                    let found = world.store.range(period, within).await.unwrap();
                    let found: Vec<i64> = (found.first..=found.last).collect();
                    assert_eq!(found, expected, "{period:?} in {within:?}");
                }
            }
        }
    }

    async fn empty_log_has_no_entries(backend: Backend) {
        let world = World::empty(backend).await;
        let nothing = Range { first: 1, last: 0 };
        let query =
            EntryQuery { filter: Filter::default(), range: nothing, order: Order::NewestFirst, offset: 0, limit: 10 };
        assert_eq!(world.store.entries(&query).await.unwrap(), []);
        assert_eq!(world.store.count(&Filter::default(), nothing).await.unwrap(), 0);
        let ever = Period { from: Some(Timestamp::MIN), to: Some(Timestamp::MAX) };
        assert!(world.store.range(ever, nothing).await.unwrap().is_empty());
        assert_eq!(world.store.first_since(Timestamp::MIN).await.unwrap(), None);
        assert_eq!(world.store.last_until(Timestamp::MAX).await.unwrap(), None);
        assert_eq!(world.store.entry_at(1).await.unwrap(), None);
        let plan = world.store.explain(&query).await.unwrap();
        assert!(plan[0].contains("audit_logs"), "{plan:?}");
    }
}
