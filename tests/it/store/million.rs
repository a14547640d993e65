//! A million entries: every filter has an index that its pages come from in order, and the answers are right.

use sqlx::ConnectOptions;
use toggled::domain::Revision;
use toggled::domain::audit::{Action, EntityType};
use toggled::domain::filter::{Filter, Period, Range};
use toggled::domain::time::Timestamp;
use toggled::store::{EntryQuery, Order};
use uuid::Uuid;

use super::raw::Raw;
use super::world::World;
use crate::support::{Backend, on_both};

const ENTRIES: i64 = 1_000_000;

/// Every entry's fields follow from its revision `n`, by arithmetic that both databases and Rust do alike.
const SHAPES: &str = "
    SELECT n,
        1700000000000000 + n / 10 * 1000003 AS micros,
        n * 2654435761 / 65536 % 50 * (n * 40503 / 1024 % 50) / 50 AS user_number,
        CASE WHEN n % 250 = 0 THEN 'user' WHEN n % 250 = 125 THEN 'api_token' ELSE 'feature_flag' END AS entity_type,
        n * 2654435761 / 1048576 % 1000 AS entity_number,
        CASE
            WHEN n % 250 = 0 THEN CASE WHEN n % 250000 = 0 THEN 'user_deactivated' ELSE 'user_updated' END
            WHEN n % 250 = 125 THEN 'token_created'
            WHEN n % 100 = 1 THEN 'flag_updated'
            WHEN n % 100 = 2 THEN 'access_denied'
            WHEN n % 10000 = 3 THEN 'flag_archived'
            WHEN n % 2 = 0 THEN 'toggle_enabled'
            ELSE 'toggle_disabled'
        END AS action_type
    FROM numbers";

/// An entry of [`SHAPES`], as far as a filter looks at it.
struct Shape {
    micros: i64,
    user: i64,
    kind: EntityType,
    entity: i64,
    action: Action,
}

impl Shape {
    fn of(n: Revision) -> Self {
        Self {
            micros: 1_700_000_000_000_000 + n / 10 * 1_000_003,
            user: n * 2_654_435_761 / 65_536 % 50 * (n * 40_503 / 1_024 % 50) / 50,
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
                n if n % 100 == 2 => Action::AccessDenied,
                n if n % 10_000 == 3 => Action::FlagArchived,
                n if n % 2 == 0 => Action::ToggleEnabled,
                _ => Action::ToggleDisabled,
            },
        }
    }

    fn passes(&self, filter: &Filter) -> bool {
        filter.user_id.is_none_or(|id| id == user_id(self.user))
            && filter.user_email.as_deref().is_none_or(|email| email == user_email(self.user))
            && filter.entity_type.is_none_or(|kind| kind == self.kind)
            && filter.entity_id.is_none_or(|id| id == entity_id(self.kind, self.entity))
            && filter.action.is_none_or(|action| action == self.action)
    }
}

fn user_id(number: i64) -> Uuid {
    Uuid::from_u128(0xaaaa << 64 | number as u128)
}

fn user_email(number: i64) -> String {
    format!("user{number}@example.com")
}

/// Objects of different kinds have different ids.
fn entity_id(kind: EntityType, number: i64) -> Uuid {
    let family = match kind {
        EntityType::FeatureFlag => 0xf1a6,
        EntityType::User => 0xaaaa,
        EntityType::ApiToken | EntityType::Log => 0x70ce,
    };
    Uuid::from_u128(family << 64 | number as u128)
}

