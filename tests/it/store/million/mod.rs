//! A million entries: every filter and every pair has an index that returns its pages in order, and the pages are correct.
//!
//! The test looks at plans and results only, never at time.

mod log;
mod past;

use std::sync::LazyLock;

use toggled::domain::audit::{Action, EntityType};
use toggled::domain::filter::{Filter, KeyFilter, Period, Range};
use toggled::domain::text::EnvironmentKey;
use toggled::domain::time::Timestamp;
use toggled::store::{EntryQuery, Order, open};

use super::raw::Raw;
use super::world::World;
use crate::support::on_both_databases;
use log::{ENTRIES, Shape, entity_id, moment, user_email, user_id};

/// The shape of every entry.
static SHAPES: LazyLock<Vec<Shape>> = LazyLock::new(|| (1..=ENTRIES).map(Shape::of).collect());

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
}

const USER_ID: &str = "idx_audit_logs_user_id";
const USER_EMAIL: &str = "idx_audit_logs_user_email";
const ENTITY_TYPE: &str = "idx_audit_logs_entity_type";
/// The index of objects, which has another name in each database.
const ENTITY: &str = "idx_audit_logs_entity_";
const KEY: &str = "idx_audit_logs_entity_key";
const WITHOUT_REASON: &str = "idx_audit_logs_without_reason";
const ENVIRONMENT: &str = "idx_audit_logs_environment";
const ACTION: &str = "idx_audit_logs_action_type";

const FLAG: EntityType = EntityType::FeatureFlag;
const USER: EntityType = EntityType::User;
const TOKEN: EntityType = EntityType::ApiToken;

fn by_user(number: i64) -> Filter {
    Filter { user_id: Some(user_id(number)), ..Filter::default() }
}

fn by_email(number: i64) -> Filter {
    Filter { user_email: Some(user_email(number).into()), ..Filter::default() }
}

fn of_type(kind: EntityType) -> Filter {
    Filter { entity_type: Some(kind), ..Filter::default() }
}

fn of_id(kind: EntityType, number: i64) -> Filter {
    Filter { entity_id: Some(entity_id(kind, number)), ..Filter::default() }
}

fn doing(action: Action) -> Filter {
    Filter { actions: vec![action], ..Filter::default() }
}

fn doing_any(actions: &[Action]) -> Filter {
    Filter { actions: actions.to_vec(), ..Filter::default() }
}

fn without_reason() -> Filter {
    Filter { without_reason: true, ..Filter::default() }
}

fn with_key(key: &str) -> Filter {
    Filter { key: Some(KeyFilter::Exact(key.into())), ..Filter::default() }
}

fn with_prefix(prefix: &str) -> Filter {
    Filter { key: Some(KeyFilter::Prefix(prefix.into())), ..Filter::default() }
}

fn about(environment: &str) -> Filter {
    Filter { environment: Some(EnvironmentKey::parse(environment).unwrap()), ..Filter::default() }
}

/// The conditions of both filters.
fn both(one: Filter, other: Filter) -> Filter {
    Filter {
        user_id: one.user_id.or(other.user_id),
        user_email: one.user_email.or(other.user_email),
        entity_type: one.entity_type.or(other.entity_type),
        entity_id: one.entity_id.or(other.entity_id),
        key: one.key.or(other.key),
        actions: [one.actions, other.actions].concat(),
        without_reason: one.without_reason || other.without_reason,
        environment: one.environment.or(other.environment),
    }
}

fn case(source: Source, filter: Filter, passes: fn(&Shape) -> bool) -> Case {
    Case { filter, passes, source }
}

