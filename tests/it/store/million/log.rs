//! A log of a million entries, written inside the database.

use toggled::domain::Revision;
use toggled::domain::audit::{Action, EntityType, Entry};
use toggled::domain::time::Timestamp;
use uuid::Uuid;

use crate::store::raw::Raw;
use crate::store::world::World;

pub const ENTRIES: Revision = 1_000_000;

/// Ten entries at a time share a moment, as those of a batch do.
const BEGIN: i64 = 1_700_000_000_000_000;
const MOMENT: i64 = 1_000_003;

/// The content of an entry follows from its revision, by arithmetic that is the same in both databases and Rust: 50 users,
/// some far busier than others, and one who left long ago; 1,000 flags in four environments; 4,000 entries each about users and tokens;
/// one flip of 500 without a reason.
const SHAPES: &str = "
    SELECT n,
        1700000000000000 + n / 10 * 1000003 AS micros,
        CASE WHEN n % 10 = 9 AND n < 300000 THEN 50
             ELSE n * 2654435761 / 65536 % 50 * (n * 40503 / 1024 % 50) / 49 END AS user_number,
        CASE n % 250 WHEN 0 THEN 'user' WHEN 125 THEN 'api_token' ELSE 'feature_flag' END AS entity_type,
        n * 2654435761 / 1048576 % 1000 AS entity_number,
        CASE WHEN n % 125 = 0 THEN NULL
             WHEN n * 2654435761 / 1048576 % 1000 < 600 THEN 'default'
             WHEN n * 2654435761 / 1048576 % 1000 < 950 THEN 'staging'
             WHEN n * 2654435761 / 1048576 % 1000 < 998 THEN 'production'
             ELSE 'lab' END AS environment,
        CASE
            WHEN n % 250000 = 0 THEN 'user_deactivated'
            WHEN n % 250 = 0 THEN 'user_updated'
            WHEN n % 250 = 125 THEN 'token_created'
            WHEN n % 100 = 1 THEN 'flag_updated'
            WHEN n % 2 = 0 THEN 'toggle_enabled'
            ELSE 'toggle_disabled'
        END AS action_type,
        CASE WHEN n % 1000 IN (3, 4) THEN NULL ELSE 'because' END AS reason
    FROM numbers";

/// [`SHAPES`] in Rust.
pub struct Shape {
    pub revision: Revision,
    pub user: i64,
    pub kind: EntityType,
    pub entity: i64,
    pub action: Action,
    pub environment: Option<&'static str>,
    pub has_reason: bool,
}

impl Shape {
    pub fn of(n: Revision) -> Self {
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
            environment: match n * 2_654_435_761 / 1_048_576 % 1_000 {
                _ if n % 125 == 0 => None,
                ..600 => Some("default"),
                600..950 => Some("staging"),
                950..998 => Some("production"),
                _ => Some("lab"),
            },
            action: match n {
                n if n % 250_000 == 0 => Action::UserDeactivated,
                n if n % 250 == 0 => Action::UserUpdated,
                n if n % 250 == 125 => Action::TokenCreated,
                n if n % 100 == 1 => Action::FlagUpdated,
                n if n % 2 == 0 => Action::ToggleEnabled,
                _ => Action::ToggleDisabled,
            },
            has_reason: ![3, 4].contains(&(n % 1_000)),
        }
    }

    /// The key of the object.
    pub fn key(&self) -> String {
        match self.kind {
            EntityType::User => user_email(self.entity),
            EntityType::ApiToken => entity_id(self.kind, self.entity).to_string(),
            _ => format!("entity-{}", self.entity),
        }
    }

    pub fn is_without_reason(&self) -> bool {
        self.action.is_flip() && !self.has_reason
    }

    /// Whether this is the shape of an entry.
    pub fn is(&self, entry: &Entry) -> bool {
        entry.revision == self.revision
            && entry.timestamp == moment(self.revision / 10)
            && entry.user_id == Some(user_id(self.user))
            && *entry.user_email == user_email(self.user)
            && entry.entity_type == self.kind
            && entry.entity_id == Some(entity_id(self.kind, self.entity))
            && entry.action == self.action
            && entry.environment.as_deref() == self.environment
            && *entry.entity_key == self.key()
            && entry.reason.is_some() == self.has_reason
    }
}

pub fn moment(number: i64) -> Timestamp {
    Timestamp::from_micros(BEGIN + number * MOMENT)
}

