//! Notices that the database was overwritten while it was open, by a program other than SQLite, such as `cp`.
//!
//! An overwritten file has the same inode, and SQLite lays its write-ahead log over the other content. There are three checks:
//!
//! 1. Only a checkpoint of the write-ahead log writes to the file, and each one shows in the `-shm` file. A file whose content changed
//!    without a checkpoint was overwritten.
//! 2. After a checkpoint, the content is read from the file alone, without the write-ahead log. A checkpoint moves the head of our audit
//!    log forward. If the head went back in the file, but not in the database as SQLite shows it, the file was overwritten. An older
//!    state that was restored through SQLite shows in both.
//! 3. The write-ahead log must be as long as the `-shm` file says.
//!
//! During a checkpoint, a file may fail the second check by chance. So an overwrite is only suspected, until the same content was read
//! several times while the file was not written. Meanwhile nothing is written, and reads continue. The second check compares nothing but
//! the head: a checkpoint leaves pages unwritten that another process still reads, or for which there was no space.

use std::sync::OnceLock;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqliteRow};
use sqlx::{ConnectOptions, Connection, Error, FromRow};
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use super::error::{self, classify};
use super::file::{FileProblem, OpenedFiles, WriteMark};
use super::wal_index::Checkpointed;
use crate::domain::Revision;
use crate::store::StoreError;

/// Detects that the file was overwritten.
#[derive(Default)]
pub(super) struct OverwriteDetector {
    seen: Mutex<LastSeen>,
    /// Why nothing may be read or written any more, until the next start.
    problem: OnceLock<FileProblem>,
}

/// The file when it was last seen as SQLite wrote it.
#[derive(Default)]
struct LastSeen {
    /// When the file was last written.
    mark: WriteMark,
    /// The state of the write-ahead log when the file was last seen with this mark.
    checkpointed: Option<Checkpointed>,
    /// What was in the file at that time; `None` before the first checkpoint of a new log.
    content: Option<FileContent>,
    /// Content that was found since and suggests an overwrite.
    suspicion: Option<Suspicion>,
}

/// Content in which the head went back.
struct Suspicion {
    mark: WriteMark,
    found: FileContent,
    /// How often the same content was read while the file was not written.
    readings: u32,
    last: Instant,
}

/// What distinguishes one content from another.
#[derive(Debug, PartialEq, Eq)]
struct FileContent {
    log_id: Uuid,
    revision: Revision,
    /// The first page of each table and index.
    roots: String,
    /// Counts the changes of the schema. A copy by `VACUUM INTO` is one ahead, even if its pages lie as they did.
    schema_version: i64,
    hash: Vec<u8>,
    closed_at: i64,
    pages: i64,
    free_pages: i64,
}

const CONTENT: &str = "SELECT log_id, revision,
    (SELECT group_concat(name || ' ' || rootpage) FROM (SELECT name, rootpage FROM sqlite_schema ORDER BY name)) AS roots,
    (SELECT schema_version FROM pragma_schema_version) AS schema_version,
    hash, closed_at,
    (SELECT page_count FROM pragma_page_count) AS pages,
    (SELECT freelist_count FROM pragma_freelist_count) AS free_pages
    FROM log_head";

impl<'r> FromRow<'r, SqliteRow> for FileContent {
    fn from_row(row: &'r SqliteRow) -> Result<Self, Error> {
        let (log_id, revision, roots, schema_version, hash, closed_at, pages, free_pages) = FromRow::from_row(row)?;
        Ok(Self { log_id, revision, roots, schema_version, hash, closed_at, pages, free_pages })
    }
}

/// So many readings of the same content confirm an overwrite.
const CONFIRMING_READINGS: u32 = 3;

/// The minimum time between two readings of suspicious content.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

