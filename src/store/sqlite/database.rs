//! Connections to the database, which all lead to the file that was opened first.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::sync::{Mutex, OnceCell};

use super::error::{self, classify};
use super::file::{DatabaseFile, FileProblem, OpenedFiles};
use super::overwrite::{OverwriteDetector, PAUSE};
use crate::store::query_throttle::TURNS;
use crate::store::{Connections, StoreError};

/// Makes commits durable. Run on each connection only once its file was checked, since it makes SQLite open the other files, unlike the
/// settings of `options`. The write-ahead log need not be switched on: that is stored in the file.
const SET_SYNCHRONOUS: &str = "PRAGMA synchronous = FULL";

/// How long a write waits while the file may have been overwritten, in pauses.
const MAX_PAUSES: u32 = 30;

/// What a probe writes: as much as the write-ahead log grows to, and more than a batch of ordinary size.
const PROBE_BYTES: u32 = 4 << 20;

/// A database in a file. It is opened at the first use.
pub(super) struct SqliteDatabase {
    file: DatabaseFile,
    /// Whether the first open may create the file.
    may_create: bool,
    options: SqliteConnectOptions,
    opened: OnceCell<OpenDatabase>,
}

/// A database that is open.
pub(super) struct OpenDatabase {
    files: Arc<OpenedFiles>,
    overwrite_detector: OverwriteDetector,
    /// The first connection. While it is open, no other program removes the write-ahead log. `None` once closed.
    first: Mutex<Option<SqliteConnection>>,
    /// For the short look-ups of callers, and for small writes outside the log.
    pool: SqlitePool,
    /// For queries of the log.
    log: SqlitePool,
    /// For those of the server's own queries that must not wait for the queries of callers.
    internal: SqlitePool,
    /// The file, if it was created now.
    _created: Option<File>,
}

impl SqliteDatabase {
    pub fn new(options: SqliteConnectOptions, may_create: bool) -> Self {
        let options = options
            // A slow statement would be logged with its whole text at every call.
            .disable_statement_logging()
            .create_if_missing(false)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5))
            // A COMMIT must not write to a file that was not checked: see `OpenDatabase::checkpoint`.
            .pragma("wal_autocheckpoint", "0")
            // Rows that a connection's thread reads ahead. With few, the thread and its reader wake each other all the time.
            .row_buffer_size(500);
        Self { file: DatabaseFile::new(options.get_filename()), may_create, options, opened: OnceCell::new() }
    }

    pub fn options(&self) -> &SqliteConnectOptions {
        &self.options
    }

    /// Opens the database, or checks that its file still is the one that was opened. Otherwise an open connection would read a file
    /// that is no longer the database.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when it is not.
    pub async fn open(&self) -> Result<&OpenDatabase, StoreError> {
        let opened = self.opened.get_or_try_init(|| self.open_first()).await?;
        opened.check().await?;
        Ok(opened)
    }

    /// Opens the database to write to it. Waits while the file may have been overwritten. Moves a long write-ahead log into the file.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub async fn open_to_write(&self) -> Result<&OpenDatabase, StoreError> {
        let opened = self.opened.get_or_try_init(|| self.open_first()).await?;
        opened.check_until_certain().await?;
        if opened.checkpoint().await {
            opened.check_until_certain().await?;
        }
        Ok(opened)
    }

    /// Checks again, right before a COMMIT.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub async fn check_to_commit(&self) -> Result<(), StoreError> {
        match self.opened.get() {
            Some(opened) => opened.check_until_certain().await,
            None => Ok(()),
        }
    }

    /// Gives up the file if an error of one of the server's own statements shows content that SQLite cannot have written. An overwritten
    /// file often fails like that. The file stays unusable until the next start. Returns the error to report.
    pub fn give_up_if_damaged(&self, error: StoreError) -> StoreError {
        match self.opened.get() {
            Some(opened) if error::is_damaged_content(&error) => opened
                .overwrite_detector
                .give_up(FileProblem::Damaged(opened.files.path().to_owned(), error.to_string())),
            _ => error,
        }
    }

    async fn open_first(&self) -> Result<OpenDatabase, StoreError> {
        let created = if self.may_create { self.file.create_if_missing()? } else { None };
        let id = self.file.id()?;
        let options = self.options.clone().journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
        let open = async {
            let mut first = options.connect().await?;
            // Opens the other files.
            first.execute("SELECT count(*) FROM sqlite_schema").await?;
            Ok(first)
        };
        let first = open.await.map_err(|error| error::classify_open(error, &self.file))?;
        let files = Arc::new(OpenedFiles::new(&self.file, id)?);
        let pool = |max_connections| pool(self.options.clone(), Arc::clone(&files), max_connections);
        let (shared, log, internal) = (pool(4), pool(TURNS), pool(3));
        Ok(OpenDatabase {
            files,
            overwrite_detector: OverwriteDetector::default(),
            first: Mutex::new(Some(first)),
            pool: shared,
            log,
            internal,
            _created: created,
        })
    }

    /// See [`DatabaseFile::warn_if_public`].
    pub fn warn_if_public(&self) {
        self.file.warn_if_public();
    }

    /// A connection outside the pools.
    pub async fn connect(&self, options: &SqliteConnectOptions) -> Result<SqliteConnection, StoreError> {
        let files = &self.open().await?.files;
        let mut connection = options.connect().await.map_err(classify)?;
        files.check()?;
        connection.execute(SET_SYNCHRONOUS).await.map_err(classify)?;
        Ok(connection)
    }

    /// Writes to the write-ahead log what a large batch would, and rolls back. The cache is so small that the pages are written
    /// before. The next writer overwrites them.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.open_to_write().await?;
        let mut connection = self.connect(&self.options.clone().pragma("cache_size", "10")).await?;
        let write = async {
            connection.execute("BEGIN IMMEDIATE").await?;
            let sql = "INSERT INTO requests (user_id, request_id, digest, expires_at, response)
                VALUES (randomblob(16), 'probe', randomblob(32), 0, zeroblob($1))";
            sqlx::query(sql).bind(PROBE_BYTES).execute(&mut connection).await?;
            connection.execute("ROLLBACK").await
        };
        let written = write.await.map(drop).map_err(classify);
        self.close_connection(connection).await;
        written
    }

    /// Checks that the database still is the one that was opened, if it was.
    pub async fn check(&self) -> Result<(), StoreError> {
        match self.opened.get() {
            Some(opened) => opened.check().await.map(drop),
            None => Ok(()),
        }
    }

    /// The state of the connections that callers share.
    pub fn connections(&self) -> Connections {
        self.opened.get().map(|opened| Connections::of([&opened.pool, &opened.log])).unwrap_or_default()
    }

    /// Closes all connections but those of writers. The last one moves the write-ahead log into the database's file, which then
    /// holds everything.
    ///
    /// SQLite would not do that for a file that was moved. At the next start it would lay the log over the file that has the name then.
    /// So the log is moved here. For a file that was deleted, the log is kept: the file ends with the process, and no start creates
    /// another one beside the log.
    pub async fn close(&self) {
        let Some(opened) = self.opened.get() else { return };
        // Notices a file that was overwritten since the last use.
        if opened.is_safe_to_close().await {
            opened.pool.close().await;
            opened.log.close().await;
            opened.internal.close().await;
        } else {
            std::mem::forget((opened.pool.clone(), opened.log.clone(), opened.internal.clone()));
        }
        let Some(mut first) = opened.first.lock().await.take() else { return };
        if !opened.is_safe_to_close().await {
            tracing::warn!("write-ahead log kept: the database is not the one that it belongs to");
            std::mem::forget(first);
            return;
        }
        if let Err(problem) = opened.files.check() {
            if opened.files.is_deleted() {
                tracing::warn!(
                    %problem,
                    "the database was deleted: keep its -wal, which holds the changes since the last SQLite checkpoint; see \
                     \"A deleted SQLite file\" in docs/operations.md"
                );
                std::mem::forget(first);
                return;
            }
            tracing::warn!(%problem, "closing a database that is not in its place");
            if let Err(error) = first.execute("PRAGMA wal_checkpoint(TRUNCATE)").await {
                tracing::warn!(%error, "write-ahead log not emptied");
            }
        }
        self.close_connection(first).await;
    }

    /// Closes a connection outside the pools. The write-ahead log must not be moved into a file that was overwritten, so its
    /// connections end with the process.
    pub async fn close_connection(&self, connection: SqliteConnection) {
        if self.opened.get().is_some_and(|opened| opened.overwrite_detector.is_lost()) {
            std::mem::forget(connection);
        } else if let Err(error) = connection.close().await {
            tracing::warn!(%error, "connection to the database not closed");
        }
    }
}