pub fn user_id(number: i64) -> Uuid {
    entity_id(EntityType::User, number)
}

pub fn user_email(number: i64) -> String {
    format!("user{number}@example.com")
}

pub fn entity_id(kind: EntityType, number: i64) -> Uuid {
    let family = match kind {
        EntityType::FeatureFlag => 0xf1a6,
        EntityType::User => 0xaaaa,
        EntityType::ApiToken | EntityType::Environment | EntityType::Log => 0x70ce,
    };
    Uuid::from_u64_pair(family, number.unsigned_abs())
}

/// Writes the entries inside the database, in one transaction. Indexes are dropped and created again at the end, and checks
/// are off: row by row they would take most of the time.
pub async fn load(world: &mut World) {
    let (settings, pieces, id): (_, _, fn(&str, &str) -> String) = match world.raw {
        Raw::Sqlite(_) => (
            "PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF;
             PRAGMA ignore_check_constraints = ON; PRAGMA cache_size = -200000; PRAGMA temp_store = MEMORY",
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
    let (drop, make) = index_statements(world).await;
    let token_key = match world.raw {
        Raw::Sqlite(_) => "printf('00000000-0000-70ce-0000-%012x', entity_number)",
        Raw::Postgres(_) => "'00000000-0000-70ce-0000-' || lpad(to_hex(entity_number), 12, '0')",
    };
    let users = format!(
        "WITH {numbers} INSERT INTO users (id, email, permissions, revision, created_at, updated_at)
         SELECT {}, 'user' || (n - 1) || '@example.com', {permissions}, 1, {now}, {now} FROM numbers WHERE n <= 1000",
        id("aaaa", "n - 1"),
        now = world.raw.time(world.now),
    );
    let entries = format!(
        "WITH {numbers}, shapes AS ({SHAPES})
         INSERT INTO audit_logs (id, revision, timestamp, user_id, user_email, action_type, entity_type, entity_id,
             entity_key, entity_name, old_value, new_value, reason, method, environment, hash_version, hash, created_at)
         SELECT {id}, n, {time}, {user}, 'user' || user_number || '@example.com', action_type, entity_type,
             CASE entity_type WHEN 'user' THEN {about_user} WHEN 'api_token' THEN {token} ELSE {flag} END,
             CASE entity_type WHEN 'user' THEN 'user' || entity_number || '@example.com'
                 WHEN 'api_token' THEN {token_key} ELSE 'entity-' || entity_number END,
             'Entity ' || entity_number,
             CASE action_type WHEN 'toggle_enabled' THEN 'disabled' WHEN 'toggle_disabled' THEN 'enabled' END,
             CASE action_type WHEN 'toggle_enabled' THEN 'enabled' WHEN 'toggle_disabled' THEN 'disabled' END,
             reason, 'toggled.v1.ToggleService/ToggleFeatureFlag', environment, 1, {hash}, {time}
         FROM shapes ORDER BY n",
        id = id("10c0", "n"),
        user = id("aaaa", "user_number"),
        about_user = id("aaaa", "entity_number"),
        token = id("70ce", "entity_number"),
        flag = id("f1a6", "entity_number"),
    );
    // SQLite finds the entries of a flag by its key.
    let flags = format!(
        "WITH {numbers} INSERT INTO feature_flags (id, environment, key, name, status, revision, created_at, updated_at, updated_by)
         SELECT {}, 'default', 'entity-' || (n - 1), 'Entity', 'enabled', 1, {now}, {now}, '' FROM numbers WHERE n <= 1000",
        id("f1a6", "n - 1"),
        now = world.raw.time(world.now),
    );
    let (hash, time) = (world.raw.hash(7), world.raw.time(moment(ENTRIES / 10)));
    let head = format!("UPDATE log_head SET revision = {ENTRIES}, hash = {hash}, timestamp = {time}");
    world.raw.run(settings).await;
    world.raw.run(&format!("BEGIN; {drop} {users}; {flags}; {entries}; {make} {head}; COMMIT")).await;
}

/// The statements that drop the indexes of the log, and those that create them again.
async fn index_statements(world: &mut World) -> (String, String) {
    let made = world.raw.texts(match world.raw {
        Raw::Sqlite(_) => {
            "SELECT sql FROM sqlite_schema WHERE tbl_name = 'audit_logs' AND name LIKE 'idx_%'
             OR name IN ('audit_logs_guard_insert', 'audit_logs_guard_key', 'feature_flags_check_insert')"
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
