//! A log that the service wrote, with full write access to its database.

use std::path::Path;

use tempfile::TempDir;
use toggled::api::pb::*;
use toggled::checkpoint::{Checkpoint, SigningKey};
use toggled::domain::audit::Entry;
use toggled::domain::filter::{Filter, Range};
use toggled::domain::hex::hex_digits;
use toggled::domain::time::Timestamp;
use toggled::store::{EntryQuery, Order, Store, open_existing};
use tokio::sync::OnceCell;
use tonic::Code;

use crate::cli::Shell;
use crate::store::raw::Raw;
use crate::support::{Backend, Database, Server, archive, toggle};

/// The tables, in an order that respects foreign keys.
const TABLES: [&str; 8] = [
    "audit_logs",
    "log_head",
    "feature_flags",
    "environments",
    "api_tokens",
    "users",
    "checkpoints",
    "checkpoint_keys",
];

/// The check constraints that a superuser would drop before tampering.
const CONSTRAINTS: [&str; 6] = ["status", "reverts", "action_type", "reason", "revision", "hash"];

/// The revision of an entry with all fields set except `reverts`.
pub const FULL: i64 = 13;

/// The database of a log, without triggers and constraints.
pub struct TamperedLog {
    pub database: Database,
    pub raw: Raw,
}

/// Makes every kind of audited change. Always adds the same number of entries.
async fn make_changes(server: &Server, prefix: &str) {
    let admin = &mut server.admin().await;
    let [one, two] = ["one", "two"].map(|name| format!("{prefix}-{name}"));
    admin.create(&one).await;
    admin.create(&two).await;
    admin.flip(&one).await;
    let email = format!("{prefix}@example.com");
    let secret = admin.new_user(&email, &["view_feature_flags"]).await;
    let users = admin.access.list_users(ListUsersRequest::default()).await.unwrap().into_inner().users;
    let user = users.into_iter().find(|user| user.email == email).unwrap();
    let expires_at = Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 });
    let token = CreateTokenRequest {
        user_id: user.id.clone(),
        name: "short".into(),
        environment: Some("default".into()),
        expires_at,
        ..Default::default()
    };
    admin.access.create_token(token).await.unwrap();
    let permissions = vec!["toggle_feature_flags".to_owned(), "view_feature_flags".to_owned()];
    let update = UpdateUserRequest { id: user.id, permissions, ..Default::default() };
    admin.access.update_user(update).await.unwrap();
    let name = "Neue Kasse \u{2713}\u{85}".to_owned();
    let update = UpdateFeatureFlagRequest {
        flag: Some(update_feature_flag_request::Flag::Key(two.clone())),
        name,
        update_mask: Some(prost_types::FieldMask { paths: vec!["name".into()] }),
        ..Default::default()
    };
    admin.toggle.update_feature_flag(update).await.unwrap();
    let mut unprivileged = server.client(Some(&secret)).await;
    let refused = unprivileged.toggle.archive_feature_flag(archive(&one)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let full = ToggleFeatureFlagRequest {
        reason: "'; DROP TABLE audit_logs; --\r\n".into(),
        request_id: Some(format!("{prefix}-r")),
        ..toggle(&one)
    };
    admin.toggle.toggle_feature_flag(full).await.unwrap();
    admin.archive(&two).await;
    for _ in 0..12 {
        admin.flip(&one).await;
    }
}

/// A database that all tests copy.
enum Original {
    /// The content of the file.
    Sqlite(Vec<u8>),
    Postgres(Database),
}

impl Original {
    /// A stopped server leaves the whole database in one file.
    fn of(database: Database) -> Self {
        match database.backend {
            Backend::Sqlite => Self::Sqlite(std::fs::read(path(&database)).unwrap()),
            Backend::Postgres => Self::Postgres(database),
        }
    }

    async fn copy(&self) -> Database {
        match self {
            Self::Sqlite(content) => {
                let copy = Database::new(Backend::Sqlite).await;
                std::fs::write(path(&copy), content).unwrap();
                copy
            }
            Self::Postgres(database) => database.copy().await,
        }
    }
}

/// A log, and an older state of it.
struct Originals {
    log: Original,
    past: Original,
}

impl Originals {
    /// The service writes them once for all tests.
    async fn get(backend: Backend) -> &'static Self {
        static SQLITE: OnceCell<Originals> = OnceCell::const_new();
        static POSTGRES: OnceCell<Originals> = OnceCell::const_new();
        let originals = if backend == Backend::Sqlite { &SQLITE } else { &POSTGRES };
        originals.get_or_init(|| Self::write(backend)).await
    }

    async fn write(backend: Backend) -> Self {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        make_changes(&server, "old").await;
        assert!(server.terminate().await.success());
        let past = Original::of(copy(&database).await);
        let server = Server::start(&database).await;
        make_changes(&server, "new").await;
        assert!(server.terminate().await.success());
        Self { log: Original::of(database), past }
    }
}