impl OpenDatabase {
    pub fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    pub fn log(&self) -> &SqlitePool {
        &self.log
    }

    pub fn internal(&self) -> &SqlitePool {
        &self.internal
    }

    /// See [`SqliteDatabase::open`]. Returns whether the file is known not to be overwritten.
    async fn check(&self) -> Result<bool, StoreError> {
        if self.pool.is_closed() {
            return Err(StoreError::Unavailable("the database is closed".into()));
        }
        self.overwrite_detector.check(&self.files, &self.internal).await
    }

    /// See [`SqliteDatabase::open_to_write`].
    async fn check_until_certain(&self) -> Result<(), StoreError> {
        for _ in 0..MAX_PAUSES {
            if self.check().await? {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(StoreError::Unavailable("the database's file is being written, and cannot be checked meanwhile".into()))
    }

    /// Moves the write-ahead log into the file, when that is due. The file was checked right before. Returns whether it was
    /// written. An error needs no report: the write-ahead log grows, and the next write tries again.
    async fn checkpoint(&self) -> bool {
        if !self.files.checkpointed().is_some_and(|state| state.is_due) {
            return false;
        }
        let Ok(mut first) = self.first.try_lock() else { return false };
        let Some(first) = first.as_mut() else { return false };
        // Does not wait for other connections, and leaves what readers still need.
        if let Err(error) = first.execute("PRAGMA wal_checkpoint(PASSIVE)").await {
            tracing::debug!(%error, "write-ahead log not moved into the database");
        }
        true
    }

    /// Whether the last connection may move the write-ahead log into the file. Waits while the file may have been overwritten. A file
    /// that was moved is still the database.
    async fn is_safe_to_close(&self) -> bool {
        for _ in 0..MAX_PAUSES {
            match self.overwrite_detector.check(&self.files, &self.internal).await {
                Ok(true) => return true,
                Ok(false) => tokio::time::sleep(PAUSE).await,
                Err(_) => return !self.overwrite_detector.is_lost() && self.files.check().is_err(),
            }
        }
        false
    }
}

/// A pool whose connections open only the file that was opened first.
fn pool(options: SqliteConnectOptions, files: Arc<OpenedFiles>, max_connections: u32) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(Duration::from_secs(5))
        // There is nothing to gain from opening files again.
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(move |connection, _| {
            let files = Arc::clone(&files);
            Box::pin(async move {
                files.check().map_err(|problem| sqlx::Error::Io(std::io::Error::other(problem.to_string())))?;
                connection.execute(SET_SYNCHRONOUS).await.map(drop)
            })
        })
        .connect_lazy_with(options)
}