/// Loads the entries inside the database, as one transaction.
async fn load(world: &mut World) {
    let started = std::time::Instant::now();
    let (numbers, id, time, hash): (String, fn(&str, &str) -> String, &str, &str) = match world.raw {
        Raw::Sqlite(_) => (
            format!("RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ENTRIES})"),
            |family: &str, n: &str| format!("unhex('000000000000{family}' || printf('%016x', {n}))"),
            "micros",
            "unhex(printf('%064x', n))",
        ),
        Raw::Postgres(_) => (
            format!("numbers (n) AS (SELECT generate_series(1, {ENTRIES}::bigint))"),
            |family: &str, n: &str| format!("('000000000000{family}' || lpad(to_hex({n}), 16, '0'))::uuid"),
            "timestamptz 'epoch' + micros * interval '1 microsecond'",
            "decode(lpad(to_hex(n), 64, '0'), 'hex')",
        ),
    };
    let (entry, user) = (id("10c0", "n"), id("aaaa", "user_number"));
    let entity = format!(
        "CASE entity_type WHEN 'user' THEN {} WHEN 'api_token' THEN {} ELSE {} END",
        id("aaaa", "entity_number"),
        id("70ce", "entity_number"),
        id("f1a6", "entity_number"),
    );
    let permissions = if matches!(world.raw, Raw::Sqlite(_)) { "'[]'" } else { "'{}'" };
    let users = format!(
        "WITH {numbers} INSERT INTO users (id, email, permissions, revision, created_at, updated_at)
         SELECT {}, 'user' || (n - 1) || '@example.com', {permissions}, 1, {now}, {now} FROM numbers WHERE n <= 50",
        id("aaaa", "n - 1"),
        now = world.raw.time(world.now),
    );
    let entries = format!(
        "WITH {numbers}, shapes AS ({SHAPES})
         INSERT INTO audit_logs (id, revision, timestamp, user_id, user_email, action_type, entity_type, entity_id,
             entity_key, entity_name, old_value, new_value, method, hash_version, hash, created_at)
         SELECT {entry}, n, {time}, {user}, 'user' || user_number || '@example.com', action_type, entity_type, {entity},
             'entity-' || entity_number, 'Entity ' || entity_number,
             CASE action_type WHEN 'toggle_enabled' THEN 'disabled' WHEN 'toggle_disabled' THEN 'enabled' END,
             CASE action_type WHEN 'toggle_enabled' THEN 'enabled' WHEN 'toggle_disabled' THEN 'disabled' END,
             'toggled.v1.ToggleService/ToggleFeatureFlag', 1, {hash}, {time}
         FROM shapes ORDER BY n"
    );
    let head = format!(
        "UPDATE log_head SET revision = {ENTRIES}, hash = {}, timestamp = {}",
        world.raw.hash(7),
        world.raw.time(Timestamp::from_micros(Shape::of(ENTRIES).micros))
    );
    eprintln!("{entries}");
    let settings = match world.raw {
        Raw::Sqlite(_) => "PRAGMA synchronous = OFF; PRAGMA cache_size = -400000;",
        // Leaves out the check of the foreign key, row by row.
        Raw::Postgres(_) => "SET session_replication_role = replica; SET synchronous_commit = off;",
    };
    world.raw.run(settings).await;
    world.raw.run(&format!("BEGIN; {users}; {entries}; {head}; COMMIT;")).await;
    eprintln!("load {:?} {:?}", world.database.backend, started.elapsed());
}

fn single_filters() -> Vec<(&'static str, Filter)> {
    let flag = entity_id(EntityType::FeatureFlag, 7);
    let user = entity_id(EntityType::User, 250);
    vec![
        ("none", Filter::default()),
        ("user_id", Filter { user_id: Some(user_id(7)), ..Default::default() }),
        ("rare user_id", Filter { user_id: Some(user_id(49)), ..Default::default() }),
        ("no user_id", Filter { user_id: Some(user_id(777)), ..Default::default() }),
        ("user_email", Filter { user_email: Some(user_email(7).into()), ..Default::default() }),
        ("rare user_email", Filter { user_email: Some(user_email(49).into()), ..Default::default() }),
        ("entity_type=user", Filter { entity_type: Some(EntityType::User), ..Default::default() }),
        ("entity_type=log", Filter { entity_type: Some(EntityType::Log), ..Default::default() }),
        ("entity_type=flag", Filter { entity_type: Some(EntityType::FeatureFlag), ..Default::default() }),
        (
            "entity flag",
            Filter { entity_type: Some(EntityType::FeatureFlag), entity_id: Some(flag), ..Default::default() },
        ),
        ("entity user", Filter { entity_type: Some(EntityType::User), entity_id: Some(user), ..Default::default() }),
        ("entity_id flag", Filter { entity_id: Some(flag), ..Default::default() }),
        ("entity_id user", Filter { entity_id: Some(user), ..Default::default() }),
        ("action common", Filter { action: Some(Action::ToggleEnabled), ..Default::default() }),
        ("action middle", Filter { action: Some(Action::FlagUpdated), ..Default::default() }),
        ("action rare", Filter { action: Some(Action::UserDeactivated), ..Default::default() }),
        ("action absent", Filter { action: Some(Action::LogTrimmed), ..Default::default() }),
    ]
}

on_both! {
    async fn every_filter_pages_from_its_index(backend: Backend) {
        let mut world = World::empty(backend).await;
        load(&mut world).await;
        for analyzed in [false, true] {
        if analyzed { world.raw.run("ANALYZE").await; world.store = toggled::store::open(&world.database.url).unwrap(); }
        for (what, filter) in single_filters() {
            for order in [Order::NewestFirst, Order::OldestFirst] {
            let range = Range { first: 1, last: ENTRIES };
            let query = EntryQuery { filter: filter.clone(), range, order, offset: 0, limit: 51 };
            let plan = world.store.explain(&query).await.unwrap();
            let t = std::time::Instant::now();
            let n = world.store.entries(&query).await.unwrap().len();
            let t = t.elapsed();
            eprintln!("--- {what} {order:?} analyzed={analyzed} {n} in {t:?}\n{plan}");
        }}
        }
    }
}
