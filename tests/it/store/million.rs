//! A million entries: every filter has an index that its pages come from in order, and what comes is right.
//!
//! Only plans and results are looked at, never the time that anything takes.

use toggled::domain::Revision;
use toggled::domain::audit::{Action, EntityType, Entry};
use toggled::domain::filter::{Filter, Period, Range};
use toggled::domain::time::Timestamp;
use toggled::store::{EntryQuery, Order, open};
use uuid::Uuid;

use super::raw::Raw;
use super::world::World;
use crate::support::on_both;

const ENTRIES: Revision = 1_000_000;

/// Ten entries at a time happened in one moment, as those of a batch do.
const BEGIN: i64 = 1_700_000_000_000_000;
const MOMENT: i64 = 1_000_003;

/// What an entry is follows from its revision, by arithmetic that both databases and Rust do alike: 50 users, some of
/// them far busier than others, and one more who left long ago; 1,000 flags; 4,000 entries about users and tokens each.
const SHAPES: &str = "
    SELECT n,
        1700000000000000 + n / 10 * 1000003 AS micros,
        CASE WHEN n % 10 = 9 AND n < 300000 THEN 50
             ELSE n * 2654435761 / 65536 % 50 * (n * 40503 / 1024 % 50) / 49 END AS user_number,
        CASE n % 250 WHEN 0 THEN 'user' WHEN 125 THEN 'api_token' ELSE 'feature_flag' END AS entity_type,
        n * 2654435761 / 1048576 % 1000 AS entity_number,
        CASE
            WHEN n % 250000 = 0 THEN 'user_deactivated'
            WHEN n % 250 = 0 THEN 'user_updated'
            WHEN n % 250 = 125 THEN 'token_created'
            WHEN n % 100 = 1 THEN 'flag_updated'
            WHEN n % 2 = 0 THEN 'toggle_enabled'
            ELSE 'toggle_disabled'
        END AS action_type
    FROM numbers";

/// The same once more.
struct Shape {
    revision: Revision,
    user: i64,
    kind: EntityType,
    entity: i64,
    action: Action,
}

impl Shape {
    fn of(n: Revision) -> Self {
        Self {
            revision: n,
            user: match n {
                n if n % 10 == 9 && n < 300_000 => 50,
                n => n * 2_654_435_761 / 65_536 % 50 * (n * 40_503 / 1_024 % 50) / 49,
            },
            kind: match n % 250 {
                0 => EntityType::User,
                125 => EntityType::ApiToken,
                _ => EntityType::FeatureFlag,
            },
            entity: n * 2_654_435_761 / 1_048_576 % 1_000,
            action: match n {
                n if n % 250_000 == 0 => Action::UserDeactivated,
                n if n % 250 == 0 => Action::UserUpdated,
                n if n % 250 == 125 => Action::TokenCreated,
                n if n % 100 == 1 => Action::FlagUpdated,
                n if n % 2 == 0 => Action::ToggleEnabled,
                _ => Action::ToggleDisabled,
            },
        }
    }

    /// Whether an entry that was read is this one.
    fn is(&self, entry: &Entry) -> bool {
        entry.revision == self.revision
            && entry.timestamp == moment(self.revision / 10)
            && entry.user_id == Some(user_id(self.user))
            && *entry.user_email == user_email(self.user)
            && entry.entity_type == self.kind
            && entry.entity_id == Some(entity_id(self.kind, self.entity))
            && entry.action == self.action
    }
}

fn moment(number: i64) -> Timestamp {
    Timestamp::from_micros(BEGIN + number * MOMENT)
}

fn user_id(number: i64) -> Uuid {
    entity_id(EntityType::User, number)
}

fn user_email(number: i64) -> String {
    format!("user{number}@example.com")
}

fn entity_id(kind: EntityType, number: i64) -> Uuid {
    let family = match kind {
        EntityType::FeatureFlag => 0xf1a6,
        EntityType::User => 0xaaaa,
        EntityType::ApiToken | EntityType::Log => 0x70ce,
    };
    Uuid::from_u64_pair(family, number.unsigned_abs())
}