/// Filters of one condition, or with an index of their own.
fn cases() -> Vec<Case> {
    use Source::{Common, Index, Log};
    vec![
        case(Log, Filter::default(), |_| true),
        case(Common(USER_ID), by_user(0), |e| e.user == 0),
        case(Index(USER_ID), by_user(7), |e| e.user == 7),
        case(Index(USER_ID), by_user(49), |e| e.user == 49),
        case(Index(USER_ID), by_user(50), |e| e.user == 50),
        case(Index(USER_ID), by_user(999), |_| false),
        case(Index(USER_EMAIL), by_email(7), |e| e.user == 7),
        case(Index(USER_EMAIL), by_email(49), |e| e.user == 49),
        case(Index(USER_EMAIL), by_email(50), |e| e.user == 50),
        case(Index(USER_EMAIL), by_email(999), |_| false),
        case(Log, of_type(FLAG), |e| e.kind == FLAG),
        case(Index(ENTITY_TYPE), of_type(USER), |e| e.kind == USER),
        case(Index(ENTITY_TYPE), of_type(TOKEN), |e| e.kind == TOKEN),
        case(Index(ENTITY_TYPE), of_type(EntityType::Log), |_| false),
        case(Index(ENTITY), both(of_type(FLAG), of_id(FLAG, 7)), |e| e.kind == FLAG && e.entity == 7),
        case(Index(ENTITY), both(of_type(USER), of_id(USER, 250)), |e| e.kind == USER && e.entity == 250),
        case(Index(ENTITY), both(of_type(TOKEN), of_id(TOKEN, 125)), |e| e.kind == TOKEN && e.entity == 125),
        case(Index(ENTITY), both(of_type(USER), of_id(USER, 999_999)), |_| false),
        case(Index(ENTITY), of_id(FLAG, 7), |e| e.kind == FLAG && e.entity == 7),
        case(Index(ENTITY), of_id(USER, 250), |e| e.kind == USER && e.entity == 250),
        case(Index(ENTITY), of_id(USER, 999_999), |_| false),
        case(Common(ACTION), doing(Action::ToggleEnabled), |e| e.action == Action::ToggleEnabled),
        case(Index(ACTION), doing(Action::FlagUpdated), |e| e.action == Action::FlagUpdated),
        case(Index(ACTION), doing(Action::TokenCreated), |e| e.action == Action::TokenCreated),
        case(Index(ACTION), doing(Action::UserDeactivated), |e| e.action == Action::UserDeactivated),
        case(Index(ACTION), doing(Action::AccessDenied), |_| false),
        case(Log, about("default"), |e| e.environment == Some("default")),
        case(Common(ENVIRONMENT), about("staging"), |e| e.environment == Some("staging")),
        case(Index(ENVIRONMENT), about("production"), |e| e.environment == Some("production")),
        case(Index(ENVIRONMENT), about("lab"), |e| e.environment == Some("lab")),
        case(Index(ENVIRONMENT), about("nowhere"), |_| false),
        case(Index(ENTITY), both(about("default"), of_id(FLAG, 7)), |e| e.kind == FLAG && e.entity == 7),
        case(Index(ENTITY), both(about("lab"), of_id(FLAG, 7)), |_| false),
        case(Common(ACTION), doing_any(&[Action::ToggleDisabled, Action::ToggleEnabled]), |e| e.action.is_flip()),
        case(Index(ACTION), doing_any(&[Action::FlagUpdated, Action::TokenCreated]), |e| {
            [Action::FlagUpdated, Action::TokenCreated].contains(&e.action)
        }),
        case(Index(ACTION), doing_any(&[Action::AccessDenied, Action::FlagUpdated, Action::UserDeactivated]), |e| {
            [Action::FlagUpdated, Action::UserDeactivated].contains(&e.action)
        }),
        case(Index(WITHOUT_REASON), without_reason(), Shape::is_without_reason),
    ]
}

/// Filters by key, alone and with other conditions: read block by block.
fn keyed() -> Vec<Case> {
    let case = |filter, passes| case(Source::Index(KEY), filter, passes);
    vec![
        case(with_key("entity-7"), |e| e.key() == "entity-7"),
        case(with_key("user7@example.com"), |e| e.key() == "user7@example.com"),
        case(with_key("entity-"), |_| false),
        case(with_prefix("entity-"), |e| e.kind == FLAG),
        case(with_prefix("entity-99"), |e| e.key().starts_with("entity-99")),
        case(with_prefix("e"), |e| e.kind == FLAG),
        case(with_prefix("user"), |e| e.kind == USER),
        case(with_prefix("zzz"), |_| false),
        case(both(with_key("entity-7"), doing(Action::FlagUpdated)), |e| {
            e.key() == "entity-7" && e.action == Action::FlagUpdated
        }),
        case(both(with_prefix("entity-77"), about("lab")), |_| false),
        case(both(with_prefix("entity-99"), about("lab")), |e| {
            e.key().starts_with("entity-99") && e.environment == Some("lab")
        }),
        case(both(with_key("entity-7"), without_reason()), |e| e.key() == "entity-7" && e.is_without_reason()),
        case(both(with_key("entity-7"), by_user(50)), |e| e.key() == "entity-7" && e.user == 50),
    ]
}

