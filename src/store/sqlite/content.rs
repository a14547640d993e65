//! Notices that the database was overwritten while it was open, by a program other than SQLite, such as `cp`.
//!
//! The file is then still the same one, and SQLite lays its write-ahead log over the other content. Only checkpoints of the
//! write-ahead log write to the file itself. They move the head of the log in it forward, and keep its layout (where each table
//! begins), or give it the one that SQLite shows. So whenever the file was written, both are read from it, without the
//! write-ahead log. If the head is missing or went back, although the database as SQLite shows it did not, or the layout is a
//! third one, the file was overwritten. An older state that was restored through SQLite shows in both.
//!
//! In the middle of a checkpoint the file may look like that too. So a surprise is believed only once it was read several times from
//! a file that was not written meanwhile. Until then nothing is written, but reads go on. A file that is unreadable without its
//! write-ahead log is no surprise: a checkpoint that ran out of space leaves it like that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqliteRow};
use sqlx::{ConnectOptions, Connection, Error, FromRow};
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use super::error::{self, read};
use super::file::{FileProblem, OpenedFiles, WriteMark};
use crate::domain::Revision;
use crate::store::StoreError;

/// The content of the file as far as it was seen.
#[derive(Default)]
pub(super) struct Content {
    seen: Mutex<Seen>,
    is_overwritten: AtomicBool,
}

#[derive(Default)]
struct Seen {
    /// When the file was last written.
    mark: WriteMark,
    /// What was in the file at that time; `None` before the first checkpoint of a new log.
    content: Option<FileContent>,
    /// What was found since and is not yet believed.
    doubt: Option<Doubt>,
}

/// A surprise in the file.
struct Doubt {
    mark: WriteMark,
    found: Option<FileContent>,
    /// How often the same was found while the file was not written.
    readings: u32,
    last: Instant,
}

/// What tells one content from another.
#[derive(Debug, PartialEq, Eq)]
struct FileContent {
    log_id: Uuid,
    revision: Revision,
    /// The first page of each table and index.
    roots: String,
    /// Counts the changes of the schema. A copy by `VACUUM INTO` is one ahead, even if its pages lie as they did.
    schema_version: i64,
}

const CONTENT: &str = "SELECT log_id, revision,
    (SELECT group_concat(name || ' ' || rootpage) FROM (SELECT name, rootpage FROM sqlite_schema ORDER BY name)) AS roots,
    (SELECT schema_version FROM pragma_schema_version) AS schema_version
    FROM log_head";

impl<'r> FromRow<'r, SqliteRow> for FileContent {
    fn from_row(row: &'r SqliteRow) -> Result<Self, Error> {
        let (log_id, revision, roots, schema_version) = FromRow::from_row(row)?;
        Ok(Self { log_id, revision, roots, schema_version })
    }
}

/// How often a surprise must be read before it is believed.
const READINGS: u32 = 3;

/// The minimum time between two readings of a surprise.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

impl Content {
    /// Checks the content, if the file was written since the last check. `mark` is when it was last written; `pool` shows the
    /// database through SQLite. Returns whether the content is known to be SQLite's: if not, check again after [`PAUSE`].
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the file was overwritten.
    pub async fn check(&self, files: &OpenedFiles, mark: WriteMark, pool: &SqlitePool) -> Result<bool, StoreError> {
        let mut seen = self.seen.lock().await;
        if self.is_overwritten() {
            return Err(FileProblem::Overwritten(files.path().to_owned()).into());
        }
        if seen.mark == mark {
            return Ok(true);
        }
        if seen.doubt.as_ref().is_some_and(|doubt| doubt.last.elapsed() < PAUSE) {
            return Ok(false);
        }
        let Some(found) = in_file(files).await? else {
            // A checkpoint is being written, or had no space for all of it. With the write-ahead log the file is whole.
            (seen.mark, seen.doubt) = (mark, None);
            return Ok(true);
        };
        let is_surprise = match &seen.content {
            Some(before) => surprises(found.as_ref(), before, pool).await?,
            None => false,
        };
        if !is_surprise {
            *seen = Seen { mark, content: found, doubt: None };
            return Ok(true);
        }
        let is_at_rest = files.check()? == mark;
        let readings = match &seen.doubt {
            Some(doubt) if is_at_rest && doubt.mark == mark && doubt.found == found => doubt.readings + 1,
            _ => u32::from(is_at_rest),
        };
        if readings >= READINGS {
            self.is_overwritten.store(true, Ordering::Relaxed);
            return Err(FileProblem::Overwritten(files.path().to_owned()).into());
        }
        seen.doubt = Some(Doubt { mark, found, readings, last: Instant::now() });
        Ok(false)
    }

    /// Whether the file was ever found overwritten.
    pub fn is_overwritten(&self) -> bool {
        self.is_overwritten.load(Ordering::Relaxed)
    }
}

impl FileContent {
    /// Whether this log can be a later state of the one before.
    fn continues(&self, before: &Self) -> bool {
        self.log_id == before.log_id && self.revision >= before.revision
    }

    fn has_layout_of(&self, other: &Self) -> bool {
        self.roots == other.roots && self.schema_version == other.schema_version
    }
}

/// Whether SQLite would not have written what was found in the file after `before`.
async fn surprises(found: Option<&FileContent>, before: &FileContent, pool: &SqlitePool) -> Result<bool, StoreError> {
    if found.is_some_and(|found| found.continues(before) && found.has_layout_of(before)) {
        return Ok(false);
    }
    let has_new_layout = found.is_some_and(|found| !found.has_layout_of(before));
    let shown = match shown(pool).await {
        // Pages from the write-ahead log do not fit to those of another layout.
        Err(error) if has_new_layout && error::is_content(&error) => None,
        shown => shown.map_err(read)?,
    };
    let went_back = !found.is_some_and(|found| found.continues(before))
        && shown.as_ref().is_some_and(|shown| shown.continues(before));
    let is_new_shown = found.zip(shown.as_ref()).is_some_and(|(found, shown)| found.has_layout_of(shown));
    Ok(went_back || has_new_layout && !is_new_shown)
}

/// The content of the file itself: `None` if it cannot be read without its write-ahead log, `Some(None)` if it holds no log.
async fn in_file(files: &OpenedFiles) -> Result<Option<Option<FileContent>>, StoreError> {
    // An immutable database is read without locks and without its write-ahead log. SQLite also keeps our other connections'
    // locks when this one closes the file.
    let options = SqliteConnectOptions::new().filename(files.path()).immutable(true).read_only(true);
    let mut connection = options.disable_statement_logging().connect().await.map_err(read)?;
    let content = sqlx::query_as(CONTENT).fetch_optional(&mut connection).await;
    let _ = connection.close().await;
    match content {
        Err(Error::ColumnDecode { .. }) => Ok(Some(None)),
        Err(error) if error::is_damage(&error) => Ok(None),
        Err(error) if error::is_content(&error) => Ok(Some(None)),
        content => content.map(Some).map_err(read),
    }
}

/// The content that SQLite shows. `None` if the schema was taken back.
async fn shown(pool: &SqlitePool) -> Result<Option<FileContent>, Error> {
    match sqlx::query_as(CONTENT).fetch_optional(pool).await {
        Err(Error::Database(database)) if database.message().contains("no such table") => Ok(None),
        content => content,
    }
}