/// Writes the entries inside the database, as one transaction. What row by row would cost most of the time is put off
/// to the end: the indexes, made again in the database's own words, and, since nothing here is wrong, the checks.
async fn load(world: &mut World) {
    let (settings, pieces, id): (_, _, fn(&str, &str) -> String) = match world.raw {
        Raw::Sqlite(_) => (
            "PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF; PRAGMA cache_size = -200000; PRAGMA temp_store = MEMORY",
            [
                "RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000000)",
                "micros",
                "unhex(printf('%064x', n))",
                "'[]'",
            ],
            |family, number| format!("unhex('000000000000{family}' || printf('%016x', {number}))"),
        ),
        Raw::Postgres(_) => (
            "SET session_replication_role = replica; SET synchronous_commit = off; SET maintenance_work_mem = '256MB'",
            [
                "numbers (n) AS (SELECT generate_series(1, 1000000::bigint))",
                "timestamptz 'epoch' + micros * interval '1 microsecond'",
                "decode(lpad(to_hex(n), 64, '0'), 'hex')",
                "'{}'",
            ],
            |family, number| format!("('000000000000{family}' || lpad(to_hex({number}), 16, '0'))::uuid"),
        ),
    };
    let [numbers, time, hash, permissions] = pieces;
    let (drop, make) = put_off(world).await;
    let users = format!(
        "WITH {numbers} INSERT INTO users (id, email, permissions, revision, created_at, updated_at)
         SELECT {}, 'user' || (n - 1) || '@example.com', {permissions}, 1, {now}, {now} FROM numbers WHERE n <= 51",
        id("aaaa", "n - 1"),
        now = world.raw.time(world.now),
    );
    let entries = format!(
        "WITH {numbers}, shapes AS ({SHAPES})
         INSERT INTO audit_logs (id, revision, timestamp, user_id, user_email, action_type, entity_type, entity_id,
             entity_key, entity_name, old_value, new_value, method, hash_version, hash, created_at)
         SELECT {id}, n, {time}, {user}, 'user' || user_number || '@example.com', action_type, entity_type,
             CASE entity_type WHEN 'user' THEN {about_user} WHEN 'api_token' THEN {token} ELSE {flag} END,
             'entity-' || entity_number, 'Entity ' || entity_number,
             CASE action_type WHEN 'toggle_enabled' THEN 'disabled' WHEN 'toggle_disabled' THEN 'enabled' END,
             CASE action_type WHEN 'toggle_enabled' THEN 'enabled' WHEN 'toggle_disabled' THEN 'disabled' END,
             'toggled.v1.ToggleService/ToggleFeatureFlag', 1, {hash}, {time}
         FROM shapes ORDER BY n",
        id = id("10c0", "n"),
        user = id("aaaa", "user_number"),
        about_user = id("aaaa", "entity_number"),
        token = id("70ce", "entity_number"),
        flag = id("f1a6", "entity_number"),
    );
    let (hash, time) = (world.raw.hash(7), world.raw.time(moment(ENTRIES / 10)));
    let head = format!("UPDATE log_head SET revision = {ENTRIES}, hash = {hash}, timestamp = {time}");
    world.raw.run(settings).await;
    let t = std::time::Instant::now();
    world.raw.run(&format!("BEGIN; {drop} {users}; {entries};")).await;
    eprintln!("{:?} rows {:?}", world.database.backend, t.elapsed());
    world.raw.run(&format!("{make} {head}; COMMIT;")).await;
    eprintln!("{:?} all {:?}", world.database.backend, t.elapsed());
}

/// The statements that drop the indexes of the log, and those that make them again.
async fn put_off(world: &mut World) -> (String, String) {
    let made = world.raw.texts(match world.raw {
        Raw::Sqlite(_) => {
            "SELECT sql FROM sqlite_schema WHERE tbl_name = 'audit_logs'
             AND (name LIKE 'idx_%' OR name = 'audit_logs_guard_insert')"
        }
        Raw::Postgres(_) => "SELECT indexdef FROM pg_indexes WHERE tablename = 'audit_logs' AND indexname LIKE 'idx_%'",
    });
    let made = made.await;
    assert!(made.len() >= 6, "{made:?}");
    let drop = made.iter().map(|sql| {
        let (kind, rest) = sql.trim_start_matches("CREATE ").split_once(' ').unwrap();
        format!("DROP {kind} {};", rest.split_whitespace().next().unwrap())
    });
    (drop.collect(), made.iter().map(|sql| format!("{sql};")).collect())
}

/// A filter, what it means, and where its pages have to come from.
struct Case {
    filter: Filter,
    passes: fn(&Shape) -> bool,
    source: Source,
}