/// Every pair of conditions, with frequent, rare and missing values, and the index that SQLite must use.
fn pairs() -> Vec<Case> {
    use Action::{AccessDenied, FlagUpdated, ToggleEnabled, TokenCreated, UserDeactivated};
    let case = |index, one, other, passes| case(Source::Index(index), both(one, other), passes);
    vec![
        case(USER_ID, by_user(0), by_email(0), |e| e.user == 0),
        case(USER_ID, by_user(0), by_email(7), |_| false),
        case(USER_ID, by_user(0), of_type(FLAG), |e| e.user == 0 && e.kind == FLAG),
        case(ENTITY_TYPE, by_user(0), of_type(USER), |e| e.user == 0 && e.kind == USER),
        case(ENTITY_TYPE, by_user(50), of_type(EntityType::Log), |_| false),
        case(ENTITY, by_user(0), of_id(FLAG, 7), |e| e.user == 0 && e.kind == FLAG && e.entity == 7),
        case(ENTITY, by_user(50), of_id(FLAG, 7), |e| e.user == 50 && e.kind == FLAG && e.entity == 7),
        case(ENTITY, by_user(999), of_id(FLAG, 7), |_| false),
        case(USER_ID, by_user(0), doing(ToggleEnabled), |e| e.user == 0 && e.action == ToggleEnabled),
        case(USER_ID, by_user(50), doing(ToggleEnabled), |_| false),
        case(ACTION, by_user(0), doing(UserDeactivated), |e| e.user == 0 && e.action == UserDeactivated),
        case(ACTION, by_user(0), doing(AccessDenied), |_| false),
        case(ACTION, by_user(7), doing(FlagUpdated), |e| e.user == 7 && e.action == FlagUpdated),
        case(USER_EMAIL, by_email(0), of_type(FLAG), |e| e.user == 0 && e.kind == FLAG),
        case(ENTITY_TYPE, by_email(50), of_type(TOKEN), |e| e.user == 50 && e.kind == TOKEN),
        case(ENTITY, by_email(0), of_id(FLAG, 7), |e| e.user == 0 && e.kind == FLAG && e.entity == 7),
        case(USER_EMAIL, by_email(50), doing(ToggleEnabled), |_| false),
        case(ACTION, by_email(0), doing(FlagUpdated), |e| e.user == 0 && e.action == FlagUpdated),
        case(ACTION, of_type(FLAG), doing(FlagUpdated), |e| e.kind == FLAG && e.action == FlagUpdated),
        case(ACTION, of_type(FLAG), doing(ToggleEnabled), |e| e.kind == FLAG && e.action == ToggleEnabled),
        case(ACTION, of_type(FLAG), doing(TokenCreated), |_| false),
        case(ACTION, of_type(TOKEN), doing(TokenCreated), |e| e.action == TokenCreated),
        case(ENTITY_TYPE, of_type(USER), doing(ToggleEnabled), |_| false),
        case(ENTITY, of_id(FLAG, 7), doing(ToggleEnabled), |e| {
            e.kind == FLAG && e.entity == 7 && e.action == ToggleEnabled
        }),
        case(ENTITY, of_id(FLAG, 7), doing(AccessDenied), |_| false),
        case(USER_ID, by_user(0), about("default"), |e| e.user == 0 && e.environment == Some("default")),
        case(USER_ID, by_user(0), about("lab"), |e| e.user == 0 && e.environment == Some("lab")),
        case(USER_EMAIL, by_email(50), about("staging"), |e| e.user == 50 && e.environment == Some("staging")),
        case(USER_ID, by_user(999), about("staging"), |_| false),
        case(ENVIRONMENT, about("lab"), doing(ToggleEnabled), |e| {
            e.environment == Some("lab") && e.action == ToggleEnabled
        }),
        case(ENVIRONMENT, about("staging"), doing(ToggleEnabled), |e| {
            e.environment == Some("staging") && e.action == ToggleEnabled
        }),
        case(ACTION, about("default"), doing(FlagUpdated), |e| {
            e.environment == Some("default") && e.action == FlagUpdated
        }),
        case(ACTION, about("production"), doing(AccessDenied), |_| false),
        case(ENVIRONMENT, about("production"), of_type(FLAG), |e| e.environment == Some("production")),
        case(WITHOUT_REASON, without_reason(), about("staging"), |e| {
            e.is_without_reason() && e.environment == Some("staging")
        }),
        case(USER_ID, without_reason(), by_user(50), |e| e.is_without_reason() && e.user == 50),
        case(ACTION, doing(FlagUpdated), both(doing(TokenCreated), about("default")), |e| {
            e.action == FlagUpdated && e.environment == Some("default")
        }),
        case(ENTITY_TYPE, about("staging"), of_type(USER), |_| false),
    ]
}

