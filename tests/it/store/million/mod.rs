//! A million entries: every filter has an index that returns its pages in order, and the pages are correct.
//!
//! The test looks at plans and results only, never at time.

mod log;
mod past;

use toggled::domain::audit::{Action, EntityType};
use toggled::domain::filter::{Filter, Period, Range};
use toggled::domain::time::Timestamp;
use toggled::store::{EntryQuery, Order, open};

use super::raw::Raw;
use super::world::World;
use crate::support::on_both_databases;
use log::{ENTRIES, Shape, entity_id, moment, user_email, user_id};

/// A filter, what passes it, and the index that its pages must come from.
struct Case {
    filter: Filter,
    passes: fn(&Shape) -> bool,
    source: Source,
}

#[derive(Clone, Copy)]
enum Source {
    /// The log itself, in the range.
    Log,
    /// This index.
    Index(&'static str),
    /// This index, with a value so common that a page is also found quickly in the log itself.
    Common(&'static str),
}

/// The plans that are allowed for a filter with an index.
#[derive(Clone, Copy, PartialEq)]
enum Allowed {
    /// The index.
    Index,
    /// The index, or the log if the value is common and the range is a part of the log. The database knows only how common
    /// the value is in the whole log.
    LogForCommon,
    /// The index, or the log in order.
    Log,
}

fn cases() -> Vec<Case> {
    use Source::{Common, Index, Log};
    let by_user = |number| Filter { user_id: Some(user_id(number)), ..Filter::default() };
    let by_email = |number| Filter { user_email: Some(user_email(number).into()), ..Filter::default() };
    let of_type = |kind| Filter { entity_type: Some(kind), ..Filter::default() };
    let of_id = |kind, number| Filter { entity_id: Some(entity_id(kind, number)), ..Filter::default() };
    let of = |kind, number| Filter { entity_type: Some(kind), ..of_id(kind, number) };
    let doing = |action| Filter { action: Some(action), ..Filter::default() };
    let case = |source, filter, passes| Case { filter, passes, source };
    let (user_id, user_email) = ("idx_audit_logs_user_id", "idx_audit_logs_user_email");
    let (entity_type, entity) = ("idx_audit_logs_entity_type", "idx_audit_logs_entity_type_entity_id");
    let action = "idx_audit_logs_action_type";
    let (flag, user, token) = (EntityType::FeatureFlag, EntityType::User, EntityType::ApiToken);
    vec![
        case(Log, Filter::default(), |_| true),
        case(Common(user_id), by_user(0), |e| e.user == 0),
        case(Index(user_id), by_user(7), |e| e.user == 7),
        case(Index(user_id), by_user(49), |e| e.user == 49),
        case(Index(user_id), by_user(50), |e| e.user == 50),
        case(Index(user_id), by_user(999), |_| false),
        case(Index(user_email), by_email(7), |e| e.user == 7),
        case(Index(user_email), by_email(49), |e| e.user == 49),
        case(Index(user_email), by_email(50), |e| e.user == 50),
        case(Index(user_email), by_email(999), |_| false),
        case(Log, of_type(flag), |e| e.kind == EntityType::FeatureFlag),
        case(Index(entity_type), of_type(user), |e| e.kind == EntityType::User),
        case(Index(entity_type), of_type(token), |e| e.kind == EntityType::ApiToken),
        case(Index(entity_type), of_type(EntityType::Log), |_| false),
        case(Index(entity), of(flag, 7), |e| e.kind == EntityType::FeatureFlag && e.entity == 7),
        case(Index(entity), of(user, 250), |e| e.kind == EntityType::User && e.entity == 250),
        case(Index(entity), of(token, 125), |e| e.kind == EntityType::ApiToken && e.entity == 125),
        case(Index(entity), of(user, 999_999), |_| false),
        case(Index(entity), of_id(flag, 7), |e| e.kind == EntityType::FeatureFlag && e.entity == 7),
        case(Index(entity), of_id(user, 250), |e| e.kind == EntityType::User && e.entity == 250),
        case(Index(entity), of_id(user, 999_999), |_| false),
        case(Common(action), doing(Action::ToggleEnabled), |e| e.action == Action::ToggleEnabled),
        case(Index(action), doing(Action::FlagUpdated), |e| e.action == Action::FlagUpdated),
        case(Index(action), doing(Action::TokenCreated), |e| e.action == Action::TokenCreated),
        case(Index(action), doing(Action::UserDeactivated), |e| e.action == Action::UserDeactivated),
        case(Index(action), doing(Action::AccessDenied), |_| false),
    ]
}

/// Checks the plans of first pages and of pages in the middle of the log, in both orders: each reads entries in order from
/// the expected source, and nothing else.
async fn check_plans(world: &World, allowed: Allowed) {
    let (by_index, log): (fn(&str) -> String, _) = match world.raw {
        Raw::Sqlite(_) => (|name| format!("USING INDEX {name} ("), "USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        Raw::Postgres(_) => {
            (|name| format!("using {name} on audit_logs "), "using audit_logs_revision_key on audit_logs ")
        }
    };
    for Case { filter, source, .. } in cases() {
        let index = match source {
            Source::Log => log.to_owned(),
            Source::Index(name) | Source::Common(name) => by_index(name),
        };
        for order in [Order::NewestFirst, Order::OldestFirst] {
            for (first, last) in [(1, ENTRIES), (1, ENTRIES / 2), (ENTRIES / 2, ENTRIES)] {
                let range = Range { first, last };
                let or_log = match allowed {
                    Allowed::Index => false,
                    Allowed::LogForCommon => matches!(source, Source::Common(_)) && range.len() < ENTRIES,
                    Allowed::Log => true,
                };
                let query = EntryQuery { filter: filter.clone(), range, order, offset: 0, limit: 51 };
                let plan = world.store.explain(&query).await.unwrap();
                assert!(plan.contains(&index) || or_log && plan.contains(log), "{query:?}: not {index}: {plan}");
                for detour in ["Sort", "Seq Scan", "Bitmap", "SCAN audit_logs", "TEMP B-TREE"] {
                    assert!(!plan.contains(detour), "{query:?}: {plan}");
                }
            }
        }
    }
}

on_both_databases! {
    async fn million_entries_are_filtered_by_index(backend: Backend) {
        let mut world = World::empty(backend).await;
        log::load(&mut world).await;
        if backend == Backend::Sqlite {
            // Without ANALYZE, SQLite does not know how common a value is, and uses every index.
            check_plans(&world, Allowed::Index).await;
            past::check(&mut world).await;
        }
        // PostgreSQL does this itself, some time after a table has grown.
        world.raw.run("ANALYZE").await;
        world.store = open(&world.database.url).unwrap();
        check_plans(&world, if backend == Backend::Sqlite { Allowed::Log } else { Allowed::LogForCommon }).await;
        check_results(&world).await;
        while world.store.count_ahead().await.unwrap() {}
        check_results(&world).await;
        past::check(&mut world).await;
        check_periods(&mut world).await;
    }
}

/// Compares counts and pages with what was written.
async fn check_results(world: &World) {
    let shapes: Vec<Shape> = (1..=ENTRIES).map(Shape::of).collect();
    for Case { filter, passes, .. } in cases() {
        let passing: Vec<&Shape> = shapes.iter().filter(|shape| passes(shape)).collect();
        let range = Range { first: 1, last: ENTRIES };
        let count = world.store.count(&filter, range).await.unwrap();
        assert_eq!(usize::try_from(count), Ok(passing.len()), "{filter:?}");
        for (first, last) in [(1, ENTRIES), (250_001, 500_000), (299_990, 300_010)] {
            let range = Range { first, last };
            let inside: Vec<&Shape> =
                passing.iter().copied().filter(|shape| (first..=last).contains(&shape.revision)).collect();
            for offset in [0, 3] {
                let read = async |order| {
                    let query = EntryQuery { filter: filter.clone(), range, order, offset, limit: 51 };
                    world.store.entries(&query).await.unwrap()
                };
                let skipped = usize::try_from(offset).unwrap();
                let oldest: Vec<&Shape> = inside.iter().copied().skip(skipped).take(51).collect();
                let newest: Vec<&Shape> = inside.iter().copied().rev().skip(skipped).take(51).collect();
                for (found, expected) in
                    [(read(Order::OldestFirst).await, oldest), (read(Order::NewestFirst).await, newest)]
                {
                    assert_eq!(found.len(), expected.len(), "{filter:?} {range:?}");
                    assert!(found.iter().zip(expected).all(|(entry, shape)| shape.is(entry)), "{filter:?} {range:?}");
                }
            }
        }
    }
}

/// Times become revisions through the index of times, so a period filters as fast as no period.
async fn check_periods(world: &mut World) {
    let all = Range { first: 1, last: ENTRIES };
    let later = |time: Timestamp, by: i64| Timestamp::from_micros(time.micros() + by);
    for (from, to, first, last) in [
        (moment(5_000), moment(7_000), 50_000, 70_009),
        (later(moment(5_000), 1), later(moment(7_000), -1), 50_010, 69_999),
        (moment(5_000), moment(5_000), 50_000, 50_009),
        (Timestamp::MIN, moment(0), 1, 9),
        (moment(100_000), Timestamp::MAX, ENTRIES, ENTRIES),
        (Timestamp::MIN, Timestamp::MAX, 1, ENTRIES),
    ] {
        let period = Period { from: Some(from), to: Some(to) };
        assert_eq!(world.store.range(period, all).await.unwrap(), Range { first, last }, "{period:?}");
    }
    let between = Period { from: Some(later(moment(5_000), 1)), to: Some(later(moment(5_001), -1)) };
    assert!(world.store.range(between, all).await.unwrap().is_empty());
    // The statements of `first_since` and `last_until`, whose plans the store does not return.
    for (edge, order) in [(">=", "timestamp, revision"), ("<=", "timestamp DESC, revision DESC")] {
        let time = world.raw.time(moment(1_000));
        let sql = format!("SELECT revision FROM audit_logs WHERE timestamp {edge} {time} ORDER BY {order} LIMIT 1");
        let plan = world.raw.plan(&sql).await;
        assert!(plan.contains("idx_audit_logs_timestamp") && !plan.contains("Sort"), "{plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    }
}