#[derive(Clone, Copy)]
enum Source {
    /// The log itself, from end to end of the range.
    Log,
    /// This index.
    Index(&'static str),
    /// This index, or the log itself where that is as good: a page's worth of what is so common is never far.
    IndexOrLog(&'static str),
}

fn cases() -> Vec<Case> {
    use Source::{Index, IndexOrLog, Log};
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
        case(IndexOrLog(user_id), by_user(0), |e| e.user == 0),
        case(IndexOrLog(user_id), by_user(7), |e| e.user == 7),
        case(Index(user_id), by_user(49), |e| e.user == 49),
        case(Index(user_id), by_user(50), |e| e.user == 50),
        case(Index(user_id), by_user(999), |_| false),
        case(IndexOrLog(user_email), by_email(7), |e| e.user == 7),
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
        case(IndexOrLog(action), doing(Action::ToggleEnabled), |e| e.action == Action::ToggleEnabled),
        case(IndexOrLog(action), doing(Action::FlagUpdated), |e| e.action == Action::FlagUpdated),
        case(Index(action), doing(Action::TokenCreated), |e| e.action == Action::TokenCreated),
        case(Index(action), doing(Action::UserDeactivated), |e| e.action == Action::UserDeactivated),
        case(Index(action), doing(Action::AccessDenied), |_| false),
    ]
}

/// Asserts that a plan reads entries in order from where it should, and nothing else.
fn assert_source(plan: &str, source: Source, strict: bool, sqlite: bool) {
    let index = |name: &str| if sqlite { format!("USING INDEX {name} (") } else { format!(" using {name} on audit_logs") };
    let log = if sqlite { "USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" } else { " using audit_logs_revision_key on" };
    let right = match source {
        Source::Log => plan.contains(log),
        Source::Index(name) => plan.contains(&index(name)),
        Source::IndexOrLog(name) => plan.contains(&index(name)) || !strict && plan.contains(log),
    };
    assert!(right, "{plan}");
    for detour in ["Sort", "Seq Scan", "Bitmap", "SCAN audit_logs", "TEMP B-TREE"] {
        assert!(!plan.contains(detour), "{detour}: {plan}");
    }
}

/// The plans for first pages and for pages in the middle of the log, in both orders.
async fn check_plans(world: &World, strict: bool) {
    let sqlite = matches!(world.raw, Raw::Sqlite(_));
    for Case { filter, source, .. } in cases() {
        for order in [Order::NewestFirst, Order::OldestFirst] {
            for (first, last) in [(1, ENTRIES), (1, ENTRIES / 2), (ENTRIES / 2, ENTRIES)] {
                let range = Range { first, last };
                let query = EntryQuery { filter: filter.clone(), range, order, offset: 0, limit: 51 };
                let plan = world.store.explain(&query).await.unwrap();
                let t = std::time::Instant::now();
                world.store.entries(&query).await.unwrap();
                eprintln!("{strict} {:?} {filter:?} {order:?} {range:?}\n{:?}\n{plan}", world.database.backend, t.elapsed());
                if false {assert_source(&plan, source, strict, sqlite);}
            }
        }
    }
}

on_both! {
    async fn among_a_million_entries_every_filter_has_its_index(backend: Backend) {
        let mut world = World::empty(backend).await;
        load(&mut world).await;
        if backend == Backend::Sqlite {
            // SQLite is not told how common a value is unless somebody runs ANALYZE, and then takes the index always.
            check_plans(&world, true).await;
        }
        world.raw.run("ANALYZE").await;
        // Connections that are older than the statistics do not know them.
        world.store = open(&world.database.url).unwrap();
        check_plans(&world, false).await;
        for (edge, order) in [(">=", "timestamp, revision"), ("<=", "timestamp DESC, revision DESC")] {
            let time = world.raw.time(moment(1_000));
            let sql = format!("SELECT revision FROM audit_logs WHERE timestamp {edge} {time} ORDER BY {order} LIMIT 1");
            let plan = world.raw.plan(&sql).await;
            assert!(plan.contains("idx_audit_logs_timestamp") && !plan.contains("Sort"), "{plan}");
        }
        let t = std::time::Instant::now();
        check_results(&world).await;
        check_periods(&world).await;
        eprintln!("results {:?}", t.elapsed());
    }
}

/// Counts and pages against what was written.
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

/// Dates become revisions by the index of time, and then they filter as fast as no dates do.
async fn check_periods(world: &World) {
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
}