/// The ranges that are asked for: all, as with a cursor or `to_date`, and as with `from_date`.
const RANGES: [(i64, i64); 3] = [(1, ENTRIES), (1, ENTRIES / 2), (ENTRIES / 2, ENTRIES)];

fn queries(case: &Case) -> Vec<EntryQuery> {
    let mut queries = Vec::new();
    for order in [Order::NewestFirst, Order::OldestFirst] {
        for (first, last) in RANGES {
            let range = Range { first, last };
            queries.push(EntryQuery { filter: case.filter.clone(), range, order, offset: 0, limit: 51 });
        }
    }
    queries
}

/// How a plan names this index, or the log itself.
fn named(world: &World, index: Option<&str>) -> String {
    match (&world.raw, index) {
        (Raw::Sqlite(_), Some(ENTITY)) => format!("USING INDEX {KEY} ("),
        (Raw::Postgres(_), Some(ENTITY)) => "using idx_audit_logs_entity_type_entity_id on audit_logs ".to_owned(),
        (Raw::Sqlite(_), Some(name)) => format!("USING INDEX {name} ("),
        (Raw::Sqlite(_), None) => "USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)".to_owned(),
        (Raw::Postgres(_), Some(name)) => format!("using {name} on audit_logs "),
        (Raw::Postgres(_), None) => "using audit_logs_revision_key on audit_logs ".to_owned(),
    }
}

fn assert_in_order(plan: &str, query: &EntryQuery) {
    // PostgreSQL sorts the few entries of several lists.
    let plan = if plan.contains("Append") { plan.replace("Sort", "") } else { plan.to_owned() };
    for detour in ["Sort", "Seq Scan", "Bitmap", "SCAN audit_logs", "TEMP B-TREE"] {
        assert!(!plan.contains(detour), "{query:?}: {plan}");
    }
}

/// Checks the plans of first pages and of pages in the middle of the log, in both orders: each reads entries in order from
/// the expected source, and nothing else.
async fn check_plans(world: &World, allowed: Allowed) {
    for case in cases() {
        let index = match case.source {
            Source::Log => None,
            Source::Index(name) | Source::Common(name) => Some(name),
        };
        let (index, log) = (named(world, index), named(world, None));
        for query in queries(&case) {
            let or_log = match allowed {
                Allowed::Index => false,
                Allowed::LogForCommon => matches!(case.source, Source::Common(_)) && query.range.len() < ENTRIES,
            };
            for plan in world.store.explain(&query).await.unwrap() {
                assert!(plan.contains(&index) || or_log && plan.contains(&log), "{query:?}: not {index}: {plan}");
                assert_in_order(&plan, &query);
            }
        }
    }
}

/// The most entries that a page may visit, once the log is counted: those of the blocks that are cut by the range, and of the
/// blocks in which the page's entries are.
const MAX_VISITED: i64 = 3 * 16_384;