impl TamperedLog {
    /// A log, and an older copy of its database.
    pub async fn with_past(backend: Backend) -> (Self, Database) {
        let past = Originals::get(backend).await.past.copy().await;
        (Self::new(backend).await, past)
    }

    pub async fn new(backend: Backend) -> Self {
        Self::of(Originals::get(backend).await.log.copy().await).await
    }

    /// Removes triggers and constraints from an existing database.
    pub async fn of(database: Database) -> Self {
        let mut raw = Raw::connect(&database).await;
        if let Raw::Sqlite(_) = raw {
            raw.run("PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF").await;
            for name in raw.texts("SELECT name FROM sqlite_master WHERE type = 'trigger'").await {
                raw.run(&format!("DROP TRIGGER {name}")).await;
            }
        } else {
            raw.run("SET session_replication_role = replica").await;
            for name in CONSTRAINTS {
                raw.run(&format!("ALTER TABLE audit_logs DROP CONSTRAINT audit_logs_{name}_check")).await;
            }
            for table in ["feature_flags", "environments", "users", "api_tokens"] {
                raw.run(&format!("ALTER TABLE {table} DROP CONSTRAINT {table}_revision_check")).await;
            }
            raw.run("ALTER TABLE environments DROP CONSTRAINT environments_name_check").await;
        }
        Self { database, raw }
    }

    pub async fn store(&self) -> std::sync::Arc<dyn Store> {
        open_existing(&self.database.url).unwrap()
    }

    pub async fn entries(&self) -> Vec<Entry> {
        let range = Range { first: 1, last: i64::MAX };
        let (filter, order) = (Filter::default(), Order::OldestFirst);
        self.store().await.entries(&EntryQuery { filter, range, order, offset: 0, limit: 1_000 }).await.unwrap()
    }

    /// Saves all tables, for [`TamperedLog::undo`].
    pub async fn save(&mut self) {
        for table in TABLES {
            self.raw.run(&format!("CREATE TABLE kept_{table} AS SELECT * FROM {table}")).await;
        }
    }

    /// Restores the saved tables.
    pub async fn undo(&mut self) {
        for table in TABLES {
            self.raw.run(&format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept_{table}")).await;
        }
    }

    /// Verifies the database. Returns the exit code and the output.
    pub async fn verify(&self, arguments: &[&str]) -> (i32, String) {
        verify(&self.database, arguments).await
    }

    /// Asserts that the manipulation is detected at this revision and as this kind, and undoes it.
    pub async fn assert_found_and_undo(&mut self, what: &str, revision: i64, kind: &str, arguments: &[&str]) {
        let output = self.verify(arguments).await;
        assert_found(what, &output, revision, kind);
        self.undo().await;
    }
}

/// Verifies a database. Returns the exit code and the output.
pub async fn verify(database: &Database, arguments: &[&str]) -> (i32, String) {
    let all = [&["audit", "verify", "--database", &database.url], arguments].concat();
    let (code, out, output) = Shell::anonymous("127.0.0.1:1").run(&all).await;
    (code, if code == 0 { out } else { output })
}

pub fn assert_found(what: &str, (code, output): &(i32, String), revision: i64, kind: &str) {
    assert_eq!(*code, 1, "{what}: {output}");
    assert!(output.contains(&format!("toggled: not intact: revision {revision}: {kind}: ")), "{what}: {output}");
}

/// The path of a SQLite database.
fn path(database: &Database) -> &str {
    database.url.trim_start_matches("sqlite://")
}

/// Copies a database that has no open connections.
pub async fn copy(database: &Database) -> Database {
    if database.backend == Backend::Postgres {
        return database.copy().await;
    }
    let copy = Database::new(Backend::Sqlite).await;
    // The write-ahead log may hold data that is not in the file yet.
    for suffix in ["", "-wal"] {
        let file = |database: &Database| format!("{}{suffix}", path(database));
        if Path::new(&file(database)).exists() {
            std::fs::copy(file(database), file(&copy)).unwrap();
        }
    }
    copy
}

/// An unsigned checkpoint of an entry: its revision and hash.
pub fn plain(entry: &Entry) -> String {
    format!("{}:{}", entry.revision, hex_digits(&entry.hash))
}

/// A signed checkpoint of an entry.
pub fn note(key: &SigningKey, log_id: uuid::Uuid, entry: &Entry) -> String {
    let time = Timestamp::from_micros(1_700_000_000_000_000);
    key.sign(Checkpoint { log_id, revision: entry.revision, hash: entry.hash, time }).to_string()
}

/// Writes a file and returns its path.
pub fn file(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// The revision of the last entry of a log.
pub async fn last_revision(database: &Database) -> i64 {
    open_existing(&database.url).unwrap().head().await.unwrap().revision
}
