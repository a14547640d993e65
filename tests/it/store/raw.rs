//! SQL that bypasses the service, as another program or an operator with a shell could run it.

use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use toggled::domain::time::Timestamp;
use uuid::Uuid;

use crate::support::{Backend, Database};

/// A connection of its own to a test's database.
pub enum Raw {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// The same on the connection of either backend.
macro_rules! on {
    ($raw:expr, $connection:ident => $what:expr) => {
        match $raw {
            Raw::Sqlite($connection) => $what,
            Raw::Postgres($connection) => $what,
        }
    };
}

impl Raw {
    pub async fn connect(database: &Database) -> Self {
        match database.backend {
            Backend::Sqlite => Self::Sqlite(SqliteConnection::connect(&database.url).await.unwrap()),
            Backend::Postgres => Self::Postgres(PgConnection::connect(&database.url).await.unwrap()),
        }
    }

    pub async fn close(self) {
        on!(self, connection => connection.close().await).unwrap();
    }

    /// Runs statements. The error is the database's message.
    pub async fn try_run(&mut self, sql: &str) -> Result<(), String> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql));
        on!(self, connection => sql.execute(connection).await.map(drop)).map_err(|problem| problem.to_string())
    }

    pub async fn run(&mut self, sql: &str) {
        self.try_run(sql).await.unwrap_or_else(|problem| panic!("{problem}: {sql}"));
    }

    /// Lets this connection make changes that the schema refuses.
    pub async fn unguard(&mut self) {
        if let Self::Postgres(_) = self {
            return self.run("SET session_replication_role = replica").await;
        }
        for trigger in self.texts("SELECT name FROM sqlite_master WHERE type = 'trigger'").await {
            self.run(&format!("DROP TRIGGER {trigger}")).await;
        }
    }

    /// Asserts that the database refuses a statement with these words.
    pub async fn refuses(&mut self, sql: &str, words: &str) {
        match self.try_run(sql).await {
            Ok(()) => panic!("not refused: {sql}"),
            Err(problem) => assert!(problem.contains(words), "refused, but with {problem:?}, not {words:?}: {sql}"),
        }
    }

    /// The number that a query returns.
    pub async fn number(&mut self, sql: &str) -> i64 {
        let query = AssertSqlSafe(sql);
        on!(self, connection => sqlx::query_scalar(query).fetch_one(connection).await).unwrap()
    }

    /// The texts that a query returns.
    pub async fn texts(&mut self, sql: &str) -> Vec<String> {
        let query = AssertSqlSafe(sql);
        on!(self, connection => sqlx::query_scalar(query).fetch_all(connection).await).unwrap()
    }

    /// The database's plan for a query.
    pub async fn plan(&mut self, sql: &str) -> String {
        match self {
            Self::Sqlite(connection) => {
                let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
                let lines: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain).fetch_all(connection).await.unwrap();
                lines.into_iter().map(|(.., line)| line).collect::<Vec<_>>().join("\n")
            }
            Self::Postgres(_) => self.texts(&format!("EXPLAIN {sql}")).await.join("\n"),
        }
    }

    /// An id as this database writes it.
    pub fn id(&self, id: Uuid) -> String {
        match self {
            Self::Sqlite(_) => format!("x'{}'", id.simple()),
            Self::Postgres(_) => format!("'{id}'::uuid"),
        }
    }

    /// A time as this database writes it.
    pub fn time(&self, time: Timestamp) -> String {
        match self {
            Self::Sqlite(_) => time.micros().to_string(),
            Self::Postgres(_) => format!("timestamptz 'epoch' + {} * interval '1 microsecond'", time.micros()),
        }
    }

    /// A hash, all of the same byte, as this database writes it.
    pub fn hash(&self, byte: u8) -> String {
        let hex = format!("{byte:02x}").repeat(32);
        match self {
            Self::Sqlite(_) => format!("x'{hex}'"),
            Self::Postgres(_) => format!("'\\x{hex}'::bytea"),
        }
    }
}