impl OverwriteDetector {
    /// Checks the content, if the file was written since the last check. `pool` shows the database through SQLite. Returns `false`
    /// while an overwrite is suspected: check again after [`PAUSE`].
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the file is not the one that was opened, or was overwritten, or found damaged before.
    pub async fn check(&self, files: &OpenedFiles, pool: &SqlitePool) -> Result<bool, StoreError> {
        let mut seen = self.seen.lock().await;
        if let Some(problem) = self.problem.get() {
            return Err(problem.into());
        }
        // Read before the mark: a checkpoint that begins after this shows at the next check.
        let checkpointed = files.checkpointed();
        if checkpointed.is_some_and(|now| files.is_log_cut(now)) {
            return Err(self.overwritten(files));
        }
        let mark = files.check()?;
        if seen.mark == mark {
            seen.checkpointed = checkpointed;
            return Ok(true);
        }
        if seen.suspicion.as_ref().is_some_and(|suspicion| suspicion.last.elapsed() < PAUSE) {
            return Ok(false);
        }
        let found = read_file_alone(files).await?;
        // Read after the file: a checkpoint that wrote what was found had begun before.
        if seen.is_untouched_by_sqlite(files.checkpointed()) {
            let is_same = match &found {
                Some(found) => *found == seen.content,
                None => !mark.has_other_content(&seen.mark),
            };
            if !is_same {
                return Err(self.overwritten(files));
            }
            seen.mark = mark;
            return Ok(true);
        }
        let Some(Some(found)) = found else {
            // The file holds no log yet. Or a checkpoint is being written, had no space for all of it, or left pages as they were that
            // others still read. With the write-ahead log the file is whole.
            (seen.mark, seen.checkpointed, seen.suspicion) = (mark, checkpointed, None);
            return Ok(true);
        };
        let went_back = match &seen.content {
            Some(before) => went_back(&found, before, pool).await?,
            None => false,
        };
        if !went_back {
            *seen = LastSeen { mark, checkpointed, content: Some(found), suspicion: None };
            return Ok(true);
        }
        let is_at_rest = files.check()? == mark;
        let readings = match &seen.suspicion {
            Some(suspicion) if is_at_rest && suspicion.mark == mark && suspicion.found == found => {
                suspicion.readings + 1
            }
            _ => u32::from(is_at_rest),
        };
        if readings >= CONFIRMING_READINGS {
            return Err(self.overwritten(files));
        }
        seen.suspicion = Some(Suspicion { mark, found, readings, last: Instant::now() });
        Ok(false)
    }

    fn overwritten(&self, files: &OpenedFiles) -> StoreError {
        self.give_up(FileProblem::Overwritten(files.path().to_owned()))
    }

    /// Whether the file was overwritten or found damaged, so that its write-ahead log must be kept.
    pub fn is_lost(&self) -> bool {
        self.problem.get().is_some()
    }

    /// Lets every later check fail.
    pub fn give_up(&self, problem: FileProblem) -> StoreError {
        self.problem.get_or_init(|| problem).into()
    }
}

impl LastSeen {
    /// Whether SQLite wrote nothing to the file since it was seen, given the state of the write-ahead log now.
    fn is_untouched_by_sqlite(&self, now: Option<Checkpointed>) -> bool {
        let is_unmoved = |before: Checkpointed| now.is_some_and(|now| now.is_unmoved_since(&before));
        self.mark != WriteMark::default() && self.checkpointed.is_some_and(is_unmoved)
    }
}

impl FileContent {
    /// Whether this log can be a later state of the one before.
    fn continues(&self, before: &Self) -> bool {
        self.log_id == before.log_id && self.revision >= before.revision
    }
}

/// Whether the log in the file is not a later state of the one before, although the database as SQLite shows it is.
async fn went_back(found: &FileContent, before: &FileContent, pool: &SqlitePool) -> Result<bool, StoreError> {
    if found.continues(before) {
        return Ok(false);
    }
    match read_through_sqlite(pool).await {
        // Pages from the write-ahead log do not fit to those of another file.
        Err(error) if error::is_content(&error) => Ok(true),
        shown => Ok(shown.map_err(classify)?.is_some_and(|shown| shown.continues(before))),
    }
}

/// Reads the content of the file itself: `None` if it cannot be read without its write-ahead log, `Some(None)` if it holds no log.
async fn read_file_alone(files: &OpenedFiles) -> Result<Option<Option<FileContent>>, StoreError> {
    // An immutable database is read without locks and without its write-ahead log. SQLite also keeps our other connections'
    // locks when this one closes the file.
    let options = SqliteConnectOptions::new().filename(files.path()).immutable(true).read_only(true);
    let mut connection = options.disable_statement_logging().connect().await.map_err(classify)?;
    let content = sqlx::query_as(CONTENT).fetch_optional(&mut connection).await;
    let _ = connection.close().await;
    match content {
        Err(Error::ColumnDecode { .. }) => Ok(Some(None)),
        Err(error) if error::is_damage(&error) => Ok(None),
        Err(error) if error::is_content(&error) => Ok(Some(None)),
        content => content.map(Some).map_err(classify),
    }
}

/// Reads the content as SQLite shows it, with the write-ahead log. `None` if the migration was reverted.
async fn read_through_sqlite(pool: &SqlitePool) -> Result<Option<FileContent>, Error> {
    match sqlx::query_as(CONTENT).fetch_optional(pool).await {
        Err(Error::Database(database)) if database.message().contains("no such table") => Ok(None),
        content => content,
    }
}