/// How many entries a statement visits. PostgreSQL tells. For SQLite, all entries of the index in the range.
fn visited(world: &World, plan: &str, case: &Case) -> i64 {
    let numbers = |line: &str, word: &str| -> Option<i64> {
        let rest = line.split_once(word)?.1;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    match world.raw {
        Raw::Postgres(_) => {
            let rows = plan.lines().filter_map(|line| {
                let is_source = line.contains(" on audit_logs ");
                numbers(line, "Rows Removed by Filter: ").or(is_source.then(|| numbers(line, "actual rows="))?)
            });
            rows.sum()
        }
        Raw::Sqlite(_) => {
            let range = plan.lines().next().unwrap();
            let (first, last) = (numbers(range, "revisions "), numbers(range, " to "));
            let Filter { user_id: user, user_email: email, actions, entity_type, entity_id: id, environment, .. } =
                &case.filter;
            let with_email = email.as_deref().and_then(|email| (0..=50).find(|number| *user_email(*number) == *email));
            let index = |revision: Option<i64>| usize::try_from(revision.unwrap()).unwrap();
            let is_in_index = |e: &&Shape| match case.source {
                Source::Index(USER_ID) => *user == Some(user_id(e.user)),
                Source::Index(USER_EMAIL) => with_email == Some(e.user),
                Source::Index(ACTION) => actions.contains(&e.action),
                Source::Index(WITHOUT_REASON) => e.is_without_reason(),
                Source::Index(KEY) => case.filter.key.as_ref().is_some_and(|key| match key {
                    KeyFilter::Exact(key) => e.key() == **key,
                    KeyFilter::Prefix(prefix) => e.key().starts_with(&**prefix),
                }),
                Source::Index(ENTITY_TYPE) => *entity_type == Some(e.kind),
                Source::Index(ENVIRONMENT) => environment.as_ref().map(EnvironmentKey::as_str) == e.environment,
                Source::Index(ENTITY) => *id == Some(entity_id(e.kind, e.entity)),
                _ => true,
            };
            let visited = SHAPES[index(first) - 1..index(last)].iter().filter(is_in_index).count();
            i64::try_from(visited).unwrap()
        }
    }
}

/// Checks the plans of pairs of conditions: only a few blocks of the log are visited, however the pair's entries are spread and
/// if there are none.
async fn check_pairs(world: &World) {
    for case in pairs() {
        for query in queries(&case) {
            let plans = world.store.explain(&query).await.unwrap();
            let sum: i64 = plans.iter().map(|plan| visited(world, plan, &case)).sum();
            assert!(sum <= MAX_VISITED, "{query:?} visits {sum}: {plans:#?}");
            for plan in plans {
                assert_in_order(&plan, &query);
                if let (Raw::Sqlite(_), Source::Index(name)) = (&world.raw, case.source) {
                    assert!(plan.contains(&named(world, Some(name))), "{query:?}: not {name}: {plan}");
                }
            }
        }
    }
}

/// Checks the plans of filters by key: a page visits the entries of those keys, in a few blocks of the log or few entries in all.
async fn check_keyed(world: &World) {
    for case in keyed() {
        for query in queries(&case) {
            let plans = world.store.explain(&query).await.unwrap();
            let sum: i64 = plans.iter().map(|plan| visited(world, plan, &case)).sum();
            assert!(sum <= MAX_VISITED, "{query:?} visits {sum}: {plans:#?}");
            for plan in plans {
                for detour in ["Seq Scan on audit_logs", "SCAN audit_logs"] {
                    assert!(!plan.contains(detour), "{query:?}: {plan}");
                }
                if let Raw::Sqlite(_) = world.raw {
                    assert!(plan.contains(&named(world, Some(KEY))), "{query:?}: {plan}");
                }
            }
        }
    }
}

/// A page of any depth visits the blocks that its range cuts, and those with its entries.
async fn check_deep_pages(world: &World) {
    for case in [
        case(Source::Log, of_type(FLAG), |e| e.kind == FLAG),
        case(Source::Index(USER_ID), by_user(0), |e| e.user == 0),
        case(Source::Log, about("default"), |e| e.environment == Some("default")),
        case(Source::Index(ENVIRONMENT), about("staging"), |e| e.environment == Some("staging")),
        case(Source::Index(ACTION), doing(Action::ToggleEnabled), |e| e.action == Action::ToggleEnabled),
        case(Source::Index(USER_ID), both(by_user(0), doing(Action::ToggleEnabled)), |e| {
            e.user == 0 && e.action == Action::ToggleEnabled
        }),
    ] {
        let passing: Vec<&Shape> = SHAPES.iter().filter(|e| (case.passes)(e)).collect();
        let skipped = passing.len() - 60;
        let query = EntryQuery {
            filter: case.filter.clone(),
            range: Range { first: 1, last: ENTRIES },
            order: Order::NewestFirst,
            offset: i64::try_from(skipped).unwrap(),
            limit: 51,
        };
        let found = world.store.entries(&query).await.unwrap();
        let expected = passing.iter().rev().skip(skipped).take(51);
        assert_eq!(found.len(), 51);
        assert!(found.iter().zip(expected).all(|(entry, shape)| shape.is(entry)), "{query:?}");
        let plans = world.store.explain(&query).await.unwrap();
        let sum: i64 = plans.iter().map(|plan| visited(world, plan, &case)).sum();
        assert!(sum <= MAX_VISITED, "{query:?} visits {sum}: {plans:#?}");
    }
}

on_both_databases! {
    async fn million_entries_are_filtered_by_index(backend: Backend) {
        let mut world = World::empty(backend).await;
        log::load(&mut world).await;
        if backend == Backend::Sqlite {
            check_plans(&world, Allowed::Index).await;
            past::check(&mut world).await;
        }
        // PostgreSQL does this itself, some time after a table has grown.
        world.raw.run("ANALYZE").await;
        world.store = open(&world.database.url).unwrap();
        check_plans(&world, if backend == Backend::Sqlite { Allowed::Index } else { Allowed::LogForCommon }).await;
        check_results(&world, cases()).await;
        while world.store.count_ahead().await.unwrap() {}
        check_pairs(&world).await;
        check_keyed(&world).await;
        check_deep_pages(&world).await;
        check_results(&world, cases().into_iter().chain(pairs()).chain(keyed()).collect()).await;
        past::check(&mut world).await;
        check_periods(&mut world).await;
        if backend == Backend::Sqlite {
            check_pages_of_new_entries(&mut world).await;
        }
    }
}

/// Entries about many flags go to few pages. Each page of its own would cost a flip as much as everything else that it writes.
async fn check_pages_of_new_entries(world: &mut World) {
    const FLIPS: usize = 300;
    world.raw.run("PRAGMA wal_checkpoint(TRUNCATE)").await;
    let flips = format!(
        "INSERT INTO audit_logs (id, revision, timestamp, user_id, user_email, action_type, entity_type, entity_id, entity_key,
             entity_name, new_value, method, hash_version, hash, created_at)
         SELECT unhex('00000000000010c0' || printf('%016x', {ENTRIES} + revision)), {ENTRIES} + revision, {time}, {user},
             '{email}', 'toggle_enabled', 'feature_flag', entity_id, entity_key, entity_name, 'enabled', method, 1, hash, {time}
         FROM audit_logs WHERE revision <= {FLIPS}",
        time = world.raw.time(moment(ENTRIES / 10)),
        user = world.raw.id(user_id(0)),
        email = user_email(0),
    );
    world.raw.run(&flips).await;
    let path = world.database.url.trim_start_matches("sqlite://").split('?').next().unwrap();
    let page_size = world.raw.number("SELECT page_size FROM pragma_page_size").await;
    let pages = std::fs::metadata(format!("{path}-wal")).unwrap().len() / u64::try_from(page_size).unwrap();
    assert!(pages < FLIPS as u64 / 2, "{pages} pages for {FLIPS} flips");
}

/// Compares counts and pages with what was written.
async fn check_results(world: &World, cases: Vec<Case>) {
    for Case { filter, passes, .. } in cases {
        let passing: Vec<&Shape> = SHAPES.iter().filter(|shape| passes(shape)).collect();
        let range = Range { first: 1, last: ENTRIES };
        let count = world.store.count(&filter, range).await.unwrap();
        assert_eq!(usize::try_from(count), Ok(passing.len()), "{filter:?}");
        for (first, last) in [(1, ENTRIES), (250_001, 500_000), (299_990, 300_010)] {
            let range = Range { first, last };
            let start = passing.partition_point(|shape| shape.revision < first);
            let end = passing.partition_point(|shape| shape.revision <= last);
            let inside = &passing[start..end];
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
